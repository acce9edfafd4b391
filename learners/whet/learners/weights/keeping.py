"""What keeps an adapter from unlearning: earlier answers learned again beside the new ones, and a penalty on moving.

    objectives = kept_objectives(method, replay=0.25, kl=0.05)
    replay = Replay(view, kit, template, 0.25)
    rows += await replay.rows(rows)             # a quarter as many, under a term of their own

Both are options of ``WeightLearner`` and work with every method whose own losses leave room for them.
"""

import random
from collections.abc import Sequence

import msgspec

from whet.core.errors import UserError
from whet.core.ids import now_ms
from whet.learners.view import TrainMemory
from whet.learners.weights.collect import collect
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.masks import Dropped
from whet.learners.weights.method import Kit, Method
from whet.learners.weights.methods.selection import balanced, distinct
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import NLL, Objective, PolicyGradient
from whet.learners.weights.rows import Row
from whet.learners.weights.templates import ChatTemplate, encode_row

__all__ = ["TERM", "Replay", "kept_objectives"]

TERM = "replay"
"""The term of replayed rows."""
_PER_TASK = 4
"""How many answers to a task are compared."""
_POOL = 4
"""How many tasks are looked at for each that is wanted."""


def kept_objectives(method: Method, *, replay: float = 0.0, kl: float | None = None) -> dict[str, Objective]:
    """Returns a method's objectives with those that keep what was known.

    ``replay`` adds a term for earlier answers: their NLL weighs as much as their share. ``kl`` is the weight of the
    divergence from the policy that training began with (the adapter in force, or the base) in every likelihood and
    policy-gradient loss.

    Raises:
        UserError: an impossible value, or a method without a loss that can hold to a reference so.
    """
    objectives, name = method.objectives(), method.info.name
    if not 0 <= replay <= 10:
        raise UserError(f"replay is {replay!r}; it is how many earlier answers come to each new one, from 0 to 10")
    if kl is not None:
        if not 0 <= kl < float("inf"):
            raise UserError(f"kl is {kl!r}; it is the weight of a penalty, not below 0")
        if not any(isinstance(each, NLL | PolicyGradient) for each in objectives.values()):
            raise UserError(f"{name} has no loss that takes kl; its own options are in: whet learn --list --json")
        objectives = {term: _held(each, kl) for term, each in objectives.items()}
    if replay:
        if method.info.family == "reward" or TERM in objectives:
            raise UserError(f"{name} cannot replay earlier answers beside its own rows; leave replay out")
        objectives[TERM] = NLL(coefficient=replay)
    return objectives


def _held(objective: Objective, kl: float) -> Objective:
    return msgspec.structs.replace(objective, kl=kl) if isinstance(objective, NLL | PolicyGradient) else objective


class Replay:
    """Earlier verified answers to other tasks, one for each, those of other task sets first.

    Of the answers to a task it is the one closest to the policy: what the policy would still say moves it least, and
    how far it moves is what tells how much it forgets (Shenfeld et al. 2025, "RL's Razor", arXiv 2509.04259). Of the
    tasks those come first whose answer is least likely: what is held least firmly is lost first. Closeness is the mean
    logprob per token under the policy as it stands. Earlier is what was on record when this object was made.
    ``episodes`` are those of what was replayed so far.
    """

    def __init__(self, view: TrainMemory, kit: Kit, template: ChatTemplate, share: float, *, seed: int = 0) -> None:
        self.share = share
        self.episodes: dict[str, Episode] = {}
        self._view, self._kit, self._template = view, kit, template
        self._rng, self._until = random.Random(f"replay/{seed}"), now_ms()
        self._earlier: Experience | None = None

    async def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Returns rows to learn again beside these: ``share`` as many, fewer where the memory has fewer.

        Raises:
            UserError: the memory has no earlier run.
        """
        learned = {row.task_id for row in rows}
        sets = {task.task_set for task in await self._view.tasks(learned)}
        known = [one for one in await self._verified() if one.task.id not in learned]
        wanted, chosen = round(self.share * len(rows)), list[Row]()
        for foreign in (True, False):
            group = [one for one in known if (one.task.task_set not in sets) is foreign]
            chosen += await self._chosen(group, wanted - len(chosen))
        sources = {id for row in chosen for id in row.sources}
        assert self._earlier is not None, "collected for the answers"
        self.episodes |= {each.run.id: each for each in self._earlier.episodes if each.run.id in sources}
        return chosen

    def beside(self, experience: Experience) -> Experience:
        """Returns the experience with the episodes of what was replayed, for the card of the data."""
        known = {episode.run.id for episode in experience.episodes}
        more = tuple(episode for id, episode in self.episodes.items() if id not in known)
        return msgspec.structs.replace(experience, episodes=(*experience.episodes, *more))

    def remark(self, rows: Sequence[Row]) -> str:
        """Returns a line on what was replayed."""
        again = [row for row in rows if row.term == TERM]
        sets = {self.episodes[id].task.task_set for row in again for id in row.sources if id in self.episodes}
        return f"{len(again)} rows are earlier answers from {len(sets)} task sets, learned again to keep them."

    async def _verified(self) -> list[Solution]:
        if self._earlier is None:
            found = await collect(self._view)
            earlier = tuple(episode for episode in found.episodes if episode.run.started_at < self._until)
            self._earlier = msgspec.structs.replace(found, episodes=earlier)
        good = [one for one in solutions(self._earlier) if one.passed and one.evidence == "verifier"]
        return balanced(distinct(good), _PER_TASK, self._rng)

    async def _chosen(self, found: Sequence[Solution], wanted: int) -> list[Row]:
        """Returns the closest answer to each of so many tasks, the least likely first, out of a random part of them."""
        tasks = sorted({one.task.id for one in found})
        drawn = set(self._rng.sample(tasks, min(len(tasks), _POOL * max(wanted, 0))))
        rows = [row for one in found if one.task.id in drawn and self._fits(row := one.row(term=TERM))]
        if not rows:
            return []
        closest: dict[str, tuple[float, Row]] = {}
        for row, logps in zip(rows, await self._kit.logprobs(rows), strict=True):
            closeness = sum(logps) / len(logps)
            if row.task_id not in closest or closeness > closest[row.task_id][0]:
                closest[row.task_id] = (closeness, row)
        return [row for _, row in sorted(closest.values(), key=lambda each: each[0])[:wanted]]

    def _fits(self, row: Row) -> bool:
        try:
            encode_row(row, self._template)
        except Dropped:
            return False
        return True
