"""Contrastive preference learning: segments of trajectories are compared, step by step, without reward or reference.

rows = await CPL(length=4, discount=0.9).build(experience, kit)
"""

from collections.abc import Sequence

import msgspec

from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.dpo import HOW, WHAT, all_pairs
from whet.learners.weights.methods.pairs import Pair, capped, pair_rows
from whet.learners.weights.methods.solutions import Solution
from whet.learners.weights.objectives import Objective, Preference
from whet.learners.weights.rows import Row

__all__ = ["CPL", "segments"]


class CPL(Method, frozen=True, kw_only=True):
    """Learns from pairs of segments, s(σ) = α·Σ_t γ^t·log π(a_t|s_t) (Hejna et al. 2023, arXiv 2310.13639).

    ``length``: steps (turns of the policy) in a segment. ``discount`` γ per step. ``alpha`` scales the margin, ``bias``
    λ below 1 keeps the loss from driving down what the data do not show; ``bc`` is the weight of behaviour cloning on
    the better segment, in the place of the paper's warm-up.
    """

    info = Info(
        name="cpl",
        family="preference",
        title="Contrastive preference learning",
        paper="arXiv 2310.13639",
        needs=("better and worse runs of one task; made for runs of several steps",),
    )
    per_task: int = 4
    length: int = 8
    discount: float = 1.0
    alpha: float = 0.1
    bias: float = 0.5
    bc: float = 0.5

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the two rows of each pair of segments.

        Raises:
            UserError: no task has a better and a worse run.
        """
        pairs = capped(await all_pairs(experience, kit), self.per_task, kit.rng)
        need(pairs, "cpl", WHAT, HOW)
        return [row for pair in pairs for row in self._segments(pair)]

    def objectives(self) -> dict[str, Objective]:
        """Returns the contrastive loss without reference, with behaviour cloning."""
        return {"": Preference(beta=self.alpha, reference=False, bias=self.bias, nll=self.bc)}

    def training(self) -> TrainConfig:
        """Returns a fifth of the usual learning rate: nothing but ``bias`` and ``bc`` holds the policy back."""
        return TrainConfig(lr_scale=0.2)

    def _segments(self, pair: Pair) -> list[Row]:
        rows = []
        good, bad = segments(pair.chosen, self.length), segments(pair.rejected, self.length)
        for number, (one, other) in enumerate(zip(good, bad, strict=False)):
            both = pair_rows([pair], pair=f"{pair.id}/{number}")
            rows += [self._cut(both[0], pair.chosen, one), self._cut(both[1], pair.rejected, other)]
        return rows

    def _cut(self, row: Row, one: Solution, steps: Sequence[int]) -> Row:
        """Returns the row up to the segment's end, with its steps counted and discounted."""
        start = len(one.prompt)
        weights = {start + step: self.discount**order for order, step in enumerate(steps)}
        pieces = [piece for piece in row.pieces if piece.message in weights]
        return msgspec.structs.replace(
            row,
            messages=row.messages[: start + steps[-1] + 1],
            pieces=tuple(msgspec.structs.replace(piece, weight=weights[piece.message]) for piece in pieces),
            sampled=tuple(item for item in row.sampled if item.message in weights),
        )


def segments(one: Solution, length: int) -> list[tuple[int, ...]]:
    """Returns the steps of a trajectory in segments of so many, from its end; the first may be shorter.

    From the end, because the last steps of two trajectories are compared with each other, and so on backwards.
    """
    steps = one.steps
    starts = range(len(steps), 0, -length)
    return [steps[max(0, end - length) : end] for end in starts]
