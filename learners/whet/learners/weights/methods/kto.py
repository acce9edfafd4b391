"""KTO: single answers, desirable or not; no pairs are needed.

rows = await KTO().build(experience, kit)
"""

import random
from collections.abc import Sequence

from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.selection import balanced, corrections, distinct
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import Objective, Unpaired
from whet.learners.weights.rows import Row, Side

__all__ = ["KTO", "mismatched"]


class KTO(Method, frozen=True, kw_only=True):
    """Learns from answers that are good or bad by themselves (Ethayarajh et al. 2024, arXiv 2402.01306).

    ``per_task``: answers of each side per task. ``desirable``, ``undesirable``: weights of the sides. ``balance``: rows
    are scaled so that both sides weigh the same, however many there are of each. ``beta`` as in DPO.
    """

    info = Info(
        name="kto",
        family="preference",
        title="Kahneman–Tversky optimisation",
        paper="arXiv 2402.01306",
        needs=("judged, accepted, rejected or rated answers to at least two tasks",),
    )
    per_task: int = 4
    desirable: float = 1.0
    undesirable: float = 1.0
    balance: bool = True
    beta: float = 0.1

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each answer, and with it one of another task's answer (``kl``) for the reference point.

        Raises:
            UserError: answers of one kind are missing, or all are to one task.
        """
        everything = [*solutions(experience), *await corrections(experience, kit)]
        judged = distinct(one for one in everything if one.passed is not None)
        good = balanced([one for one in judged if one.passed], self.per_task, kit.rng)
        bad = balanced([one for one in judged if not one.passed], self.per_task, kit.rng)
        how = "run more training tasks, or rate, accept or reject runs (whet feedback add)"
        need(good, "kto", "answers that are good", how)
        need(bad, "kto", "answers that are bad", how)
        found = [*good, *bad]
        need(len({one.task.id for one in found}) > 1, "kto", "judged answers to a second task", how)
        others = mismatched(found, kit.rng)
        counts = {True: len(good), False: len(bad)}
        rows = list[Row]()
        for one, other in zip(found, others, strict=True):
            scale = len(found) / (2 * counts[bool(one.passed)]) if self.balance else 1.0
            side: Side = "desirable" if one.passed else "undesirable"
            rows += [one.row(side=side, scale=scale), other.row(side="kl")]
        return rows

    def objectives(self) -> dict[str, Objective]:
        """Returns the unpaired loss."""
        return {"": Unpaired(beta=self.beta, desirable=self.desirable, undesirable=self.undesirable)}

    def training(self) -> TrainConfig:
        """Returns a tenth of the usual learning rate."""
        return TrainConfig(lr_scale=0.1)


def mismatched(found: Sequence[Solution], rng: random.Random) -> list[Solution]:
    """Returns, for each answer's prompt, an answer to another task: its likelihood should not change."""
    made = []
    for one in found:
        other = rng.choice([each for each in found if each.task.id != one.task.id])
        made.append(other.under(one.prompt))
    return made
