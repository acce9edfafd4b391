"""Chroma as a derived index: ids, vectors and what filters them, no text, and one process at a time.

    chroma = ChromaVectors(folder / "index", scope="default", embedder="hashed-ngrams-256")
    chroma.put(entries)                                     # ConflictError above where another process has it
    chroma.search("text", vector, k=10, labels={8}, floor=0.2)

Two processes that write one Chroma folder damage it without an error, so whoever opens it at all holds its lock, and
everybody else searches the vectors in SQL. Losing the folder loses nothing: it is made again from SQL.
"""

import fcntl
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from whet.core import ConflictError, Record, UserError, decode, encode
from whet.memory.embedders import Vectors
from whet.memory.vectors import Entry

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.models.Collection import Collection as ChromaCollection
    from chromadb.api.types import Where

__all__ = ["ChromaVectors", "delete", "installed"]

_NAME = "lessons"
_CHUNK = 500
LOCK, FED, FOLDER = "lock", "fed.json", "chroma"


class _Fed(Record, frozen=True, kw_only=True):
    embedder: str
    seen: dict[str, int]


def installed() -> bool:
    """Returns whether Chroma can be imported; does not import it, which takes a second."""
    return find_spec("chromadb") is not None


class ChromaVectors:
    """The vectors of a scope in a folder, which is locked for this process until it is closed.

    Vectors of another embedder are thrown away when it is opened. ``fed.json`` beside the lock says up to where in the
    outbox each scope was fed, so that whoever opens it next goes on from there.
    """

    name = "chroma"

    def __init__(self, folder: Path, *, scope: str, embedder: str) -> None:
        """Opens the folder, made where there is none.

        Raises:
            ConflictError: another process, or another index of this one, has it open.
            UserError: Chroma is not installed.
        """
        if not installed():
            raise UserError("the index needs Chroma; install it with: pip install 'whet[chroma]'")
        self._folder, self._scope, self._embedder = folder, scope, embedder
        self._lock = lock(folder)
        self._client = _client(folder / FOLDER)
        self._collection = _collection(self._client)
        self._fed = _read_fed(folder, embedder)
        if not self._fed:
            self._empty()
        self.seen = self._fed.get(scope, -1)

    def __len__(self) -> int:
        return self._collection.count()

    def put(self, entries: Sequence[Entry]) -> None:
        """Adds entries, in batches of the size that Chroma takes."""
        most = self._client.get_max_batch_size()
        for start in range(0, len(entries), most):
            part = entries[start : start + most]
            self._collection.upsert(
                ids=[self._id(entry) for entry in part],
                embeddings=[entry.vector.tolist() for entry in part],
                metadatas=[
                    {
                        "scope": self._scope,
                        "lesson": entry.lesson_id,
                        "part": entry.part,
                        "row": entry.row,
                        "label": entry.label,
                    }
                    for entry in part
                ],
            )

    def remove(self, lesson_ids: Collection[str]) -> None:
        """Takes every entry of the lessons out."""
        ids = list(lesson_ids)
        for start in range(0, len(ids), _CHUNK):
            among = ids[start : start + _CHUNK]
            self._collection.delete(where=self._where({"lesson": {"$in": among}}))

    def search(
        self, part: str, query: Vectors, k: int, labels: Collection[int], floor: float
    ) -> list[tuple[int, float]]:
        """Returns up to ``k`` (row, cosine) pairs, best first; approximate (HNSW)."""
        where = self._where({"part": part}, {"label": {"$in": sorted(labels)}})
        found = self._collection.query(
            query_embeddings=[query.tolist()], n_results=k, where=where, include=["metadatas", "distances"]
        )
        metadatas, distances = found["metadatas"] or [[]], found["distances"] or [[]]
        hits = [(meta["row"], 1 - distance) for meta, distance in zip(metadatas[0], distances[0], strict=True)]
        return [(row, cosine) for row, cosine in hits if isinstance(row, int) and cosine > floor]

    def known(self) -> set[tuple[int, str]]:
        """Returns (row, part) of all entries of the scope."""
        found = self._collection.get(where={"scope": self._scope}, include=["metadatas"])["metadatas"] or []
        return {(row, str(meta["part"])) for meta in found if isinstance(row := meta["row"], int)}

    def settle(self, seen: int) -> None:
        """Notes the place in the outbox, durably: what was put before is in Chroma's own log by now."""
        if self._fed.get(self._scope) != seen:
            self._fed[self._scope] = self.seen = seen
            new = self._folder / f"{FED}.new"
            new.write_bytes(encode({"embedder": self._embedder, "seen": self._fed}))
            new.replace(self._folder / FED)

    def tidy(self) -> None:
        """Chroma looks after itself."""
        return

    def clear(self) -> None:
        """Takes the scope out."""
        self._collection.delete(where={"scope": self._scope})
        self._fed.pop(self._scope, None)
        self.seen = -1

    def close(self) -> None:
        """Closes the index and gives the lock back; may be called again."""
        if self._lock >= 0:
            self._client.close()
            os.close(self._lock)
            self._lock = -1

    def _where(self, *conditions: Mapping[str, object]) -> "Where":
        return cast("Where", {"$and": [{"scope": self._scope}, *conditions]})

    def _empty(self) -> None:
        self._client.delete_collection(_NAME)
        self._collection = _collection(self._client)

    def _id(self, entry: Entry) -> str:
        return f"{self._scope}/{entry.lesson_id}@{entry.version}/{entry.part}"


def lock(folder: Path) -> int:
    """Returns the file that is locked; closing it gives the lock back, and so does the end of the process.

    Raises:
        ConflictError: somebody else has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise ConflictError(f"the index {str(folder)!r} is in use by another process; wait for it to end") from error
    return held


def delete(folder: Path) -> bool:
    """Deletes what Chroma keeps in the folder; returns whether there was something.

    Raises:
        ConflictError: another process has it open.
    """
    if not (folder / FOLDER).exists():
        return False
    held = lock(folder)
    try:
        (folder / FED).unlink(missing_ok=True)
        shutil.rmtree(folder / FOLDER)
    finally:
        os.close(held)
    return True


def _read_fed(folder: Path, embedder: str) -> dict[str, int]:
    """Returns up to where each scope was fed; empty where the vectors are those of another embedder, or damaged."""
    try:
        fed = decode((folder / FED).read_bytes(), _Fed)
    except (FileNotFoundError, UserError):
        return {}
    return fed.seen if fed.embedder == embedder else {}


def _client(folder: Path) -> "Client":
    import chromadb
    from chromadb.api.client import Client
    from chromadb.config import Settings

    client = chromadb.PersistentClient(path=str(folder), settings=Settings(anonymized_telemetry=False))
    assert isinstance(client, Client)
    return client


def _collection(client: "Client") -> "ChromaCollection":
    return client.get_or_create_collection(_NAME, embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
