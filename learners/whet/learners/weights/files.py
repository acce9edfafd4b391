"""Files and folders that are written whole or not at all: what dies in the middle leaves what was there before."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whet.core.errors import StoreError, UserError

__all__ = ["whole_folder", "write_whole"]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder beside it, which takes its place when the block ends well, and is gone otherwise.

    Raises:
        UserError: there is something in the folder.
        StoreError: it cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} is not an empty folder; name a new one")
    beside = folder.absolute().with_name(f".{folder.name}.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"{str(folder)!r} cannot be written: {error.strerror}; nothing was changed") from error
    try:
        yield beside
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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
