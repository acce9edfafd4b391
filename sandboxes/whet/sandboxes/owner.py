"""The one thread that starts boxes.

The kernel's parent-death signal goes by thread: a box started from a thread that ends is killed with it. So every
process is started from one thread that lives as long as the interpreter, and when that ends, so do all boxes.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

__all__ = ["in_owner_thread"]

T = TypeVar("T")


@cache
def _owner() -> ThreadPoolExecutor:
    os.register_at_fork(after_in_child=_owner.cache_clear)  # a forked child has no such thread
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="whet-sandbox-owner")


async def in_owner_thread(work: Callable[[], T], discard: Callable[[T], None]) -> T:
    """Returns what ``work`` returns, run in the owner thread; ``discard`` gets it when the caller was cancelled."""
    running = asyncio.get_running_loop().run_in_executor(_owner(), work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        discard(await running)
        raise
