"""What an agent shares between its runs: the open memory and the sandboxes, for as long as someone uses them.

async with resources:            # counted: the first to enter opens, the last to leave closes
    resources.memory, resources.sandboxes
    model = await resources.adapted(model, policy)       # under the policy's LoRA weights, where it has any
"""

import asyncio
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import msgspec

from whet.core import Policy, Task, UserError
from whet.core.models import Model, adaptable
from whet.feedback import FreshSandboxes
from whet.sandboxes import Sandbox, SandboxSpec

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["Resources", "SandboxLike"]

_KEPT = 8  # models under adapters: the incumbent, candidates, and the policies of resumed runs

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
        self._adapting = asyncio.Lock()
        self._adapted: OrderedDict[str, Model] = OrderedDict()
        self.memory: Memory | None = None
        self._sandboxes: FreshSandboxes | None = None

    @property
    def borrowed(self) -> bool:
        """Whether the memory was given open, and so belongs to the event loop that opened it."""
        return self._given_memory is not None and not isinstance(self._given_memory, str | Path)

    @property
    def keeps_workspace(self) -> bool:
        """Whether runs work in a sandbox that was given open, and outlives them."""
        return isinstance(self._given_sandbox, Sandbox)

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
                self._adapted.clear()
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

    async def adapted(self, model: Model, policy: Policy) -> Model:
        """Returns the agent's model under the adapter of a policy; as it is where the policy has none.

        Raises:
            UserError: there is no memory that has the adapter, the model takes none, or it does not fit.
        """
        if not (digest := policy.adapter):
            return model
        able, brings = adaptable(model), f"policy {policy.digest[:12]!r} brings adapter {digest[:12]!r}"
        if self.memory is None:
            raise UserError(f"{brings}, and the agent has no memory to take it from; make it with Agent(…, memory=…)")
        if able is None:
            raise UserError(
                f"{brings}, and model {model.name!r} takes none; use tiny, hf:FOLDER or vllm:FOLDER, or a policy "
                "without the file 'adapter'"
            )
        async with self._adapting:
            if digest not in self._adapted:
                self._adapted[digest] = await able.adapted(await self.memory.adapter(digest))
            self._adapted.move_to_end(digest)
            if len(self._adapted) > _KEPT:
                self._adapted.popitem(last=False)
            return self._adapted[digest]

    def in_scope(self, task: Task) -> Task:
        """Returns the task as one of the memory's scope."""
        return task if self.memory is None else msgspec.structs.replace(task, scope=self.memory.scope)
