"""Exporting: runs with all that belongs to them, as documents of a format.

    documents = list(export_documents(connection, "default", OpenAI()))

A run that came from the same format gets back what our records have no field for.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
from sqlalchemy import Connection

from whet.core import Feedback, Json, NotFoundError, Record, Run, Step, Task, Verdict
from whet.memory.exchange.format import Bundle, Format, source_of
from whet.memory.exchange.residue import restore
from whet.memory.kinds import kind_of
from whet.memory.query import Query, Where, find_rows

__all__ = ["bundles", "export_documents", "records"]

R = TypeVar("R", bound=Record)

_CHUNK = 200


def records(connection: Connection, kind: type[R], scope: str, where: Where) -> list[R]:
    """Returns the records of a kind that match."""
    bodies = find_rows(connection, kind_of(kind), scope, Query(where=where))
    return [msgspec.json.decode(body, type=kind) for body in bodies]


def bundles(connection: Connection, scope: str, run_ids: Sequence[str] | None = None) -> Iterator[Bundle]:
    """Yields runs with their task, steps, verdicts and feedback, in order of their time and place in their file.

    Raises:
        NotFoundError: a run is not stored.
    """
    runs = records(connection, Run, scope, {} if run_ids is None else {"id": list(run_ids)})
    if run_ids is not None and (missing := set(run_ids) - {run.id for run in runs}):
        raise NotFoundError(f"no run {min(missing)!r} in scope {scope!r}")
    runs.sort(key=lambda run: (run.started_at, _row(run), run.id))
    for start in range(0, len(runs), _CHUNK):
        yield from _bundles(connection, scope, runs[start : start + _CHUNK])


def _row(run: Run) -> int:
    source = run.meta.get("source")
    row = source.get("row") if isinstance(source, dict) else 0
    return row if isinstance(row, int) else 0


def _bundles(connection: Connection, scope: str, runs: Sequence[Run]) -> Iterator[Bundle]:
    of_runs: Where = {"run_id": [run.id for run in runs]}
    task_ids = sorted({run.task_id for run in runs})
    tasks = {task.id: task for task in records(connection, Task, scope, {"id": task_ids})}
    steps = _by_run(records(connection, Step, scope, of_runs))
    verdicts = _by_run(records(connection, Verdict, scope, of_runs))
    feedback = _by_run(records(connection, Feedback, scope, of_runs))
    for run in runs:
        yield Bundle(
            task=tasks.get(run.task_id, Task(id=run.task_id, messages=(), scope=scope)),  # it may be forgotten
            run=run,
            steps=tuple(sorted(steps[run.id], key=lambda step: step.seq)),
            verdicts=tuple(verdicts[run.id]),
            feedback=tuple(feedback[run.id]),
        )


A = TypeVar("A", Step, Verdict, Feedback)


def _by_run(found: Sequence[A]) -> dict[str, list[A]]:
    groups: dict[str, list[A]] = defaultdict(list)
    for record in found:
        groups[record.run_id or ""].append(record)
    return groups


def export_documents(
    connection: Connection, scope: str, format: Format, run_ids: Sequence[str] | None = None
) -> Iterator[tuple[Run, Json]]:
    """Yields each run with its document; without ``run_ids``, every run that the format can hold.

    Raises:
        NotFoundError: a run is not stored.
    """
    for bundle in bundles(connection, scope, run_ids):
        source = source_of(bundle.run, format.name)
        if source or run_ids is not None or not format.own_only:
            yield bundle.run, restore(format.write(bundle), source.get("residue"))
