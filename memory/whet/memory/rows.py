"""Reading and writing records inside a transaction: what every other part of the store is built from.

    with engine.begin() as connection:
        write_rows(connection, [kind_of(Run).row(run, "default")], actor="cli", reason="by hand")
        failed = read_rows(connection, Run, "default", Query(where={"status": "failed"}))

These are plain functions on a SQLAlchemy connection, the same for SQLite and PostgreSQL; ``Store.read`` and
``Store.write`` run them. Only one transaction writes at a time, so what is looked up first still holds then.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, select, update

from whet.core import ConflictError, Lesson, StoreError, Task, WhetError, digest, encode, now_ms
from whet.memory import schema
from whet.memory.blobs import write_blobs
from whet.memory.bulk import insert_many
from whet.memory.changes import ChangeLog, Op
from whet.memory.kinds import Row

__all__ = ["body_of", "delete_rows", "insert_rows", "update_row", "write_records", "write_rows"]

_CHUNK = 5000

Slot = tuple[str, str, str]


def write_rows(
    connection: Connection,
    rows: Sequence[Row],
    *,
    actor: str = "",
    reason: str = "",
    refused: dict[int, WhetError] | None = None,
) -> None:
    """Writes rows that the store lacks, replaces those that may change, and logs every change.

    A row that is stored already, with the same content, is left alone. With ``refused``, each row is a change of its
    own: one that cannot be written is left out and its error noted there under its position; else all are one change.

    Raises:
        ConflictError: a record that never changes is stored under the same key with other content.
    """
    batch = _Batch(connection, rows, actor=actor, reason=reason, together=refused is None)
    for index, row in enumerate(rows):
        try:
            batch.add(row)
        except ConflictError as error:
            if refused is None:
                raise
            refused[index] = error
    batch.write()


def write_records(connection: Connection, rows: Sequence[Row]) -> dict[int, WhetError]:
    """Writes rows as changes of their own; returns the errors of those that were left out, by their position."""
    refused: dict[int, WhetError] = {}
    write_rows(connection, rows, refused=refused)
    return refused


class _Batch:
    """Rows on their way into one transaction."""

    def __init__(self, connection: Connection, rows: Sequence[Row], *, actor: str, reason: str, together: bool) -> None:
        self._connection = connection
        self._who = {"actor": actor, "reason": reason}
        self._known = _digests(connection, rows)
        self._new: dict[str, list[Row]] = defaultdict(list)
        self._pending: set[Slot] = set()
        self._log = ChangeLog(connection)
        self._batch = self._log.next_id if together else None

    def add(self, row: Row) -> None:
        slot = row.slot
        known = self._known.get(slot)
        if known == row.digest:
            return
        if known is None:
            self._new[slot[0]].append(row)
            self._pending.add(slot)
            self._note("insert", row)
        else:
            self._replace(row, known)
        self._known[slot] = row.digest

    def write(self) -> None:
        self._write_new()
        self._log.write()

    def _replace(self, row: Row, known: str) -> None:
        if row.kind.change == "never":
            raise ConflictError(
                f"{row.kind.record.__name__} {row.key!r} is stored with other content and never changes; "
                "give the new one an id of its own"
            )
        if row.slot in self._pending:
            self._write_new()
        before = body_of(self._connection, row)
        if row.kind.change == "closed":
            _check_closed(row, before)
        update_row(self._connection, row)
        self._note("replace", row, before_digest=known, before=_inline(before))

    def _note(self, op: Op, row: Row, *, before_digest: str | None = None, before: str | None = None) -> None:
        batch = self._batch or self._log.next_id
        self._log.add(
            op,
            row.slot,
            batch=batch,
            digest=row.digest,
            before_digest=before_digest,
            before=before,
            **self._who,
        )

    def _write_new(self) -> None:
        for rows in self._new.values():
            insert_rows(self._connection, rows)
        self._new.clear()
        self._pending.clear()


def _digests(connection: Connection, rows: Iterable[Row]) -> dict[Slot, str]:
    """Returns the digests of those of the rows that are stored, by their slot."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.kind.name, row.scope].append(row)
    found: dict[Slot, str] = {}
    for (name, scope), members in groups.items():
        table, versioned = members[0].kind.table, members[0].kind.versioned
        for start in range(0, len(members), _CHUNK):
            ids = {row.id for row in members[start : start + _CHUNK]}
            query = select(table).with_only_columns(
                table.c.id, table.c.digest, *([table.c.version] if versioned else [])
            )
            for line in connection.execute(query.where(table.c.scope == scope, table.c.id.in_(ids))):
                found[name, scope, f"{line[0]}@{line[2]}" if versioned else line[0]] = line[1]
    return found


def insert_rows(connection: Connection, rows: Sequence[Row]) -> None:
    """Inserts rows of one kind, with their long bodies, their lineage and what is derived from them."""
    if not rows:
        return
    write_blobs(connection, [row.body for row in rows if row.values["body"] is None])
    insert_many(connection, rows[0].kind.table, [row.values for row in rows])
    _write_edges(connection, rows)
    _derive(connection, rows)


def update_row(connection: Connection, row: Row) -> None:
    """Replaces a stored row by this one."""
    if row.values["body"] is None:
        write_blobs(connection, [row.body])
    connection.execute(update(row.kind.table).where(*_is(row)).values(row.values))
    _delete_edges(connection, row)
    _write_edges(connection, [row])
    _derive(connection, [row])


def delete_rows(
    connection: Connection, rows: Sequence[Row], *, actor: str = "", reason: str = "", keep: bool = True
) -> None:
    """Deletes stored rows and logs it. With ``keep`` the log holds their JSON, so that it can be undone.

    Without it nothing of the text stays in the log; blobs that nothing needs any more are the caller's to delete.
    """
    log = ChangeLog(connection)
    batch = log.next_id
    for row in rows:
        before = _inline(row.body) if keep else None
        connection.execute(delete(row.kind.table).where(*_is(row)))
        _delete_edges(connection, row)
        if row.kind.record is Lesson:
            _to_outbox(connection, "delete", [row])
        log.add("delete", row.slot, batch=batch, before_digest=row.digest, before=before, actor=actor, reason=reason)
    log.write()


def body_of(connection: Connection, row: Row) -> bytes:
    """Returns the JSON that is stored under the key of this row."""
    table = row.kind.table
    query = (
        select(table.c.body, schema.blobs.c.data)
        .select_from(table.outerjoin(schema.blobs, (schema.blobs.c.digest == table.c.digest) & table.c.body.is_(None)))
        .where(*_is(row))
    )
    body, data = connection.execute(query).one()
    if body is None and data is None:
        raise StoreError(f"the content of {row.kind.record.__name__} {row.key!r} is missing from the blobs")
    return body.encode() if body is not None else bytes(data)


def _is(row: Row) -> list[ColumnElement[bool]]:
    table = row.kind.table
    where = [table.c.scope == row.scope, table.c.id == row.id]
    return [*where, table.c.version == row.version] if row.kind.versioned else where


def _inline(body: bytes) -> str | None:
    return body.decode() if len(body) <= schema.INLINE_BYTES else None


def _check_closed(row: Row, before: bytes) -> None:
    old, new = row.kind.decode(before), row.kind.decode(row.body)
    assert isinstance(old, Lesson)
    assert isinstance(new, Lesson)
    if old.valid_to is not None or msgspec.structs.replace(old, valid_to=new.valid_to) != new:
        raise ConflictError(
            f"Lesson {row.key!r} is stored with other content; a lesson changes by a new version, "
            "and of an old one only valid_to is set, once"
        )


# --- what is derived from records -----------------------------------------------------------------------------------


def _derive(connection: Connection, rows: Sequence[Row]) -> None:
    if rows[0].kind.record is Lesson:
        _to_outbox(connection, "upsert", rows)
    elif rows[0].kind.record is Task:
        _write_verifiers(connection, rows)


def _write_edges(connection: Connection, rows: Sequence[Row]) -> None:
    edges = [
        {
            "scope": row.scope,
            "source": row.id,
            "version": row.version,
            "relation": relation,
            "target": target,
            "kind": row.kind.name,
        }
        for row in rows
        for relation, target in row.edges
    ]
    insert_many(connection, schema.lineage, edges)


def _delete_edges(connection: Connection, row: Row) -> None:
    table = schema.lineage
    where = (table.c.scope == row.scope, table.c.source == row.id, table.c.version == row.version)
    if row.kind.edges:
        connection.execute(delete(table).where(*where, table.c.kind == row.kind.name))


def _to_outbox(connection: Connection, op: str, rows: Sequence[Row]) -> None:
    at = now_ms()
    lines = [{"scope": r.scope, "op": op, "lesson_id": r.id, "version": r.version, "at": at} for r in rows]
    insert_many(connection, schema.index_outbox, lines)


def _write_verifiers(connection: Connection, rows: Sequence[Row]) -> None:
    table, scope = schema.verifiers, rows[0].scope
    specs: dict[str, tuple[str, bytes]] = {}
    for row in rows:
        task = row.kind.decode(row.body)
        assert isinstance(task, Task)
        specs |= {digest(body): (spec.kind, body) for spec in task.verifiers if (body := encode(spec))}
    new = [
        {"scope": scope, "id": name, "kind": kind, "digest": name, "body": _inline(body)}
        for name, (kind, body) in specs.items()
        if connection.scalar(select(table.c.id).where(table.c.scope == scope, table.c.id == name)) is None
    ]
    write_blobs(connection, [body for _, body in specs.values() if _inline(body) is None])
    insert_many(connection, table, new)
