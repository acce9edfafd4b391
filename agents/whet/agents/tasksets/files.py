"""Reading files of one JSON object per line, plain or gzipped, with errors that name the line."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from whet.core.errors import NotFoundError, UserError

__all__ = ["accept_options", "read_bytes", "rows_of"]

T = TypeVar("T")


def read_bytes(path: str) -> bytes:
    """Returns a file's content, decompressed where its name ends in ``.gz``.

    Raises:
        NotFoundError: there is no such file.
        UserError: it cannot be read.
    """
    try:
        data = Path(path).expanduser().read_bytes()
        return gzip.decompress(data) if path.endswith(".gz") else data
    except FileNotFoundError:
        raise NotFoundError(f"no task file {path!r}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"the task file {path!r} cannot be read: {error}") from error


def rows_of(data: bytes, kind: type[T], path: str) -> Iterator[tuple[int, T]]:
    """Yields (line number from 1, row) for every line that is not blank.

    Raises:
        UserError: a line is no JSON or no such row; the message names file, line and field.
    """
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}, line {number}: {error}") from error


def accept_options(options: Mapping[str, str], allowed: Mapping[str, str], spec: str) -> dict[str, str]:
    """Returns the options over their defaults; refuses names that are not among them."""
    if unknown := sorted(set(options) - set(allowed)):
        names = ", ".join(allowed) or "none"
        raise UserError(f"{spec}: no option {unknown[0]!r}; the options are: {names}")
    return {**allowed, **options}
