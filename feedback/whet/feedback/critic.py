"""The ``Critic`` contract: says in language what was wrong or right, grounded in verdicts.

critiques = await critic.critique(task, run, [verdict])
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from whet.core.records import Critique, Run, Task, Verdict

__all__ = ["Critic"]


@runtime_checkable
class Critic(Protocol):
    """Turns verdicts into localised, actionable language."""

    @property
    def name(self) -> str:
        """The critic's name, recorded as the source of its critiques."""
        ...

    async def critique(self, task: Task, run: Run, verdicts: Sequence[Verdict]) -> list[Critique]:
        """Returns critiques of the run, each naming the failed checks; an empty list when there is nothing to say."""
        ...
