"""What an agent shares between its runs: the open memory and the sandboxes, for as long as someone uses them.

async with resources:            # counted: the first to enter opens, the last to leave closes
    resources.memory, resources.sandboxes
"""

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import msgspec

from whet.core import Policy, Task
from whet.feedback import FreshSandboxes
from whet.sandboxes import Sandbox, SandboxSpec

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["Resources", "SandboxLike"]

SandboxLike: TypeAlias = str | SandboxSpec | FreshSandboxes | Sandbox


class Resources:
    """Opens what was given by path or spec, and leaves open what was given open."""

    def __init__(self, memory: "Memory | str | Path | None", sandbox: SandboxLike) -> None:
        self._given_memory = memory
        self._given_sandbox = sandbox
        self._stack = AsyncExitStack()
        self._users = 0
        self._lock = asyncio.Lock()
        self._known: set[str] = set()
        self.memory: Memory | None = None
        self._sandboxes: FreshSandboxes | None = None

    @property
    def borrowed(self) -> bool:
        """Whether the memory was given open, and so belongs to the event loop that opened it."""
        return self._given_memory is not None and not isinstance(self._given_memory, str | Path)

    @property
    def sandboxes(self) -> FreshSandboxes:
        """Where fresh sandboxes come from, for verifiers and for the agent."""
        assert self._sandboxes is not None, "entered before use"
        return self._sandboxes

    def workspace(self) -> AbstractAsyncContextManager[Sandbox]:
        """Returns the sandbox a run works in: a new one, or the one that was given, which stays open."""
        given = self._given_sandbox
        if isinstance(given, Sandbox):
            return nullcontext(given)
        return self.sandboxes.fresh(given if isinstance(given, SandboxSpec) else SandboxSpec())

    async def __aenter__(self) -> Self:
        async with self._lock:
            if self._users == 0:
                await self._open()
            self._users += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with self._lock:
            self._users -= 1
            if self._users == 0:
                self._known.clear()
                self.memory, self._sandboxes = None, None
                await asyncio.shield(self._stack.aclose())

    async def _open(self) -> None:
        try:
            await self._open_memory()
            await self._open_sandboxes()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _open_memory(self) -> None:
        given = self._given_memory
        if isinstance(given, str | Path):
            from whet.memory import Memory

            self.memory = await self._stack.enter_async_context(await Memory.open(given))
        else:
            self.memory = given

    async def _open_sandboxes(self) -> None:
        given = self._given_sandbox
        if isinstance(given, str | SandboxSpec | Sandbox):
            from whet.sandboxes import SandboxPool

            backend = given if isinstance(given, str) else "auto"
            self._sandboxes = await self._stack.enter_async_context(SandboxPool(backend=backend))
        else:
            self._sandboxes = given

    async def remember(self, policy: Policy, *tasks: Task) -> str:
        """Puts a policy and tasks into the memory, once each and the tasks together; returns the policy's digest."""
        digest = policy.digest
        if self.memory is not None:
            if digest not in self._known:
                await self.memory.policies.put(policy)
            if new := [self.in_scope(task) for task in tasks if task.id not in self._known]:
                await self.memory.put(*new)
            self._known |= {digest, *(task.id for task in new)}
        return digest

    def in_scope(self, task: Task) -> Task:
        """Returns the task as one of the memory's scope."""
        return task if self.memory is None else msgspec.structs.replace(task, scope=self.memory.scope)
