"""A control group per box, where one may be made: the kernel's own bound on memory and processes, files included.

A group is made below ``WHET_CGROUP`` (a delegated folder of cgroup 2, or the folders of the memory and pids controllers
of version 1 with ``:`` between them), or below the root group when we are root and in it. It is never made elsewhere: a
box does not leave the limits that somebody put its owner under. Without one, the watchdog in the zygote stands alone.
"""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from whet.core.errors import SandboxError
from whet.sandboxes.launch import Started, process_tree
from whet.sandboxes.sandbox import Limits

__all__ = ["adopt_into_cgroup", "memory_keeper"]

_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids")
_SHM_BYTES = 64 << 20


def memory_keeper() -> str:
    """Returns, for people, what bounds the memory of a box."""
    parents = _parents()
    if not parents:
        return "watchdog (for a control group, set WHET_CGROUP to a delegated folder)"
    return f"control group below {', '.join(map(str, parents))}, and watchdog"


def adopt_into_cgroup(started: Started, limits: Limits) -> None:
    """Puts the processes of a box that has run no guest yet into a group of its own.

    Raises:
        SandboxError: ``WHET_CGROUP`` is set and cannot be used.
    """
    groups: list[Path] = []
    try:
        for parent in _parents():
            group = parent / f"whet-{started.process.pid}"
            group.mkdir()
            groups.append(group)
            _bound(group, limits)
            for pid in process_tree(started.process.pid):
                (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        _remove(groups)
        if "WHET_CGROUP" in os.environ:
            raise SandboxError(f"WHET_CGROUP={os.environ['WHET_CGROUP']!r} cannot be used: {error}") from error
        return
    started.ooms = partial(_kills, groups)
    started.cleanup = partial(_after, started.cleanup, groups)


def _parents() -> list[Path]:
    named = os.environ.get("WHET_CGROUP")
    if named:
        return [Path(folder) for folder in named.split(":")]
    if os.geteuid() != 0:
        return []
    mine = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    if mine.get("memory", mine.get("")) != "/":
        return []
    return [Path(root) for root in _ROOTS if _has_limits(Path(root))]


def _has_limits(root: Path) -> bool:
    """Whether groups made here have the files that bound them; the root group itself has none of them."""
    controllers = root / "cgroup.subtree_control"
    if controllers.exists():
        return {"memory", "pids"} <= set(controllers.read_text().split())
    return (root / "memory.limit_in_bytes").exists() or (root.name == "pids" and (root / "tasks").exists())


def _bound(group: Path, limits: Limits) -> None:
    """Memory here includes what the box keeps in its memory file systems, which have sizes of their own."""
    memory = str(limits.memory_bytes + limits.work_bytes + limits.tmp_bytes + _SHM_BYTES)
    bounds = {
        "memory.limit_in_bytes": memory,
        "memory.memsw.limit_in_bytes": memory,
        "memory.max": memory,
        "memory.swap.max": "0",
        "pids.max": str(limits.processes + 2),
    }
    for name, value in bounds.items():
        if (group / name).exists():
            (group / name).write_text(value)


def _kills(groups: list[Path]) -> int:
    """Returns how many processes the kernel has killed for want of memory."""
    total = 0
    for group in groups:
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(FileNotFoundError):
                counts = dict(line.split() for line in (group / name).read_text().splitlines())
                total += int(counts.get("oom_kill", 0))
    return total


def _after(cleanup: Callable[[], None], groups: list[Path]) -> None:
    _remove(groups)
    cleanup()


def _remove(groups: list[Path]) -> None:
    for group in groups:
        with contextlib.suppress(OSError):  # a process that is still dying keeps its group until the next boot
            group.rmdir()
