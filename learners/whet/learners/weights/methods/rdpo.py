"""Robust DPO: people's preferences with a known or measured share of wrong ones, de-biased.

flip_rate(agree=18, disagree=2)          # 0.136: (1 + 2) / (2 + 20)
robust_label(0.2)                        # 1.333: p of the logistic loss
"""

from typing import Literal

import msgspec

from whet.core.errors import UserError
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.dpo import HOW, all_pairs
from whet.learners.weights.methods.pairs import Pair, capped, pair_rows, people_pairs
from whet.learners.weights.objectives import Objective, Preference
from whet.learners.weights.rows import Row

__all__ = ["RobustDPO", "audit", "flip_rate", "robust_label"]

_HIGHEST = 0.45  # above it the loss is scaled up tenfold and more, and says next to nothing


class RobustDPO(Method, frozen=True, kw_only=True):
    """Learns from preferences of which a share ε is swapped (Chowdhury et al. 2024, arXiv 2403.00409).

    ``flip`` ε; ``None``: measured by how often people contradict execution, where it tells the runs they compare apart,
    on at least ``least`` such comparisons. ``form``: ``robust`` is unbiased, ``conservative`` (cDPO) only smooths.
    Pairs that execution decides are taken as they are. ``beta``, ``nll`` as in DPO.
    """

    info = Info(
        name="rdpo",
        family="preference",
        title="Provably robust DPO",
        paper="arXiv 2403.00409",
        needs=("preferences, ratings or corrections by people", "some of them on executed runs, or an option flip"),
    )
    per_task: int = 4
    flip: float | None = None
    least: int = 10
    form: Literal["robust", "conservative"] = "robust"
    verdicts: bool = True
    beta: float = 0.1
    nll: float = 0.2

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the two rows of each pair, labelled with the p that ε makes of them.

        Raises:
            UserError: people said nothing; ε is unknown and cannot be measured; or people are no better than chance.
        """
        found = await all_pairs(experience, kit, verdicts=self.verdicts)
        said = [pair for pair in found if pair.origin != "verdict"]
        need(said, "rdpo", "pairs by people", f"{HOW}; for pairs by verdicts alone there is dpo")
        epsilon = self.epsilon(experience)
        label = robust_label(epsilon) if self.form == "robust" else 1 - epsilon
        return pair_rows([_labelled(pair, label) for pair in capped(found, self.per_task, kit.rng)])

    def objectives(self) -> dict[str, Objective]:
        """Returns the logistic loss; p is the pairs' own."""
        return {"": Preference(beta=self.beta, nll=self.nll)}

    def training(self) -> TrainConfig:
        """Returns one epoch: a large policy that sees a pair often learns its label, swapped or not."""
        return TrainConfig(lr_scale=0.1)

    def epsilon(self, experience: Experience) -> float:
        """Returns ε, given or measured.

        Raises:
            UserError: it is unknown and cannot be measured, or too high to learn from.
        """
        if self.flip is not None:
            return _refuse_chance(self.flip, "flip")
        agree, disagree = audit(people_pairs(experience, outranked=True))
        if agree + disagree < self.least:
            raise UserError(
                f"rdpo cannot measure how often people are wrong: {agree + disagree} of their comparisons are of runs "
                f"that execution tells apart, and it takes {self.least}; give flip (0.1, say), or a lower least"
            )
        return _refuse_chance(flip_rate(agree, disagree), "the measured share of wrong preferences")


def audit(pairs: list[Pair]) -> tuple[int, int]:
    """Returns how many preferences execution confirms, and how many it contradicts."""
    decided = [pair.executed for pair in pairs if pair.executed is not None]
    return sum(decided), len(decided) - sum(decided)


def flip_rate(agree: int, disagree: int) -> float:
    """Returns the posterior mean of the share of swapped preferences under a uniform prior."""
    return (1 + disagree) / (2 + agree + disagree)


def robust_label(flip: float) -> float:
    """Returns p = (1 − ε)/(1 − 2ε), above 1: with it −p·log σ(m) − (1 − p)·log σ(−m) is unbiased (eq. 12)."""
    return (1 - flip) / (1 - 2 * flip)


def _labelled(pair: Pair, label: float) -> Pair:
    return pair if pair.origin == "verdict" or pair.executed else msgspec.structs.replace(pair, label=label)


def _refuse_chance(flip: float, what: str) -> float:
    if not 0 <= flip <= _HIGHEST:
        raise UserError(
            f"rdpo: {what} is {flip:.2f}; it must be from 0 to {_HIGHEST}, at one half nothing can be learned"
        )
    return flip
