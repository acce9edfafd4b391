"""Judges of steps: a score for each step of a run, the first one that is wrong, and which step earned what.

    judge = StepJudge(model)
    scores = await judge.scores(task, run, steps)              # StepScore(step_id, score, why) for each
    first_error(scores)                                        # the id of the first step below one half
    await judge.credit(task, run, steps)                       # {step_id: share of the goals reached there}

    first_failure(steps, verdicts)                             # without a model: the first answer that failed
    await locate(len(prefixes), still_right)                   # without a model: by re-execution, in log2(n) looks

A verdict on a whole run says that something is wrong, not where. Verifying each step is what process supervision does
(arXiv 2305.20050); naming the first wrong one is what ProcessBench measures (arXiv 2412.06559).
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from whet.core.ids import digest
from whet.core.models import Model
from whet.core.records import (
    Execution,
    Json,
    Message,
    ModelCall,
    Record,
    Run,
    Sampling,
    Step,
    Task,
    ToolResult,
    Verdict,
    VerdictGiven,
)
from whet.core.wire import encode
from whet.feedback.answers import json_values
from whet.feedback.judges.asking import DATA, ask, numbered, question

__all__ = ["StepJudge", "StepScore", "first_error", "first_failure", "locate"]

T = TypeVar("T")

_SCORES = """\
You judge each step of an agent's work on a task. {data} So are the steps.
A step is right where it follows from what was known then and brings the work on, or leaves it unharmed. Judge it by
that, not by how the work ended. For each step say first why, in a sentence, then how likely it is right, from 0 to 1.
Reply with JSON only:
{{"steps": [{{"step": 1, "why": "…", "score": 0.9}}, …]}}"""

_GOALS = """\
You say which step of an agent's work on a task achieved what. {data} So are the steps.
First cut the task into its goals, those that any good solution has to reach, in order. Then say for each goal in which
step it was reached, or null where it never was. A goal that was undone later is not reached. Reply with JSON only:
{{"goals": [{{"goal": "…", "why": "…", "reached_in": 1}}, …]}}"""

_CLIPPED = 1500


class StepScore(Record, frozen=True, kw_only=True):
    """How likely a step is to be right, and why."""

    step_id: str
    score: float
    why: str = ""


class StepJudge:
    """Asks a model about the steps of a run: what the model said, what tools returned, what was executed."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """``steps@`` and a digest of model and wording."""
        return f"steps@{digest(encode([self._model.name, _SCORES, _GOALS]))[:8]}"

    async def scores(self, task: Task, run: Run, steps: Sequence[Step]) -> list[StepScore] | None:
        """Returns a score for each step that acts, in order; ``None`` where the reply cannot be read, twice.

        Raises:
            ModelError: the model could not be reached.
            BudgetError: the budget does not allow the call.
        """
        shown = _acting(steps)
        if not shown:
            return []
        found = await self._ask(_SCORES, task, run, shown, lambda reply: _read_scores(reply, len(shown)))
        if found is None:
            return None
        named = zip(shown, found, strict=True)
        return [StepScore(step_id=step.id, score=score, why=why) for (step, _), (score, why) in named]

    async def credit(self, task: Task, run: Run, steps: Sequence[Step]) -> dict[str, float] | None:
        """Returns what share of the task's goals was reached in each step that reached one; ``None`` where unreadable.

        The shares add up to the share of goals that were reached: goals as options, and a step as what ends one (CALM,
        arXiv 2409.12798).

        Raises:
            ModelError: the model could not be reached.
            BudgetError: the budget does not allow the call.
        """
        shown = _acting(steps)
        goals = await self._ask(_GOALS, task, run, shown, lambda reply: _read_goals(reply, len(shown)))
        if goals is None:
            return None
        reached = Counter(shown[number - 1][0].id for number in goals if number is not None)
        return {id: count / len(goals) for id, count in reached.items()}

    async def _ask(
        self, wording: str, task: Task, run: Run, shown: Sequence[tuple[Step, str]], read: Callable[[str], T | None]
    ) -> T | None:
        listed = "\n\n".join(f"{number}. {text}" for number, (_, text) in enumerate(shown, 1))
        system = Message(role="system", content=wording.format(data=DATA))
        asked = [system, question(task, run.answer or "", steps=listed)]
        return await ask(self._model, asked, read, sampling=Sampling(temperature=0.0))


def first_error(scores: Iterable[StepScore], threshold: float = 0.5) -> str | None:
    """Returns the id of the first step that scores below the threshold, ``None`` where none does."""
    return next((one.step_id for one in scores if one.score < threshold), None)


def first_failure(steps: Sequence[Step], verdicts: Mapping[str, Verdict]) -> Step | None:
    """Returns the model's step whose answer is the first that a verifier failed; ``None`` where none was.

    ``verdicts`` by their id, as the run's steps name them (``VerdictGiven``). No model is asked.
    """
    spoke: Step | None = None
    for step in sorted(steps, key=lambda step: step.seq):
        if isinstance(step.body, ModelCall) and step.body.completion is not None:
            spoke = step
        elif isinstance(step.body, VerdictGiven):
            verdict = verdicts.get(step.body.verdict_id)
            if verdict is not None and verdict.judged and verdict.outcome == "fail":
                return spoke
    return None


async def locate(count: int, still_right: Callable[[int], Awaitable[bool]]) -> int | None:
    """Returns the number (from 1) of the first wrong one of ``count`` steps; ``None`` where all are right.

    ``still_right(k)`` says by executing whether the first k steps can stand: whether they pass their tests, or whether
    the task is ever solved from there. It has to stay false once it is; then ⌈log₂(count + 1)⌉ looks suffice (arXiv
    2406.06592, section 3.3).
    """
    low, high = 0, count + 1  # the first ``low`` steps stand; the first ``high`` do not, or are too many
    while high - low > 1:
        middle = (low + high) // 2
        if await still_right(middle):
            low = middle
        else:
            high = middle
    return high if high <= count else None


def _acting(steps: Iterable[Step]) -> list[tuple[Step, str]]:
    """Returns the steps that act, in order, each with what a judge is shown of it."""
    return [(step, text) for step in sorted(steps, key=lambda step: step.seq) if (text := _told(step))]


def _told(step: Step) -> str:
    """Returns a step as a judge is shown it; the empty text for one that only marks where the graph stood."""
    body = step.body
    if isinstance(body, ModelCall) and body.completion is not None:
        calls = [f"calls {call.name}({call.arguments})" for call in body.completion.tool_calls]
        return _cut("\n".join(["says: " + body.completion.text, *calls]))
    if isinstance(body, ToolResult):
        return _cut(f"{body.call.name} returns: {body.error or body.content}")
    if isinstance(body, Execution):
        return _cut(f"runs {body.command!r}: {body.result.status}\n{body.result.stdout}{body.result.stderr}")
    return ""


def _cut(text: str) -> str:
    return text if len(text) <= _CLIPPED else f"{text[: _CLIPPED // 2]}\n[…]\n{text[-_CLIPPED // 2 :]}"


def _read_scores(reply: str, count: int) -> list[tuple[float, str]] | None:
    for entries in numbered(reply, "steps", "step", count):
        found = [(_share(entry.get("score")), str(entry.get("why") or "")) for entry in entries]
        scored = [(score, why) for score, why in found if score is not None]
        if len(scored) == count:
            return scored
    return None


def _share(value: Json) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if known else None  # type: ignore[arg-type]  # it is a number


def _read_goals(reply: str, count: int) -> list[int | None] | None:
    """Returns the step in which each goal was reached, if it was; a step that does not exist reaches nothing."""
    for value in reversed([*json_values(reply)]):
        goals = value.get("goals") if isinstance(value, dict) else None
        entries = [one for one in goals if isinstance(one, dict) and one.get("goal")] if isinstance(goals, list) else []
        if entries:
            return [_number(entry.get("reached_in"), count) for entry in entries]
    return None


def _number(value: Json, count: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= count else None
