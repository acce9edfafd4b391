"""The ``Verifier`` contract: judges a run's answer from outside the candidate's process and user.

verdict = await verifier.verify(task, run)      # Verdict(outcome="pass", score=1.0, checks=...)
"""

from typing import Protocol, runtime_checkable

from whet.core.records import Run, Task, Verdict

__all__ = ["Verifier"]


@runtime_checkable
class Verifier(Protocol):
    """Judges answers. Never raises for what the answer did; says when it could not judge."""

    @property
    def name(self) -> str:
        """Short name with a digest of the configuration, e.g. ``python_tests@9f1c``."""
        ...

    async def verify(self, task: Task, run: Run) -> Verdict:
        """Returns the verdict on ``run.answer``; a broken environment is ``infra_error``, never a zero."""
        ...
