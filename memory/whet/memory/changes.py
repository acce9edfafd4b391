"""The change log: one line for every change to a record, written in the same transaction, chained by hashes.

    log = ChangeLog(connection, actor="cli", reason="by hand")
    log.add("insert", row.slot, digest=row.digest)
    log.write()
    verify_chain(connection)            # None, or the number of the first line that does not fit

A line's hash covers the line and the hash before it, so nothing can be altered or taken out of the middle unseen. The
hash covers only the digest of what was replaced, so that the text itself can be forgotten without breaking the chain.
"""

from collections.abc import Iterable
from typing import Literal

from sqlalchemy import Connection, select
from sqlalchemy.engine import RowMapping

from whet.core import Record, digest, encode, now_ms
from whet.memory.bulk import insert_many
from whet.memory.schema import changes

__all__ = ["Change", "ChangeLog", "Op", "verify_chain"]

Op = Literal["insert", "replace", "delete", "restore"]

_COVERED = ("id", "at", "op", "scope", "kind", "key", "digest", "before_digest", "actor", "reason", "batch")


class Change(Record, frozen=True, kw_only=True):
    """A line of the change log. ``kind`` is the table, ``key`` the id (``id@version`` for a lesson).

    ``digest`` names the record after the change (``None``: it is gone), ``before_digest`` the one before it;
    ``batch`` is the first change of the same ``put``.
    """

    id: int
    at: int
    op: str
    scope: str
    kind: str
    key: str
    digest: str | None
    before_digest: str | None
    actor: str
    reason: str
    batch: int
    hash: str


class ChangeLog:
    """Collects the changes of one transaction and writes them at its end. ``actor`` and ``reason`` say who and why."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        last = connection.execute(select(changes.c.id, changes.c.hash).order_by(changes.c.id.desc()).limit(1)).first()
        self._id: int = last.id if last else 0
        self._hash: str = last.hash if last else ""
        self._lines: list[dict[str, object]] = []
        self._at = now_ms()

    @property
    def next_id(self) -> int:
        """The number that the next line will have."""
        return self._id + 1

    def add(
        self,
        op: Op,
        slot: tuple[str, str, str],
        *,
        batch: int,
        digest: str | None = None,
        before_digest: str | None = None,
        before: str | None = None,
        actor: str = "",
        reason: str = "",
    ) -> None:
        """Adds a line about the row ``slot`` (table, scope, key)."""
        kind, scope, key = slot
        self._id += 1
        line: dict[str, object] = {
            "id": self._id,
            "at": self._at,
            "op": op,
            "scope": scope,
            "kind": kind,
            "key": key,
            "digest": digest,
            "before_digest": before_digest,
            "actor": actor,
            "reason": reason,
            "batch": batch,
        }
        self._hash = line["hash"] = _hash(self._hash, line.values())
        line["before"] = before
        self._lines.append(line)

    def write(self) -> None:
        """Writes the lines."""
        if self._lines:
            insert_many(self._connection, changes, self._lines)
            self._lines = []


def _hash(previous: str, values: Iterable[object]) -> str:
    return digest(encode([previous, *values]))


def verify_chain(connection: Connection) -> int | None:
    """Returns the number of the first line that does not fit the chain, or ``None`` when all fit."""
    previous, expected = "", 1
    for line in connection.execute(select(changes).order_by(changes.c.id)).mappings():
        if line["id"] != expected or line["hash"] != _hash(previous, _covered(line)):
            return expected
        previous, expected = line["hash"], expected + 1
    return None


def _covered(line: RowMapping) -> list[object]:
    return [line[name] for name in _COVERED]
