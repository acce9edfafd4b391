"""Test-time SDPO: one hard task, attempted round after round, until it is solved or the budget ends."""

import msgspec

from whet.core.errors import UserError
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.sdpo import Distilled
from whet.learners.weights.rows import Row

__all__ = ["TestTimeSDPO"]


class TestTimeSDPO(Distilled, frozen=True, kw_only=True):
    """SDPO on a single task, whose feedback says more each round about what does not work.

    ``task``: its id, which may be left open where the experience is of one task only. ``preflight`` is off: nobody
    knows a right answer yet.
    """

    info = Info(
        name="ttt-sdpo",
        family="self-distillation",
        title="one hard task, until it is solved",
        paper="arXiv 2601.20802",
        needs=("runs of one task, with critiques",),
    )
    rollouts = Rollouts(rounds=50, tasks=1, samples=16)
    task: str = ""
    preflight: bool = False

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the rows of the one task.

        Raises:
            UserError: there are several tasks and none is named, or the named one has no judged run.
        """
        groups = experience.groups()
        if not self.task and len(groups) > 1:
            raise UserError(f"ttt-sdpo learns one task, not {len(groups)}; give task=ID, such as {next(iter(groups))}")
        episodes = groups.get(self.task, []) if self.task else list(experience.episodes)
        return await super().build(msgspec.structs.replace(experience, episodes=tuple(episodes)), kit)
