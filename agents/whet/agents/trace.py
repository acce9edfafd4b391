"""The trace of a run: numbers its steps, keeps their tree, and hands them to a recorder in order, from any thread.

    trace = Trace(memory.recorder, run)
    step = trace.record(ModelCall(messages=messages, completion=completion), node="answer", parent_id=parent)

A recorder is anything with ``record(record)``; ``ListRecorder`` keeps the records in a list.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from whet.core import ModelCall, Record, Run, Step, StepBody, Usage

__all__ = ["ListRecorder", "Recorder", "Trace"]


class Recorder(Protocol):
    """Takes records in the order they happened. What it returns (a future, say) may be ignored."""

    def record(self, record: Record) -> object:
        """Queues the record; cheap, and called in the thread of the event loop only."""
        ...


class ListRecorder:
    """Keeps records in memory: for tests, for a look at a run, and for agents without a memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        """Appends the record."""
        self.records.append(record)


class Trace:
    """The steps of one run. ``first`` is the number of steps an earlier process already recorded for it."""

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
        self._waiting: deque[Record] = deque()
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._loop = _running_loop()

    def record(self, body: StepBody, *, node: str = "", parent_id: str | None = None) -> Step:
        """Returns the recorded step. Safe in any thread: a synchronous node runs in one of its own."""
        with self._lock:
            step = Step(run_id=self.run.id, seq=self.count, node=node, parent_id=parent_id, body=body)
            self.count += 1
            if type(body) is ModelCall and body.completion is not None:
                self.usage += body.completion.usage
            self._waiting.append(step)
        self._schedule()
        return step

    def put(self, record: Record) -> None:
        """Records something else of the run (a verdict, a critique, a use), in order with its steps."""
        self._waiting.append(record)
        self._schedule()

    def spend(self, usage: Usage) -> None:
        """Adds usage that no step carries."""
        with self._lock:
            self.usage += usage

    def _schedule(self) -> None:
        if self._loop is None or threading.get_ident() == self._thread:
            self._drain()
        else:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        while self._waiting:
            record = self._waiting.popleft()
            self._recorder.record(record)
            if self._listener is not None and isinstance(record, Step):
                self._listener(record)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
