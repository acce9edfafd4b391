"""The adapters on one server: who uses which, which one makes room, and when it may go.

    slots = LoraSlots(load, unload, limit=4)              # two coroutines that tell the server
    async with slots.using(name, folder):                 # loaded, and stays until the last one that uses it is done
        ...
    await slots.unload(name)                              # waits for those

A name stands for one adapter for ever. Safe to share between threads and event loops.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from whet.core.errors import UserError

__all__ = ["Changes", "LoraSlots"]

Load: TypeAlias = Callable[[str, Path], Awaitable[None]]
Unload: TypeAlias = Callable[[str], Awaitable[None]]


class Changes:
    """Wakes those who wait for a state to change, in whatever event loop they are; used under the state's lock."""

    def __init__(self) -> None:
        self._waiting: list[Future[None]] = []

    def next(self) -> "asyncio.Future[None]":
        """Returns what is done at the next change."""
        future: Future[None] = Future()
        self._waiting.append(future)
        return asyncio.wrap_future(future)

    def tell(self) -> None:
        """Says that the state changed."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(None)


@dataclass
class _Slot:
    """An adapter on the server and how many requests use it. Joined only while ready; left when closing and unused."""

    name: str
    users: int = 0
    state: Literal["loading", "ready", "closing", "leaving"] = "loading"


class LoraSlots:
    """At most ``limit`` adapters at once; the idle one that was used longest ago makes room.

    Where all are in use, whoever needs another one waits until one is idle.
    """

    def __init__(self, load: Load, unload: Unload, *, limit: int) -> None:
        if limit < 1:
            raise UserError(f"a server that holds {limit!r} adapters serves none; give 1 or more")
        self._load, self._unload, self._limit = load, unload, limit
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._changes = Changes()

    @property
    def names(self) -> list[str]:
        """The adapters on the server, the one used longest ago first."""
        with self._lock:
            return [name for name, slot in self._slots.items() if slot.state == "ready"]

    @asynccontextmanager
    async def using(self, name: str, folder: Path) -> AsyncIterator[None]:
        """Keeps an adapter on the server while the block lasts; it is loaded where it is not there."""
        slot = await self._join(name, folder)
        try:
            yield
        finally:
            with self._lock:
                slot.users -= 1
                self._changes.tell()

    async def unload(self, name: str) -> None:
        """Takes an adapter from the server once nobody uses it; who asks for it meanwhile gets it loaded again."""
        try:
            while (step := self._leave(name)) is not None:
                if isinstance(step, _Slot):
                    return await self._remove(step)
                await step
        except asyncio.CancelledError:
            self._reopen(name)
            raise

    def forget(self, name: str) -> None:
        """Notes that an adapter is not on the server any more (it was started again, say)."""
        with self._lock:
            self._slots.pop(name, None)
            self._changes.tell()

    async def _join(self, name: str, folder: Path) -> _Slot:
        while True:
            step = self._enter(name)
            if not isinstance(step, _Slot):
                await step
            elif step.state == "leaving":
                await self._remove(step)
            elif step.state == "loading":
                await self._fill(step, folder)
                return step
            else:
                return step

    def _enter(self, name: str) -> "_Slot | asyncio.Future[None]":
        """Returns the slot joined (ready, or for the caller to load), one to remove first, or what to wait for."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is not None and slot.state == "ready":
                slot.users += 1
                self._slots.move_to_end(name)
                return slot
            if slot is None and len(self._slots) < self._limit:
                self._slots[name] = _Slot(name, users=1)
                return self._slots[name]
            idle = None if slot is not None else self._longest_idle()
            if idle is None:
                return self._changes.next()
            idle.state = "leaving"
            return idle

    def _longest_idle(self) -> _Slot | None:
        return next((slot for slot in self._slots.values() if slot.state == "ready" and not slot.users), None)

    def _leave(self, name: str) -> "_Slot | asyncio.Future[None] | None":
        """Returns the slot to remove, what to wait for, or ``None`` where there is nothing to remove."""
        with self._lock:
            slot = self._slots.get(name)
            if slot is None:
                return None
            if slot.state == "ready":
                slot.state = "closing"
            if slot.state == "closing" and not slot.users:
                slot.state = "leaving"
                return slot
            return self._changes.next()

    def _reopen(self, name: str) -> None:
        with self._lock:
            slot = self._slots.get(name)
            if slot is not None and slot.state == "closing":
                slot.state = "ready"
                self._changes.tell()

    async def _fill(self, slot: _Slot, folder: Path) -> None:
        loaded = False
        try:
            await self._load(slot.name, folder)
            loaded = True
        finally:
            self._settle(slot, loaded)

    async def _remove(self, slot: _Slot) -> None:
        try:
            await self._unload(slot.name)
        finally:
            self._settle(slot, there=False)

    def _settle(self, slot: _Slot, there: bool) -> None:
        with self._lock:
            if there:
                slot.state = "ready"
            elif self._slots.get(slot.name) is slot:
                del self._slots[slot.name]
            self._changes.tell()
