"""Resources of an event loop, and the way from synchronous code into one."""

import asyncio
import contextvars
import gc

import pytest

from whet.core.loops import PerLoop, run_sync


class Connection:
    def __init__(self) -> None:
        self.closed_by: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed_by = asyncio.get_running_loop()


def test_each_loop_has_its_own_and_closes_it() -> None:
    connections: PerLoop[Connection] = PerLoop(open=Connection, close=Connection.close)

    async def use() -> tuple[Connection, asyncio.AbstractEventLoop]:
        first, second = await asyncio.gather(connections.get(), connections.get())
        assert first is second
        assert first.closed_by is None
        return first, asyncio.get_running_loop()

    (one, one_loop), (other, other_loop) = asyncio.run(use()), asyncio.run(use())
    assert one is not other
    assert one.closed_by is one_loop
    assert other.closed_by is other_loop


def test_what_nobody_needs_any_more_is_closed_even_as_its_loop_ends() -> None:
    opened: list[Connection] = []

    async def use(*, wait: bool) -> None:
        opened.append(await PerLoop(open=Connection, close=Connection.close).get())
        gc.collect()
        for _ in range(5 if wait else 0):
            await asyncio.sleep(0)
        assert (opened[-1].closed_by is not None) is wait

    asyncio.run(use(wait=True))
    asyncio.run(use(wait=False))
    assert all(connection.closed_by is not None for connection in opened)


variable = contextvars.ContextVar("variable", default="outside")


def test_async_work_runs_to_its_end_from_anywhere() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return variable.get()

    async def inside_a_loop() -> str:
        variable.set("inside")
        return run_sync(work)

    assert run_sync(work) == "outside"
    assert asyncio.run(inside_a_loop()) == "inside"


def test_what_the_work_raises_comes_out() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_sync(work)
