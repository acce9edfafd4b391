"""Rejection-sampled fine-tuning: imitate what was verified, under the prompt that the policy is asked.

rows = await RFT(per_task=2).build(experience, kit)
"""

import msgspec

from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.selection import balanced, distinct, grouped
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["RFT", "hardness", "without_system"]


class RFT(Method, frozen=True, kw_only=True):
    """Imitates answers that passed (Yuan et al. 2023, arXiv 2308.01825), each once, so many per task.

    ``people``: where nothing was executed, what people accepted or rated well counts as verified. ``harder`` τ: rows of
    a task that is solved with rate r weigh r^−τ, with a mean of 1 (0: all alike). ``bare``: share of the answers that
    are learned without the system message they were given under as well, so that what it said goes into the weights
    (context distillation: Snell et al. 2022, arXiv 2209.15189).
    """

    info = Info(
        name="rft",
        family="imitation",
        title="Rejection-sampled fine-tuning",
        paper="arXiv 2308.01825",
        needs=("runs that passed",),
    )
    per_task: int = 4
    people: bool = True
    harder: float = 0.0
    bare: float = 0.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each verified answer that is kept.

        Raises:
            UserError: no answer passed.
        """
        judged = [one for one in solutions(experience) if one.evidence == "verifier" or self.people]
        good = balanced(distinct(one for one in judged if one.passed), self.per_task, kit.rng)
        need(good, "rft", "answers that passed", "run more training tasks, or draw more samples: --graph best_of_n")
        weights = hardness(judged, self.harder, good)
        rows = [one.row(scale=weights[one.task.id]) for one in good]
        told = [row for row in rows if row.messages[0].role == "system" and kit.rng.random() < self.bare]
        return rows + [without_system(row) for row in told]

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood."""
        return {"": NLL()}

    def training(self) -> TrainConfig:
        """Returns two epochs: the data are few and verified."""
        return TrainConfig(epochs=2)


def without_system(row: Row) -> Row:
    """Returns the row as if nobody had told the policy anything before the task."""
    pieces = tuple(msgspec.structs.replace(piece, message=piece.message - 1) for piece in row.pieces)
    return msgspec.structs.replace(row, messages=row.messages[1:], pieces=pieces, sampled=(), off_policy=True)


def hardness(judged: list[Solution], power: float, good: list[Solution]) -> dict[str, float]:
    """Returns each task's weight, (rate of passes)^−power, scaled so that the mean over ``good`` is 1."""
    groups = grouped(one for one in judged if one.passed is not None)
    rates = {id: sum(bool(one.passed) for one in group) / len(group) for id, group in groups.items()}
    raw = {one.task.id: rates[one.task.id] ** -power for one in good}
    mean = sum(raw[one.task.id] for one in good) / len(good)
    return {id: weight / mean for id, weight in raw.items()}
