"""Proof that text is gone: distinctive pieces of it, searched for in every table and in the bytes of the store's files.

marks = marks_of([feedback.text])
holding(connection, marks)                       # {mark: [(table, id), …]} before
search_files(store_files(address), marks)        # [(file, mark)] after; empty when it is gone
"""

import mmap
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, func, or_, select

from whet.core import encode
from whet.memory import schema
from whet.memory.database import FILE, Address
from whet.memory.kinds import KINDS

__all__ = ["blobs_holding", "holding", "marks_of", "search_files", "store_files", "whole"]

Mark = TypeVar("Mark", str, bytes)

# What JSON leaves as it is: a piece without escapes is the same bytes in a column, in JSON and in a blob.
_PLAIN = re.compile(r'[^"\\\x00-\x1f\x7f]+')
_LONGEST = 48
_SHORTEST = 8
_EACH = 3
_MOST = 120
_CHUNK = 40


def marks_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Returns pieces of the texts that are long enough to be told from others, a few from all over each text."""
    found: dict[str, None] = {}
    for text in texts:
        plain = (piece.strip() for piece in _PLAIN.findall(text))
        pieces = [window for piece in plain if len(piece) >= _SHORTEST for window in _windows(piece)]
        chosen = sorted(pieces, key=len, reverse=True)[: 4 * _EACH]
        found |= dict.fromkeys(chosen[:: max(1, len(chosen) // _EACH)])
    step = max(1, -(-len(found) // _MOST))
    return tuple(found)[::step]


def _windows(piece: str) -> list[str]:
    return [piece[start : start + _LONGEST].strip() for start in range(0, max(len(piece) - _SHORTEST, 1), _LONGEST)]


def whole(text: str) -> str:
    """Returns a text as it stands inside JSON."""
    return encode(text).decode()[1:-1]


def holding(connection: Connection, pieces: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
    """Returns for each piece the records whose JSON has it, in every scope, as (table, scope, id)."""
    found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    blobs = blobs_holding(connection, pieces)
    for kind in KINDS.values():
        table = kind.table
        for start in range(0, len(pieces), _CHUNK):
            part = pieces[start : start + _CHUNK]
            has = or_(*(_position(connection, table.c.body, piece) > 0 for piece in part))
            for scope, id, body in connection.execute(select(table.c.scope, table.c.id, table.c.body).where(has)):
                for piece in part:
                    if piece in body:
                        found[piece].append((kind.name, scope, id))
        long = select(table.c.scope, table.c.id, table.c.digest).where(table.c.body.is_(None))
        for scope, id, name in connection.execute(long) if blobs else ():
            for piece in blobs.get(name, ()):
                found[piece].append((kind.name, scope, id))
    return dict(found)


def blobs_holding(connection: Connection, pieces: Sequence[str]) -> dict[str, list[str]]:
    """Returns the digests of the blobs that have one of the pieces in their bytes, each with those it has."""
    wanted = {piece: piece.encode() for piece in pieces}
    found: dict[str, list[str]] = {}
    for name, data in connection.execute(select(schema.blobs.c.digest, schema.blobs.c.data)):
        has = [piece for piece, raw in wanted.items() if raw in bytes(data)]
        if has:
            found[name] = has
    return found


def _position(connection: Connection, column: ColumnElement[str], piece: str) -> ColumnElement[int]:
    sqlite = connection.dialect.name == "sqlite"
    return func.instr(column, piece) if sqlite else func.strpos(column, piece)


def store_files(address: Address) -> list[Path]:
    """Returns the files in which a store keeps anything; none for a server, whose files are not here.

    In a folder that is the store's own, every file; beside a single database file, those named after it and its index.
    """
    if address.folder is None:
        return []
    name = Path(address.name)
    own = name.name == FILE
    beside = [path for path in address.folder.glob("*" if own else f"{name.name}*") if path.is_file()]
    below = [path for path in address.folder.rglob("*") if path.is_file()] if own else []
    return sorted({*beside, *below})


def search_files(files: Iterable[Path], marks: Sequence[Mark]) -> list[tuple[Path, Mark]]:
    """Returns (file, mark) for every mark, text or bytes, that is in the bytes of a file."""
    found: list[tuple[Path, Mark]] = []
    for path in files:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found += [(path, mark) for mark in marks if data.find(_bytes(mark)) >= 0]
    return found


def _bytes(mark: str | bytes) -> bytes:
    return mark.encode() if isinstance(mark, str) else mark
