"""Everything a memory holds of its scope as JSON lines, and back: records, policies, tags, the head, blobs.

    lines = list(dump(connection, "default"))
    report = load(connection, "default", b"\\n".join(lines), source="backup.jsonl")

Loading into an empty scope and dumping again gives the same bytes. What is stored already stays; vectors and the
change log are not part of it, because a store makes its own.
"""

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec
from sqlalchemy import Connection, Table, func, insert, select

from whet.core import ConflictError, Promotion, Record, UserError, digest, encode, now_ms
from whet.memory import policies, schema
from whet.memory.blobs import write_blobs
from whet.memory.exchange.exporting import records
from whet.memory.exchange.format import json_lines
from whet.memory.exchange.importing import Bad, write_quarantine
from whet.memory.exchange.report import ImportReport, Rejected
from whet.memory.kinds import KINDS, Row, kind_named
from whet.memory.rows import write_rows

__all__ = ["dump", "load"]


class _Stored(Record, frozen=True, kw_only=True, tag="record"):
    """A record, of the table ``kind``."""

    kind: str
    record: msgspec.Raw


class _Blob(Record, frozen=True, kw_only=True, tag="blob"):
    """Bytes, in base 64."""

    data: str


class _Tree(Record, frozen=True, kw_only=True, tag="policy"):
    """A policy: paths and the digests of their blobs."""

    policy: str
    files: dict[str, str]


class _Tag(Record, frozen=True, kw_only=True, tag="tag"):
    """A name for a policy."""

    name: str
    policy: str
    at: int


class _Head(Record, frozen=True, kw_only=True, tag="head"):
    """The policy in force."""

    policy: str
    promotion_id: str
    at: int


_Line: TypeAlias = _Stored | _Blob | _Tree | _Tag | _Head


def dump(connection: Connection, scope: str) -> Iterator[bytes]:
    """Yields the lines: blobs, policies, records (promotions in the order of the log), tags, the head."""
    for data in _blobs(connection):
        yield encode(_Blob(data=b64encode(data).decode()))
    trees = schema.policy_trees
    files: dict[str, dict[str, str]] = {}
    for policy, path, blob in connection.execute(select(trees.c.policy, trees.c.path, trees.c.blob)):
        files.setdefault(policy, {})[path] = blob
    for policy in sorted(files):
        yield encode(_Tree(policy=policy, files=files[policy]))
    for kind in KINDS.values():
        found: Sequence[Record] = (
            policies.history(connection, scope)
            if kind.record is Promotion
            else records(connection, kind.record, scope, {})
        )
        for record in found:
            yield encode(_Stored(kind=kind.name, record=msgspec.Raw(encode(record))))
    for table, line in ((schema.policy_tags, _Tag), (schema.policy_heads, _Head)):
        for row in connection.execute(select(table).where(table.c.scope == scope).order_by(table.c.policy)).mappings():
            yield encode(msgspec.convert({str(name): value for name, value in row.items()}, line))


def _blobs(connection: Connection) -> Iterator[bytes]:
    """Yields the blobs that are no long record, in order of their digest."""
    blobs = schema.blobs
    bodies: set[str] = set()
    for table in (*(kind.table for kind in KINDS.values()), schema.verifiers):
        bodies |= set(connection.scalars(select(table.c.digest).where(table.c.body.is_(None))))
    log = schema.changes
    bodies |= set(connection.scalars(select(log.c.before_digest).where(log.c.before_digest.is_not(None))))
    for name in connection.scalars(select(blobs.c.digest).order_by(blobs.c.digest)).all():
        if name not in bodies:
            yield bytes(connection.execute(select(blobs.c.data).where(blobs.c.digest == name)).scalar_one())


def load(connection: Connection, scope: str, data: bytes, *, source: str, actor: str = "") -> ImportReport:
    """Writes what a dump holds and returns what became of its lines.

    Raises:
        ConflictError: a record is stored under the same id with other content, or the scope has another head; nothing
            is written.
    """
    good: list[_Line] = []
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, raw in json_lines(data):
        try:
            line = _parse(raw)
            if isinstance(line, _Stored):
                kind = kind_named(line.kind)
                rows.append(kind.row(msgspec.json.decode(line.record, type=kind.record), scope))
            good.append(line)
        except (UserError, msgspec.DecodeError) as error:
            bad.append(Bad(number, raw, str(error)))
    before = _count(connection, scope)
    write_blobs(connection, [b64decode(line.data) for line in good if isinstance(line, _Blob)])
    _write_policies(connection, scope, good)
    write_rows(connection, rows, actor=actor, reason=f"import store: {source}")
    write_quarantine(connection, scope, "store", source, now_ms(), bad)
    new = _count(connection, scope) - before
    return ImportReport(
        format="store",
        source=source,
        rows=len(good) + len(bad),
        tasks=new["tasks"],
        runs=new["runs"],
        feedback=new["feedback"],
        verdicts=new["verdicts"],
        lessons=new["lessons"],
        steps=new["steps"],
        known=len(rows) - new.total(),
        digest=digest(b"\n".join(encode(line) for line in good)),
        quarantined=tuple(Rejected(row=each.row, reason=each.reason) for each in bad),
    )


def _parse(raw: bytes) -> _Line:
    try:
        line: _Line = msgspec.json.decode(raw, type=_Line)
        if isinstance(line, _Blob):
            b64decode(line.data, validate=True)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UserError(f"not a line of a store: {error}") from error
    return line


def _count(connection: Connection, scope: str) -> Counter[str]:
    tables = [kind.table for kind in KINDS.values()]
    return Counter(
        {
            table.name: connection.scalar(select(func.count()).select_from(table).where(table.c.scope == scope)) or 0
            for table in tables
        }
    )


def _write_policies(connection: Connection, scope: str, lines: Sequence[_Line]) -> None:
    for line in lines:
        if isinstance(line, _Tree):
            _write_tree(connection, line)
        elif isinstance(line, _Tag):
            _write_once(connection, schema.policy_tags, scope, line, ("name",))
        elif isinstance(line, _Head):
            _write_once(connection, schema.policy_heads, scope, line, ())


def _write_tree(connection: Connection, tree: _Tree) -> None:
    trees = schema.policy_trees
    if connection.scalar(select(trees.c.policy).where(trees.c.policy == tree.policy).limit(1)) is None:
        rows = [{"policy": tree.policy, "path": path, "blob": blob} for path, blob in tree.files.items()]
        connection.execute(insert(trees), rows)


def _write_once(connection: Connection, table: Table, scope: str, line: _Tag | _Head, keys: Sequence[str]) -> None:
    values = msgspec.structs.asdict(line)
    where = [table.c.scope == scope, *(table.c[key] == values[key] for key in keys)]
    known = connection.scalar(select(table.c.policy).where(*where))
    if known is None:
        connection.execute(insert(table).values(scope=scope, **values))
    elif known != line.policy:
        raise ConflictError(
            f"{table.name} of scope {scope!r} has {known[:12]!r}, the file {line.policy[:12]!r}; "
            "load it into an empty scope"
        )
