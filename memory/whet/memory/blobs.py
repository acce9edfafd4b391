"""Bytes by their SHA-256: long records, the files of policies, adapters. The same bytes are kept once.

names = write_blobs(connection, [data])
data = read_blob(connection, names[0])
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select

from whet.core import NotFoundError, StoreError, digest
from whet.memory.bulk import insert_many
from whet.memory.schema import blobs

__all__ = ["read_blob", "write_blobs"]

_CHUNK = 500


def write_blobs(connection: Connection, datas: Iterable[bytes]) -> list[str]:
    """Returns the digests, in order, after the bytes that the store lacked were written."""
    named = [(digest(data), data) for data in datas]
    for start in range(0, len(named), _CHUNK):
        part = dict(named[start : start + _CHUNK])
        known = set(connection.scalars(select(blobs.c.digest).where(blobs.c.digest.in_(part))))
        new = [{"digest": name, "size": len(data), "data": data} for name, data in part.items() if name not in known]
        insert_many(connection, blobs, new)
    return [name for name, _ in named]


def read_blob(connection: Connection, name: str) -> bytes:
    """Returns the bytes of the digest ``name``.

    Raises:
        NotFoundError: the store has none.
        StoreError: the bytes do not have that digest any more.
    """
    data = connection.scalar(select(blobs.c.data).where(blobs.c.digest == name))
    if data is None:
        raise NotFoundError(f"no blob {name!r} in this store")
    if digest(data) != name:
        raise StoreError(f"blob {name!r} is damaged: its bytes have another digest; restore the store from a backup")
    return bytes(data)


def read_texts(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """Returns the blobs of these digests that are there, as text."""
    found: dict[str, str] = {}
    for start in range(0, len(names), _CHUNK):
        query = select(blobs.c.digest, blobs.c.data).where(blobs.c.digest.in_(names[start : start + _CHUNK]))
        found |= {name: bytes(data).decode() for name, data in connection.execute(query)}
    return found
