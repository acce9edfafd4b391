"""Records to JSON bytes and back: deterministic on the way out, tolerant of unknown fields on the way in."""

from typing import TypeVar

import msgspec

from whet.core.errors import UserError

__all__ = ["decode", "encode"]

T = TypeVar("T")
_encoder = msgspec.json.Encoder(order="deterministic")


def encode(value: object) -> bytes:
    """Returns the value as compact JSON; equal values give equal bytes."""
    return _encoder.encode(value)


def decode(data: bytes | str, kind: type[T]) -> T:
    """Returns the JSON as a value of the type ``kind``.

    Raises:
        UserError: the bytes are no JSON, or no value of that type; the message says where.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"not a valid {getattr(kind, '__name__', kind)}: {error}") from error
