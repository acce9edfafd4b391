"""What the processes below this one are, and how much memory they hold."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterable


def descendants() -> list[int]:
    """Returns the process ids below this one, in the numbering of the mounted /proc."""
    found, todo = [], ["self"]
    while todo:
        base = f"/proc/{todo.pop()}/task"
        try:
            for thread in os.listdir(base):
                with open(f"{base}/{thread}/children") as file:
                    children = file.read().split()
                found += [int(pid) for pid in children]
                todo += children
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def resident(pids: list[int]) -> int:
    """Returns bytes of resident memory, pages shared by several processes counted each time."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                total += int(file.read().split()[1])
        except (OSError, IndexError):
            continue
    return total * resource.getpagesize()


def proportional(pids: list[int]) -> int:
    """Returns bytes of resident memory, shared pages counted once. Exact and slow: asked only when in doubt."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                lines = file.read().splitlines()
        except PermissionError:
            # A guest may close its memory map to us (PR_SET_DUMPABLE); it is then counted with what it shares.
            total += resident([pid]) // 1024
            continue
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith((b"Pss:", b"SwapPss:")))
    return total * 1024


def kill_all() -> None:
    """Kills every other process of the box.

    -1 means every process of the user, the host's included, unless this is process 1 of a namespace of its own: that is
    asked of the kernel here and taken from no configuration. Elsewhere the tree below is stopped until nothing new
    appears in it, so that it cannot outrun us, and then killed.
    """
    if os.getpid() == 1:
        _signal([-1], signal.SIGKILL)
        return
    stopped: set[int] = set()
    while new := set(descendants()) - stopped:
        _signal(new, signal.SIGSTOP)
        stopped |= new
    _signal(stopped, signal.SIGKILL)


def _signal(targets: Iterable[int], number: signal.Signals) -> None:
    for target in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, number)


def sweep(pid: int) -> tuple[int, resource.struct_rusage]:
    """Kills every process of the box but this one and reaps them. Returns how ``pid`` ended."""
    ended: tuple[int, resource.struct_rusage] | None = None
    while True:
        kill_all()
        with contextlib.suppress(ChildProcessError):
            while True:
                got, status, usage = os.wait4(-1, 0)
                if got == pid:
                    ended = status, usage
        if ended is None:
            raise RuntimeError(f"process {pid} was reaped by somebody else")
        if os.getpid() == 1 or not descendants():
            return ended
