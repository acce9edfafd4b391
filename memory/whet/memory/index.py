"""The derived index: the vectors of every lesson, in SQL as the record and in memory for the search.

    index = Index(store, HashedNgrams())
    await index.refresh()                       # embeds what has no vectors yet
    report = await index.verify()
    await index.rebuild()                       # from the lessons alone, e.g. under another embedder

Everything here can be lost and rebuilt. What changed since is read from the outbox, which any process may follow; where
Chroma is in use (``whet.memory.chroma``), the one process that holds its lock feeds it from the same outbox.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Literal, TypeAlias, get_args

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, insert, select, text, update

from whet.core import LessonKind, LessonStatus, Record, RefusedError
from whet.memory import schema
from whet.memory.embedders import Embedder, Vectors
from whet.memory.store import Store
from whet.memory.vectors import VectorTable

__all__ = ["Index", "IndexReport", "Part", "parts_of"]

Part: TypeAlias = Literal["text", "task"]
PARTS: tuple[Part, ...] = get_args(Part)
_STATUSES: tuple[str, ...] = get_args(LessonStatus)
_KINDS: tuple[str, ...] = get_args(LessonKind)
_BATCH = 512
_CHUNK = 500


_STATE = text(
    "SELECT (SELECT value FROM index_state WHERE scope = :scope AND name = 'embedder'),"
    " (SELECT coalesce(max(seq), 0) FROM index_outbox)"
)


class IndexReport(Record, frozen=True, kw_only=True):
    """The state of the index against the lessons of a scope.

    ``lessons`` in force; ``pending`` of them have no vectors yet; ``stale`` vectors belong to none; ``wrong`` ones
    differ from what the embedder gives for the text now (looked at by ``verify``, in a sample).
    """

    embedder: str
    lessons: int
    vectors: int
    pending: int
    stale: int
    wrong: int = 0

    @property
    def ok(self) -> bool:
        """Whether the index says exactly what the lessons say."""
        return not (self.pending or self.stale or self.wrong)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A lesson in force. ``label`` numbers its status and kind."""

    row: int
    id: str
    version: int
    label: int


def parts_of(text: str, applies_when: str, task_text: str) -> dict[Part, str]:
    """Returns the texts of a lesson that are embedded: its own with when it applies, and the task it came from."""
    own = f"{applies_when}\n{text}" if applies_when else text
    return {"text": own, "task": task_text} if task_text.strip() else {"text": own}


def label_of(status: str, kind: str) -> int:
    """Returns the number that stands for a status and kind."""
    return _STATUSES.index(status) * len(_KINDS) + _KINDS.index(kind)


def labels_of(statuses: Iterable[str], kinds: Iterable[str] | None) -> set[int]:
    """Returns the numbers of all combinations."""
    return {label_of(status, kind) for status in statuses for kind in (_KINDS if kinds is None else kinds)}


class Index:
    """The vectors of one scope. ``tables`` is used inside a reading transaction, under ``lock``."""

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self._store, self.embedder = store, embedder
        self.lock = RLock()
        self._tidying: asyncio.Future[None] | None = None
        self._clear()

    def _clear(self) -> None:
        self.tables: dict[Part, VectorTable] = {part: VectorTable(self.embedder.dims) for part in PARTS}
        self._entries: dict[str, _Entry] = {}
        self._pending: set[str] = set()
        self._seen = -1

    # --- keeping up -------------------------------------------------------------------------------------------------

    async def refresh(self) -> int:
        """Embeds lessons that have no vectors yet and returns how many there were; 0 in a read-only store.

        Raises:
            RefusedError: the index was made by another embedder.
            ModelError: the embedder could not be reached; lessons stay findable by their words.
        """
        pending = await self._store.read(self.follow)
        if self._store.read_only or not pending:
            return 0
        for start in range(0, len(pending), _BATCH):
            await self._embed(pending[start : start + _BATCH])
        await self._store.read(self.follow)
        return len(pending)

    def follow(self, connection: Connection) -> list[str]:
        """Brings the tables up to date with the outbox and returns the ids of lessons without vectors.

        Raises:
            RefusedError: the index was made by another embedder.
        """
        with self.lock:
            found, last = connection.execute(_STATE, {"scope": self._store.scope}).one()
            if found not in (None, "", self.embedder.name):
                raise self._mixed(found)
            if last != self._seen or self._pending:
                self._read(connection, None if self._seen < 0 else self._changed(connection) | self._pending)
                self._seen = last
            return sorted(self._pending)

    def tidy_soon(self) -> None:
        """Starts ``tidy`` in a thread where there is something to do; returns at once."""
        wanted = any(table.wants_lists for table in self.tables.values())
        if wanted and (self._tidying is None or self._tidying.done()):
            self._tidying = asyncio.get_running_loop().run_in_executor(None, self.tidy)

    def tidy(self) -> None:
        """Builds the lists of tables that are large and asked often; one that changes meanwhile stays as it is."""
        for part, old in list(self.tables.items()):
            if old.wants_lists:
                new = old.with_lists()
                with self.lock:
                    if self.tables[part] is old and old.changes == new.changes:
                        self.tables[part] = new

    def _changed(self, connection: Connection) -> set[str]:
        table = schema.index_outbox
        query = select(table.c.lesson_id).where(table.c.seq > self._seen, table.c.scope == self._store.scope)
        return set(connection.scalars(query))

    def _read(self, connection: Connection, ids: set[str] | None) -> None:
        """Reads lessons in force, all or those of ``ids``, and their vectors."""
        if ids is not None:
            self._forget(ids)
        chunks: list[list[str] | None] = [None]
        if ids is not None:
            wanted = sorted(ids)
            chunks = [wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK)]
        for chunk in chunks:
            self._load(connection, chunk)

    def _forget(self, ids: Iterable[str]) -> None:
        gone = [entry.row for id in ids if (entry := self._entries.pop(id, None))]
        for table in self.tables.values():
            table.remove(gone)
        self._pending -= set(ids)

    def _load(self, connection: Connection, ids: list[str] | None) -> None:
        lessons, vectors = schema.lessons, schema.vectors
        joined = and_(
            vectors.c.scope == lessons.c.scope,
            vectors.c.lesson_id == lessons.c.id,
            vectors.c.version == lessons.c.version,
        )
        columns = (lessons.c.row, lessons.c.id, lessons.c.version, lessons.c.status, lessons.c.kind)
        query = (
            select(*columns, vectors.c.part, vectors.c.data)
            .outerjoin(vectors, joined)
            .where(lessons.c.scope == self._store.scope, lessons.c.valid_to.is_(None))
        )
        if ids is not None:
            query = query.where(lessons.c.id.in_(ids))
        found: dict[Part, list[tuple[_Entry, bytes]]] = {part: [] for part in PARTS}
        for row, id, version, status, kind, part, data in connection.execute(query):
            entry = self._entries[id] = _Entry(row, id, version, label_of(status, kind))
            if part is None:
                self._pending.add(id)
            else:
                found[part].append((entry, data))
        for part, rows in found.items():
            self._put(part, rows)

    def _put(self, part: Part, rows: Sequence[tuple[_Entry, bytes]]) -> None:
        if rows:
            keys = np.array([entry.row for entry, _ in rows], dtype=np.int64)
            labels = np.array([entry.label for entry, _ in rows], dtype=np.int16)
            data = np.frombuffer(b"".join(data for _, data in rows), dtype="<f4").reshape(len(rows), -1)
            self.tables[part].put(keys, labels, data.astype(np.float32))

    # --- embedding --------------------------------------------------------------------------------------------------

    async def _embed(self, ids: Sequence[str]) -> None:
        texts = await self._store.read(lambda connection: self._texts(connection, ids))
        await self._store.write(self._writer(await self._vectors(texts)))

    def _texts(self, connection: Connection, ids: Sequence[str]) -> list[tuple[str, int, Part, str]]:
        """Returns (lesson id, version, part, text) of lessons in force."""
        table = schema.lessons
        query = select(table.c.id, table.c.version, table.c.text, table.c.applies_when, table.c.task_text).where(
            table.c.scope == self._store.scope, table.c.valid_to.is_(None), table.c.id.in_(ids)
        )
        return [
            (id, version, part, each)
            for id, version, text, applies_when, task_text in connection.execute(query)
            for part, each in parts_of(text, applies_when, task_text).items()
        ]

    async def _vectors(self, texts: Sequence[tuple[str, int, Part, str]]) -> list[dict[str, object]]:
        vectors = await self.embedder.embed([text for *_, text in texts])
        return [
            {
                "scope": self._store.scope,
                "lesson_id": id,
                "version": version,
                "part": part,
                "embedder": self.embedder.name,
                "data": vector.astype("<f4").tobytes(),
            }
            for (id, version, part, _), vector in zip(texts, vectors, strict=True)
        ]

    def _writer(self, rows: Sequence[dict[str, object]]) -> Callable[[Connection], None]:
        """Returns the work that replaces all vectors of these lessons by these."""

        def write(connection: Connection) -> None:
            self._check_embedder(connection)
            self._set(connection, "embedder", self.embedder.name)
            table = schema.vectors
            ids = sorted({str(row["lesson_id"]) for row in rows})
            connection.execute(delete(table).where(self._mine(table), table.c.lesson_id.in_(ids)))
            connection.execute(insert(table), list(rows))

        return write

    # --- looking after it -------------------------------------------------------------------------------------------

    async def status(self) -> IndexReport:
        """Returns the state of the vectors without looking into them."""
        return await self._store.read(self._report)

    async def verify(self, sample: int = 200) -> IndexReport:
        """Returns the state of the vectors; ``sample`` of them are computed again and compared.

        Raises:
            RefusedError: the index was made by another embedder.
            ModelError: the embedder could not be reached.
        """
        report = await self._store.read(self._report)
        if report.embedder not in ("", self.embedder.name):
            raise self._mixed(report.embedder)
        rows = await self._store.read(lambda connection: self._sample(connection, sample))
        texts = await self._store.read(lambda connection: self._texts(connection, sorted({id for id, *_ in rows})))
        fresh = await self.embedder.embed([text for *_, text in texts])
        stored = {(id, version, part): np.frombuffer(data, dtype="<f4") for id, version, part, data in rows}
        wrong = sum(
            not _alike(stored[id, version, part], vector)
            for (id, version, part, _), vector in zip(texts, fresh, strict=True)
            if (id, version, part) in stored
        )
        return msgspec.structs.replace(report, wrong=wrong)

    async def rebuild(self) -> IndexReport:
        """Throws the vectors of the scope away and makes them again with this embedder; returns the state after it."""
        await self._store.write(self._drop)
        with self.lock:
            self._clear()
        await self.refresh()
        return await self.status()

    def _report(self, connection: Connection) -> IndexReport:
        lessons, vectors = schema.lessons, schema.vectors
        current = and_(
            lessons.c.scope == vectors.c.scope,
            lessons.c.id == vectors.c.lesson_id,
            lessons.c.version == vectors.c.version,
            lessons.c.valid_to.is_(None),
        )
        in_force = select(func.count()).select_from(lessons)
        in_force = in_force.where(lessons.c.scope == self._store.scope, lessons.c.valid_to.is_(None))
        total = select(func.count()).select_from(vectors).where(self._mine(vectors))
        live = select(func.count()).select_from(vectors.join(lessons, current)).where(self._mine(vectors))
        texts = live.where(vectors.c.part == "text")
        n_lessons, n_vectors = connection.scalar(in_force) or 0, connection.scalar(total) or 0
        return IndexReport(
            embedder=self._get(connection, "embedder"),
            lessons=n_lessons,
            vectors=n_vectors,
            pending=n_lessons - (connection.scalar(texts) or 0),
            stale=n_vectors - (connection.scalar(live) or 0),
        )

    def _sample(self, connection: Connection, size: int) -> list[tuple[str, int, str, bytes]]:
        table = schema.vectors
        query = select(table.c.lesson_id, table.c.version, table.c.part, table.c.data).where(self._mine(table))
        found = connection.execute(query.order_by(func.random()).limit(size))
        return [(id, version, part, data) for id, version, part, data in found]

    def _drop(self, connection: Connection) -> None:
        connection.execute(delete(schema.vectors).where(self._mine(schema.vectors)))
        self._set(connection, "embedder", "")

    # --- state ------------------------------------------------------------------------------------------------------

    def _mine(self, table: Table) -> ColumnElement[bool]:
        return table.c.scope == self._store.scope

    def _check_embedder(self, connection: Connection) -> None:
        found = self._get(connection, "embedder")
        if found not in ("", self.embedder.name):
            raise self._mixed(found)

    def _mixed(self, found: str) -> RefusedError:
        return RefusedError(
            f"the index of scope {self._store.scope!r} holds vectors of {found!r}, this memory embeds with "
            f"{self.embedder.name!r}; open it with that embedder, or embed everything anew with: whet index rebuild"
        )

    def _get(self, connection: Connection, name: str) -> str:
        table = schema.index_state
        return connection.scalar(select(table.c.value).where(self._mine(table), table.c.name == name)) or ""

    def _set(self, connection: Connection, name: str, value: str) -> None:
        table = schema.index_state
        changed = connection.execute(update(table).where(self._mine(table), table.c.name == name).values(value=value))
        if not changed.rowcount:
            connection.execute(insert(table).values(scope=self._store.scope, name=name, value=value))


def _alike(stored: Vectors, fresh: Vectors) -> bool:
    return len(stored) == len(fresh) and bool(np.allclose(stored, fresh, atol=1e-3))
