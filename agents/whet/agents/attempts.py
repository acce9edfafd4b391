"""What the patterns of search share: an answer with what its checks say, and how many calls a run may make.

    attempt = await judge(context, completion.text)          # the text, its score, what was wrong
    if attempt["passed"] or not may_ask(context):
        ...

``calls`` is a knob of every pattern of search: the model calls of a run at most. A budget is no substitute: many runs
share it, and a run that it ends is cancelled, since an answer cut short must not count as evidence.
"""

from collections.abc import Iterable, Sequence
from typing import TypedDict

from whet.agents.knobs import Knob
from whet.agents.runtime import AgentContext
from whet.core import Message, Verdict

__all__ = ["CALLS", "Attempt", "best_of", "judge", "may_ask", "mean_score", "role"]

CALLS = Knob(None, low=1, high=1 << 20, whole=True)
"""Model calls of a run at most; unless set, as many as the pattern's other knobs lead to."""

_BLAMED = ("pass", "fail", "timeout", "tampered")


class Attempt(TypedDict):
    """An answer: its score in [0, 1], whether all its checks passed, and the critiques of those that did not."""

    text: str
    score: float
    passed: bool
    critiques: list[str]


async def judge(context: AgentContext, text: str) -> Attempt:
    """Returns the answer with what the verifiers that may be heard say of it; without any it scores 0."""
    verdicts = await context.verify(text)
    blamed = [verdict for verdict in verdicts if verdict.outcome in _BLAMED]
    passed = bool(blamed) and all(verdict.outcome == "pass" for verdict in blamed)
    critiques = await context.critique(text, verdicts) if blamed and not passed else ()
    said = [critique.text for critique in critiques]
    return Attempt(text=text, score=mean_score(blamed), passed=passed, critiques=said)


def mean_score(verdicts: Sequence[Verdict]) -> float:
    """Returns the mean score of the verdicts, 0 where there is none."""
    return sum(verdict.score for verdict in verdicts) / len(verdicts) if verdicts else 0.0


def best_of(attempts: Iterable[Attempt]) -> Attempt:
    """Returns the attempt of the highest score, the first among equals."""
    return max(attempts, key=lambda attempt: attempt["score"])


def may_ask(context: AgentContext, calls: int = 1) -> bool:
    """Returns whether the knob ``calls`` allows so many more calls of the model."""
    limit = context.knobs.get("calls")
    return limit is None or context.recorder.trace.usage.calls + calls <= limit


def role(context: AgentContext, name: str, *parts: str) -> Message:
    """Returns the user message that asks for a role: the prompt of that name, then what it is about."""
    return Message(role="user", content="\n\n".join(part for part in (context.prompt(name), *parts) if part))
