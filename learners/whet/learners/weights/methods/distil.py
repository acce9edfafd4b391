"""DistIL: as SDPO, by the forward cross-entropy: whatever the teacher would say, the policy learns to say."""

from whet.learners.weights.method import Info, Rollouts
from whet.learners.weights.methods.sdpo import Distilled

__all__ = ["DistIL"]


class DistIL(Distilled, frozen=True, kw_only=True):
    """Distributional DAgger: KL(teacher‖policy) at the states that the policy visits."""

    info = Info(
        name="distil",
        family="self-distillation",
        title="imitate at one's own states what one answers with the feedback in view",
        paper="arXiv 2606.05152",
        needs=("judged runs", "critiques, or several runs of each task"),
    )
    rollouts = Rollouts()
    alpha: float = 0.0
