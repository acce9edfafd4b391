"""The recorder: in order, durable before it acknowledges, once, and never at the expense of a neighbour."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from whet.core import Actor, Budget, BudgetEvent, ConflictError, Cost, HumanEdit, Run, Step, StoreError
from whet.memory import Memory
from whet.memory.database import Address, Database, Work, open_database, parse_url
from whet.memory.kinds import kind_of
from whet.memory.migration import migrate
from whet.memory.rows import write_records
from whet.memory.writer import Receipt, Writer

T = TypeVar("T")


def steps(count: int, run_id: str = "r") -> list[Step]:
    """The first steps of a run."""
    return [Step(run_id=run_id, seq=n, body=HumanEdit(before="", after=str(n), actor="a")) for n in range(count)]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another process's writing transaction, held open."""
    connection = sqlite3.connect(folder / "whet.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.close()


class Counting:
    """A database that counts its transactions."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.address: Address = database.address
        self.transactions = 0

    def transact(self, work: Work[T], *, write: bool) -> T:
        """Counts and passes on."""
        self.transactions += 1
        return self.database.transact(work, write=write)

    def close(self) -> None:
        """Closes the database."""
        self.database.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Counting]:
    """An empty SQLite store, without a writer in front."""
    opened = Counting(open_database(parse_url(tmp_path)))
    migrate(opened)
    opened.transactions = 0
    yield opened
    opened.close()


@pytest.mark.asyncio
async def test_what_is_acknowledged_is_in_the_file(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path) as memory:
        *_, last = [memory.recorder.record(step) for step in steps(300)]
        assert not last.done()
        await last
        assert last.done()
        found = sqlite3.connect(tmp_path / "whet.db").execute("SELECT seq FROM steps ORDER BY rowid").fetchall()
        assert [seq for (seq,) in found] == list(range(300)), "in the order in which they were recorded"


@pytest.mark.asyncio
async def test_reading_sees_what_was_recorded_before(memory: Memory) -> None:
    for step in steps(20):
        memory.recorder.record(step)
    assert await memory.count(Step) == 20


@pytest.mark.asyncio
async def test_recording_again_changes_nothing(memory: Memory) -> None:
    made = steps(50)
    for step in (*made, *made):
        memory.recorder.record(step)
    await memory.recorder.flush()
    for step in made[::9]:
        await memory.recorder.record(step)
    assert await memory.find(Step) == made
    assert len(await memory.changes()) == 50
    assert await memory.audit() == []


@pytest.mark.asyncio
async def test_one_refused_record_takes_no_other_along(memory: Memory) -> None:
    first, second, third = steps(3)
    wrong = msgspec.structs.replace(second, id=first.id)
    receipts = [memory.recorder.record(step) for step in (first, wrong, third)]
    await receipts[0]
    await receipts[2]
    with pytest.raises(ConflictError, match=f"Step '{first.id}' is stored with other content"):
        await receipts[1]
    assert await memory.find(Step) == [first, third]
    with pytest.raises(ConflictError):
        await memory.recorder.flush()
    await memory.recorder.flush()


@pytest.mark.asyncio
async def test_each_recorded_change_can_be_undone_alone(memory: Memory) -> None:
    for step in steps(3):
        memory.recorder.record(step)
    await memory.undo(2)
    assert [step.seq for step in await memory.find(Step)] == [0, 2]


@pytest.mark.asyncio
async def test_any_thread_may_record(memory: Memory) -> None:
    def work(run_id: str) -> None:
        for step in steps(100, run_id):
            receipt = memory.recorder.record(step)
        receipt.result(20)

    await asyncio.gather(*(asyncio.to_thread(work, f"r{n}") for n in range(4)))
    for n in range(4):
        assert [step.seq for step in await memory.find(Step, {"run_id": f"r{n}"})] == list(range(100))


@pytest.mark.asyncio
async def test_a_record_is_taken_as_it_is_now(memory: Memory) -> None:
    meta = {"state": [1]}
    memory.recorder.record(Run(id="r", task_id="t", agent="a", meta=meta))
    meta["state"].append(2)
    assert (await memory.get(Run, "r")).meta == {"state": [1]}


def test_many_small_writes_share_a_commit(database: Counting) -> None:
    writer = Writer(database)
    rows = [kind_of(Step).row(step, "default") for step in steps(2_000)]
    receipts = [writer.queue(write_records, row) for row in rows]
    receipts[-1].result(20)
    assert database.transactions < 20
    writer.close()


def test_a_full_queue_makes_the_producer_wait(database: Counting) -> None:
    writer, produced = Writer(database, capacity=10), threading.Event()
    receipts: list[Receipt] = []

    def produce() -> None:
        for step in steps(35):
            receipts.append(writer.queue(write_records, kind_of(Step).row(step, "default")))
        produced.set()

    assert database.address.folder is not None
    with locked(database.address.folder):
        thread = threading.Thread(target=produce)
        thread.start()
        assert not produced.wait(0.3)
        # One batch waits for the lock, one is in the queue, and the next item waits for room.
        assert len(receipts) <= 20
    assert produced.wait(20)
    writer.close()
    thread.join()
    for receipt in receipts:
        receipt.result(0)


@pytest.mark.asyncio
async def test_a_locked_store_is_reported_and_works_again_later(tmp_path: Path) -> None:
    async with await Memory.open(f"sqlite:///{tmp_path}/whet.db?timeout=0.05") as memory:
        with locked(tmp_path):
            lost = memory.recorder.record(steps(1)[0])
            with pytest.raises(ConflictError, match=r"whet\.db' is locked by another process; try again"):
                await lost
            with pytest.raises(ConflictError, match="is locked"):
                await memory.put(Actor(id="a", kind="person"))
            assert await memory.count(Step) == 0, "reading goes on"
        with pytest.raises(ConflictError, match="is locked"):
            await memory.recorder.flush()
        await memory.recorder.record(steps(1)[0])
        assert await memory.count(Step) == 1


@pytest.mark.asyncio
async def test_who_stops_waiting_does_not_stop_the_write(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path) as memory:
        with locked(tmp_path):
            put = asyncio.ensure_future(memory.put(Actor(id="a", kind="person")))
            record = asyncio.ensure_future(waiting(memory.recorder.record(steps(1)[0])))
            await asyncio.sleep(0.05)
            put.cancel()
            record.cancel()
            await asyncio.gather(put, record, return_exceptions=True)
        assert (await memory.count(Actor), await memory.count(Step)) == (1, 1)


async def waiting(receipt: Receipt) -> None:
    """Waits for a receipt."""
    await receipt


@pytest.mark.asyncio
async def test_a_full_disk_is_reported_and_nothing_is_half_written(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path) as memory:
        await memory.put(Actor(id="a", kind="person"))
        # The limit makes SQLite say what it says when the disk is full.
        await memory.store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1").close())
        big = Run(task_id="t", agent="a", answer="x" * 3_000_000)
        for attempt in (memory.put(Actor(id="b", kind="person"), big), waiting(memory.recorder.record(big))):
            with pytest.raises(StoreError, match="the disk is full; nothing was changed, free some space"):
                await attempt
        assert await memory.count(Actor) == 1
        await memory.store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000").close())
        await memory.put(big)
        assert await memory.audit() == []


def test_a_program_that_forgets_to_close_keeps_what_it_recorded(tmp_path: Path) -> None:
    program = f"""
import asyncio
from whet.core import Actor
from whet.memory import Memory

async def main():
    memory = await Memory.open({str(tmp_path)!r})
    memory.recorder.record(Actor(id="a", kind="person"))

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert sqlite3.connect(tmp_path / "whet.db").execute("SELECT id FROM actors").fetchall() == [("a",)]


@pytest.mark.asyncio
async def test_the_ledger_of_a_budget(memory: Memory) -> None:
    budget = Budget(calls=5, ledger=memory.recorder.ledger)
    with budget.child(calls=2).reserve(Cost(calls=1)) as reservation:
        reservation.settle(Cost(calls=1))
    budget.reserve(Cost(calls=1)).release()
    events = await memory.find(BudgetEvent)
    assert sorted(event.kind for event in events) == ["grant", "grant", "release", "reserve", "reserve", "settle"]
    assert await memory.count(BudgetEvent, {"parent_id": budget.id}) == 3
