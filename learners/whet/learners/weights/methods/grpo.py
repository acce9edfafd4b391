"""GRPO and what became of it: answers to one task are compared with each other, and the better ones made likelier."""

from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.groups import Grouped, comparable, counted
from whet.learners.weights.rows import Row

__all__ = ["GRPO"]


class GRPO(Grouped, frozen=True, kw_only=True):
    """Group-relative policy optimisation, with the repairs of Dr. GRPO and DAPO as options."""

    info = Info(
        name="grpo",
        family="policy-gradient",
        title="make the better of several answers likelier",
        paper="arXiv 2402.03300, 2503.20783, 2503.14476",
        needs=("several judged runs of each task",),
    )
    rollouts = Rollouts()

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each conversation whose group differs in rewards; none where no group does.

        Raises:
            UserError: no task has several judged runs.
        """
        rows = []
        for task_id, group in comparable(experience, self).items():
            for conversation, weights in zip(group, self.compare(group), strict=True):
                rows += counted(conversation, weights, task_id)
        return rows
