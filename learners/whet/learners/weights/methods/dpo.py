"""Direct preference optimisation: the better of two answers becomes likelier, the worse one less, against a reference.

rows = await DPO(people=False).build(experience, kit)
"""

from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.pairs import Pair, capped, edit_pairs, pair_rows, people_pairs, verdict_pairs
from whet.learners.weights.objectives import Objective, Preference
from whet.learners.weights.rows import Row

__all__ = ["DPO", "HOW", "all_pairs"]

WHAT = "better and worse answers to one task"
HOW = "run training tasks several times (--graph best_of_n), or compare, rate or correct runs (whet feedback add)"


class DPO(Method, frozen=True, kw_only=True):
    """Learns from pairs (Rafailov et al. 2023, arXiv 2305.18290).

    ``verdicts``, ``people``, ``edits``: where pairs come from. ``beta``: how far the policy may leave the reference,
    the weaker the freer. ``nll``: weight of the better answer's NLL per token, against both becoming less likely.
    """

    info = Info(
        name="dpo",
        family="preference",
        title="Direct preference optimisation",
        paper="arXiv 2305.18290",
        needs=("better and worse answers to one task: verdicts, preferences, ratings or corrections",),
    )
    per_task: int = 4
    verdicts: bool = True
    people: bool = True
    edits: bool = True
    beta: float = 0.1
    nll: float = 0.2

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the two rows of each pair.

        Raises:
            UserError: there is no pair.
        """
        found = await all_pairs(experience, kit, verdicts=self.verdicts, people=self.people, edits=self.edits)
        pairs = capped(found, self.per_task, kit.rng)
        need(pairs, "dpo", WHAT, HOW)
        return pair_rows(pairs)

    def objectives(self) -> dict[str, Objective]:
        """Returns the logistic loss of the pairs' margin."""
        return {"": Preference(beta=self.beta, nll=self.nll)}

    def training(self) -> TrainConfig:
        """Returns a tenth of the usual learning rate, at which both answers stay likely."""
        return TrainConfig(lr_scale=0.1)


async def all_pairs(
    experience: Experience, kit: Kit, *, verdicts: bool = True, people: bool = True, edits: bool = True
) -> list[Pair]:
    """Returns the pairs of all wanted origins."""
    found = verdict_pairs(experience) if verdicts else []
    found += people_pairs(experience) if people else []
    return found + (await edit_pairs(experience, kit) if edits else [])
