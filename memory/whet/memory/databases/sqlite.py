"""A store in one SQLite file in WAL mode: readers never wait for a writer, nor a writer for them."""

import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from whet.core import NotFoundError, RefusedError
from whet.memory.database import Address, Work, classify

__all__ = ["SqliteDatabase"]

T = TypeVar("T")
_MAKING = 1.0  # seconds that a file may take from nothing to a store


class SqliteDatabase:
    """One connection writes; others, made as they are needed, read.

    ``synchronous=FULL``: a committed transaction is on the disk, so what was acknowledged survives ``kill -9`` and a
    loss of power (as far as the disk keeps what it says it wrote). Deleted content is overwritten with zeros.
    """

    def __init__(self, address: Address, *, read_only: bool) -> None:
        self.address = address
        self._read_only = read_only
        if address.folder is not None and not read_only:
            try:
                address.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RefusedError(f"the folder {str(address.folder)!r} cannot be made: {error.strerror}") from error
        self._writer = self._engine("BEGIN IMMEDIATE", self._open_writer, size=1)
        self._readers = self._engine("BEGIN", self._open_reader, size=8)

    def transact(self, work: Work[T], *, write: bool) -> T:
        """Runs the work in the calling thread; see ``Database``."""
        if write and self._read_only:
            raise RefusedError(f"the store {self.address.name!r} is open for reading only; open it without read_only")
        try:
            with (self._writer if write else self._readers).begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise classify(error, self.address) from error

    def close(self) -> None:
        """Closes every connection; may be called again."""
        self._writer.dispose()
        self._readers.dispose()

    def _engine(self, begin: str, open: Callable[[], sqlite3.Connection], *, size: int) -> Engine:
        engine = create_engine("sqlite+pysqlite://", creator=open, poolclass=QueuePool, pool_size=size, max_overflow=0)

        @event.listens_for(engine, "begin")
        def _(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _connect(self, uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=self.address.timeout
        )
        for pragma in ("foreign_keys=ON", "secure_delete=ON", "synchronous=FULL", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect(f"file:{_quote(self.address.name)}?mode=rwc")
        _use_wal(connection, self.address.timeout)
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        deadline = time.monotonic() + _MAKING
        while True:
            try:
                connection = self._connect(f"file:{_quote(self.address.name)}?mode=ro")
                connection.execute("PRAGMA query_only=ON")
                return connection
            except sqlite3.OperationalError as error:
                if self.address.folder is not None and not (self.address.folder / self.address.name).exists():
                    raise NotFoundError(f"no store {self.address.name!r}; make one with: whet init") from error
                # Somebody may be making it at this moment: it was not there, and now it is.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Switches a new file to WAL. SQLite does not wait for a lock here, so that two processes may open it at once."""
    deadline = time.monotonic() + timeout
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _quote(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
