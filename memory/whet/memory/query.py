"""Finding records: equality and membership on columns, a stretch of time, an id or the beginning of one.

query = Query(where={"task_id": task.id, "status": ["done", "failed"]}, limit=20, newest_first=True)
runs = find_rows(connection, kind_of(Run), "default", query)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlalchemy import ColumnElement, Connection, Row, Select, cast, func, or_, select

from whet.core import NotFoundError, StoreError, UserError
from whet.memory.kinds import Kind
from whet.memory.schema import blobs

__all__ = ["Query", "Value", "Where", "count_rows", "find_rows", "get_row"]

Value: TypeAlias = str | int | float | bool | None
Where: TypeAlias = Mapping[str, Value | Sequence[Value]]

_MANY = 500


@dataclass(frozen=True, slots=True)
class Query:
    """Which records: all of ``where`` hold (a sequence means any of it), ``since`` <= time < ``until`` in ms."""

    where: Where = field(default_factory=dict)
    since: int | None = None
    until: int | None = None
    limit: int | None = None
    newest_first: bool = False


def find_rows(connection: Connection, kind: Kind, scope: str, query: Query) -> list[str]:
    """Returns the JSON of the records, in order of their time and id.

    Raises:
        UserError: a name in ``where`` is no column, a value has the wrong type, or the kind has no time to filter.
    """
    statement = _bodies(kind).where(*_conditions(connection, kind, scope, query)).order_by(*_order(kind, query))
    if query.limit is not None:
        statement = statement.limit(query.limit)
    return [_body(kind, line) for line in connection.execute(statement)]


def count_rows(connection: Connection, kind: Kind, scope: str, query: Query) -> int:
    """Returns how many records there are; raises like ``find_rows``."""
    statement = select(func.count()).select_from(kind.table).where(*_conditions(connection, kind, scope, query))
    return connection.scalar(statement) or 0


def get_row(connection: Connection, kind: Kind, scope: str, id: str) -> str:
    """Returns the JSON of the record with this id, or the only one whose id begins so; of a lesson, the newest version.

    Raises:
        NotFoundError: there is none, or the beginning fits several.
    """
    table, name = kind.table, kind.record.__name__
    fits = (table.c.scope == scope, table.c.id >= id, table.c.id < id + "\U0010ffff")
    ids = list(connection.scalars(select(table.c.id).where(*fits).distinct().order_by(table.c.id).limit(3)))
    if not ids or not id:
        raise NotFoundError(f"no {name} {id!r} in scope {scope!r}")
    if id not in ids and len(ids) > 1:
        raise NotFoundError(f"{id!r} begins several {name} ids ({', '.join(ids[:2])}, …); give more of it")
    statement = _bodies(kind).where(table.c.scope == scope, table.c.id == ids[0])
    if kind.versioned:
        statement = statement.order_by(table.c.version.desc()).limit(1)
    return _body(kind, connection.execute(statement).one())


def _bodies(kind: Kind) -> Select[str, str | None, bytes | None]:
    table = kind.table
    blob = table.outerjoin(blobs, (blobs.c.digest == table.c.digest) & table.c.body.is_(None))
    return select(table.c.id, table.c.body, blobs.c.data).select_from(blob)


def _body(kind: Kind, line: Row[str, str | None, bytes | None]) -> str:
    id, body, data = line
    if body is not None:
        return body
    if data is None:
        raise StoreError(f"the content of {kind.record.__name__} {id!r} is missing from the blobs; see: whet doctor")
    return bytes(data).decode()


def _order(kind: Kind, query: Query) -> list[ColumnElement[object]]:
    table = kind.table
    names = ["run_id", "seq"] if kind.name == "steps" and not query.newest_first else [kind.time] if kind.time else []
    columns: list[ColumnElement[object]] = [table.c[name] for name in names if name] + [table.c.id]
    if kind.versioned:
        columns.append(table.c.version)
    return [column.desc() for column in columns] if query.newest_first else columns


def _conditions(connection: Connection, kind: Kind, scope: str, query: Query) -> list[ColumnElement[bool]]:
    found = [kind.table.c.scope == scope]
    for name, value in query.where.items():
        if name not in kind.filters:
            raise UserError(
                f"{kind.record.__name__} cannot be filtered by {name!r}; it can be by {', '.join(kind.filters)}"
            )
        found.append(_condition(connection, kind, name, value))
    if query.since is not None or query.until is not None:
        found += _during(kind, query)
    return found


def _during(kind: Kind, query: Query) -> list[ColumnElement[bool]]:
    if kind.time is None:
        raise UserError(f"{kind.record.__name__} has no time; leave out since and until")
    time = kind.table.c[kind.time]
    found = [time >= query.since] if query.since is not None else []
    return [*found, time < query.until] if query.until is not None else found


def _condition(connection: Connection, kind: Kind, name: str, value: Value | Sequence[Value]) -> ColumnElement[bool]:
    column = kind.table.c[name]
    values = [value] if value is None or isinstance(value, str | int | float) else list(value)
    expected = column.type.python_type
    for each in values:
        if each is not None and not isinstance(
            each, int if expected is int else (expected, int) if expected is float else str
        ):
            raise UserError(f"{name!r} of {kind.record.__name__} is {expected.__name__}, not {each!r}")
    present = [each for each in values if each is not None]
    member = column == present[0] if len(present) == 1 else _member(connection, column, present)
    return or_(column.is_(None), member) if None in values else member


def _member(connection: Connection, column: ColumnElement[object], values: Sequence[Value]) -> ColumnElement[bool]:
    """Few values are a plain list, many one array: databases limit how many parameters a statement has."""
    if len(values) <= _MANY:
        return column.in_(values)
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import ARRAY  # the dialect takes long to load

        return column == func.any(cast(values, ARRAY(column.type)))
    import json

    return column.in_(select(func.json_each(json.dumps(values)).table_valued("value").c.value))
