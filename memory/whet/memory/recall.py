"""Recall: lessons for a task, by meaning and by words, proven ones first, no two alike.

    for found in await memory.recall("sort a list in place", k=5, explain=True):
        print(found.score, found.lesson.text, found.parts)

The scope and the status filter first, then what a lesson says of itself: its exceptions (``not_when``) and whose it is
(``whet.memory.applies``). Three rankings are fused by reciprocal rank (Cormack et al. 2009, k = 60): cosine
to the lesson's own text, cosine to the task it came from, and BM25; a hit of any one of them survives. To that come
what the lesson has been proven to be worth (the bound of its interval nearest to zero) and a little for being recent.
The best of it are chosen by maximal marginal relevance (Carbonell and Goldstein 1998), so that the same thing is not
said twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import numpy as np
from sqlalchemy import Connection, Select, bindparam, select

from whet.core import Lesson, LessonKind, LessonStatus, ModelError, Record
from whet.memory import schema
from whet.memory.applies import applies, for_person
from whet.memory.embedders import Vectors
from whet.memory.index import Index
from whet.memory.keywords import Keywords
from whet.memory.store import Store
from whet.memory.worth import worths

__all__ = ["Recall", "Recalled"]

RANK = 60
"""The constant of reciprocal rank fusion."""
WORTH = 2.0
"""A lesson proven to be worth everything counts like the first hit of this many rankings."""
RECENT = 0.1
"""What being the most recent counts, against being the first hit of a ranking."""
RELEVANCE = 0.8
"""How much relevance counts against being unlike what was chosen already."""
_RANKINGS = 3
_FETCH = 4
_AT_LEAST = 24


class Recalled(Record, frozen=True, kw_only=True):
    """A lesson that was found. A score of 1 is the first hit of every ranking.

    With ``explain``, ``parts`` has the shares of the score (``text_vector``, ``task_vector``, ``keywords``, ``worth``,
    ``recency``) and what they follow from (``cosine_text``, ``cosine_task``, ``bm25``).
    """

    lesson: Lesson
    score: float
    parts: dict[str, float] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Request:
    query: str
    k: int
    statuses: tuple[LessonStatus, ...]
    kinds: tuple[LessonKind, ...] | None
    explain: bool
    person: str | None

    @property
    def fetch(self) -> int:
        """How many hits of each ranking are looked at."""
        return max(_FETCH * self.k, _AT_LEAST)


class Recall:
    """Finds lessons of one scope."""

    def __init__(self, store: Store, index: Index) -> None:
        self._store, self._index = store, index
        self._keywords = Keywords()

    async def find(
        self,
        query: str,
        *,
        k: int = 8,
        kinds: Sequence[LessonKind] | None = None,
        statuses: Sequence[LessonStatus] = ("active",),
        explain: bool = False,
        person: str | None = None,
    ) -> list[Recalled]:
        """Returns up to ``k`` lessons for a query, best first; none where nothing has to do with it.

        Lessons about a person are found for that ``person`` only. Where the embedder cannot be reached, words alone
        decide.

        Raises:
            RefusedError: the index was made by another embedder.
        """
        request = _Request(query, k, tuple(statuses), None if kinds is None else tuple(kinds), explain, person)
        if not query.strip() or k < 1:
            return []
        if person is not None:  # what is known of a person is wanted in all their tasks, whatever these are about
            request = replace(request, query=f"{query}\n{for_person(person)}")
        vector = await self._embed(request.query)
        found, pending = await self._store.read(lambda connection: self._find(connection, request, vector))
        if pending and vector is not None and await self._caught_up():
            found, _ = await self._store.read(lambda connection: self._find(connection, request, vector))
        self._index.tidy_soon()
        return found

    async def _embed(self, query: str) -> Vectors | None:
        try:
            vectors = await self._index.embedder.embed([query])
        except ModelError:
            return None
        vector: Vectors = vectors[0]
        return vector

    async def _caught_up(self) -> bool:
        try:
            return await self._index.refresh() > 0
        except ModelError:
            return False

    def _find(
        self, connection: Connection, request: _Request, vector: Vectors | None
    ) -> tuple[list[Recalled], list[str]]:
        pending = self._index.follow(connection)
        hits = self._nearest(request, vector)
        hits["keywords"] = self._keywords.rows(
            connection,
            self._store.scope,
            request.query,
            limit=request.fetch,
            statuses=request.statuses,
            kinds=request.kinds,
        )
        fused = _fuse(hits)
        pool = sorted(fused, key=lambda row: -sum(fused[row].values()))[: request.fetch]
        found = _lessons(connection, pool)
        lessons = {row: lesson for row, (lesson, _) in found.items()}
        rows = [row for row in pool if row in lessons and applies(lessons[row], request.query, person=request.person)]
        worth = worths(connection, self._store.scope, [lessons[row].id for row in rows])
        recent = sorted(rows, key=lambda row: -lessons[row].valid_from)
        for rank, row in enumerate(recent, start=1):
            fused[row]["worth"] = worth[lessons[row].id].proven * WORTH / _RANKINGS
            fused[row]["recency"] = RECENT * _share(rank)
        scores = {row: sum(fused[row].values()) for row in rows}
        vectors = _stacked([found[row][1] for row in rows], self._index.embedder.dims)
        chosen = _diverse(scores, vectors, request.k)
        raw = _raw(hits) if request.explain else {}
        return [
            Recalled(
                lesson=lessons[row],
                score=scores[row],
                parts={**fused[row], **raw.get(row, {})} if request.explain else {},
            )
            for row in chosen
        ], pending

    def _nearest(self, request: _Request, vector: Vectors | None) -> dict[str, list[tuple[int, float]]]:
        if vector is None or not vector.any():
            return {}
        found = self._index.search(vector, request.fetch, request.statuses, request.kinds)
        return {f"{part}_vector": hits for part, hits in found.items()}


def _share(rank: int) -> float:
    """Returns what a rank (from 1) in one ranking adds to the score."""
    return (RANK + 1) / (RANK + rank) / _RANKINGS


def _fuse(hits: dict[str, list[tuple[int, float]]]) -> dict[int, dict[str, float]]:
    """Returns by row the share of each ranking that has it."""
    fused: dict[int, dict[str, float]] = {}
    for name, ranking in hits.items():
        for rank, (row, _) in enumerate(ranking, start=1):
            fused.setdefault(row, {})[name] = _share(rank)
    return fused


def _raw(hits: dict[str, list[tuple[int, float]]]) -> dict[int, dict[str, float]]:
    names = {"text_vector": "cosine_text", "task_vector": "cosine_task", "keywords": "bm25"}
    found: dict[int, dict[str, float]] = {}
    for name, ranking in hits.items():
        for row, value in ranking:
            found.setdefault(row, {})[names[name]] = value
    return found


@cache
def _bodies() -> Select[int, str | None, bytes | None, bytes | None]:
    """Returns the query for lessons by their rows, with the vectors of their own texts."""
    table, blobs, vectors = schema.lessons, schema.blobs, schema.vectors
    own = (
        (vectors.c.scope == table.c.scope)
        & (vectors.c.lesson_id == table.c.id)
        & (vectors.c.version == table.c.version)
        & (vectors.c.part == "text")
    )
    joined = table.outerjoin(blobs, (blobs.c.digest == table.c.digest) & table.c.body.is_(None)).outerjoin(vectors, own)
    rows = table.c.row.in_(bindparam("rows", expanding=True))
    return select(table.c.row, table.c.body, blobs.c.data, vectors.c.data).select_from(joined).where(rows)


def _lessons(connection: Connection, rows: Sequence[int]) -> dict[int, tuple[Lesson, bytes | None]]:
    """Returns lessons and, where there are any, their vectors by row."""
    found = connection.execute(_bodies(), {"rows": list(rows)})
    return {row: (msgspec.json.decode(body or data or b"", type=Lesson), vector) for row, body, data, vector in found}


def _stacked(vectors: Sequence[bytes | None], dims: int) -> Vectors:
    """Returns vectors as rows, (vectors, dims); zeros for those that are not there."""
    empty = bytes(4 * dims)
    return np.frombuffer(b"".join(each or empty for each in vectors), dtype="<f4").reshape(len(vectors), dims)


def _diverse(scores: dict[int, float], vectors: Vectors, k: int) -> list[int]:
    """Returns up to ``k`` rows by maximal marginal relevance; ``vectors`` in the order of ``scores``."""
    rows, values = list(scores), np.array(list(scores.values()))
    if not rows:
        return []
    relevance = values / max(float(np.abs(values).max()), 1e-9)
    alike = np.zeros(len(rows))
    open_ = np.ones(len(rows), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(k, len(rows))):
        gain = np.where(open_, RELEVANCE * relevance - (1 - RELEVANCE) * alike, -np.inf)
        best = int(gain.argmax())
        chosen.append(rows[best])
        open_[best] = False
        alike = np.maximum(alike, vectors @ vectors[best])
    return chosen
