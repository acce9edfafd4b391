"""Files that are written whole or not at all: a process that dies in the middle leaves the previous one."""

import os
from contextlib import suppress
from pathlib import Path

from whet.core.errors import StoreError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes a file durably: beside its place first, then there in one step.

    Raises:
        StoreError: the disk is full, or the folder cannot be written; what was there before is untouched.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise StoreError(f"{str(path)!r} cannot be written: {error.strerror}; nothing was changed") from error


def _sync(folder: Path) -> None:
    """Makes the names in a folder durable, too."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
