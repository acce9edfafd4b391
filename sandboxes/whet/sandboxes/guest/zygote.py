"""Process 1 of a box: it forks once per execution, and answers requests until its owner closes the socket.

It runs on the box's interpreter, which has nothing of Whet: this folder is sent there as text and uses the standard
library only. ``argv[1]`` is the socket's descriptor.
"""

import ctypes
import gc
import os
import signal
import site
import socket
import stat
import sys
from collections.abc import Callable

from whet.sandboxes.guest.execution import Execution, Keeper
from whet.sandboxes.guest.files import pack, relative, unpack
from whet.sandboxes.guest.frames import Answer, Config, Ended, Incoming, Link, Outgoing, Refused, Request
from whet.sandboxes.guest.landlock import build, enter

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


class Zygote(Keeper):
    """Answers requests one after the other until the socket ends."""

    def __init__(self, link: Link, config: Config) -> None:
        super().__init__(link, config)
        self.operations: dict[str, Callable[[Request, bytearray], tuple[Answer, bytes]]] = {
            "exec": lambda request, body: Execution(self, request, body).run(),
            "read": self.read,
            "write": self.write,
            "list": self.list,
            "snapshot": self.snapshot,
            "restore": self.restore,
        }

    def serve(self) -> None:
        while True:
            request, body = self.link.next()
            if request["op"] == "cancel":
                continue  # of something that ended meanwhile
            try:
                header, data = self.operations[request["op"]](request, body)
            except Refused as error:
                header, data = {"refused": str(error)}, b""
            except OSError as error:
                header, data = {"refused": f"{error.filename or request['op']!r}: {error.strerror}"}, b""
            self.link.send({"id": request["id"], **header}, data)

    def read(self, request: Request, _: bytearray) -> tuple[Answer, bytes]:
        fd = self.files.regular(request["path"], os.O_RDONLY)
        with open(fd, "rb") as file:
            data = file.read(request["max_bytes"] + 1)
        if len(data) > request["max_bytes"]:
            raise Refused(f"{request['path']!r} has more than {request['max_bytes']} bytes; raise max_bytes")
        return {}, data

    def write(self, request: Request, body: bytearray) -> tuple[Answer, bytes]:
        self.files.write(request["path"], body)
        return {}, b""

    def list(self, request: Request, _: bytearray) -> tuple[Answer, bytes]:
        base = relative(request["path"])
        skip = 0 if base == "." else len(base) + 1
        keep = (stat.S_IFREG, stat.S_IFLNK)
        found = [p[skip:] for p, status, _ in self.files.walk(base) if stat.S_IFMT(status.st_mode) in keep]
        return {}, b"".join(os.fsencode(path) + b"\0" for path in sorted(found))

    def snapshot(self, request: Request, _: bytearray) -> tuple[Answer, bytes]:
        out = Outgoing(self.link, request["id"], request["max_bytes"])
        try:
            pack(self.files, out)
        finally:
            out.left = 0  # an abandoned archive may not write its buffer later
        return {}, b""

    def restore(self, request: Request, _: bytearray) -> tuple[Answer, bytes]:
        incoming = Incoming(self.link, request["bytes"])
        try:
            self.clear()
            unpack(self.files, incoming)
        finally:
            incoming.drain()
        return {}, b""

    def clear(self) -> None:
        """Empties the workspace with the box's own tools: they cope with any depth and any mode."""
        argv = ["/bin/sh", "-c", "chmod -R u+rwX . ; find . -mindepth 1 -delete"]
        request: Request = {"id": -1, "argv": argv, "env": dict(os.environ), "cwd": ".", "timeout": 60.0}
        header, output = Execution(self, request, bytearray()).run()
        if header["status"] != "ok":
            raise Refused(f"the workspace could not be emptied: {output.decode(errors='replace').strip()}")


def prepare(config: Config) -> None:
    """Makes this process the keeper: unreadable to the guest, and the parent of whatever is orphaned."""
    if os.getuid() == 0:
        raise SystemExit("a guest may not run as root, not even as the root of a namespace")
    if config["keeper_domain"] is not None:
        enter(build(config["keeper_domain"]))
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:] = [*config["path"], *sys.path]
    site.setquit()
    site.sethelper()
    gc.collect()
    gc.freeze()


def main() -> None:
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    link.sock.set_inheritable(False)
    try:
        config = link.configuration()
        prepare(config)
        zygote = Zygote(link, config)
        link.send({"id": 0, "pid": os.getpid(), "python": sys.version.split()[0]})
        zygote.serve()
    except (Ended, ConnectionError):
        pass  # the owner is gone, and so is everything here
    os._exit(0)
