"""Stores to test with: SQLite in a temporary folder, and a PostgreSQL server of the tests' own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import make_url

from whet.memory import Memory

_EMPTY = """
    DO $$ DECLARE names text; BEGIN
        SELECT string_agg(quote_ident(tablename), ', ') INTO names FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'alembic_version';
        IF names IS NOT NULL THEN EXECUTE 'TRUNCATE ' || names; END IF;
    END $$
"""


class Cluster:
    """A private PostgreSQL server on a Unix socket, run by an unprivileged user."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.folder = folder
        self._binaries = binaries
        self._user = "postgres" if os.geteuid() == 0 else None
        self._numbers = count()
        self._free: list[str] = []
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "whet", "-E", "UTF8", "--no-sync")
        # Nothing here outlives the tests, so the server need not wait for the disk.
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_connections=100"
        self._run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-w", "-l", str(folder / "log"), "start")

    def new_url(self) -> str:
        """Returns the URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self._run("createdb", "-h", str(self.folder), "-U", "whet", name)
        return f"postgresql+asyncpg://whet@/{name}?host={self.folder}"

    def take_url(self) -> str:
        """Returns the URL of a database without rows, whose tables an earlier test may have made."""
        return self._free.pop() if self._free else self.new_url()

    def give_back(self, url: str) -> None:
        """Empties the tables of a database, for the next test."""
        self._run("psql", "-q", "-h", str(self.folder), "-U", "whet", "-d", make_url(url).database or "", "-c", _EMPTY)
        self._free.append(url)

    def stop(self) -> None:
        """Stops the server."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(
            command, check=True, user=self._user, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )


def _why_no_postgres() -> str | None:
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return "PostgreSQL is not installed; apt-get install postgresql"
    if os.geteuid() == 0 and "postgres" not in {account.pw_name for account in pwd.getpwall()}:
        return "root cannot run PostgreSQL and there is no user postgres"
    return None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server for the whole session."""
    if reason := _why_no_postgres():
        pytest.skip(reason)
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    folder = Path(tempfile.mkdtemp(prefix="whet-pg-"))  # a short path: sockets allow about 100 characters
    server = Cluster(binaries, folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Makes the URL of a new store: ``new_url("sqlite")`` or ``new_url("postgresql")``."""
    taken: list[str] = []

    def make(backend: str) -> str:
        if backend == "sqlite":
            return str(tmp_path / ".whet")
        server: Cluster = request.getfixturevalue("cluster")
        taken.append(server.take_url())
        return taken[-1]

    yield make
    for url in taken:
        request.getfixturevalue("cluster").give_back(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """The URL of a new store, of each database in turn."""
    return new_url(request.param)


@pytest_asyncio.fixture
async def memory(url: str) -> AsyncIterator[Memory]:
    """An open memory on a new store, of each database in turn."""
    async with await Memory.open(url) as opened:
        yield opened
