"""Starting a zygote: the socket, the in-memory files a launcher is handed, and where its complaints go."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from whet.core.errors import SandboxError
from whet.sandboxes.channel import Channel
from whet.sandboxes.guest import program
from whet.sandboxes.interpreter import Interpreter
from whet.sandboxes.sandbox import Limits

__all__ = ["Started", "memory_file", "process_tree", "start", "zygote_argv", "zygote_limits"]


_PATIENCE = 5.0  # seconds that a box has to end by itself


class Started(msgspec.Struct):
    """A started box: its outermost process, its socket, and what its zygote and its guests must know.

    ``adopt`` runs when the zygote answered and no guest has run; ``ooms`` counts the kernel's kills for want of memory.
    """

    process: "subprocess.Popen[bytes]"
    channel: Channel
    config: dict[str, object]
    env: dict[str, str]
    said: int
    adopt: Callable[["Started"], None] = lambda started: None
    ooms: Callable[[], int] = lambda: 0
    cleanup: Callable[[], None] = lambda: None

    def complaint(self) -> str:
        """Returns the last line that the box's own programs wrote, or the empty string."""
        lines = os.pread(self.said, 1 << 16, 0).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def release(self) -> None:
        """Lets go of what the owner holds for the box; once, after its process was waited for."""
        os.close(self.said)
        self.cleanup()

    def kill(self) -> None:
        """Kills the box from the inside out, while its outermost process holds the tree together.

        Bubblewrap that is killed first, before its child has its user ids, leaves that child waiting for them for ever.
        """
        tree = process_tree(self.process.pid) if self.process.poll() is None else []
        for pid in reversed(tree[1:]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()

    def stop(self, seconds: float) -> None:
        """Closes the socket, at which a box ends by itself; kills it when it takes longer. Blocks until it is gone."""
        self.channel.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()

    def discard(self) -> None:
        """Ends what nobody waits for any more."""
        self.stop(_PATIENCE)
        self.release()


def process_tree(root: int) -> list[int]:
    """Returns a process and all below it, parents first."""
    found = [root]
    for pid in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            found += [int(child) for child in children.split()]
    return found


def start(
    argv: Callable[[int], list[str]],
    config: dict[str, object],
    env: dict[str, str],
    *,
    files: Sequence[int] = (),
    cwd: str = "/",
    process_env: dict[str, str] | None = None,
) -> Started:
    """Starts ``argv(descriptor of the box's end of the socket)``; ``files`` are handed down and closed here.

    Raises:
        SandboxError: the program could not be executed.
    """
    ours, theirs = socket.socketpair()
    said = os.memfd_create("said")
    try:
        process = subprocess.Popen(
            argv(theirs.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=[theirs.fileno(), *files],
            cwd=cwd,
            env=process_env,
        )
    except OSError as error:
        ours.close()
        os.close(said)
        raise SandboxError(f"the sandbox could not be started: {error}") from error
    finally:
        theirs.close()
        for fd in files:
            os.close(fd)
    return Started(process, Channel(ours), config, env, said)


def zygote_argv(python: Interpreter, fd: int) -> list[str]:
    """Returns the command that runs the zygote on a socket."""
    return [python.path, "-I", "-S", "-c", program(python.magic), str(fd)]


def zygote_limits(limits: Limits) -> dict[str, object]:
    """Returns the part of the limits that the zygote keeps."""
    names = ("cpu_seconds", "memory_bytes", "processes", "open_files", "files", "work_bytes", "output_bytes")
    return {name: getattr(limits, name) for name in names}


def memory_file(data: bytes) -> int:
    """Returns a descriptor of an unnamed file with this content."""
    fd = os.memfd_create("whet")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
