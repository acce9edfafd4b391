"""The derived index: the vectors of every lesson, in SQL as the record and in memory for the search.

    index = Index(store, HashedNgrams())
    await index.refresh()                       # embeds what has no vectors yet
    report = await index.verify()
    await index.rebuild()                       # from the lessons alone, e.g. under another embedder

Everything here can be lost and rebuilt. What changed since is read from the outbox, which any process may follow from
wherever it stands; ``whet.memory.vectors`` searches in memory, ``whet.memory.chroma`` in a folder.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Literal, TypeAlias, get_args

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, insert, select, text, update

from whet.core import ConflictError, LessonKind, LessonStatus, Record, RefusedError
from whet.memory import schema
from whet.memory.embedders import Embedder, Vectors
from whet.memory.evidence import chunks
from whet.memory.store import Store
from whet.memory.vectors import Entry, MemoryVectors, VectorStore

__all__ = ["Backend", "Index", "IndexReport", "Part", "parts_of"]

Backend: TypeAlias = Literal["auto", "memory", "chroma"]
Part: TypeAlias = Literal["text", "task"]
PARTS: tuple[Part, ...] = get_args(Part)
_STATUSES: tuple[str, ...] = get_args(LessonStatus)
_KINDS: tuple[str, ...] = get_args(LessonKind)
_BATCH = 500
CHROMA_FROM = 200_000
"""Lessons in a scope from which Chroma is searched, where it is installed."""


_STATE = text(
    "SELECT (SELECT value FROM index_state WHERE scope = :scope AND name = 'embedder'),"
    " (SELECT coalesce(max(seq), 0) FROM index_outbox)"
)


class IndexReport(Record, frozen=True, kw_only=True):
    """The state of the index against the lessons of a scope.

    ``backend`` is what this process searches (``not loaded``: nothing yet). ``lessons`` in force; ``pending`` of them
    have no vectors yet; ``stale`` vectors belong to none. ``verify`` alone looks for ``wrong`` vectors, which differ
    from what the embedder gives for the text now (in a sample), and for those that SQL has and the search has not
    (``missing``), or the other way round (``extra``).
    """

    embedder: str
    backend: str
    lessons: int
    vectors: int
    pending: int
    stale: int
    wrong: int = 0
    missing: int = 0
    extra: int = 0

    @property
    def ok(self) -> bool:
        """Whether the index says exactly what the lessons say."""
        return not (self.pending or self.stale or self.wrong or self.missing or self.extra)


def parts_of(text: str, applies_when: str, task_text: str) -> dict[Part, str]:
    """Returns the texts of a lesson that are embedded: its own with when it applies, and the task it came from."""
    own = f"{applies_when}\n{text}" if applies_when else text
    return {"text": own, "task": task_text} if task_text.strip() else {"text": own}


def label_of(status: str, kind: str) -> int:
    """Returns the number that stands for a status and kind."""
    return _STATUSES.index(status) * len(_KINDS) + _KINDS.index(kind)


def _same_version() -> ColumnElement[bool]:
    lessons, vectors = schema.lessons, schema.vectors
    return and_(
        vectors.c.scope == lessons.c.scope,
        vectors.c.lesson_id == lessons.c.id,
        vectors.c.version == lessons.c.version,
    )


@dataclass(frozen=True, slots=True)
class _Text:
    """What is embedded of a lesson: one part of a version."""

    id: str
    version: int
    row: int
    label: int
    part: Part
    text: str


class Index:
    """The vectors of one scope, for the searches of one process.

    ``backend``: ``memory`` searches NumPy tables; ``chroma`` a Chroma folder beside the store, if no other process has
    it; ``auto`` takes Chroma from 200,000 lessons, where tables would take a second to load and much memory.
    """

    def __init__(self, store: Store, embedder: Embedder, backend: Backend = "auto") -> None:
        self._store, self.embedder, self._backend = store, embedder, backend
        self.lock = RLock()
        self._tidying: asyncio.Future[None] | None = None
        self._vectors: VectorStore | None = None
        self._pending: set[str] = set()

    @property
    def folder(self) -> Path | None:
        """Where Chroma keeps its files; ``None`` for a store on a server."""
        return None if self._store.folder is None else self._store.folder / "index"

    def close(self) -> None:
        """Lets go of the vectors; the next search loads them again. May be called again."""
        with self.lock:
            if self._vectors is not None:
                self._vectors.close()
            self._vectors = None
            self._pending = set()

    # --- keeping up -------------------------------------------------------------------------------------------------

    async def refresh(self) -> int:
        """Embeds lessons that have no vectors yet and returns how many there were; a read-only store stays as it is.

        Raises:
            RefusedError: the index was made by another embedder.
            ModelError: the embedder could not be reached; lessons stay findable by their words.
        """
        pending = await self._store.read(self.follow)
        for start in range(0, len(pending), _BATCH):
            await self._embed(pending[start : start + _BATCH])
        if pending and not self._store.read_only:
            await self._store.read(self.follow)
        return len(pending)

    def follow(self, connection: Connection) -> list[str]:
        """Brings the vectors up to date with the outbox and returns the ids of lessons that have none.

        Raises:
            RefusedError: the index was made by another embedder.
        """
        with self.lock:
            found, last = connection.execute(_STATE, {"scope": self._store.scope}).one()
            if found not in (None, "", self.embedder.name):
                raise self._mixed(found)
            if self._vectors is None:
                self._vectors = self._open(connection)
                self._pending = self._without_vectors(connection)
            if self._vectors.seen > last:  # it was fed from another store, or from a later state of this one
                self._vectors.clear()
            seen = self._vectors.seen
            if last != seen or self._pending:
                self._read(connection, None if seen < 0 else self._changed(connection, seen) | self._pending)
                self._vectors.settle(last)
            return sorted(self._pending)

    def search(
        self, query: Vectors, k: int, statuses: Iterable[str], kinds: Iterable[str] | None
    ) -> dict[str, list[tuple[int, float]]]:
        """Returns for each part up to ``k`` (row of the lesson, cosine) above the floor, best first."""
        labels = {label_of(status, kind) for status in statuses for kind in (_KINDS if kinds is None else kinds)}
        with self.lock:
            if self._vectors is None:
                return {}
            return {part: self._vectors.search(part, query, k, labels, self.embedder.floor) for part in PARTS}

    def tidy_soon(self) -> None:
        """Starts what makes the next searches faster in a thread, where there is something; returns at once."""
        work = self.tidy()
        if work is not None and (self._tidying is None or self._tidying.done()):
            self._tidying = asyncio.get_running_loop().run_in_executor(None, work)

    def tidy(self) -> Callable[[], None] | None:
        """Returns work that makes the next searches faster, if there is some."""
        return None if self._vectors is None else self._vectors.tidy()

    def _open(self, connection: Connection) -> VectorStore:
        from whet.memory import chroma

        table, folder = schema.lessons, self.folder
        count = select(func.count()).select_from(table).where(self._mine(table), table.c.valid_to.is_(None))
        large = self._backend == "auto" and chroma.installed() and (connection.scalar(count) or 0) >= CHROMA_FROM
        if folder is not None and not self._store.read_only and (large or self._backend == "chroma"):
            with suppress(ConflictError):  # another process has it: this one searches what SQL has
                return chroma.ChromaVectors(folder, scope=self._store.scope, embedder=self.embedder.name)
        return MemoryVectors(self.embedder.dims)

    def _changed(self, connection: Connection, seen: int) -> set[str]:
        table = schema.index_outbox
        query = select(table.c.lesson_id).where(table.c.seq > seen, table.c.scope == self._store.scope)
        return set(connection.scalars(query))

    def _without_vectors(self, connection: Connection) -> set[str]:
        lessons, vectors = schema.lessons, schema.vectors
        query = select(lessons.c.id).outerjoin(vectors, _same_version()).where(vectors.c.part.is_(None))
        return set(connection.scalars(query.where(self._mine(lessons), lessons.c.valid_to.is_(None))))

    def _read(self, connection: Connection, ids: set[str] | None) -> None:
        """Reads the vectors of lessons in force, of all or of ``ids``."""
        if ids is None:
            self._load(connection, None)
            return
        assert self._vectors is not None
        self._vectors.remove(ids)
        self._pending -= ids
        for chunk in chunks(sorted(ids)):
            self._load(connection, chunk)

    def _load(self, connection: Connection, ids: list[str] | None) -> None:
        lessons, vectors = schema.lessons, schema.vectors
        columns = (lessons.c.row, lessons.c.id, lessons.c.version, lessons.c.status, lessons.c.kind)
        query = select(*columns, vectors.c.part, vectors.c.data).outerjoin(vectors, _same_version())
        query = query.where(self._mine(lessons), lessons.c.valid_to.is_(None))
        if ids is not None:
            query = query.where(lessons.c.id.in_(ids))
        entries: list[Entry] = []
        for row, id, version, status, kind, part, data in connection.execute(query):
            if part is None:
                self._pending.add(id)
            else:
                vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
                entries.append(Entry(id, version, part, row, label_of(status, kind), vector))
        if entries and self._vectors is not None:
            self._vectors.put(entries)

    # --- embedding --------------------------------------------------------------------------------------------------

    async def _embed(self, ids: Sequence[str]) -> None:
        texts = await self._store.read(lambda connection: self._texts(connection, ids))
        found = await self.embedder.embed([each.text for each in texts])
        if self._store.read_only:
            self._keep(texts, found)
        else:
            await self._store.write(self._writer(texts, found))

    def _keep(self, texts: Sequence[_Text], vectors: Vectors) -> None:
        """Puts vectors where this process finds them, without writing them."""
        with self.lock:
            if self._vectors is not None and texts:
                pairs = zip(texts, vectors, strict=True)
                self._vectors.put([Entry(t.id, t.version, t.part, t.row, t.label, vector) for t, vector in pairs])
                self._pending -= {each.id for each in texts}

    def _texts(self, connection: Connection, ids: Sequence[str]) -> list[_Text]:
        """Returns what is embedded of lessons in force."""
        table = schema.lessons
        lines = connection.execute(
            select(table).where(self._mine(table), table.c.valid_to.is_(None), table.c.id.in_(ids))
        )
        return [
            _Text(line.id, line.version, line.row, label_of(line.status, line.kind), part, each)
            for line in lines
            for part, each in parts_of(line.text, line.applies_when, line.task_text).items()
        ]

    def _writer(self, texts: Sequence[_Text], vectors: Vectors) -> Callable[[Connection], None]:
        """Returns the work that replaces all vectors of these lessons by these."""
        rows = [
            {
                "scope": self._store.scope,
                "lesson_id": each.id,
                "version": each.version,
                "part": each.part,
                "embedder": self.embedder.name,
                "data": vector.astype("<f4").tobytes(),
            }
            for each, vector in zip(texts, vectors, strict=True)
        ]

        def write(connection: Connection) -> None:
            self._check_embedder(connection)
            self._set(connection, "embedder", self.embedder.name)
            table = schema.vectors
            for part in chunks(each.id for each in texts):
                connection.execute(delete(table).where(self._mine(table), table.c.lesson_id.in_(part)))
            if rows:
                connection.execute(insert(table), rows)

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
        await self._store.read(self.follow)
        report = await self._store.read(self._compared)
        if report.embedder not in ("", self.embedder.name):
            raise self._mixed(report.embedder)
        rows = await self._store.read(lambda connection: self._sample(connection, sample))
        texts = await self._store.read(lambda connection: self._texts(connection, sorted({id for id, *_ in rows})))
        fresh = await self.embedder.embed([each.text for each in texts])
        stored = {(id, version, part): np.frombuffer(data, dtype="<f4") for id, version, part, data in rows}
        pairs = [(stored.get((t.id, t.version, t.part)), vector) for t, vector in zip(texts, fresh, strict=True)]
        wrong = sum(old is not None and not _alike(old, vector) for old, vector in pairs)
        return msgspec.structs.replace(report, wrong=wrong)

    async def rebuild(self) -> IndexReport:
        """Throws the vectors of the scope away and makes them again with this embedder; returns the state after it."""
        await self._store.write(self._drop)
        with self.lock:
            if self._vectors is not None:
                self._vectors.clear()
            self._pending = set()
        await self.refresh()
        return await self.status()

    def _report(self, connection: Connection) -> IndexReport:
        lessons, vectors = schema.lessons, schema.vectors
        current = _same_version() & lessons.c.valid_to.is_(None)
        in_force = select(func.count()).select_from(lessons)
        in_force = in_force.where(lessons.c.scope == self._store.scope, lessons.c.valid_to.is_(None))
        total = select(func.count()).select_from(vectors).where(self._mine(vectors))
        live = select(func.count()).select_from(vectors.join(lessons, current)).where(self._mine(vectors))
        texts = live.where(vectors.c.part == "text")
        n_lessons, n_vectors = connection.scalar(in_force) or 0, connection.scalar(total) or 0
        return IndexReport(
            backend="not loaded" if self._vectors is None else self._vectors.name,
            embedder=self._get(connection, "embedder"),
            lessons=n_lessons,
            vectors=n_vectors,
            pending=n_lessons - (connection.scalar(texts) or 0),
            stale=n_vectors - (connection.scalar(live) or 0),
        )

    def _compared(self, connection: Connection) -> IndexReport:
        lessons, vectors = schema.lessons, schema.vectors
        query = select(lessons.c.row, vectors.c.part).join(vectors, _same_version())
        found = connection.execute(query.where(self._mine(lessons), lessons.c.valid_to.is_(None)))
        in_sql = {(row, part) for row, part in found}
        with self.lock:
            known = set() if self._vectors is None else self._vectors.known()
            return msgspec.structs.replace(
                self._report(connection), missing=len(in_sql - known), extra=len(known - in_sql)
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
