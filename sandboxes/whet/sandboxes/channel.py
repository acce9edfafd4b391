"""The owner's end of a box's socket: frames out, frames in, from whichever event loop is running."""

import asyncio
import json
import socket
import struct

import msgspec

from whet.core.errors import SandboxError

__all__ = ["Answer", "Channel"]

_FRAME = struct.Struct("!IQ")


class Answer(msgspec.Struct):
    """What a box says; see ``whet.sandboxes.guest.frames``."""

    id: int
    more: bool = False
    refused: str = ""
    pid: int = 0
    python: str = ""
    status: str = ""
    detail: str = ""
    exit_code: int | None = None
    signal: int | None = None
    truncated: bool = False
    seconds: float = 0.0
    split: int = 0


class Channel:
    """A framed stream socket. It belongs to no event loop: each call uses the running one."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._buffer = bytearray()

    async def send(self, header: dict[str, object], body: bytes = b"") -> None:
        """Sends one frame."""
        head = json.dumps(header).encode()
        frame = _FRAME.pack(len(head), len(body)) + head
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, frame + body if body else frame)
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error.strerror}") from error

    async def send_raw(self, data: bytes) -> None:
        """Sends bytes that a frame announced."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except OSError as error:
            raise SandboxError(f"the sandbox is gone: {error.strerror}") from error

    def send_now(self, header: dict[str, object]) -> bool:
        """Sends a small frame without waiting; False when it does not fit or nobody listens."""
        head = json.dumps(header).encode()
        frame = _FRAME.pack(len(head), 0) + head
        try:
            return self._sock.send(frame) == len(frame)
        except OSError:
            return False

    async def receive(self) -> tuple[Answer, bytes]:
        """Returns the next frame. A cancelled call loses nothing: what came stays in the buffer."""
        await self._fill(_FRAME.size)
        head, body = _FRAME.unpack_from(self._buffer)
        end = _FRAME.size + head
        await self._fill(end + body)
        try:
            answer = msgspec.json.decode(bytes(self._buffer[_FRAME.size : end]), type=Answer)
        except msgspec.DecodeError as error:
            raise SandboxError(f"the sandbox said something that is no answer: {error}") from error
        data = bytes(self._buffer[end : end + body])
        del self._buffer[: end + body]
        return answer, data

    async def _fill(self, n: int) -> None:
        loop = asyncio.get_running_loop()
        while len(self._buffer) < n:
            try:
                data = await loop.sock_recv(self._sock, 1 << 20)
            except OSError as error:
                raise SandboxError(f"the sandbox is gone: {error.strerror}") from error
            if not data:
                raise SandboxError("the sandbox is gone: it closed its socket")
            self._buffer += data

    def close(self) -> None:
        """Closes the socket, which ends the box. Idempotent."""
        self._sock.close()
