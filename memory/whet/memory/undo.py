"""Reading the change log, taking changes back, and checking that log and rows still agree.

recent = read_changes(connection, "default", limit=20)
undo(connection, "default", recent[0].id, actor="cli", reason="by mistake")
problems = audit(connection)
"""

from sqlalchemy import Connection, func, select
from sqlalchemy.engine import RowMapping

from whet.core import ConflictError, NotFoundError, Promotion, RefusedError, UserError, digest
from whet.memory import schema
from whet.memory.blobs import read_blob
from whet.memory.changes import Change, ChangeLog, verify_chain
from whet.memory.kinds import KINDS, Kind, Row, kind_named
from whet.memory.rows import body_of, delete_rows, insert_rows, update_row
from whet.memory.schema import changes

__all__ = ["audit", "read_changes", "undo"]


def read_changes(
    connection: Connection, scope: str, *, limit: int | None = None, since: int | None = None
) -> list[Change]:
    """Returns the changes in a scope, newest first; ``since`` in milliseconds."""
    query = select(*(changes.c[name] for name in Change.__struct_fields__)).where(changes.c.scope == scope)
    if since is not None:
        query = query.where(changes.c.at >= since)
    lines = connection.execute(query.order_by(changes.c.id.desc()).limit(limit)).mappings()
    return [_change(line) for line in lines]


def undo(connection: Connection, scope: str, id: int, *, actor: str = "", reason: str = "") -> None:
    """Takes back a change and those made by the same ``put``; the log keeps both.

    Raises:
        NotFoundError: no such change in this scope.
        ConflictError: one of the records was changed again since.
        RefusedError: it made a promotion, or what was there before is forgotten.
    """
    batch = connection.scalar(select(changes.c.batch).where(changes.c.id == id, changes.c.scope == scope))
    if batch is None:
        raise NotFoundError(f"no change {id} in scope {scope!r}; see: whet log")
    query = select(*(changes.c[name] for name in Change.__struct_fields__)).where(changes.c.batch == batch)
    lines = connection.execute(query.order_by(changes.c.id.desc())).mappings().all()
    taken = [_change(line) for line in lines]
    for change in taken:
        _check_undoable(connection, change, last=max(each.id for each in taken if _slot(each) == _slot(change)))
    for change in taken:
        _take_back(connection, change, actor=actor, reason=reason or f"undo of change {change.id}")


def _change(line: RowMapping) -> Change:
    return Change(**{name: line[name] for name in Change.__struct_fields__})


def _slot(change: Change) -> tuple[str, str, str]:
    return (change.kind, change.scope, change.key)


def _check_undoable(connection: Connection, change: Change, *, last: int) -> None:
    if change.kind == KINDS[Promotion].name:
        raise RefusedError("the log of promotions only grows; take the policy back with: whet policy rollback")
    same = (changes.c.kind == change.kind, changes.c.scope == change.scope, changes.c.key == change.key)
    newest = connection.scalar(select(func.max(changes.c.id)).where(*same))
    if newest != last:
        raise ConflictError(f"{change.kind} {change.key!r} was changed again by change {newest}; undo that one first")


def _take_back(connection: Connection, change: Change, *, actor: str, reason: str) -> None:
    kind = kind_named(change.kind)
    if change.op == "insert" or change.before_digest is None:
        delete_rows(connection, [_stored(connection, kind, change)], actor=actor, reason=reason)
        return
    row = kind.row(kind.decode(_before(connection, change)), change.scope)
    before = None
    if change.digest is not None:
        before = body_of(connection, row)
        update_row(connection, row)
    else:
        insert_rows(connection, [row])
    log = ChangeLog(connection)
    log.add(
        "restore",
        row.slot,
        batch=log.next_id,
        digest=row.digest,
        before_digest=change.digest,
        before=before.decode() if before is not None and len(before) <= schema.INLINE_BYTES else None,
        actor=actor,
        reason=reason,
    )
    log.write()


def _before(connection: Connection, change: Change) -> bytes:
    text = connection.scalar(select(changes.c.before).where(changes.c.id == change.id))
    assert change.before_digest is not None
    try:
        return text.encode() if text is not None else read_blob(connection, change.before_digest)
    except NotFoundError:
        raise RefusedError(f"what {change.kind} {change.key!r} said before change {change.id} is forgotten") from None


def _stored(connection: Connection, kind: Kind, change: Change) -> Row:
    table = kind.table
    id, _, version = change.key.rpartition("@") if kind.versioned else (change.key, "", "")
    where = [table.c.scope == change.scope, table.c.id == id]
    if kind.versioned:
        where.append(table.c.version == int(version))
    name = connection.scalar(select(table.c.digest).where(*where))
    if name is None:
        raise NotFoundError(f"{change.kind} {change.key!r} is not in the store any more")
    stub = Row(kind, _slot(change), id, int(version or 0), name, b"", {}, ())
    return kind.row(kind.decode(body_of(connection, stub)), change.scope)


def audit(connection: Connection) -> list[str]:
    """Returns what is wrong with the store, one line each: the chain, and rows that are not what the log says."""
    broken = verify_chain(connection)
    problems = [] if broken is None else [f"the change log was altered at change {broken}"]
    logged = _last_digests(connection)
    for kind in KINDS.values():
        problems += _audit_kind(
            connection, kind, {key[1:]: name for key, name in logged.items() if key[0] == kind.name}
        )
    return problems


def _last_digests(connection: Connection) -> dict[tuple[str, str, str], str | None]:
    query = select(changes.c.kind, changes.c.scope, changes.c.key, changes.c.digest).order_by(changes.c.id)
    return {(kind, scope, key): name for kind, scope, key, name in connection.execute(query)}


def _audit_kind(connection: Connection, kind: Kind, logged: dict[tuple[str, str], str | None]) -> list[str]:
    table = kind.table
    blob = table.outerjoin(schema.blobs, (schema.blobs.c.digest == table.c.digest) & table.c.body.is_(None))
    key = table.c.version if kind.versioned else table.c.id
    problems = []
    query = select(table.c.scope, table.c.id, key, table.c.digest, table.c.body, schema.blobs.c.data).select_from(blob)
    for scope, id, version, name, body, data in connection.execute(query):
        slot = (scope, f"{id}@{version}" if kind.versioned else id)
        if logged.pop(slot, None) != name:
            problems.append(f"{kind.name} {slot[1]!r} is not what the change log says")
        if digest(body if body is not None else bytes(data or b"")) != name:
            problems.append(f"{kind.name} {slot[1]!r} has other content than its digest says")
    lost = [key for (_, key), name in logged.items() if name is not None]
    return problems + [f"{kind.name} {key!r} is in the change log and not in its table" for key in lost]


def parse_change_id(text: int | str) -> int:
    """Returns the number of a change.

    Raises:
        UserError: the text is no number.
    """
    if isinstance(text, int) or text.isdecimal():
        return int(text)
    raise UserError(f"{text!r} is no id of a change; it is a number, see: whet log")
