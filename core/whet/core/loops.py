"""Resources that belong to an event loop (connections, mostly) and are closed with it.

clients = PerLoop(open=make_client, close=lambda client: client.aclose())
client = await clients.get()            # this loop's; a notebook or a sync entry starts a loop per call
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, finalize, ref

__all__ = ["PerLoop", "run_sync"]

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Opens a resource when a loop first asks for it, and closes it when that loop ends, or this object goes before.

    ``asyncio.run`` and every runner end the open async generators of their loop before they close it; each resource
    is held by one. A loop that is closed by hand without that leaves its resource to the garbage collector.
    """

    def __init__(self, *, open: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._open = open
        self._close = close
        self._held: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[T]]] = WeakKeyDictionary()

    async def get(self) -> T:
        """Returns the running loop's resource."""
        loop = asyncio.get_running_loop()
        if loop not in self._held:
            holder = _hold(self._open(), self._close)
            self._held[loop] = (await anext(holder), holder)
            finalize(self, _let_go, ref(loop), holder).atexit = False
        return self._held[loop][0]


async def _hold(resource: T, close: Callable[[T], Awaitable[None]]) -> AsyncGenerator[T]:
    try:
        yield resource
    finally:
        await close(resource)


# A generator that were collected now would be closed by a task, and a loop that is about to end cancels that task; one
# that is still held here is then closed with the loop.
_leaving: WeakKeyDictionary[asyncio.AbstractEventLoop, set[AsyncGenerator[Any]]] = WeakKeyDictionary()


def _let_go(weak_loop: "ref[asyncio.AbstractEventLoop]", holder: AsyncGenerator[Any]) -> None:
    loop = weak_loop()
    if loop is not None and not loop.is_closed():
        _leaving.setdefault(loop, set()).add(holder)
        loop.call_soon_threadsafe(lambda: loop.create_task(_close(loop, holder)))


async def _close(loop: asyncio.AbstractEventLoop, holder: AsyncGenerator[Any]) -> None:
    await holder.aclose()
    _leaving[loop].discard(holder)


def run_sync(make: Callable[[], Coroutine[None, None, T]]) -> T:
    """Runs async work to its end on a loop of its own, in a thread of its own, and returns its result.

    It works where a loop is running already, and blocks that one meanwhile. Context variables are those of the caller.
    """
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1, thread_name_prefix="whet-sync") as thread:
        return thread.submit(context.run, lambda: asyncio.run(make())).result()
