"""The one thread that writes: takes what is queued, in order, and commits it together.

    writer = Writer(database)
    receipt = writer.queue(write_records, row)      # cheap; the row is on its way
    future = writer.submit(work)                    # work(connection), in the same order
    receipt.result(), future.result()               # both are durable now

Many small writes share one commit, and so one wait for the disk. What fails does not take its neighbours along: it is
left out, its own receipt or future says why, and the rest is committed.
"""

import asyncio
import atexit
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from whet.core import RefusedError, StoreError
from whet.memory.database import Database, Work, classify

__all__ = ["Receipt", "Writer"]

T = TypeVar("T")

CAPACITY = 20_000
"""So many queued items make the next caller wait: a producer that is faster than the disk is slowed down to it."""

LINGER = 0.01
"""Seconds that items nobody waits for may stay queued, so that more of them share a commit."""

WriteMany = Callable[[Connection, Sequence[T]], Mapping[int, Exception]]
"""Writes items in one go; returns the errors of those it left out, by their position."""


class Receipt:
    """What becomes of a queued item: await it, or ask for its ``result``; both return when the item is durable."""

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: "_Batch", index: int) -> None:
        self._batch = batch
        self._index = index

    def done(self) -> bool:
        """Whether the item is durable or was refused."""
        return self._batch.done.done()

    def result(self, timeout: float | None = None) -> None:
        """Returns when the item is durable.

        Raises:
            ConflictError: a record that never changes is stored under this id with other content.
            StoreError: the store cannot be written; nothing of the batch was.
            TimeoutError: it took longer than ``timeout`` seconds.
        """
        self._batch.hurry()
        self._batch.done.result(timeout)
        self._check()

    def __await__(self) -> Generator[Any, None, None]:
        self._batch.hurry()
        if not self._batch.done.done():
            yield from asyncio.wrap_future(self._batch.done).__await__()
        self._check()

    def _check(self) -> None:
        error = self._batch.errors.get(self._index)
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class _Piece(Generic[T]):
    """An item in the queue, written together with its like."""

    write: WriteMany[T]
    item: T


class _Call(Generic[T]):
    """Work in the queue."""

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # what is queued happens, whoever stops waiting for it
        self.value: T | None = None

    def run(self, connection: Connection) -> None:
        self.value = self.work(connection)

    def resolve(self, error: Exception | None) -> None:
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(cast(T, self.value))


class _Batch:
    """What is committed together. ``done`` is set when it was, or failed; ``errors`` says for which items."""

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.items: list[_Piece[Any] | _Call[Any]] = []
        self.errors: dict[int, Exception] = {}
        self.done: Future[None] = Future()
        self.done.set_running_or_notify_cancel()
        self.hurry = hurry


@dataclass
class _SpoiledError(Exception):
    """One item's work raised: the transaction has to be done again without it."""

    index: int
    error: Exception


class Writer:
    """A queue and the thread that empties it into ``database``. The thread starts with the first item."""

    def __init__(
        self, database: Database, *, read_only: bool = False, capacity: int = CAPACITY, linger: float = LINGER
    ) -> None:
        self._database = database
        self._read_only = read_only
        self._capacity = capacity
        self._linger = linger
        self._changed = threading.Condition()
        self._open = _Batch(self._hurry)
        self._busy: _Batch | None = None
        self._urgent = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def queue(self, write: WriteMany[T], item: T) -> Receipt:
        """Queues an item; waits only while the queue is full. ``write`` writes it along with others like it.

        Raises:
            StoreError: the writer is closed.
            RefusedError: the store is open for reading only.
        """
        with self._changed:
            batch = self._room()
            batch.items.append(_Piece(write, item))
            if len(batch.items) == 1 or len(batch.items) >= self._capacity:
                self._changed.notify_all()
            return Receipt(batch, len(batch.items) - 1)

    def submit(self, work: Work[T]) -> "Future[T]":
        """Queues work; its future has the result once that is durable. It may run twice, when a neighbour fails."""
        call = _Call(work)
        with self._changed:
            self._room().items.append(call)
            self._urgent = True
            self._changed.notify_all()
        return call.future

    def settled(self) -> "Future[None] | None":
        """Returns a future of when everything queued so far was written (or failed); ``None`` when it was."""
        with self._changed:
            if self._open.items:
                self._urgent = True
                self._changed.notify_all()
                return self._open.done
            return self._busy.done if self._busy else None

    def take_failure(self) -> Exception | None:
        """Returns the first error of a queued item since the last call, once."""
        with self._changed:
            failure, self._failure = self._failure, None
            return failure

    def close(self) -> None:
        """Writes what is queued and ends the thread; may be called again."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self.close)

    def _room(self) -> _Batch:
        if self._read_only:
            raise RefusedError(
                f"the store {self._database.address.name!r} is open for reading only; open it without read_only"
            )
        if self._closing:
            raise StoreError(f"the store {self._database.address.name!r} is closed; open it again")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="whet-writer", daemon=True)
            self._thread.start()
            # A process that ends without closing its memory still writes what it queued.
            atexit.register(self.close)
        while len(self._open.items) >= self._capacity:
            self._changed.wait()
        return self._open

    def _hurry(self) -> None:
        if not self._urgent:
            with self._changed:
                self._urgent = True
                self._changed.notify_all()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            self._commit(batch)
            self._resolve(batch)

    def _next(self) -> _Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._open.items or self._closing)
            full = lambda: self._urgent or self._closing or len(self._open.items) >= self._capacity  # noqa: E731
            self._changed.wait_for(full, self._linger)
            if not self._open.items:
                return None
            self._busy, self._open = self._open, _Batch(self._hurry)
            self._urgent = False
            self._changed.notify_all()
            return self._busy

    def _commit(self, batch: _Batch) -> None:
        left = list(range(len(batch.items)))
        while left:
            refused: dict[int, Exception] = {}
            try:
                self._database.transact(lambda connection: _apply(connection, batch, left, refused), write=True)  # noqa: B023
            except _SpoiledError as spoiled:
                error = spoiled.error
                if isinstance(error, SQLAlchemyError):
                    error = classify(error, self._database.address)
                batch.errors[spoiled.index] = error
                left.remove(spoiled.index)
                continue
            except Exception as error:  # nobody may wait forever, whatever happened: everybody here is told
                batch.errors |= dict.fromkeys(left, error)
                return
            batch.errors |= refused
            return

    def _resolve(self, batch: _Batch) -> None:
        with self._changed:
            self._busy = None
            for index, error in sorted(batch.errors.items()):
                if self._failure is None and isinstance(batch.items[index], _Piece):
                    self._failure = error
        for index, item in enumerate(batch.items):
            if isinstance(item, _Call):
                item.resolve(batch.errors.get(index))
        batch.items.clear()
        batch.done.set_result(None)


def _apply(connection: Connection, batch: _Batch, left: list[int], refused: dict[int, Exception]) -> None:
    pieces: dict[WriteMany[Any], list[int]] = defaultdict(list)
    for index in left:
        item = batch.items[index]
        if isinstance(item, _Piece):
            pieces[item.write].append(index)
            continue
        _write(connection, batch, pieces, refused)
        try:
            item.run(connection)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:  # whatever it is, it belongs to whoever submitted the work
            raise _SpoiledError(index, error) from error
    _write(connection, batch, pieces, refused)


def _write(
    connection: Connection, batch: _Batch, pieces: dict[WriteMany[Any], list[int]], refused: dict[int, Exception]
) -> None:
    """Writes what is queued up to here, kind by kind: within one transaction the order between kinds is not seen."""
    for write, indexes in pieces.items():
        items = [item.item for index in indexes if isinstance(item := batch.items[index], _Piece)]
        refused.update({indexes[position]: error for position, error in write(connection, items).items()})
    pieces.clear()
