"""A store in a PostgreSQL database, through asyncpg on an event loop of its own, so that any thread can use it."""

import asyncio
import threading
from collections.abc import Coroutine
from importlib.util import find_spec
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from whet.core import RefusedError, StoreError, UserError
from whet.memory.database import Address, Work, classify

__all__ = ["PostgresDatabase"]

T = TypeVar("T")

_CONNECT_SECONDS = 10.0

_LOCK = 0x77686574
"""The advisory lock that a writing transaction holds: the change log is one chain, so writers take turns."""


class PostgresDatabase:
    """Transactions on a pool of connections. What was committed is on the server's disk (``synchronous_commit``)."""

    def __init__(self, address: Address, *, read_only: bool) -> None:
        if find_spec("asyncpg") is None:
            raise UserError("PostgreSQL needs the driver asyncpg; install it with: pip install 'whet[postgres]'")
        self.address = address
        self._read_only = read_only
        self._engine = create_async_engine(
            address.url,
            pool_size=8,
            pool_pre_ping=True,  # a restart of the server is not seen by who comes after it
            connect_args={"timeout": _CONNECT_SECONDS},
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="whet-postgresql", daemon=True)
        self._thread.start()

    def transact(self, work: Work[T], *, write: bool) -> T:
        """Runs the work on the loop of the database and waits for it; see ``Database``."""
        if write and self._read_only:
            raise RefusedError(f"the store {self.address.name!r} is open for reading only; open it without read_only")
        return self._wait(self._write(work) if write else self._read(work))

    def close(self) -> None:
        """Closes every connection and ends the thread; may be called again."""
        if self._loop.is_closed():
            return
        self._wait(self._engine.dispose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[None, None, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise StoreError(f"the store {self.address.name!r} is closed")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (SQLAlchemyError, OSError) as error:
            raise classify(error, self.address) from error

    async def _write(self, work: Work[T]) -> T:
        async with self._engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = {int(self.address.timeout * 1000)}"))
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            return await connection.run_sync(work)

    async def _read(self, work: Work[T]) -> T:
        async with self._engine.connect() as connection:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            return await (await connection.execution_options(**options)).run_sync(work)
