"""VPD: as SDPO, but the teacher learns too: now and then it is taught to tell right answers from wrong ones."""

from whet.core.errors import UserError
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.sdpo import Distilled, Told
from whet.learners.weights.objectives import Objective, Unpaired
from whet.learners.weights.rows import Row, Side, answer_row

__all__ = ["VPD"]


class VPD(Distilled, frozen=True, kw_only=True):
    """Variational policy distillation.

    The policy is distilled in every round; the teacher, which is the policy with hindsight in its context, is trained
    in every ``every``-th, by binary classifier optimisation with ``beta`` on answers under its context.
    """

    info = Info(
        name="vpd",
        family="self-distillation",
        title="teach oneself, and the teacher",
        paper="arXiv 2605.15113",
        needs=("judged runs, some of them right", "critiques, or several runs of each task"),
    )
    rollouts = Rollouts()
    alpha: float = 1.0
    every: int = 5
    beta: float = 0.1

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        if self.every < 1:
            raise UserError(f"every is {self.every!r}; give the number of rounds from one to the next, at least 1")

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the rows of the distillation, and in every ``every``-th round those that train the teacher.

        Raises:
            UserError: no run on a training task was judged, or the teacher is no better than the policy.
        """
        found = await self.taught(experience, kit)
        rows = [told.row for told in found]
        return rows if kit.round % self.every else [*rows, *(row for told in found for row in _judging(told))]

    def objectives(self) -> dict[str, Objective]:
        """Returns the distillation, and the classification of answers under the teacher's context."""
        return {"": self.loss(), "teacher": Unpaired(form="bco", beta=self.beta)}


def _judging(told: Told) -> list[Row]:
    """Returns the answer itself under the teacher's context, and a right one where it was wrong."""
    row, context = told.row, told.row.teacher or ()
    answer = row.messages[row.pieces[0].message].content
    sides: list[tuple[str, Side]] = [(answer, "desirable" if told.passed else "undesirable")]
    if told.right and not told.passed:
        sides.append((told.right, "desirable"))
    return [
        answer_row(
            context,
            text,
            side=side,
            term="teacher",
            tools=row.tools,
            off_policy=True,
            task_id=row.task_id,
            sources=row.sources,
            trust=row.trust,
        )
        for text, side in sides
    ]
