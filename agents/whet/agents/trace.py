"""The trace of a run: numbers its steps, keeps their tree, and hands them to a recorder in order, from any thread.

    trace = Trace(memory.recorder, run)
    step = trace.record(ModelCall(messages=messages, completion=completion), node="answer", parent_id=parent)

A recorder is anything with ``record(record)``; ``ListRecorder`` keeps the records in a list.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from whet.core import ModelCall, Record, Run, Step, StepBody

__all__ = ["ListRecorder", "Recorder", "Trace"]


class Recorder(Protocol):
    """Takes records in the order they happened, from any thread. What it returns (a receipt, say) may be ignored."""

    def record(self, record: Record) -> object:
        """Queues the record; cheap."""
        ...


class ListRecorder:
    """Keeps records in memory: for tests, for a look at a run, and for agents without a memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        """Appends the record."""
        self.records.append(record)


class Trace:
    """The steps of one run. ``first`` is the number of steps an earlier process already recorded for it.

    ``usage`` adds up what the model calls used; ``listener`` hears of each step, in the loop that made the trace.
    """

    def __init__(
        self,
        recorder: Recorder,
        run: Run,
        *,
        first: int = 0,
        listener: Callable[[Step], None] | None = None,
    ) -> None:
        self.run = run
        self.usage = run.usage
        self.count = first
        self._recorder = recorder
        self._listener = listener
        self._loop = None if listener is None else asyncio.get_running_loop()
        self._lock = threading.Lock()

    def record(self, body: StepBody, *, node: str = "", parent_id: str | None = None) -> Step:
        """Returns the recorded step. Safe in any thread: a synchronous node runs in one of its own."""
        with self._lock:
            step = Step(run_id=self.run.id, seq=self.count, node=node, parent_id=parent_id, body=body)
            self._recorder.record(step)
            self.count += 1
            if type(body) is ModelCall and body.completion is not None:
                self.usage += body.completion.usage
        if self._listener is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._listener, step)
        return step

    def put(self, record: Record) -> None:
        """Records something else of the run (a verdict, a critique, a use), in order with its steps."""
        with self._lock:
            self._recorder.record(record)
