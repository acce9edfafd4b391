"""What commands share: the project's settings, its memory, and one way to run async code to its end."""

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from whet.core.errors import NotFoundError

if TYPE_CHECKING:
    from whet.core.config import Settings
    from whet.memory import Memory

__all__ = ["is_there", "load_settings", "memory", "run_async", "same_command", "store_url", "with_memory"]

T = TypeVar("T")


def load_settings() -> "Settings":
    """Returns the settings of this folder: ``whet.toml``, then environment variables ``WHET_…``."""
    from whet.core.config import Settings

    return Settings.load()


def store_url(settings: "Settings") -> str:
    """Returns where the memory is: a URL, or a folder."""
    return settings.store or str(settings.home)


def is_there(url: str) -> bool:
    """Returns whether there is a memory; a database is taken to be there until it is asked."""
    return "://" in url or os.path.exists(url)


@asynccontextmanager
async def memory(*, read_only: bool = False, create: bool = False) -> "AsyncIterator[Memory]":
    """Opens the project's memory.

    Raises:
        NotFoundError: there is none yet; the message names ``whet init``.
    """
    from whet.memory import Memory

    settings = load_settings()
    url = store_url(settings)
    if not create and not is_there(url):
        raise NotFoundError(f"no memory at {url!r}; make one with: whet init")
    async with await Memory.open(url, read_only=read_only, scope=settings.scope) as opened:
        yield opened


def run_async(work: Awaitable[T]) -> T:
    """Runs async work to its end and returns its result."""

    async def main() -> T:
        return await work

    return asyncio.run(main())


def with_memory(work: "Callable[[Memory], Awaitable[T]]", *, read_only: bool = False) -> T:
    """Opens the memory, runs the work on it, closes it, and returns the work's result."""

    async def main() -> T:
        async with memory(read_only=read_only) as opened:
            return await work(opened)

    return asyncio.run(main())


def same_command(*more: str) -> str:
    """Returns the command line of this process with these options at its end, to be typed again."""
    given = sys.argv[1:]
    repeated = given[-len(more) :] == [*more] if more else False
    return shlex.join(["whet", *given, *(() if repeated else more)])
