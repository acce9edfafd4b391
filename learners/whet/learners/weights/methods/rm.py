"""Reward model: a head that gives the better of two answers the higher value, on labels that were voted on first.

rows = await RewardModel(voters=4).build(experience, kit)
"""

import msgspec

from whet.core.errors import UserError
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.dpo import HOW, WHAT, all_pairs
from whet.learners.weights.methods.pairs import Pair, capped, pair_rows
from whet.learners.weights.methods.scorers import ScorerMethod, at_end
from whet.learners.weights.objectives import BradleyTerry, Objective
from whet.learners.weights.recipe import Recipe
from whet.learners.weights.rows import Row

__all__ = ["RewardModel"]


class RewardModel(ScorerMethod, frozen=True, kw_only=True):
    """Learns which answers are better, by the Bradley–Terry model, from verdicts, preferences and edits.

    ``verdicts``, ``people``, ``edits``: where pairs come from. What execution decides is certain; what people say is
    held for right with probability ``belief``, until ``voters`` models have voted on it (0: none do). Of the pairs
    voted on, the weakest share ``flip`` is turned round (``None``: as many as the votes say are swapped), the next
    share ``soft`` gets how probable its label is, and each asks for a margin of its strength, up to ``margin`` (Wang et
    al. 2024, arXiv 2401.06080).
    """

    info = Info(
        name="rm",
        family="reward",
        title="Reward model on voted preferences",
        paper="arXiv 2401.06080",
        needs=("better and worse answers to one task: verdicts, preferences, ratings or corrections",),
    )
    per_task: int = 8
    verdicts: bool = True
    people: bool = True
    edits: bool = True
    belief: float = 0.9
    voters: int = 4
    flip: float | None = None
    soft: float = 0.3
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        if not 0.5 < self.belief <= 1:
            raise UserError(f"belief is {self.belief!r}; it is how probably people are right, above 0.5 and up to 1")

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the two rows of each pair, read where the answer ends.

        Raises:
            UserError: there is no pair.
        """
        found = await all_pairs(experience, kit, verdicts=self.verdicts, people=self.people, edits=self.edits)
        pairs = [self._believed(pair) for pair in capped(found, self.per_task, kit.rng)]
        need(pairs, "rm", WHAT, HOW)
        return [msgspec.structs.replace(at_end(row), group=row.task_id) for row in pair_rows(pairs)]

    def objectives(self) -> dict[str, Objective]:
        """Returns the logistic loss of the difference of values."""
        return {"": BradleyTerry()}

    def recipe(self) -> Recipe:
        """Returns a scorer that compares answers, with its votes."""
        return Recipe(
            reading="comparison",
            layout="end",
            held=self.held,
            voters=self.voters,
            flip=self.flip,
            soft=self.soft,
            margin=self.margin,
            bar=self.bar,
        )

    def _believed(self, pair: Pair) -> Pair:
        certain = pair.origin == "verdict" or pair.executed
        return pair if certain else msgspec.structs.replace(pair, label=self.belief)
