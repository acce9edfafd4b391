"""Files that are written whole or not at all: a process that dies in the middle leaves the previous one."""

import os
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
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StoreError(f"{str(path)!r} cannot be written: {error.strerror}; nothing was changed") from error
