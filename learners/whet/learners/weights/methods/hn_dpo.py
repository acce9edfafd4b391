"""DPO with hard negatives: a right answer against the wrong ones that came closest, which weigh more.

rows = await HardNegativeDPO(hardness=2.0).build(experience, kit)
"""

import msgspec

from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.dpo import HOW, WHAT
from whet.learners.weights.methods.pairs import Pair, capped, pair_rows, verdict_pairs
from whet.learners.weights.objectives import Objective, Preference
from whet.learners.weights.rows import Row

__all__ = ["HardNegativeDPO", "weighted"]


class HardNegativeDPO(Method, frozen=True, kw_only=True):
    """Learns from pairs with the highest-scoring failures as the worse side (after arXiv 2512.19728).

    ``hardness`` h: a pair weighs 1 + h·s, s the score of its worse side in [0, 1], scaled to a mean of 1.
    ``per_task``: so many of the hardest pairs. ``beta``, ``nll`` as in DPO.
    """

    info = Info(
        name="hn-dpo",
        family="preference",
        title="Verifier-weighted DPO with hard negatives",
        paper="arXiv 2512.19728",
        needs=("passed and failed runs of one task, with scores between 0 and 1",),
    )
    per_task: int = 4
    hardness: float = 1.0
    beta: float = 0.1
    nll: float = 0.2

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the two rows of each of the hardest pairs.

        Raises:
            UserError: no task has both an answer that passed and one that failed.
        """
        pairs = capped(verdict_pairs(experience), self.per_task, kit.rng, hardest=True)
        need(pairs, "hn-dpo", WHAT, HOW)
        return pair_rows(weighted(pairs, self.hardness))

    def objectives(self) -> dict[str, Objective]:
        """Returns the logistic loss, weighed by pair."""
        return {"": Preference(beta=self.beta, nll=self.nll)}

    def training(self) -> TrainConfig:
        """Returns a tenth of the usual learning rate."""
        return TrainConfig(lr_scale=0.1)


def weighted(pairs: list[Pair], hardness: float) -> list[Pair]:
    """Returns the pairs with weights 1 + hardness·score of the worse side, of mean 1."""
    raw = [1 + hardness * (pair.rejected.score or 0.0) for pair in pairs]
    mean = sum(raw) / len(raw)
    return [msgspec.structs.replace(pair, scale=weight / mean) for pair, weight in zip(pairs, raw, strict=True)]
