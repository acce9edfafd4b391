"""Inserting many rows at once, the fastest way each database has.

insert_many(connection, schema.steps, [{"scope": "default", "id": "…", …}, …])
insert_many(connection, schema.checkpoints, lines, existing="replace")
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy import Connection, Table, insert

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import Insert as PostgresInsert

__all__ = ["insert_many"]

Existing = Literal["refuse", "keep", "replace"]

_PARAMETERS: Final = 32_000
"""SQLite takes 32,766 parameters in a statement."""

_VERBS: Final[Mapping[Existing, str]] = {
    "refuse": "INSERT",
    "keep": "INSERT OR IGNORE",
    "replace": "INSERT OR REPLACE",
}


def insert_many(
    connection: Connection, table: Table, lines: Sequence[Mapping[str, object]], *, existing: Existing = "refuse"
) -> None:
    """Inserts lines that all have the same columns. ``existing`` says what becomes of rows with the same key.

    With ``keep`` and ``replace``, no two lines have the same key.
    """
    if not lines:
        return
    if connection.dialect.name == "sqlite":
        _insert_sqlite(connection, table.name, lines, _VERBS[existing])
        return
    into = insert(table) if existing == "refuse" else _on_conflict(table, existing)
    connection.execute(into, [dict(line) for line in lines])


def _insert_sqlite(connection: Connection, table: str, lines: Sequence[Mapping[str, object]], verb: str) -> None:
    """One statement for many rows: each call into SQLite gives up the interpreter lock, and getting it back from a
    busy thread takes milliseconds. Column values need no conversion, so the driver takes them as they are.
    """
    columns = tuple(lines[0])
    size = _PARAMETERS // len(columns)
    for start in range(0, len(lines), size):
        part = lines[start : start + size]
        values = tuple(chain.from_iterable(line.values() for line in part))
        connection.exec_driver_sql(_statement(verb, table, columns, len(part)), values)


@lru_cache(maxsize=256)
def _statement(verb: str, table: str, columns: tuple[str, ...], count: int) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    marks = f"({', '.join('?' * len(columns))})"
    return f'{verb} INTO "{table}" ({names}) VALUES {", ".join([marks] * count)}'


def _on_conflict(table: Table, existing: Existing) -> "PostgresInsert":
    from sqlalchemy.dialects import postgresql

    into = postgresql.insert(table)
    key = [column.name for column in table.primary_key]
    if existing == "keep":
        return into.on_conflict_do_nothing()
    rest = {column.name: into.excluded[column.name] for column in table.columns if column.name not in key}
    return into.on_conflict_do_update(index_elements=key, set_=rest)
