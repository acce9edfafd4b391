"""The tables of checkpoints: what LangGraph needs to go on with a graph, as rows.

    write_saves(connection, [Save(checkpoint=line, values=[line])])
    for line in find_checkpoints(connection, Wanted(thread="t")): ...

Nothing here knows LangGraph or reads the bytes; ``Checkpointer`` does.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Connection, CursorResult, Table, delete, select

from whet.memory.bulk import insert_many
from whet.memory.schema import checkpoint_values, checkpoint_writes, checkpoints

__all__ = [
    "Save",
    "Wanted",
    "copy_thread",
    "delete_checkpoints",
    "delete_runs",
    "delete_thread",
    "find_checkpoints",
    "keep_values",
    "read_values",
    "read_writes",
    "write_saves",
]

Line: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Save:
    """What one call of LangGraph stores: a checkpoint with the values that changed, or writes to a checkpoint.

    ``special`` writes (errors, interrupts) replace earlier ones; ordinary writes and values are kept as they are.
    """

    checkpoint: Line | None = None
    values: list[Line] = field(default_factory=list)
    writes: list[Line] = field(default_factory=list)
    special: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which checkpoints: of one thread, namespace or id where given; ``before`` this id; newest first."""

    thread: str | None = None
    namespace: str | None = None
    id: str | None = None
    before: str | None = None


def write_saves(connection: Connection, saves: Sequence[Save]) -> dict[int, Exception]:
    """Writes many in a few statements; no error is one save's own."""
    _insert(connection, checkpoint_values, [line for save in saves for line in save.values], replace=False)
    lines = [save.checkpoint for save in saves if save.checkpoint is not None]
    _insert(connection, checkpoints, lines, replace=True)
    _insert(connection, checkpoint_writes, [line for save in saves for line in save.writes], replace=False)
    _insert(connection, checkpoint_writes, [line for save in saves for line in save.special], replace=True)
    return {}


def _insert(connection: Connection, table: Table, lines: Iterable[Line], *, replace: bool) -> None:
    key = [column.name for column in table.primary_key]
    unique: dict[tuple[object, ...], Line] = {}
    for line in lines:
        name = tuple(line[part] for part in key)
        if replace or name not in unique:
            unique[name] = line
    insert_many(connection, table, list(unique.values()), existing="replace" if replace else "keep")


def find_checkpoints(connection: Connection, wanted: Wanted, limit: int | None = None) -> CursorResult[Any]:
    """Returns the rows of the checkpoints, newest first within their thread and namespace."""
    columns = checkpoints.c
    pairs = (
        (columns.thread_id, wanted.thread),
        (columns.namespace, wanted.namespace),
        (columns.id, wanted.id),
    )
    query = select(checkpoints).where(*(column == value for column, value in pairs if value is not None))
    if wanted.before is not None:
        query = query.where(columns.id < wanted.before)
    return connection.execute(query.order_by(columns.thread_id, columns.namespace, columns.id.desc()).limit(limit))


def read_values(
    connection: Connection, thread: str, namespace: str, versions: Mapping[str, str]
) -> dict[str, tuple[str, bytes]]:
    """Returns the values of channels at their versions, as (type, bytes); a channel without a value is absent."""
    columns = checkpoint_values.c
    query = select(columns.channel, columns.version, columns.type, columns.data).where(
        columns.thread_id == thread, columns.namespace == namespace, columns.version.in_(set(versions.values()))
    )
    return {
        channel: (type, data)
        for channel, version, type, data in connection.execute(query)
        if versions.get(channel) == version
    }


def read_writes(connection: Connection, thread: str, namespace: str, id: str) -> list[tuple[str, str, str, bytes]]:
    """Returns the writes to a checkpoint as (task, channel, type, bytes), in the order in which they apply."""
    columns = checkpoint_writes.c
    query = select(columns.task_id, columns.channel, columns.type, columns.data).where(
        columns.thread_id == thread, columns.namespace == namespace, columns.checkpoint_id == id
    )
    lines = connection.execute(query.order_by(columns.task_path, columns.task_id, columns.idx))
    return [(task, channel, type, data) for task, channel, type, data in lines]


def delete_thread(connection: Connection, thread: str) -> None:
    """Deletes everything of a thread."""
    for table in (checkpoints, checkpoint_values, checkpoint_writes):
        connection.execute(delete(table).where(table.c.thread_id == thread))


def delete_runs(connection: Connection, runs: Sequence[str]) -> None:
    """Deletes the checkpoints that these runs made, and the writes to them."""
    columns = checkpoints.c
    query = select(columns.thread_id, columns.namespace, columns.id).where(columns.run_id.in_(runs))
    delete_checkpoints(connection, [tuple(line) for line in connection.execute(query)])


def delete_checkpoints(connection: Connection, keys: Sequence[tuple[str, str, str]]) -> None:
    """Deletes checkpoints by (thread, namespace, id), and the writes to them; values stay."""
    for thread, namespace, id in keys:
        for table, name in ((checkpoints, "id"), (checkpoint_writes, "checkpoint_id")):
            where = (table.c.thread_id == thread, table.c.namespace == namespace, table.c[name] == id)
            connection.execute(delete(table).where(*where))


def keep_values(connection: Connection, thread: str, namespace: str, kept: Collection[tuple[str, str]]) -> None:
    """Deletes the values of a thread and namespace at other (channel, version) pairs than these."""
    columns = checkpoint_values.c
    here = (columns.thread_id == thread, columns.namespace == namespace)
    for channel, version in connection.execute(select(columns.channel, columns.version).where(*here)).all():
        if (channel, version) not in kept:
            where = (*here, columns.channel == channel, columns.version == version)
            connection.execute(delete(checkpoint_values).where(*where))


def copy_thread(connection: Connection, source: str, target: str) -> None:
    """Copies everything of a thread to another, which keeps what it has of its own."""
    for table in (checkpoints, checkpoint_values, checkpoint_writes):
        lines = connection.execute(select(table).where(table.c.thread_id == source)).mappings()
        _insert(connection, table, [{**line, "thread_id": target} for line in lines], replace=False)
