"""Importing: every row of a file becomes records or goes to quarantine with its reason, in one transaction.

    report = import_data(connection, "default", Ilf(), path.read_bytes(), source=str(path))
    report.rows, report.tasks, [(bad.row, bad.reason) for bad in report.quarantined]

Ids follow from content, so importing the same file again changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import Connection, Table, insert, select

from whet.core import Feedback, Json, Lesson, Run, Step, Task, Trust, UserError, Verdict, digest, encode, now_ms
from whet.memory import schema
from whet.memory.exchange.format import Arrival, Bundle, Format
from whet.memory.exchange.report import ImportReport, Rejected
from whet.memory.exchange.residue import residue
from whet.memory.kinds import kind_of
from whet.memory.rows import write_rows

__all__ = ["Bad", "Importer", "import_data", "write_quarantine"]

_CHUNK = 500


@dataclass(frozen=True)
class Bad:
    """A row that could not be read, as it was, and why."""

    row: int
    data: bytes
    reason: str


@dataclass(frozen=True)
class Importer:
    """Reads the documents of one file. ``at`` is the time of records whose document has none."""

    format: Format
    scope: str
    at: int
    trust: Trust

    def read(self, data: bytes) -> Iterator[tuple[Bundle, str] | Bad]:
        """Yields for each document its records and the digest of its content, or why it cannot be read."""
        seen: Counter[str] = Counter()
        for row, raw in self.format.documents(data):
            try:
                document = _parse(raw)
                name = digest(encode(document))
                seen[name] += 1
                yield self._bundle(document, row, f"{self.format.name} {seen[name]} {name}"), name
            except UserError as error:
                yield Bad(row, raw, str(error))

    def _bundle(self, document: Json, row: int, identity: str) -> Bundle:
        arrival = Arrival(run_id=digest(identity)[:32], scope=self.scope, at=self.at, trust=self.trust)
        bundle = self.format.read(document, arrival)
        source: dict[str, Json] = {"format": self.format.name, "row": row}
        marked = _with_source(bundle, source)
        rest = residue(self.format.write(marked), document)
        whole = _with_source(bundle, source if rest is None else {**source, "residue": rest})
        for record in whole.records():
            kind_of(type(record)).row(record, self.scope)  # what the store would refuse is refused row by row
        return whole


def _with_source(bundle: Bundle, source: dict[str, Json]) -> Bundle:
    return replace(bundle, run=msgspec.structs.replace(bundle.run, meta={**bundle.run.meta, "source": source}))


def _parse(raw: bytes) -> Json:
    try:
        document: Json = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not JSON: {error}") from error
    except RecursionError:
        raise UserError("not readable: nested too deeply") from None
    return document


def import_data(
    connection: Connection,
    scope: str,
    format: Format,
    data: bytes,
    *,
    source: str,
    at: int | None = None,
    trust: Trust = "trusted",
    actor: str = "",
) -> ImportReport:
    """Writes what a file holds and returns what became of every row.

    Raises:
        ConflictError: a record is stored under the same id with other content; nothing is written.
    """
    importer = Importer(format, scope, now_ms() if at is None else at, trust)
    good: list[Bundle] = []
    names: list[str] = []
    bad: list[Bad] = []
    for found in importer.read(data):
        if isinstance(found, Bad):
            bad.append(found)
        else:
            good.append(found[0])
            names.append(found[1])
    new = _new_bundles(connection, scope, good)
    tasks = _new_tasks(connection, scope, new)
    records = [*tasks, *(record for bundle in new for record in bundle.records() if not isinstance(record, Task))]
    rows = [kind_of(type(record)).row(record, scope) for record in records]
    write_rows(connection, rows, actor=actor, reason=f"import {format.name}: {source}")
    write_quarantine(connection, scope, format.name, source, importer.at, bad)
    counts = Counter(type(record) for record in records)
    return ImportReport(
        format=format.name,
        source=source,
        rows=len(good) + len(bad),
        tasks=counts[Task],
        runs=counts[Run],
        feedback=counts[Feedback],
        verdicts=counts[Verdict],
        lessons=counts[Lesson],
        steps=counts[Step],
        known=len(good) - len(new),
        digest=digest("\n".join(names)),
        quarantined=tuple(Rejected(row=each.row, reason=each.reason) for each in bad),
    )


def _new_bundles(connection: Connection, scope: str, bundles: list[Bundle]) -> list[Bundle]:
    known = _known(connection, schema.runs, scope, [bundle.run.id for bundle in bundles])
    return [bundle for bundle in bundles if bundle.run.id not in known]


def _new_tasks(connection: Connection, scope: str, bundles: list[Bundle]) -> list[Task]:
    """Returns the tasks that are not stored, once each; a task that is stored stays as it is."""
    tasks = {bundle.task.id: bundle.task for bundle in bundles}
    known = _known(connection, schema.tasks, scope, tasks)
    return [task for id, task in tasks.items() if id not in known]


def _known(connection: Connection, table: Table, scope: str, ids: Iterable[str]) -> set[str]:
    wanted, found = list(ids), set[str]()
    for start in range(0, len(wanted), _CHUNK):
        part = table.c.id.in_(wanted[start : start + _CHUNK])
        found |= set(connection.scalars(select(table.c.id).where(table.c.scope == scope, part)))
    return found


def write_quarantine(
    connection: Connection, scope: str, format_name: str, source: str, at: int, bad: list[Bad]
) -> None:
    """Keeps rows that could not be read; those that are kept already are left alone."""
    table = schema.quarantine
    rows = {
        digest(encode([scope, format_name, source, each.row, digest(each.data)]))[:32]: {
            "scope": scope,
            "source": source,
            "format": format_name,
            "line": each.row,
            "reason": each.reason,
            "data": each.data,
            "at": at,
        }
        for each in bad
    }
    known = _known(connection, table, scope, rows)
    new = [{"id": id, **row} for id, row in rows.items() if id not in known]
    if new:
        connection.execute(insert(table), new)
