"""Feedback-aware fine-tuning: answers of every quality, each under the feedback it got; served under a success.

rows = await FAFT().build(experience, kit)
policy = policy.edit(FAFT().serving(policy, experience))
"""

from collections.abc import Mapping

from whet.core.policy import Policy
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.selection import balanced, distinct
from whet.learners.weights.methods.slots import serving_slot, with_slot
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["FAFT"]

SLOT = "Feedback on the answer"


class FAFT(Method, frozen=True, kw_only=True):
    """Learns answers given their feedback, good and bad ones alike (arXiv 2408.06318).

    ``per_task``: answers of each kind per task. ``success``: what the feedback says of an answer that passed, and what
    the policy's prompt says at serving time.
    """

    info = Info(
        name="faft",
        family="imitation",
        title="Feedback-aware fine-tuning",
        paper="arXiv 2408.06318",
        needs=("runs that passed", "runs that failed, with critiques or failing checks"),
    )
    per_task: int = 4
    success: str = "all checks passed"

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each answer, its feedback in the system message.

        Raises:
            UserError: there are no answers of one of the two kinds; without rejected ones, ``rft`` does the same.
        """
        found = distinct(solutions(experience))
        good = balanced([one for one in found if one.passed], self.per_task, kit.rng)
        bad = balanced([one for one in found if one.passed is False and one.said], self.per_task, kit.rng)
        need(good, "faft", "answers that passed", "run more training tasks, or draw more samples: --graph best_of_n")
        need(bad, "faft", "rejected answers with feedback", "run training tasks with --graph refine, or use rft")
        # There are mostly more rejected answers; what the policy is asked for must not be the smaller part of the loss.
        scales = {True: (len(good) + len(bad)) / (2 * len(good)), False: (len(good) + len(bad)) / (2 * len(bad))}
        return [self._under_feedback(one).row(scale=scales[bool(one.passed)]) for one in (*good, *bad)]

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood."""
        return {"": NLL()}

    def training(self) -> TrainConfig:
        """Returns two epochs."""
        return TrainConfig(epochs=2)

    def serving(self, policy: Policy, experience: Experience) -> Mapping[str, str]:
        """Returns the prompt with the feedback of a success at its head."""
        return serving_slot(policy, SLOT, self.success)

    def _under_feedback(self, one: Solution) -> Solution:
        text = self.success if one.passed else "\n".join(one.said)
        return one.under(with_slot(one.prompt, SLOT, text))
