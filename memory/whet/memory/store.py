"""A store: a database brought up to date, the one writer in front of it, and a scope.

    store = await Store.open(".whet")
    ids = await store.read(lambda connection: connection.scalars(select(runs.c.id)).all())
    await store.write(lambda connection: connection.execute(insert(policy_tags), {...}))

``read`` sees everything that was queued before it; ``write`` returns when its transaction is durable.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from whet.core import StoreError
from whet.memory.database import Work, open_database, parse_url
from whet.memory.migration import migrate
from whet.memory.writer import Writer

__all__ = ["Store"]

T = TypeVar("T")


class Store:
    """Runs work in transactions, from async code (``read``, ``write``) or from any thread (``…_now``).

    ``scope`` is the namespace of everything that is read and written, ``folder`` the folder of files that go with the
    store (``None`` when it is on a server).
    """

    def __init__(self, url: str | Path, *, scope: str = "default", read_only: bool = False) -> None:
        self.address = parse_url(url)
        self.folder = self.address.folder
        self.scope = scope
        self.read_only = read_only
        self.database = open_database(self.address, read_only=read_only)
        try:
            migrate(self.database, read_only=read_only)
        except BaseException:
            self.database.close()
            raise
        self.writer = Writer(self.database, read_only=read_only)
        self._readers = ThreadPoolExecutor(4, "whet-reader")

    @classmethod
    async def open(cls, url: str | Path, *, scope: str = "default", read_only: bool = False) -> "Store":
        """Returns the store at a folder or URL, created and migrated.

        Raises:
            UserError: no such kind of URL.
            NotFoundError: there is no store, and read-only makes none.
            StoreError: it cannot be opened.
            RefusedError: it was written by a later version of Whet.
        """
        return await asyncio.to_thread(cls, url, scope=scope, read_only=read_only)

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return "sqlite" if self.folder is not None else "postgresql"

    async def read(self, work: Work[T], *, settle: bool = True) -> T:
        """Returns what the work returns; it runs in a reading transaction, in another thread.

        Everything queued before is seen, unless ``settle`` is false: then only what is durable already.
        """
        settled = self.writer.settled() if settle else None
        if settled is not None:
            await asyncio.wrap_future(settled)
        try:
            reading = self._readers.submit(self.database.transact, work, write=False)
        except RuntimeError as error:
            raise StoreError(f"the store {self.address.name!r} is closed; open it again") from error
        return await asyncio.wrap_future(reading)

    async def write(self, work: Work[T]) -> T:
        """Returns what the work returns, once it is durable. It may run twice, so it only touches the database."""
        return await asyncio.wrap_future(self.writer.submit(work))

    def read_now(self, work: Work[T], *, settle: bool = True) -> T:
        """Like ``read``, blocking the calling thread."""
        settled = self.writer.settled() if settle else None
        if settled is not None:
            settled.result()
        return self.database.transact(work, write=False)

    def write_now(self, work: Work[T]) -> T:
        """Like ``write``, blocking the calling thread."""
        return self.writer.submit(work).result()

    async def close(self) -> None:
        """Writes what is queued and closes every connection; may be called again."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """Like ``close``, blocking the calling thread."""
        self.writer.close()
        self._readers.shutdown()
        self.database.close()
