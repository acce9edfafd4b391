"""The recorder: takes records in the order they happen, at the cost of queueing them, and makes them durable.

    receipt = memory.recorder.record(step)      # may be ignored
    await receipt                               # the step is on the disk
    await memory.recorder.flush()               # everything recorded so far is

What is acknowledged survives ``kill -9`` and a loss of power; what is queued and not yet acknowledged (some 10 ms of
work) does not. A record that is stored already, with the same content, is written once. When the queue is full,
``record`` waits for the disk.
"""

import asyncio

from whet.core import BudgetEvent, Record
from whet.memory.kinds import kind_of
from whet.memory.rows import write_records
from whet.memory.writer import Receipt, Writer

__all__ = ["Receipt", "Recorder"]


class Recorder:
    """Records into ``scope`` through ``writer``. Safe to use from any thread, with or without an event loop."""

    def __init__(self, writer: Writer, scope: str) -> None:
        self._writer = writer
        self._scope = scope

    def record(self, record: Record) -> Receipt:
        """Returns a receipt that can be awaited; the record is queued and was turned to JSON, so it cannot change.

        Raises:
            UserError: the record is of a kind that is not kept, belongs to another scope, or cannot be kept as JSON.
            StoreError: the memory is closed.
        """
        return self._writer.queue(write_records, kind_of(type(record)).row(record, self._scope))

    def ledger(self, event: BudgetEvent) -> None:
        """Records a line of a budget's ledger: ``Budget(…, ledger=memory.recorder.ledger)``."""
        self.record(event)

    async def flush(self) -> None:
        """Returns when everything queued so far is durable, checkpoints of graphs included.

        Raises:
            WhetError: the first error of what was queued since the last flush.
        """
        settled = self._writer.settled()
        if settled is not None:
            await asyncio.wrap_future(settled)
        failure = self._writer.take_failure()
        if failure is not None:
            raise failure
