"""The adapters of a store: blobs, unpacked into folders that back ends load from.

    folder = await unpacked(store, policy.adapter)       # .whet/adapters/<digest>/adapter_model.safetensors, …

The folders are a cache: what is deleted there is unpacked again. A server that has one of them loaded may read it again
at any time, so they are deleted only when their adapter is forgotten.
"""

import asyncio
import atexit
import functools
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from sqlalchemy import Connection, func, select

from whet.core import NotFoundError, UserError
from whet.core.adapters import PACKED, AdapterCard, card_of, is_unpacked, unpack
from whet.memory.blobs import read_blob
from whet.memory.schema import blobs
from whet.memory.store import Store

__all__ = ["resting_on", "sweep", "unpacked", "weights_of"]

_PIECES, _PIECE = 8, 32


def _root(folder: Path | None) -> Path:
    """Returns where adapters are unpacked: beside the store, or, for one on a server, in a folder of this process."""
    return (_temporary() if folder is None else folder.resolve()) / "adapters"


async def unpacked(store: Store, digest: str) -> Path:
    """Returns the folder of an adapter, unpacked where it is not there yet.

    Raises:
        NotFoundError: the store has no such blob.
        UserError: the blob is no adapter.
    """
    folder = _root(store.folder) / digest
    if await asyncio.to_thread(is_unpacked, folder, digest):
        return folder
    try:
        data = await store.read(lambda connection: read_blob(connection, digest))
    except NotFoundError:
        raise NotFoundError(
            f"adapter {digest[:12]!r} is not in this store; bring it with: whet policy commit FOLDER (as exported)"
        ) from None
    try:
        return await asyncio.to_thread(unpack, data, folder)
    except OSError as error:
        raise UserError(f"adapter {digest[:12]!r} cannot be unpacked: {error}; is the disk full?") from error


@functools.cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="whet-adapters-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def sweep(store: Store) -> None:
    """Deletes the folders of adapters that the store does not have any more."""
    root = _root(store.folder)
    for path in root.iterdir() if root.is_dir() else ():
        name = path.name.removeprefix(".").partition(".")[0]  # an unpacking that broke off begins with a dot
        there = select(blobs.c.digest).where(blobs.c.digest >= name, blobs.c.digest < f"{name}g").limit(1)
        if store.read_now(lambda connection, there=there: connection.scalar(there)) is None:  # type: ignore[misc]
            shutil.rmtree(path, ignore_errors=True)


# --- what adapters rest on, in a transaction ------------------------------------------------------------------------


def resting_on(connection: Connection, ids: Collection[str], brought: Collection[str]) -> dict[str, str]:
    """Returns the adapters that rest on records, and why.

    Those ``brought`` by candidates that were made from them, those whose card names them, and those whose training went
    on from one of these.
    """
    cards, gone = dict(_cards(connection)), set(ids)
    found = dict.fromkeys(brought, "brought by a candidate that goes")
    found |= {name: "trained on what goes" for name, card in cards.items() if gone.intersection(card.sources)}
    while more := [name for name, card in cards.items() if card.parent in found and name not in found]:
        found |= dict.fromkeys(more, "trained from an adapter that goes")
    return found


def _cards(connection: Connection) -> Iterator[tuple[str, AdapterCard]]:
    begins = func.substr(blobs.c.data, 9, len(PACKED))
    for name in connection.scalars(select(blobs.c.digest).where(begins == PACKED)).all():
        card = card_of(read_blob(connection, name))
        if card is not None:
            yield name, card


def weights_of(connection: Connection, names: Collection[str]) -> tuple[bytes, ...]:
    """Returns pieces of the numbers of these adapters that no other blob has, to be searched for."""
    wanted = list(names)
    own = connection.execute(select(blobs.c.digest, blobs.c.data).where(blobs.c.digest.in_(wanted)))
    pieces = [piece for _, data in own for piece in _pieces(bytes(data))]
    if pieces:
        for (data,) in connection.execute(select(blobs.c.data).where(blobs.c.digest.not_in(wanted))):
            pieces = [piece for piece in pieces if piece not in bytes(data)]
    return tuple(dict.fromkeys(pieces))


def _pieces(data: bytes) -> Iterator[bytes]:
    numbers = data[8 + int.from_bytes(data[:8], "little") :]
    for number in range(_PIECES):
        at = len(numbers) * (number + 1) // (_PIECES + 1)
        piece = numbers[at : at + _PIECE]
        if len(set(piece)) > _PIECE // 4:  # not the zeros that a factor begins with
            yield piece
