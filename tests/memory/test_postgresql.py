"""What only a server can do to a memory: hold its lock, cut its connections, go away."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, text

from whet.core import Actor, ConflictError, Run, Step, StoreError
from whet.memory import Memory
from whet.memory.database import open_database, parse_url
from whet.memory.store import Store

CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@contextmanager
def other_writer(url: str) -> Iterator[Callable[[], None]]:
    """Another process that writes, until the function that is given is called."""
    database, started, end = open_database(parse_url(url)), threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        started.set()
        end.wait(30)

    thread = threading.Thread(target=lambda: database.transact(work, write=True))
    thread.start()
    assert started.wait(30)
    yield end.set
    end.set()
    thread.join()
    database.close()


@pytest.mark.asyncio
async def test_a_locked_store_says_so_and_writers_take_turns(new_url: Callable[[str], str]) -> None:
    url = new_url("postgresql")
    async with await Memory.open(f"{url}&timeout=0.1") as hasty, await Memory.open(url) as patient:
        with other_writer(url) as end:
            with pytest.raises(ConflictError, match="is locked by another writer; try again"):
                await hasty.put(Actor(id="a", kind="person"))
            waiting = asyncio.ensure_future(patient.put(Actor(id="b", kind="person")))
            assert await hasty.count(Actor) == 0, "reading goes on"
            assert not waiting.done()
            end()
            await waiting
        assert [actor.id for actor in await hasty.find(Actor)] == ["b"]


@pytest.mark.asyncio
async def test_cut_connections_are_made_again(new_url: Callable[[str], str]) -> None:
    url = new_url("postgresql")
    async with await Memory.open(url) as memory, await Memory.open(url) as other:
        await memory.put(Actor(id="a", kind="person"))
        await other.store.write(lambda connection: connection.execute(text(CUT)).all())
        await memory.put(Actor(id="b", kind="person"))
        assert await memory.count(Actor) == 2


@pytest.mark.asyncio
async def test_a_database_that_is_not_there(new_url: Callable[[str], str]) -> None:
    url = new_url("postgresql").replace("/test_", "/none_")
    with pytest.raises(StoreError, match="does not exist; make it with: createdb NAME") as caught:
        await Memory.open(url)
    assert "\n" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    assert parse_url("postgresql://ann:secret@host/db").name == "postgresql+asyncpg://ann:***@host/db"


def test_a_store_works_without_an_event_loop(url: str) -> None:
    store = Store(url)
    answer = store.write_now(lambda connection: connection.scalar(text("SELECT 1")))
    assert answer == store.read_now(lambda connection: connection.scalar(text("SELECT 1"))) == 1
    store.close_now()


@pytest.mark.asyncio
async def test_a_store_outlives_the_loop_that_opened_it(url: str) -> None:
    def another_loop(memory: Memory) -> int:
        return asyncio.run(memory.count(Run))

    async with await Memory.open(url) as memory:
        await memory.put(Run(task_id="t", agent="a"))
        assert await asyncio.to_thread(another_loop, memory) == 1
        assert await memory.count(Step) == 0
