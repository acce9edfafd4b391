"""What works here: each back end is really booted, and probes are fired at it from inside.

for report in await doctor():
    print(report.backend, report.usable, report.reason, [check.name for check in report.checks if not check.passed])
"""

import socket
from collections.abc import Sequence

import msgspec

from whet.core.errors import RefusedError, SandboxError
from whet.core.records import Check, ExecResult, Record
from whet.sandboxes.cgroup import memory_keeper
from whet.sandboxes.ladder import LADDER, load_backend
from whet.sandboxes.sandbox import Limits, Sandbox, SandboxSpec, Tier

__all__ = ["BackendReport", "doctor"]

_LIMITS = Limits(memory_bytes=128 << 20, processes=16, tmp_bytes=8 << 20, work_bytes=16 << 20, wall_seconds=10)
_SYSCALL = "import ctypes; r = ctypes.CDLL(None, use_errno=True).syscall"

# Each prints "open" when it gets somewhere that it must not; anything else, an exception included, is a pass.
_PROBES = {
    "runs Python": "print('fine')",
    "reads no passwords": "open('/etc/shadow').read(); print('open')",
    "cannot set kernel options": "open('/proc/sys/kernel/core_pattern', 'r+'); print('open')",
    "cannot read its keeper's memory": "import os; open(f'/proc/{os.getppid()}/mem', 'rb'); print('open')",
    "cannot end its keeper": "import os, time; os.kill(os.getppid(), 9); time.sleep(.1); print('sent')",
    "makes no user namespace": f"{_SYSCALL}; print('open' if r(272, 0x10000000) == 0 else 'shut')",
    "reaches no host port": "import socket; socket.create_connection(('127.0.0.1', PORT), 2); print('open')",
    "is bounded in processes": (
        "import os, time\nn = 0\ntry:\n    while n < 64:\n"
        "        if os.fork() == 0:\n            time.sleep(9)\n        n += 1\n"
        "except OSError:\n    print('shut')\nelse:\n    time.sleep(.5)\n    print('open')"
    ),
    "is bounded in memory": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n"
        "        keep = b'x' * (96 << 20)\n        time.sleep(5)\n        os._exit(0)\ntime.sleep(4)\nprint('open')"
    ),
    "is bounded in files": "open('big', 'wb').write(bytes(32 << 20)); print('open')",
}


class BackendReport(Record, frozen=True, kw_only=True):
    """A back end on this machine: whether it boots, why not, and what came of each probe.

    ``chosen`` marks the one that ``open_sandbox()`` takes; ``memory`` says what bounds memory.
    """

    backend: str
    tier: Tier
    usable: bool
    chosen: bool = False
    reason: str = ""
    memory: str = ""
    checks: tuple[Check, ...] = ()


async def doctor(backends: Sequence[str] = LADDER) -> list[BackendReport]:
    """Returns a report per back end of the ladder, strongest first. Boots each; takes a few seconds."""
    reports: list[BackendReport] = []
    for name in backends:
        report = await _examine(name)
        first = report.usable and name in LADDER and not any(other.chosen for other in reports)
        reports.append(msgspec.structs.replace(report, chosen=True) if first else report)
    return reports


async def _examine(name: str) -> BackendReport:
    backend = load_backend(name)
    try:
        with socket.create_server(("127.0.0.1", 0)) as canary:
            port = canary.getsockname()[1]
            async with await backend.create(SandboxSpec(limits=_LIMITS)) as box:
                checks = [await _probe(box, title, code, port) for title, code in _PROBES.items()]
                checks.append(await _survives(box))
    except (SandboxError, RefusedError) as error:
        return BackendReport(backend=name, tier=backend.tier, usable=False, reason=str(error))
    failed = [check.name for check in checks if not check.passed]
    reason = f"it {'; it '.join(failed)}: no longer true" if failed else ""
    return BackendReport(
        backend=name, tier=backend.tier, usable=not failed, reason=reason, memory=memory_keeper(), checks=tuple(checks)
    )


async def _probe(box: Sandbox, title: str, code: str, port: int) -> Check:
    result = await box.run_python(code.replace("PORT", str(port)))
    leaked = result.stdout.strip() == "open"
    passed = result.stdout == "fine\n" if title == "runs Python" else not leaked
    return Check(name=title, passed=passed, got=_said(result))


async def _survives(box: Sandbox) -> Check:
    """After everything above, the keeper must still be there."""
    result = await box.run_python("print('fine')")
    return Check(name="outlives its guests", passed=result.stdout == "fine\n", got=_said(result))


def _said(result: ExecResult) -> str:
    last = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return f"{result.status}: {result.detail or (last[-1] if last else '')}"[:200]
