"""Nearest neighbours in memory: exact NumPy search, and inverted lists over it where a table is large and asked often.

    table = VectorTable(dims=384)
    table.put(keys, labels, vectors)                 # integer keys, small integer labels to filter by, unit vectors
    table.search(query, k=10, allowed={0, 2})        # [(key, cosine), …], best first

The lists (Jégou et al. 2011, without the compression) only choose which rows are compared; every cosine that is
returned is exact. Rows that came after the lists were built are always compared.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whet.memory.embedders import Vectors

__all__ = ["Entry", "MemoryVectors", "VectorStore", "VectorTable"]

LISTS_FROM = 10_000
"""Rows from which lists pay: below, the exact product takes less than a millisecond."""
ASKED_FROM = 16
"""Queries after which a table is worth a build; a one-shot command never pays for one."""
PROBES = 12
_LABELS = 127
"""Labels are from 0 to this."""
_GONE = -1
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class Entry:
    """One vector: the ``part`` of a version of a lesson, its row in the table, and the label it is filtered by."""

    lesson_id: str
    version: int
    part: str
    row: int
    label: int
    vector: Vectors


class VectorStore(Protocol):
    """The vectors of one scope, to be searched; ``seen`` is the place in the outbox up to which it is up to date."""

    name: str
    seen: int
    """-1: it holds nothing yet."""

    def put(self, entries: Sequence[Entry]) -> None:
        """Adds entries."""
        ...

    def remove(self, lesson_ids: Collection[str]) -> None:
        """Takes every entry of the lessons out."""
        ...

    def search(
        self, part: str, query: Vectors, k: int, labels: Collection[int], floor: float
    ) -> list[tuple[int, float]]:
        """Returns up to ``k`` (row, cosine) pairs, best first."""
        ...

    def known(self) -> set[tuple[int, str]]:
        """Returns (row, part) of everything it holds."""
        ...

    def settle(self, seen: int) -> None:
        """Notes that everything up to this place was put and removed."""
        ...

    def tidy(self) -> Callable[[], None] | None:
        """Returns work that would make searching faster, to be done in another thread, if there is some."""
        ...

    def clear(self) -> None:
        """Takes everything out."""
        ...

    def close(self) -> None:
        """Gives back what it holds; may be called again."""
        ...


class MemoryVectors:
    """A table a part, in memory."""

    name = "memory"

    def __init__(self, dims: int) -> None:
        self._dims = dims
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Takes everything out."""
        self._tables: dict[str, VectorTable] = {}
        self._rows: dict[str, int] = {}
        self.seen = -1

    def put(self, entries: Sequence[Entry]) -> None:
        """Adds entries."""
        with self._lock:
            for part in {entry.part for entry in entries}:
                of_part = [entry for entry in entries if entry.part == part]
                keys = np.array([entry.row for entry in of_part], dtype=np.int64)
                labels = np.array([entry.label for entry in of_part], dtype=np.int16)
                table = self._tables.setdefault(part, VectorTable(self._dims))
                table.put(keys, labels, np.stack([entry.vector for entry in of_part]))
            self._rows.update((entry.lesson_id, entry.row) for entry in entries)

    def remove(self, lesson_ids: Collection[str]) -> None:
        """Takes every entry of the lessons out."""
        rows = [row for id in lesson_ids if (row := self._rows.pop(id, None)) is not None]
        with self._lock:
            for table in self._tables.values():
                table.remove(rows)

    def search(
        self, part: str, query: Vectors, k: int, labels: Collection[int], floor: float
    ) -> list[tuple[int, float]]:
        """Returns up to ``k`` (row, cosine) pairs, best first."""
        with self._lock:
            table = self._tables.get(part)
            return table.search(query, k, labels, floor) if table is not None else []

    def known(self) -> set[tuple[int, str]]:
        """Returns (row, part) of everything it holds."""
        return {(row, part) for part, table in self._tables.items() for row in table.all_keys()}

    def settle(self, seen: int) -> None:
        """Notes the place in the outbox."""
        self.seen = seen

    def tidy(self) -> Callable[[], None] | None:
        """Returns the building of lists for tables that are large and asked often."""
        wanted = [part for part, table in self._tables.items() if table.wants_lists]
        return (lambda: self._build(wanted)) if wanted else None

    def _build(self, parts: Sequence[str]) -> None:
        """Builds lists beside the search; a table that changes meanwhile stays as it is."""
        for part in parts:
            old = self._tables[part]
            new = old.with_lists()
            with self._lock:
                if self._tables.get(part) is old and old.changes == new.changes:
                    self._tables[part] = new

    def close(self) -> None:
        """Forgets everything."""
        self.clear()


class VectorTable:
    """Unit vectors by integer key, with a label each. Not safe for use by several threads at once."""

    def __init__(self, dims: int) -> None:
        self._keys = np.empty(0, dtype=np.int64)
        self._labels = np.empty(0, dtype=np.int16)
        self._rows = np.empty((0, dims), dtype=np.float32)
        self._size = 0
        self._where: dict[int, int] = {}
        self._centroids: Vectors | None = None
        self._starts: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._asked = 0
        self.changes = 0
        """Counts what was put and removed."""

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: int) -> bool:
        return key in self._where

    def all_keys(self) -> list[int]:
        """Returns every key."""
        return list(self._where)

    def put(self, keys: NDArray[np.int64], labels: NDArray[np.int16], rows: Vectors) -> None:
        """Adds rows, or replaces those of known keys."""
        self.remove(keys.tolist())
        start, end = self._size, self._size + len(keys)
        self._grow(end)
        self._keys[start:end], self._labels[start:end], self._rows[start:end] = keys, labels, rows
        self._where.update(zip(keys.tolist(), range(start, end), strict=True))
        self._size = end
        self.changes += 1

    def remove(self, keys: Collection[int]) -> None:
        """Takes rows out; unknown keys are ignored. Their vectors are zeroed at once."""
        for key in keys:
            row = self._where.pop(key, None)
            if row is not None:
                self._labels[row] = _GONE
                self._rows[row] = 0
                self.changes += 1

    def search(
        self, query: Vectors, k: int, allowed: Collection[int] | None = None, floor: float = -1.0
    ) -> list[tuple[int, float]]:
        """Returns up to ``k`` (key, cosine) pairs, best first, of rows whose label is allowed, above the floor."""
        self._asked += 1
        if self._centroids is None or not len(self._where):
            return self._best(self._all(), query, k, allowed, floor)
        hits = self._best(self._probe(query), query, k, allowed, floor)
        # Few hits may mean that the filter is narrow and its rows lie in lists that were not probed.
        return hits if len(hits) >= k else self._best(self._all(), query, k, allowed, floor)

    @property
    def wants_lists(self) -> bool:
        """Whether ``with_lists`` would pay: large, asked often, and no fresh lists."""
        if self._size < LISTS_FROM or self._asked < ASKED_FROM:
            return False
        listed = 0 if self._centroids is None else int(self._starts[-1])
        return self._size - listed > max(2048, listed // 5)

    def with_lists(self, seed: int = 0) -> "VectorTable":
        """Returns a copy whose rows are grouped around sqrt(rows) centroids (spherical k-means on a sample).

        Takes about a second for 100,000 rows; the table can be searched and changed meanwhile.
        """
        keys, labels = self._keys[: self._size].copy(), self._labels[: self._size].copy()
        rows = self._rows[: self._size].copy()
        live = np.flatnonzero(labels != _GONE)
        centroids = _cluster(rows, live, seed)
        chunks = [live[start : start + _CHUNK] for start in range(0, len(live), _CHUNK)]
        lists = np.concatenate([(rows[chunk] @ centroids.T).argmax(axis=1) for chunk in chunks])
        order = live[np.argsort(lists, kind="stable")]
        made = VectorTable(rows.shape[1])
        made._keys, made._labels, made._rows = keys[order], labels[order], rows[order]
        made._size = len(order)
        made._where = dict(zip(made._keys.tolist(), range(made._size), strict=True))
        made._starts = np.concatenate([[0], np.cumsum(np.bincount(lists, minlength=len(centroids)))]).astype(np.int64)
        made._centroids, made._asked, made.changes = centroids, self._asked, self.changes
        return made

    def _grow(self, size: int) -> None:
        if size <= len(self._keys):
            return
        extra = max(size, 2 * len(self._keys), 64) - len(self._keys)
        self._keys = np.concatenate([self._keys, np.empty(extra, dtype=np.int64)])
        self._labels = np.concatenate([self._labels, np.full(extra, _GONE, dtype=np.int16)])
        self._rows = np.concatenate([self._rows, np.zeros((extra, self._rows.shape[1]), dtype=np.float32)])

    def _all(self) -> list[tuple[int, int]]:
        return [(0, self._size)]

    def _probe(self, query: Vectors) -> list[tuple[int, int]]:
        assert self._centroids is not None
        probes = min(PROBES, len(self._centroids))
        nearest = np.argpartition(np.vecdot(self._centroids, query), -probes)[-probes:]
        spans = [(int(self._starts[i]), int(self._starts[i + 1])) for i in np.sort(nearest)]
        return [*spans, (int(self._starts[-1]), self._size)]

    def _best(
        self, spans: list[tuple[int, int]], query: Vectors, k: int, allowed: Collection[int] | None, floor: float
    ) -> list[tuple[int, float]]:
        if not self._size or k < 1:
            return []
        # vecdot stays in one thread: a product this small is slower in several, by far on a busy machine.
        cosines = np.concatenate([np.vecdot(self._rows[start:end], query) for start, end in spans])
        labels = np.concatenate([self._labels[start:end] for start, end in spans])
        keys = np.concatenate([self._keys[start:end] for start, end in spans])
        kept = _allow(allowed)[labels] if allowed is not None else labels != _GONE
        cosines = np.where(kept & (cosines > floor), cosines, -np.inf)
        top = np.argpartition(cosines, -k)[-k:] if k < len(cosines) else np.arange(len(cosines))
        top = top[np.argsort(-cosines[top], kind="stable")]
        return [(int(keys[i]), float(cosines[i])) for i in top if np.isfinite(cosines[i])]


def _allow(labels: Collection[int]) -> NDArray[np.bool_]:
    """Returns a mask to be indexed by labels; ``_GONE`` is its last place and never allowed."""
    mask = np.zeros(_LABELS + 1, dtype=np.bool_)
    mask[list(labels)] = True
    return mask


def _cluster(rows: Vectors, live: NDArray[np.int64], seed: int) -> Vectors:
    """Returns about sqrt(rows) unit centroids, (lists, dims), after six rounds of k-means on a sample."""
    rng = np.random.default_rng(seed)
    lists = max(1, int(len(live) ** 0.5))
    sample = rows[rng.choice(live, size=min(len(live), 40 * lists), replace=False)]
    centroids: Vectors = sample[rng.choice(len(sample), size=lists, replace=False)].copy()
    for _ in range(6):
        nearest = (sample @ centroids.T).argmax(axis=1)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, sample)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(norms > 0, sums / np.where(norms > 0, norms, 1), centroids)
    return centroids
