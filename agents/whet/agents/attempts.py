"""What the patterns of search share: an answer with what its checks say, and how many calls a run may make.

    attempt = await judge(context, completion.text)          # the text, its score, what was wrong
    if not attempt["critiques"] or not may_ask(context):
        ...

``calls`` is a knob of every pattern of search: the model calls of a run at most. A budget is no substitute: many runs
share it, and a run that it ends is cancelled, since an answer cut short must not count as evidence.
"""

from collections.abc import Iterable, Sequence
from typing import TypedDict

from langgraph.runtime import Runtime

from whet.agents.knobs import Knob
from whet.agents.runtime import AgentContext
from whet.core import Message, Verdict
from whet.feedback.answers import list_items
from whet.feedback.judges.rubric import read_rating

__all__ = [
    "CALLS",
    "Attempt",
    "Draw",
    "Sample",
    "ask_list",
    "best_of",
    "draw_sample",
    "judge",
    "may_ask",
    "mean_score",
    "rate",
    "role",
    "section",
    "texts_of",
]

CALLS = Knob(None, low=1, high=1 << 20, whole=True)
"""Model calls of a run at most; unless set, as many as the pattern's other knobs lead to."""

_BLAMED = ("pass", "fail", "timeout", "tampered")


class Attempt(TypedDict):
    """An answer, its score in [0, 1], whether all checks passed, and what is wrong (nothing if no check rejects it)."""

    text: str
    score: float
    passed: bool
    critiques: list[str]


class Draw(TypedDict):
    """What one of several sampling nodes side by side gets."""

    messages: list[Message]
    number: int


class Sample(TypedDict):
    """One answer and its number."""

    number: int
    text: str


async def draw_sample(state: Draw, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """A node: draws an answer with a seed of its own, into ``samples``."""
    completion = await runtime.context.ask(state["messages"], sample=state["number"])
    return {"samples": [Sample(number=state["number"], text=completion.text)]}


def texts_of(samples: Iterable[Sample]) -> list[str]:
    """Returns the answers in the order of their numbers, whichever came first."""
    return [sample["text"] for sample in sorted(samples, key=lambda sample: sample["number"])]


async def judge(context: AgentContext, text: str) -> Attempt:
    """Returns the answer with what the verifiers that may be heard say of it.

    Where nobody judges, it scores 0 and nothing is wrong: there is nothing to search by, and a search ends.
    """
    verdicts = await context.verify(text)
    blamed = [verdict for verdict in verdicts if verdict.outcome in _BLAMED]
    if all(verdict.outcome == "pass" for verdict in blamed):
        return Attempt(text=text, score=mean_score(blamed), passed=bool(blamed), critiques=[])
    said = [critique.text for critique in await context.critique(text, verdicts)]
    return Attempt(text=text, score=mean_score(blamed), passed=False, critiques=said or ["A check rejects it."])


def mean_score(verdicts: Sequence[Verdict]) -> float:
    """Returns the mean score of the verdicts, 0 where there is none."""
    return sum(verdict.score for verdict in verdicts) / len(verdicts) if verdicts else 0.0


def best_of(attempts: Iterable[Attempt]) -> Attempt:
    """Returns the attempt of the highest score, the first among equals."""
    return max(attempts, key=lambda attempt: attempt["score"])


def may_ask(context: AgentContext, calls: int = 1) -> bool:
    """Returns whether the knob ``calls`` allows so many more calls of the model."""
    limit = context.knobs.get("calls")
    return limit is None or context.answers + calls <= limit


async def ask_list(context: AgentContext, messages: Sequence[Message], most: int) -> list[str]:
    """Returns the items of the list that the model is asked for, at most so many; the whole reply where it has no list.

    Where one call is left, it is not spent on a list: the one item is empty.
    """
    if not may_ask(context, 2):
        return [""]
    reply = (await context.ask(messages)).text
    return (list_items(reply) or [reply.strip()])[:most]


async def rate(context: AgentContext, messages: Sequence[Message], scale: tuple[int, int]) -> tuple[float, str]:
    """Returns the rating in the model's reply and the whole reply; the lowest where it holds none on the scale."""
    reply = (await context.ask(messages)).text
    rating = read_rating(reply, scale)
    return (scale[0] if rating is None else rating.value), reply


def role(context: AgentContext, name: str, *parts: str) -> Message:
    """Returns the user message that asks for a role: the prompt of that name, then what it is about."""
    return Message(role="user", content="\n\n".join(part for part in (context.prompt(name), *parts) if part))


def section(title: str, parts: Iterable[str]) -> str:
    """Returns the parts under a title, numbered where there are several; nothing without any."""
    found = list(parts)
    listed = found if len(found) == 1 else [f"{number}. {part}" for number, part in enumerate(found, 1)]
    return "\n".join([f"# {title}", *listed]) if found else ""
