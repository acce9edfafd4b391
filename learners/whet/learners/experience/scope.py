"""Scope: where a lesson does harm it gets an exception, and is kept everywhere else.

    async for proposal in ScopeLearner().propose(view, incumbent, Budget()):
        print(proposal.lessons[0].not_when)          # legal notice

Feedback is taken too widely (C3PO, Stephan et al. 2024, arXiv 2402.10893). This is the analogue without weights: among
the runs that a lesson applied to, the learner looks for words of the tasks with which those that were told it fail more
than those that were not. Withholding is random, so the difference is harm and not a hard task. No model.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial

import msgspec

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.ids import new_id
from whet.core.records import Lesson, Record, Use
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.proposing import propose_lessons
from whet.learners.view import Judged, TrainMemory
from whet.memory.applies import telling_words

__all__ = ["ScopeLearner"]

NAME = "scope"
_EVIDENCE = 20


class ScopeLearner:
    """Proposes lessons with an exception more, in the place of those in force.

    ``min_runs``: told and not told, in so many runs each a word has to occur; ``min_harm``: by so much the share that
    passes has to be lower with the lesson.

    Raises:
        UserError: one of them is out of range.
    """

    def __init__(self, min_runs: int = 4, min_harm: float = 0.5) -> None:
        if min_runs < 1 or not 0 < min_harm <= 1:
            raise UserError(f"min_runs={min_runs!r} has to be 1 or more, min_harm={min_harm!r} a share above 0")
        self._min_runs, self._min_harm = min_runs, min_harm

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal for each lesson that does harm in tasks of some words and not in the others."""
        judged = {item.run.id: item for item in await view.judged()}
        trials: dict[str, list[_Trial]] = defaultdict(list)
        for use in await view.about(Use, list(judged)):
            if use.kind in ("shown", "withheld"):
                trials[use.item].append(_Trial(item=judged[use.run_id], told=use.kind == "shown"))
        known = await view.lessons()
        for lesson in known:
            found = self._exception(trials[lesson.id]) if lesson.status == "active" else None
            if found is not None:
                narrower, old = _narrowed(lesson, *found), lesson.id
                for proposal in propose_lessons(
                    NAME, "narrower lessons", [narrower], known, incumbent, retires=partial(_instead, old)
                ):
                    yield proposal

    def _exception(self, trials: Sequence["_Trial"]) -> tuple[str, list["_Trial"]] | None:
        """Returns the words with which the lesson does the most harm, and the runs that show it."""
        groups: dict[frozenset[int], list[str]] = defaultdict(list)
        for word in sorted({word for trial in trials for word in trial.words}):
            groups[frozenset(n for n, trial in enumerate(trials) if word in trial.words)].append(word)
        best: tuple[float, str, list[_Trial]] | None = None
        for members, words in groups.items():
            inside = [trials[n] for n in sorted(members)]
            outside = [trial for n, trial in enumerate(trials) if n not in members]
            harm = _harm(inside, self._min_runs)
            # A lesson that does harm everywhere needs no exception: it is retired (``retire_harmful``).
            spared = harm is not None and (_harm(outside, self._min_runs) or 0.0) < self._min_harm / 2
            if harm is not None and spared and harm >= self._min_harm and (best is None or harm > best[0]):
                best = harm, " ".join(words), inside
        return None if best is None else (best[1], best[2])


class _Trial(Record, frozen=True, kw_only=True):
    """A judged run that a lesson applied to: told, or withheld at random."""

    item: Judged
    told: bool

    @property
    def words(self) -> frozenset[str]:
        return telling_words(self.item.task.prompt)


def _harm(trials: Sequence[_Trial], least: int) -> float | None:
    """Returns by how much the share that passes is lower when told; ``None`` where there are too few runs."""
    sides = [[trial.item.passed for trial in trials if trial.told == told] for told in (False, True)]
    if min(map(len, sides)) < least:
        return None
    without, told = (sum(side) / len(side) for side in sides)
    return without - told


def _instead(old: str, chosen: Sequence[Lesson]) -> tuple[str, ...]:
    return (old,)


def _narrowed(lesson: Lesson, words: str, trials: Sequence[_Trial]) -> Lesson:
    return msgspec.structs.replace(
        lesson,
        id=new_id(),
        version=1,
        status="proposed",
        not_when="; ".join(part for part in (lesson.not_when.strip(), words) if part),
        supports=(*lesson.supports, *(trial.item.run.id for trial in trials))[:_EVIDENCE],
        reason=f"does harm in tasks with: {words}",
    )
