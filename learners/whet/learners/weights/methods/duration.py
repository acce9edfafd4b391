"""Duration-aware gradients: an action counts for as long as it took, so that slow good ones are not crowded out."""

from whet.learners.weights.advantages import duration_scale
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation
from whet.learners.weights.methods.groups import Grouped, Weights, comparable, counted
from whet.learners.weights.rows import Row

__all__ = ["DurationAware"]


class DurationAware(Grouped, frozen=True, kw_only=True):
    """GRPO whose advantages are scaled by each turn's duration, tools included, over the batch's mean.

    ``most``: cap of the scale, so that one hanging tool does not drown the batch.
    """

    info = Info(
        name="duration",
        family="policy-gradient",
        title="grpo that is not biased towards fast actions",
        paper="arXiv 2509.01684",
        needs=("several judged runs of each task", "how long each turn took"),
    )
    rollouts = Rollouts()
    most: float = 10.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the rows of grpo with scaled advantages."""
        rows = []
        groups = comparable(experience, self)
        found = [
            (task_id, one, weights)
            for task_id, group in groups.items()
            for one, weights in zip(group, self.compare(group), strict=True)
        ]
        scaled = iter(self._scales(found))
        for task_id, one, weights in found:
            rows += counted(one, [None if weight is None else weight * next(scaled) for weight in weights], task_id)
        return rows

    def _scales(self, found: list[tuple[str, Conversation, Weights]]) -> list[float]:
        """Returns the scale of every turn that counts, in order."""
        seconds = [
            turn.attempt.seconds
            for _, one, weights in found
            for turn, weight in zip(one.turns, weights, strict=True)
            if weight is not None
        ]
        return [min(scale, self.most) for scale in duration_scale([1.0] * len(seconds), seconds)]
