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
from pathlib import Path

from whet.core import NotFoundError, UserError
from whet.core.adapters import is_unpacked, unpack
from whet.memory.blobs import read_blob
from whet.memory.store import Store

__all__ = ["adapter_folder", "unpacked"]


def adapter_folder(folder: Path | None, digest: str) -> Path:
    """Returns where the adapter of a digest is unpacked: beside the store, or, for one on a server, in this process's
    own temporary folder."""
    return (_temporary() if folder is None else folder.resolve()) / "adapters" / digest


async def unpacked(store: Store, digest: str) -> Path:
    """Returns the folder of an adapter, unpacked where it is not there yet.

    Raises:
        NotFoundError: the store has no such blob.
        UserError: the blob is no adapter.
    """
    folder = adapter_folder(store.folder, digest)
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
