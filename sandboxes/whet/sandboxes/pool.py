"""Fresh sandboxes, ready before they are asked for. Each is used once: what a candidate leaves behind judges no other.

async with SandboxPool(size=2) as pool:
    async with pool.fresh(SandboxSpec(packages=("pytest",))) as box:
        result = await box.run_python(program)
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from whet.core.errors import UserError, WhetError
from whet.sandboxes.ladder import load_backend, open_sandbox
from whet.sandboxes.sandbox import Sandbox, SandboxSpec

__all__ = ["SandboxPool"]


class SandboxPool:
    """Keeps up to ``size`` unused sandboxes per spec and refills in the background.

    It may be used from one event loop after the other; what was prepared on an earlier loop stays usable. ``limit``
    bounds how many sandboxes are in use at once; further callers wait.
    """

    def __init__(self, size: int = 2, *, backend: str = "auto", limit: int = 32) -> None:
        if size < 0 or limit < 1:
            raise UserError(f"SandboxPool(size={size}, limit={limit}): size from 0, limit from 1")
        if backend != "auto":
            load_backend(backend)  # a name that does not exist is refused here, before any verdict depends on it
        self.size, self.backend, self.limit = size, backend, limit
        self._ready: dict[SandboxSpec, deque[Sandbox]] = {}
        self._refills: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(limit)

    @contextlib.asynccontextmanager
    async def fresh(self, spec: SandboxSpec | None = None) -> AsyncIterator[Sandbox]:
        """Yields a sandbox that nobody has used, and closes it afterwards.

        Raises:
            SandboxError: it could not be started.
            RefusedError: no back end may run here, or the spec asks for what none can keep.
        """
        wanted = spec or SandboxSpec(isolation="fresh")
        self._enter_loop()
        async with self._slots:
            box = await self._take(wanted)
            try:
                yield box
            finally:
                await asyncio.shield(box.close())

    async def prepare(self, spec: SandboxSpec | None = None) -> None:
        """Returns when ``size`` sandboxes of this spec are ready."""
        self._enter_loop()
        await self._fill(spec or SandboxSpec(isolation="fresh"))

    def ready(self, spec: SandboxSpec) -> int:
        """Returns how many unused sandboxes of this spec wait."""
        return len(self._ready.get(spec, ()))

    async def close(self) -> None:
        """Ends every sandbox that waits for use; idempotent."""
        self._enter_loop()
        refills = list(self._refills)
        for task in refills:
            task.cancel()
        await asyncio.gather(*refills, return_exceptions=True)
        boxes = [box for ready in self._ready.values() for box in ready]
        self._ready.clear()
        await asyncio.gather(*(box.close() for box in boxes))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _enter_loop(self) -> None:
        """Tasks and semaphores of a loop that is gone are forgotten; sandboxes belong to no loop and are kept."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._refills, self._slots = loop, set(), asyncio.Semaphore(self.limit)

    async def _take(self, spec: SandboxSpec) -> Sandbox:
        ready = self._ready.setdefault(spec, deque())
        box = ready.popleft() if ready else None
        if self.size and len(ready) < self.size:
            task = asyncio.create_task(self._refill(spec))
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)
        return box if box is not None else await open_sandbox(spec, self.backend)

    async def _refill(self, spec: SandboxSpec) -> None:
        with contextlib.suppress(WhetError):  # whoever asks next meets the same error, with a caller to tell
            await self._fill(spec)

    async def _fill(self, spec: SandboxSpec) -> None:
        ready = self._ready.setdefault(spec, deque())
        while len(ready) < self.size:
            box = await open_sandbox(spec, self.backend)
            if len(ready) >= self.size:  # another task was quicker
                await box.close()
                return
            ready.append(box)
