"""Length-prefixed JSON frames between the answer's and the tests' process. Standard library only."""

import json
import os
import select
import struct
import time
from collections.abc import Mapping

from whet.feedback.verifiers.box.codec import Data

MAX_FRAME = 16 << 20


class Ended(BaseException):
    """The answer's process will say no more: no ``Exception``, so that no test catches it.

    ``how`` is timeout, died or tampered.
    """

    def __init__(self, how: str, detail: str) -> None:
        super().__init__(detail)
        self.how, self.detail = how, detail


def send(fd: int, frame: Mapping[str, Data]) -> bool:
    """Writes a frame; returns False, and writes nothing, for one that is larger than ``MAX_FRAME``."""
    body = json.dumps(frame).encode()
    if len(body) > MAX_FRAME:
        return False
    data = memoryview(struct.pack(">I", len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]
    return True


def receive(fd: int, deadline: float) -> bytes | None:
    """Returns the body of the next frame, or ``None`` at the end of the stream."""
    header = _exactly(fd, 4, deadline)
    if header is None:
        return None
    (size,) = struct.unpack(">I", header)
    if size > MAX_FRAME:
        raise Ended("tampered", "the answer's process sent a frame that is too large")
    return _exactly(fd, size, deadline)


def _exactly(fd: int, size: int, deadline: float) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], min(left, 3600.0))[0]:
            raise Ended("timeout", "the answer did not return in time")
        chunk = os.read(fd, min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)
