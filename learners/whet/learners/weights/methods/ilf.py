"""Imitation learning from language feedback: imitate the refinement that feedback led to, without the feedback.

rows = await ILF(samples=0).build(experience, kit)          # from recorded refinements and corrections alone
"""

from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.revisions import revisions
from whet.learners.weights.methods.selection import balanced, distinct
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["ILF"]


class ILF(Method, frozen=True, kw_only=True):
    """Imitates refinements under the original prompt (Chen et al. 2023, arXiv 2303.16755).

    ``samples``: refinements asked of the policy for each rejected answer to a task that has no recorded one, the best
    that passes is kept; 0 asks for none. ``temperature``: of asking.
    """

    info = Info(
        name="ilf",
        family="imitation",
        title="Imitation learning from language feedback",
        paper="arXiv 2303.16755",
        needs=("rejected answers with critiques, comments or corrections",),
    )
    per_task: int = 4
    samples: int = 4
    temperature: float = 1.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each refinement that is right.

        Raises:
            UserError: there is no refinement that is right.
            BudgetError: refinements have to be asked for, and the budget does not allow it.
        """
        found = await revisions(experience, kit, samples=self.samples, temperature=self.temperature)
        led_by = {one.right.key: one for one in found}
        kept = balanced(distinct(one.right.under(one.wrong.prompt) for one in found), self.per_task, kit.rng)
        need(
            kept,
            "ilf",
            "refinements that pass",
            "run training tasks with --graph refine, correct answers (whet feedback add), or set samples above 0",
        )
        return [one.row(sources=led_by[one.key].sources, trust=led_by[one.key].trust) for one in kept]

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood."""
        return {"": NLL()}

    def training(self) -> TrainConfig:
        """Returns two epochs."""
        return TrainConfig(epochs=2)
