"""Fast error memory: what just went wrong is told to the very next run, and forgotten when it no longer holds.

    errors = ErrorMemory(memory)
    result = await agent.arun(task)
    await errors.refresh()                 # the next run on such a task hears of the failing checks
    await errors.chance("Sort the list.")  # 0.8: how likely such a task fails now

After ReLoop2 (Zhu et al. 2023, arXiv 2306.08808): a store of recent (features, error) beside whatever learns slowly.
The runs on record are that store and the words of their tasks the features. The chance of an error is the mean of the
errors of the ``nearest`` recent runs, weighted by similarity and halved with each newer one of them. An error whose
chance is above a half stands as a negative lesson, in force at once; the gate's turn comes with ``ErrorLearner``.
"""

from collections.abc import AsyncIterator, Sequence

import numpy as np

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.ids import now_ms
from whet.core.records import Lesson, Record, Use
from whet.learners.asking import failures
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.proposing import propose_lessons
from whet.learners.view import Judged, TrainMemory, current_lessons
from whet.memory import Memory
from whet.memory.embedders import HashedNgrams

__all__ = ["ErrorLearner", "ErrorMemory", "Refreshed"]

NAME = "errors"
SHARPNESS = 8
"""Exponent of the similarity: what is half alike counts 1/256."""
_QUOTED = 300


class Refreshed(Record, frozen=True, kw_only=True):
    """What a refresh did: the lessons that are in force since, and those that no longer are."""

    noted: tuple[Lesson, ...] = ()
    retired: tuple[Lesson, ...] = ()


class ErrorMemory:
    """Keeps the negative lessons of recent errors, in force without the gate and therefore narrow.

    Only verifiers and people make an error, not models. What rests on tainted runs is quarantined. ``window`` is how
    many of the newest runs are looked at, ``capacity`` how many errors stand at once, ``lifetime`` in seconds.

    Raises:
        UserError: one of the numbers is not positive.
    """

    def __init__(
        self, memory: Memory, *, window: int = 200, capacity: int = 32, nearest: int = 5, lifetime: float = 7 * 86_400.0
    ) -> None:
        for name, value in {"window": window, "capacity": capacity, "nearest": nearest, "lifetime": lifetime}.items():
            if value <= 0:
                raise UserError(f"{name} is {value!r}; a positive number is needed")
        self._memory = memory
        self._view = TrainMemory(memory, limit=window)
        self._capacity, self._nearest, self._lifetime = capacity, nearest, lifetime

    async def refresh(self) -> Refreshed:
        """Returns what changed after the newest runs were taken in; call it after every run, or now and then."""
        lessons = await self._lessons()
        standing = _standing(await self._recent(lessons), self._nearest)[-self._capacity :]
        told = {run_id for lesson in lessons for run_id in (*lesson.derived_from, *lesson.supports)}
        kept = {item.run.id for item in standing}
        retired = [
            await self._memory.lessons.retire(lesson.id, reason="it no longer stands: see the newest runs", actor=NAME)
            for lesson in lessons
            if lesson.status == "active" and not kept & {*lesson.derived_from, *lesson.supports}
        ]
        noted = [await self._note(item) for item in standing if item.run.id not in told]
        return Refreshed(noted=tuple(lesson for lesson in noted if lesson is not None), retired=tuple(retired))

    async def chance(self, text: str) -> float | None:
        """Returns how likely a task of this text fails now, by recent runs on similar ones; ``None`` without any."""
        recent = await self._recent(await self._lessons())
        return _chances(recent, [text], self._nearest)[0] if recent else None

    async def _lessons(self) -> list[Lesson]:
        return [lesson for lesson in await current_lessons(self._memory) if lesson.source == NAME]

    async def _recent(self, lessons: Sequence[Lesson]) -> list[Judged]:
        """Returns the runs that count: that a run passed which was told of an error does not say that it is gone."""
        since = now_ms() - int(1000 * self._lifetime)
        runs = [item for item in await self._view.judged() if item.run.started_at >= since and _weighty(item)]
        uses = await self._memory.find(Use, where={"run_id": [item.run.id for item in runs], "kind": "shown"})
        told = {use.run_id for use in uses if use.item in {lesson.id for lesson in lessons}}
        return [item for item in runs if not (item.passed and item.run.id in told)]

    async def _note(self, item: Judged) -> Lesson | None:
        """Returns the lesson of an error, in force; ``None`` where it says what the run was told already."""
        added = await self._memory.lessons.add(_lesson(item), actor=NAME)
        if added.outcome == "recalled" or added.lesson.status != "proposed":
            return None
        if added.lesson.trust == "tainted":
            why = "rests on what strangers wrote"
            return await self._memory.lessons.quarantine(added.lesson.id, reason=why, actor=NAME)
        why = "an error holds at once, until a run on such a task passes"
        return await self._memory.lessons.approve(added.lesson.id, reason=why, actor=NAME)


class ErrorLearner:
    """Proposes the errors that stand to the gate, for those who want nothing in force without it.

    Raises:
        UserError: ``nearest`` is not positive.
    """

    def __init__(self, nearest: int = 5) -> None:
        if nearest < 1:
            raise UserError(f"nearest is {nearest!r}; a positive number is needed")
        self._nearest = nearest

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal of the errors that stand and are not told yet; nothing is asked of a model."""
        standing = _standing([item for item in await view.judged() if _weighty(item)], self._nearest)
        lessons = [_lesson(item) for item in standing]
        for proposal in propose_lessons(NAME, "errors", lessons, await view.lessons(), incumbent):
            yield proposal


def _weighty(item: Judged) -> bool:
    return any(verdict.kind != "model" for verdict in item.verdicts)


def _standing(recent: Sequence[Judged], nearest: int) -> list[Judged]:
    """Returns, oldest first, the newest run of each task that failed where such tasks are likely to fail."""
    newest = {item.task.prompt: item for item in recent}
    failed = [item for item in newest.values() if not item.passed]
    if not failed:
        return []
    chances = _chances(recent, [item.task.prompt for item in failed], nearest)
    return sorted(
        (item for item, chance in zip(failed, chances, strict=True) if chance > 0.5),
        key=lambda item: item.run.started_at,
    )


def _chances(recent: Sequence[Judged], texts: Sequence[str], nearest: int) -> list[float]:
    """Returns, for each text, the mean error of its nearest recent runs, by similarity and newness."""
    embedder = HashedNgrams()
    known = embedder.vectors([item.task.prompt for item in recent])
    alike_tr = np.clip(embedder.vectors(texts) @ known.T, 1e-3, 1.0) ** SHARPNESS  # (texts, runs)
    failed_r = np.array([not item.passed for item in recent], dtype=float)
    found = []
    for alike_r in alike_tr:
        # The runs are in the order of time: of equally similar ones the later are taken, and the latest counts most.
        near = sorted(range(len(recent)), key=lambda run: (-round(float(alike_r[run]), 6), -run))[:nearest]
        near.sort(reverse=True)
        weights = alike_r[near] * 0.5 ** np.arange(len(near))
        found.append(float(weights @ failed_r[near] / weights.sum()))
    return found


def _lesson(item: Judged) -> Lesson:
    said = failures(item) or [verdict.detail for verdict in item.verdicts if verdict.detail][:1]
    prompt = item.task.prompt[:_QUOTED]
    return Lesson(
        kind="negative",
        text="\n".join(["This went wrong lately:", prompt, *said]),
        applies_when=f"a task such as: {prompt}",
        task_text=item.task.prompt,
        source=NAME,
        trust=item.run.trust,
        derived_from=(item.run.id, *(verdict.id for verdict in item.verdicts)),
        reason="the newest run on such a task failed",
    )
