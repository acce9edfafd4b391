"""Ids and time: UUIDv7 text (sorted by creation), UTC milliseconds, SHA-256 content digests."""

import hashlib
import re
import secrets
import threading
import time
from datetime import UTC, datetime

from whet.core.errors import UserError

__all__ = ["digest", "new_id", "now_ms", "parse_since"]

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_lock = threading.Lock()
_last = 0


def now_ms() -> int:
    """Returns the current UTC time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def parse_since(text: str) -> int:
    """Returns the UTC milliseconds of ``7d``, ``12h``, ``30m`` ago or of an ISO date.

    Raises:
        UserError: neither a duration nor a date.
    """
    if match := re.fullmatch(r"(\d+)([smhdw])", text):
        return now_ms() - int(match[1]) * _UNITS[match[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"since {text!r} is no duration such as 7d, 12h, 30m and no ISO date") from None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def new_id() -> str:
    """Returns a UUIDv7 as 32 hexadecimal characters; strictly increasing within a process (RFC 9562, section 5.7)."""
    global _last
    with _lock:
        # 48 bits of milliseconds and a 12-bit fraction, which counts up when two ids fall into one tick.
        tick = max((time.time_ns() << 12) // 1_000_000, _last + 1)
        _last = tick
    millis, fraction = tick >> 12, tick & 0xFFF
    value = millis << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"


def digest(data: bytes | str) -> str:
    """Returns the SHA-256 of the bytes (text is taken as UTF-8) as 64 hexadecimal characters."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()
