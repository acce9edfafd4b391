"""The migrations make what the code expects, up and down, in both databases; what does not fit is refused."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from whet.core import Actor, Lesson, NotFoundError, RefusedError, StoreError, UserError
from whet.memory import Memory
from whet.memory.database import open_database, parse_url
from whet.memory.migration import downgrade, migrate, revision, upgrade
from whet.memory.schema import REVISION, metadata


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Makes the URL of a database without tables."""
    return lambda backend: (
        str(tmp_path / "new") if backend == "sqlite" else request.getfixturevalue("cluster").new_url()
    )


def differences(connection: Connection) -> list[object]:
    """What Alembic would change to make the tables those of the code."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": _ours})
    return list(compare_metadata(context, metadata))


def _ours(object: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
    # The full-text index is made by the migration alone: the code has no words for it.
    return not (kind == "table" and str(name).startswith("lessons_fts")) and name != "ix_lessons_search"


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_up_and_down_and_up_again(fresh: Callable[[str], str], backend: str) -> None:
    database = open_database(parse_url(fresh(backend)))
    for _ in range(2):
        migrate(database)
        assert database.transact(revision, write=False) == REVISION
        assert database.transact(differences, write=False) == []
        database.transact(lambda connection: downgrade(connection, "base"), write=True)
        names = database.transact(lambda connection: inspect(connection).get_table_names(), write=False)
        assert set(names) - {"alembic_version", "sqlite_sequence"} == set()
    database.close()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
@pytest.mark.asyncio
async def test_several_may_open_a_new_store_at_once(fresh: Callable[[str], str], backend: str) -> None:
    url = fresh(backend)
    memories = await asyncio.gather(*(Memory.open(url) for _ in range(4)))
    await asyncio.gather(*(memory.put(Actor(id=str(n), kind="person")) for n, memory in enumerate(memories)))
    assert await memories[0].count(Actor) == 4
    await asyncio.gather(*(memory.close() for memory in memories))


@pytest.mark.asyncio
async def test_full_text_follows_the_lessons(memory: Memory) -> None:
    found = {
        "sqlite": "SELECT version FROM lessons, lessons_fts f WHERE row = f.rowid AND lessons_fts MATCH 'bound'",
        "postgresql": "SELECT version FROM lessons WHERE to_tsvector('english', text || ' ' || applies_when || ' ' || "
        "task_text) @@ to_tsquery('english', 'bound')",
    }[memory.store.dialect]
    await memory.put(Lesson(id="l", text="Check the bounds first."), Lesson(text="Nothing of that."))
    assert await memory.query(found) == [{"version": 1}]
    await memory.put(Lesson(id="l", version=2, text="Bounded loops end."))
    assert len(await memory.query(found)) == 2
    await memory.undo((await memory.changes())[0].id)
    assert await memory.query(found) == [{"version": 1}]


@pytest.mark.asyncio
async def test_a_store_of_a_later_version_is_refused_with_the_way_out(url: str) -> None:
    async with await Memory.open(url) as memory:
        later = text("UPDATE alembic_version SET version_num = '9999'")
        await memory.store.write(lambda connection: connection.execute(later))
    try:
        for read_only in (False, True):
            with pytest.raises(RefusedError, match=r"written by a later version .* pip install --upgrade"):
                await Memory.open(url, read_only=read_only)
    finally:
        database = open_database(parse_url(url))
        back = text(f"UPDATE alembic_version SET version_num = '{REVISION}'")
        database.transact(lambda connection: connection.execute(back), write=True)
        database.close()


@pytest.mark.asyncio
async def test_an_older_store_is_not_migrated_by_a_reader(tmp_path: Path) -> None:
    database = open_database(parse_url(tmp_path))
    migrate(database)
    database.transact(lambda connection: downgrade(connection, "base"), write=True)
    database.close()
    with pytest.raises(RefusedError, match="open it once for writing"):
        await Memory.open(tmp_path, read_only=True)
    async with await Memory.open(tmp_path) as memory:
        assert await memory.count(Actor) == 0


def test_upgrading_what_is_up_to_date_does_nothing(tmp_path: Path) -> None:
    database = open_database(parse_url(tmp_path))
    migrate(database)
    database.transact(upgrade, write=True)
    assert database.transact(revision, write=False) == REVISION
    database.close()


def test_opening_an_up_to_date_store_loads_neither_alembic_nor_langgraph(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from whet.memory import Memory

async def main():
    async with await Memory.open({str(tmp_path)!r}):
        return [name for name in ("alembic", "langgraph", "asyncpg", "chromadb") if name in sys.modules]

print(asyncio.run(main()))
"""
    outputs = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60).stdout
        for _ in range(2)
    ]
    assert outputs == ["['alembic']\n", "[]\n"]


# --- what is no store -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "whet.db").write_text("nothing like a database " * 1_000)
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"whet\.db' is no SQLite database"):
            await Memory.open(tmp_path, read_only=read_only)


async def read_all(folder: Path) -> None:
    """Opens a store and reads every record."""
    async with await Memory.open(folder) as memory:
        await memory.audit()


@pytest.mark.asyncio
async def test_a_damaged_file(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path) as memory:
        for n in range(100):
            memory.recorder.record(Actor(id=str(n), kind="person", name="x" * 1_000))
    data = bytearray((tmp_path / "whet.db").read_bytes())
    for page in range(4096 * 3, len(data), 4096):
        data[page : page + 200] = os.urandom(200)
    (tmp_path / "whet.db").write_bytes(data)
    with pytest.raises(StoreError, match="is damaged; restore a backup"):
        await read_all(tmp_path)


@pytest.mark.asyncio
async def test_what_cannot_be_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for url, kind, message in (
        (file, UserError, "is a file; give the folder"),
        (file / "below", RefusedError, "cannot be made"),
        ("mysql://x/y", UserError, "no store for 'mysql'; there is sqlite:///FILE and postgresql"),
        ("sqlite:///:memory:", UserError, "a store needs a file"),
        ("sqlite:///x.db?timeout=soon", UserError, "timeout='soon' in the URL is no number"),
        ("://", UserError, "is no database URL"),
        ("postgresql://whet@127.0.0.1:1/x?timeout=2", StoreError, "cannot be reached"),
    ):
        with pytest.raises(kind, match=message) as caught:
            await Memory.open(url)
        assert "\n" not in str(caught.value)
    with pytest.raises(NotFoundError, match="make one with: whet init"):
        await Memory.open(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.asyncio
async def test_a_folder_that_was_made_by_hand_and_a_url_name_the_same_store(tmp_path: Path) -> None:
    (tmp_path / "a b%20ü").mkdir()
    async with await Memory.open(tmp_path / "a b%20ü") as memory:
        await memory.put(Actor(id="a", kind="person"))
    assert sqlite3.connect(tmp_path / "a b%20ü" / "whet.db").execute("SELECT id FROM actors").fetchall() == [("a",)]
    async with await Memory.open(f"sqlite+aiosqlite:///{tmp_path}/a b%2520ü/whet.db") as memory:
        assert await memory.count(Actor) == 1
