"""Adapters on a server: loaded when used, kept while used, so many at once, taken away when idle."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core.errors import ModelError, UserError
from whet.core.models.vllm.slots import LoraSlots


class Server:
    """What a server would hold; it notes what must never happen."""

    def __init__(self, limit: int, *, seconds: float = 0.0) -> None:
        self.loaded: set[str] = set()
        self.in_use: Counter[str] = Counter()
        self.log: list[str] = []
        self.refuses: set[str] = set()
        self._seconds = seconds
        self.slots = LoraSlots(self.load, self.unload, limit=limit)
        self.limit = limit

    async def load(self, name: str, folder: Path) -> None:
        await asyncio.sleep(self._seconds)
        if name in self.refuses:
            raise UserError(f"{name!r} is refused")
        assert name not in self.loaded, "loaded twice"
        assert len(self.loaded) < self.limit, "more than fit"
        self.loaded.add(name)
        self.log.append(f"+{name}")

    async def unload(self, name: str) -> None:
        assert not self.in_use[name], "unloaded while a request is in flight"
        self.loaded.remove(name)
        self.log.append(f"-{name}")
        await asyncio.sleep(self._seconds)

    async def ask(self, name: str, seconds: float = 0.0) -> None:
        async with self.slots.using(name, Path(name)):
            assert name in self.loaded, "asked for before it was loaded"
            self.in_use[name] += 1
            try:
                await asyncio.sleep(seconds)
                assert name in self.loaded, "gone before the answer"
            finally:
                self.in_use[name] -= 1


@pytest.mark.asyncio
async def test_many_requests_load_an_adapter_once() -> None:
    server = Server(2, seconds=0.001)
    await asyncio.gather(*(server.ask("a") for _ in range(10)))
    assert server.log == ["+a"]
    assert server.slots.names == ["a"]


@pytest.mark.asyncio
async def test_the_idle_one_used_longest_ago_makes_room() -> None:
    server = Server(2)
    for name in "abac":
        await server.ask(name)
    assert server.log == ["+a", "+b", "-b", "+c"]


@pytest.mark.asyncio
async def test_where_all_are_in_use_another_one_waits() -> None:
    server, release = Server(1), asyncio.Event()

    async def hold() -> None:
        async with server.slots.using("a", Path("a")):
            await release.wait()

    held = asyncio.create_task(hold())
    await asyncio.sleep(0)
    asked = asyncio.create_task(server.ask("b"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (server.log, asked.done()) == (["+a"], False)
    release.set()
    await asyncio.gather(held, asked)
    assert server.log == ["+a", "-a", "+b"]


@pytest.mark.asyncio
async def test_unloading_waits_for_the_last_request_and_lets_nobody_join() -> None:
    server, release = Server(2), asyncio.Event()

    async def hold() -> None:
        async with server.slots.using("a", Path("a")):
            await release.wait()

    held = asyncio.create_task(hold())
    await asyncio.sleep(0)
    unloaded = asyncio.create_task(server.slots.unload("a"))
    await asyncio.sleep(0)
    late = asyncio.create_task(server.ask("a"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (server.log, unloaded.done(), late.done()) == (["+a"], False, False)
    release.set()
    await asyncio.gather(held, unloaded, late)
    assert server.log == ["+a", "-a", "+a"]
    await server.slots.unload("never loaded")


@pytest.mark.asyncio
async def test_an_unloading_that_is_given_up_leaves_the_adapter() -> None:
    server, release = Server(1), asyncio.Event()

    async def hold() -> None:
        async with server.slots.using("a", Path("a")):
            await release.wait()

    held = asyncio.create_task(hold())
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await server.slots.unload("a")
    await server.ask("a")
    release.set()
    await held
    assert server.log == ["+a"]


@pytest.mark.asyncio
async def test_what_is_refused_or_given_up_takes_no_place() -> None:
    server = Server(1, seconds=0.02)
    server.refuses = {"bad"}
    for _ in range(2):
        with pytest.raises(UserError, match="'bad' is refused"):
            await server.ask("bad")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await server.ask("slow")
    await server.ask("good")
    assert server.log == ["+good"]


@pytest.mark.asyncio
async def test_a_request_that_fails_leaves_its_place() -> None:
    server = Server(1)
    with pytest.raises(ModelError):
        async with server.slots.using("a", Path("a")):
            raise ModelError("no answer")
    await server.ask("b")
    assert server.log == ["+a", "-a", "+b"]


@pytest.mark.asyncio
async def test_what_the_server_lost_is_loaded_again() -> None:
    server = Server(1)
    await server.ask("a")
    server.loaded.clear()
    server.slots.forget("a")
    await server.ask("a")
    assert server.log == ["+a", "+a"]


def test_a_server_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="serves none"):
        Server(0)


def test_it_serves_one_event_loop_after_the_other() -> None:
    server = Server(1)
    for name in "aab":
        asyncio.run(server.ask(name))
    assert server.log == ["+a", "-a", "+b"]


_WORK = st.tuples(st.sampled_from("abcde"), st.sampled_from(["ask", "ask", "ask", "unload", "give up"]))


@given(st.integers(1, 3), st.lists(_WORK, max_size=25))
def test_whatever_is_asked_at_once_nothing_impossible_happens(limit: int, work: list[tuple[str, str]]) -> None:
    async def main() -> None:
        server = Server(limit)

        async def one(number: int, name: str, what: str) -> None:
            if what == "unload":
                return await server.slots.unload(name)
            asked = asyncio.create_task(server.ask(name, seconds=0.0001 * (number % 3)))
            if what == "give up":
                await asyncio.sleep(0)
                asked.cancel()
                await asyncio.wait([asked])
                return None
            return await asked

        async with asyncio.timeout(10):
            await asyncio.gather(*(one(number, name, what) for number, (name, what) in enumerate(work)))
        assert set(server.slots.names) == server.loaded
        assert len(server.loaded) <= limit

    asyncio.run(main())
