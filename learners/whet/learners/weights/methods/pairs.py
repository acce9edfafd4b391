"""Pairs: two answers to one prompt, one better than the other; from verdicts, from people, and from people's edits.

    pairs = [*verdict_pairs(experience), *people_pairs(experience), *await edit_pairs(experience, kit)]
    rows = pair_rows(capped(pairs, 4, kit.rng))

Execution outranks people: where both answers were executed with different outcomes, a person who says the opposite is
not followed.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Literal, TypeAlias

from whet.core.ids import digest
from whet.core.records import Feedback, Record, Task, Trust
from whet.core.wire import encode
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Kit
from whet.learners.weights.methods.revisions import final
from whet.learners.weights.methods.selection import corrections, distinct, grouped
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.rows import Row

__all__ = ["Origin", "Pair", "capped", "edit_pairs", "pair_rows", "people_pairs", "verdict_pairs"]

Origin: TypeAlias = Literal["verdict", "person", "edit", "judge"]
_Preferred: TypeAlias = tuple[str, str, tuple[Feedback, ...]]  # the better run, the worse one, and who said so
_CLEAR = 0.25  # least difference of two ratings that is a preference


class Pair(Record, frozen=True, kw_only=True):
    """A better and a worse answer under one prompt; ``label``: how probable it is that the better one is better.

    ``said``: the feedback records that say so, where a person did. ``scale`` weighs the pair.
    """

    chosen: Solution
    rejected: Solution
    origin: Origin = "verdict"
    said: tuple[Feedback, ...] = ()
    label: float = 1.0
    scale: float = 1.0

    @property
    def id(self) -> str:
        """Names the two answers and their task."""
        return digest(encode([self.chosen.key, self.rejected.key]))[:16]

    @property
    def task(self) -> Task:
        """The task of both."""
        return self.chosen.task

    @property
    def executed(self) -> bool | None:
        """Whether execution says that the chosen answer is better; ``None`` where it does not tell them apart."""
        good, bad = self.chosen, self.rejected
        if {good.evidence, bad.evidence} != {"verifier"} or good.passed == bad.passed:
            return None
        return good.passed

    @property
    def trust(self) -> Trust:
        """Tainted where an answer is, or the person who prefers one."""
        every = (self.chosen.trust, self.rejected.trust, *(item.trust for item in self.said))
        return "tainted" if "tainted" in every else "trusted"

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the records of both answers, and of the feedback."""
        ids = (*(item.id for item in self.said), *self.chosen.sources, *self.rejected.sources)
        return tuple(dict.fromkeys(ids))


def verdict_pairs(experience: Experience) -> list[Pair]:
    """Returns every answer that passed its verifiers with every one to the same task that failed them."""
    judged = distinct(one for one in solutions(experience) if one.evidence == "verifier")
    made = []
    for group in grouped(judged).values():
        good, bad = [one for one in group if one.passed], [one for one in group if one.passed is False]
        made += [Pair(chosen=right, rejected=wrong.under(right.prompt)) for right, wrong in product(good, bad)]
    return made


def people_pairs(experience: Experience, *, outranked: bool = False) -> list[Pair]:
    """Returns what people preferred: by comparing two runs, or by rating them differently (accept is 1, reject 0).

    ``outranked``: with those that execution contradicts, to measure how often people are wrong.
    """
    finals = {episode.run.id: final(episode) for episode in experience.episodes}
    feedback = [item for episode in experience.episodes for item in episode.feedback] + list(experience.feedback)
    made = {}
    for better, worse, said in [*_compared(feedback), *_rated(experience)]:
        chosen, rejected = finals.get(better), finals.get(worse)
        if chosen is None or rejected is None or chosen.task.id != rejected.task.id or chosen.key == rejected.key:
            continue
        pair = Pair(chosen=chosen, rejected=rejected.under(chosen.prompt), origin="person", said=said)
        if outranked or pair.executed is not False:
            made[pair.id] = pair
    return list(made.values())


async def edit_pairs(experience: Experience, kit: Kit) -> list[Pair]:
    """Returns people's corrections over what they corrected; a correction that fails its verifiers is left out."""
    finals = {episode.run.id: final(episode) for episode in experience.episodes}
    made = []
    for right in await corrections(experience, kit):
        wrong = finals.get(right.run_id)
        if wrong is None or not right.passed or wrong.key == right.key:
            continue
        if not (wrong.passed and wrong.evidence == "verifier" and right.evidence == "person"):
            made.append(Pair(chosen=right.under(wrong.prompt), rejected=wrong, origin="edit"))
    return made


def capped(pairs: Iterable[Pair], per_task: int, rng: random.Random, *, hardest: bool = False) -> list[Pair]:
    """Returns at most so many pairs of each task; what people said first, then chance decides.

    ``hardest``: rather those whose rejected answer scored highest.
    """
    groups: dict[str, dict[str, Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.task.id, {}).setdefault(pair.id, pair)
    kept: list[Pair] = []
    for group in groups.values():
        drawn = rng.sample(list(group.values()), len(group))
        order = sorted(drawn, key=lambda pair: -(pair.rejected.score or 0.0) if hardest else pair.origin == "verdict")
        kept += order[:per_task]
    return kept


def pair_rows(pairs: Sequence[Pair], **fields: object) -> list[Row]:
    """Returns the two rows of each pair; ``fields`` are further fields of all rows."""
    rows = []
    for pair in pairs:
        shared: dict[str, object] = {"pair": pair.id, "label": pair.label, "scale": pair.scale}
        shared |= {"sources": pair.sources, "trust": pair.trust, **fields}
        rows += [pair.chosen.row(side="chosen", **shared), pair.rejected.row(side="rejected", **shared)]
    return rows


def _compared(feedback: Iterable[Feedback]) -> list[_Preferred]:
    found = [item for item in feedback if item.kind == "preference" and item.run_id and item.other_run_id]
    return [(item.run_id or "", item.other_run_id or "", (item,)) for item in found]


def _rated(experience: Experience) -> list[_Preferred]:
    """Returns the pairs of runs of one task that one source rated clearly differently."""
    found = list[_Preferred]()
    for group in experience.groups().values():
        rated = [(episode.run.id, item, _rating(item)) for episode in group for item in episode.feedback]
        for (run, item, one), (other_run, other_item, other) in combinations(rated, 2):
            if one is None or other is None or run == other_run or item.source != other_item.source:
                continue
            if abs(one - other) >= _CLEAR:
                better, worse = (run, other_run) if one > other else (other_run, run)
                found.append((better, worse, (item, other_item)))
    return found


def _rating(item: Feedback) -> float | None:
    if item.kind in ("accept", "reject"):
        return float(item.kind == "accept")
    return item.value if item.kind == "rating" else None
