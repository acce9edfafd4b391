"""What the processes below this one are, and how much memory they hold."""

import contextlib
import os
import resource
import signal
import time


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
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith((b"Pss:", b"SwapPss:")))
    return total * 1024


def kill(everything: bool) -> None:
    """In a box of its own one signal reaches all at once; elsewhere the tree is walked."""
    for target in [-1] if everything else descendants():
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)


def sweep(pid: int, *, everything: bool) -> tuple[int, resource.struct_rusage]:
    """Kills every process of the box but this one and reaps them. Returns how ``pid`` ended."""
    ended: tuple[int, resource.struct_rusage] | None = None
    while True:
        kill(everything)
        try:
            while True:
                got, status, usage = os.wait4(-1, 0 if everything else os.WNOHANG)
                if got == pid:
                    ended = status, usage
                if got == 0:
                    time.sleep(0.001)
                    break
        except ChildProcessError:
            if ended is None:
                raise
            return ended
