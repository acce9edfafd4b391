"""The ``Sandbox`` contract: run untrusted commands and Python, keep files, snapshot; nothing gets out.

async with await open_sandbox(SandboxSpec()) as box:
    result = await box.exec(["python3", "-c", "print(1)"], timeout=5)
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, Self, runtime_checkable

from whet.core.records import ExecResult, Record

__all__ = ["Limits", "Sandbox", "SandboxBackend", "SandboxSpec", "Snapshot", "Tier"]

Tier = Literal["none", "landlock", "namespaces", "container", "gvisor", "microvm", "remote"]


class Limits(Record, frozen=True, kw_only=True):
    """What one execution may use: seconds, bytes and counts."""

    wall_seconds: float = 30.0
    cpu_seconds: float = 30.0
    memory_bytes: int = 1 << 30
    processes: int = 64
    open_files: int = 256
    work_bytes: int = 1 << 30
    tmp_bytes: int = 256 << 20
    files: int = 100_000
    output_bytes: int = 1 << 20


class SandboxSpec(Record, frozen=True, kw_only=True):
    """What a sandbox is made of. ``packages`` are pip requirements its Python sees, prepared once, read-only.

    ``network`` lists (host, port) pairs that may be reached; empty means closed.
    ``isolation``: ``exec`` keeps one sandbox warm over executions; ``fresh`` is for whatever produces a score.
    """

    packages: tuple[str, ...] = ()
    network: tuple[tuple[str, int], ...] = ()
    limits: Limits = Limits()
    isolation: Literal["exec", "fresh"] = "exec"


class Snapshot(Record, frozen=True, kw_only=True):
    """A workspace at a moment: its content digest and its tar archive."""

    digest: str
    archive: bytes


@runtime_checkable
class Sandbox(Protocol):
    """An isolated workspace at ``/work``. Returns what the guest did; raises ``SandboxError`` for what the host did."""

    @property
    def tier(self) -> Tier:
        """How strong the isolation is."""
        ...

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
    ) -> ExecResult:
        """Returns what became of a command: a list is executed as it is, a string by ``/bin/sh -c``."""
        ...

    async def run_python(
        self, code: str, *, stdin: bytes = b"", timeout: float | None = None, cwd: str = "/work"
    ) -> ExecResult:
        """Returns what became of a Python program (forked from the sandbox's warm interpreter)."""
        ...

    async def read(self, path: str, *, max_bytes: int = 16 << 20) -> bytes:
        """Returns a file's content; no link is followed out of the workspace. Raises UserError if there is none."""
        ...

    async def write(self, path: str, data: bytes | str) -> None:
        """Writes a file in the workspace, making its folders."""
        ...

    async def list(self, path: str = ".") -> list[str]:
        """Returns the paths of all files under a folder of the workspace, relative to it, sorted."""
        ...

    async def snapshot(self) -> Snapshot:
        """Returns the workspace as it is now."""
        ...

    async def restore(self, snapshot: Snapshot) -> None:
        """Makes the workspace what it was at the snapshot."""
        ...

    async def fork(self) -> "Sandbox":
        """Returns a new sandbox with a copy of this workspace."""
        ...

    async def close(self) -> None:
        """Ends everything inside; idempotent."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


@runtime_checkable
class SandboxBackend(Protocol):
    """Makes sandboxes of one kind."""

    name: str
    tier: Tier

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Returns a running sandbox.

        Raises:
            SandboxError: it could not be started.
            RefusedError: the spec asks for what this back end cannot enforce; the message names the way out.
        """
        ...
