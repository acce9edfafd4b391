"""Ids and time: UUIDv7 text (sorted by creation), UTC milliseconds, SHA-256 content digests."""

import hashlib
import secrets
import threading
import time

__all__ = ["digest", "new_id", "now_ms"]

_lock = threading.Lock()
_last = 0


def now_ms() -> int:
    """Returns the current UTC time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


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
