"""The ``Verifier`` contract: judges a run's answer from outside the candidate's process and user.

verdict = await verifier.verify(task, run)      # Verdict(outcome="pass", score=1.0, checks=...)
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from whet.core.records import Run, Task, Verdict
from whet.sandboxes.sandbox import Sandbox, SandboxSpec

__all__ = ["FreshSandboxes", "Verifier"]


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


class FreshSandboxes(Protocol):
    """Lends sandboxes that nothing ran in before and nothing runs in after, e.g. ``whet.sandboxes.SandboxPool``."""

    def fresh(self, spec: SandboxSpec) -> AbstractAsyncContextManager[Sandbox]:
        """Returns a context that opens a new sandbox and closes it at the end.

        Raises (on entering):
            SandboxError: it could not be started.
            RefusedError: the spec asks for what cannot be had; the message names the way out.
        """
        ...
