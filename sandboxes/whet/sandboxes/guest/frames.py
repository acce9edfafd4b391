"""Frames between a box and its owner: ``!IQ`` (header length, body length), a JSON header, a raw body.

The first frame is the ``Config``; every later one is a ``Request`` whose ``id`` the ``Answer`` repeats. An answer may
come in parts (``more``).
"""

import json
import socket
import struct
from collections import deque
from typing import TypedDict

FRAME = struct.Struct("!IQ")
CHUNK = 1 << 20


class Limits(TypedDict):
    cpu_seconds: float
    memory_bytes: int
    processes: int
    open_files: int
    files: int
    work_bytes: int
    output_bytes: int


class Domain(TypedDict):
    """What a Landlock domain leaves: paths to read and execute, paths to write, and TCP sockets or none."""

    read: list[str]
    write: list[str]
    sockets: bool


class Config(TypedDict):
    """How the zygote behaves; ``work`` is the folder of the workspace.

    ``keeper_domain`` confines the zygote, ``domain`` its guests further; ``filter`` is the guests' BPF program in hex.
    ``tmpfs`` are file systems whose space is watched, ``quota`` plain folders that are measured instead.
    ``other_processes`` is what RLIMIT_NPROC counts beside the guests, ``path`` goes to the front of ``sys.path``.
    """

    work: str
    domain: Domain | None
    keeper_domain: Domain | None
    filter: str
    tmpfs: list[str]
    quota: list[str]
    other_processes: int
    path: list[str]
    limits: Limits


class Request(TypedDict, total=False):
    id: int
    op: str
    path: str
    max_bytes: int
    bytes: int
    code: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    timeout: float


class Answer(TypedDict, total=False):
    id: int
    more: bool
    refused: str
    pid: int
    python: str
    status: str
    detail: str
    exit_code: int | None
    signal: int | None
    truncated: bool
    seconds: float
    split: int


class Refused(Exception):
    """The caller asked for something that cannot be; the text goes back to the caller."""


class Ended(Exception):
    """The owner closed the socket."""


class Link:
    """The framed socket to the owner."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending: deque[tuple[Request, bytearray]] = deque()

    def take(self, n: int) -> bytearray:
        """Returns the next ``n`` bytes; there is no other copy in memory, so whoever overwrites them removes them."""
        data = bytearray(n)
        left = memoryview(data)
        while left:
            got = self.sock.recv_into(left[:CHUNK])
            if not got:
                raise Ended
            left = left[got:]
        return data

    def read(self) -> tuple[Request, bytearray]:
        head, body = FRAME.unpack(self.take(FRAME.size))
        return json.loads(self.take(head)), self.take(body)

    def configuration(self) -> Config:
        head, _ = FRAME.unpack(self.take(FRAME.size))
        config: Config = json.loads(self.take(head))
        return config

    def next(self) -> tuple[Request, bytearray]:
        return self.pending.popleft() if self.pending else self.read()

    def cancelled(self, request: int) -> bool:
        """Reads one frame while ``request`` runs; any other request waits its turn."""
        header, body = self.read()
        if header["op"] == "cancel":
            return bool(header["id"] == request)
        self.pending.append((header, body))
        return False

    def send(self, header: Answer, body: bytes = b"") -> None:
        head = json.dumps(header).encode()
        self.sock.sendall(FRAME.pack(len(head), len(body)) + head + body)


class Incoming:
    """The next ``left`` bytes of the socket as a file."""

    def __init__(self, link: Link, left: int) -> None:
        self.link, self.left = link, left

    def read(self, n: int) -> bytes:
        data = bytes(self.link.take(min(n, self.left)))
        self.left -= len(data)
        return data

    def drain(self) -> None:
        while self.left:
            self.read(CHUNK)


class Outgoing:
    """A file whose writes go to the owner as parts of one answer."""

    def __init__(self, link: Link, request: int, limit: int) -> None:
        self.link, self.request, self.left = link, request, limit

    def write(self, data: bytes, /) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise Refused("the workspace is larger than its quota")
        self.link.send({"id": self.request, "more": True}, data)
        return len(data)
