"""RLTF-SD: answers revised after feedback are taught to the policy without it, weighed by what they gained."""

from whet.learners.weights.advantages import first_turn_baseline
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation
from whet.learners.weights.methods.groups import Grouped, comparable, counted
from whet.learners.weights.methods.hindsight import recorded_revisions
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row, answer_row

__all__ = ["RLTFSD"]


class RLTFSD(Grouped, frozen=True, kw_only=True):
    """Reinforcement learning from text feedback, by self-distillation, beside multi-turn GRPO.

    ``coefficient`` of the distillation; tokens of a revision whose log-probability without the feedback is below
    ``floor`` are left out.
    """

    info = Info(
        name="rltf-sd",
        family="self-distillation",
        title="multi-turn grpo, and revisions taught without the feedback",
        paper="arXiv 2602.02482",
        needs=("several runs of each task that revise after critiques (refine)",),
    )
    rollouts = Rollouts()
    discount: float = 0.1
    coefficient: float = 0.1
    floor: float | None = -5.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the rows of multi-turn grpo, and of the revisions under the prompt without feedback.

        Raises:
            UserError: no task has several judged runs.
        """
        rows = []
        for task_id, group in comparable(experience, self).items():
            for one, weights in zip(group, self.compare(group), strict=True):
                rows += counted(one, weights, task_id)
            rows += self._taught(task_id, group)
        return rows

    def _taught(self, task_id: str, group: list[Conversation]) -> list[Row]:
        """Returns a row for each revision that is better or worse than first answers are on average."""
        firsts = [self.earned(one.attempt.turns[-1]) for one in group if one.opens]
        revised = [revision for one in group if one.opens for revision in recorded_revisions(one, self.reward)]
        weights = first_turn_baseline(
            [reward for reward in firsts if reward is not None], [revision.reward for revision in revised]
        )
        return [
            answer_row(
                revision.before.attempt.messages,
                revision.text,
                weight=weight,
                tools=revision.before.attempt.tools,
                term="revision",
                off_policy=True,
                group=task_id,
                reward=revision.reward,
                task_id=task_id,
                sources=revision.sources,
                trust=revision.trust,
            )
            for revision, weight in zip(revised, weights, strict=True)
            if weight
        ]

    def objectives(self) -> dict[str, Objective]:
        """Returns the policy gradient, and the weighted likelihood of revisions."""
        return {"": self.loss(), "revision": NLL(coefficient=self.coefficient, floor=self.floor)}
