"""A scripted sandbox for other rooms' tests: files in memory, answers from a list, an error for what is left over.

box = FakeSandbox([ExecResult(status="ok", exit_code=0, stdout="42\\n")])
result = await box.exec(["anything"])
await box.close()                       # AssertionError when answers were not asked for
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeAlias

from whet.core.errors import SandboxError, UserError
from whet.core.records import ExecResult
from whet.sandboxes.sandbox import SandboxSpec, Snapshot, Tier

__all__ = ["Call", "FakeSandbox"]

Call: TypeAlias = str | tuple[str, ...]
Answer: TypeAlias = ExecResult | SandboxError | Callable[[Call], ExecResult]


class FakeSandbox:
    """Answers ``exec`` and ``run_python`` from a script, in order. ``calls`` holds what was asked.

    An answer is a result, an error to raise, or a function of the command (a string, or the words of a list).
    """

    def __init__(self, script: Sequence[Answer] = (), *, spec: SandboxSpec | None = None) -> None:
        self.spec = spec or SandboxSpec()
        self.calls: list[Call] = []
        self.files: dict[str, bytes] = {}
        self._script = list(script)
        self._closed = False

    @property
    def tier(self) -> Tier:
        """It isolates nothing."""
        return "none"

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
    ) -> ExecResult:
        """Returns the next answer of the script."""
        return self._answer(command if isinstance(command, str) else tuple(command))

    async def run_python(
        self, code: str, *, stdin: bytes = b"", timeout: float | None = None, cwd: str = "/work"
    ) -> ExecResult:
        """Returns the next answer of the script."""
        return self._answer(code)

    async def read(self, path: str, *, max_bytes: int = 16 << 20) -> bytes:
        """Returns a file that was written. Raises UserError otherwise."""
        self._open()
        data = self.files.get(_inside(path))
        if data is None or len(data) > max_bytes:
            raise UserError(f"{path!r}: {'no such file' if data is None else f'more than {max_bytes} bytes'}")
        return data

    async def write(self, path: str, data: bytes | str) -> None:
        """Keeps a file."""
        self._open()
        self.files[_inside(path)] = data.encode() if isinstance(data, str) else data

    async def list(self, path: str = ".") -> list[str]:
        """Returns the paths below a folder, sorted."""
        self._open()
        base = _inside(path)
        prefix = f"{base}/" if base else ""
        return sorted(name[len(prefix) :] for name in self.files if name.startswith(prefix))

    async def snapshot(self) -> Snapshot:
        """Returns the files (as JSON, not tar: only a fake restores it)."""
        self._open()
        archive = json.dumps({name: data.hex() for name, data in sorted(self.files.items())}).encode()
        return Snapshot(digest=hashlib.sha256(archive).hexdigest(), archive=archive)

    async def restore(self, snapshot: Snapshot) -> None:
        """Brings the files of a snapshot back."""
        self._open()
        if hashlib.sha256(snapshot.archive).hexdigest() != snapshot.digest:
            raise UserError(f"snapshot {snapshot.digest[:12]!r} is damaged: its archive has another digest")
        self.files = {name: bytes.fromhex(text) for name, text in json.loads(snapshot.archive).items()}

    async def fork(self) -> "FakeSandbox":
        """Returns a fake with the same files and an empty script."""
        self._open()
        copy = FakeSandbox(spec=self.spec)
        copy.files = dict(self.files)
        return copy

    async def close(self) -> None:
        """Ends it; idempotent.

        Raises:
            AssertionError: answers of the script were never asked for.
        """
        first, self._closed = not self._closed, True
        if first and self._script:
            raise AssertionError(f"{len(self._script)} scripted answers were never asked for: {self._script[0]!r} …")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if exc[0] is None:
            await self.close()
        self._closed = True  # what went wrong inside the block is the error to see, not what was left over

    def _open(self) -> None:
        if self._closed:
            raise SandboxError("the sandbox is closed")

    def _answer(self, call: Call) -> ExecResult:
        self._open()
        self.calls.append(call)
        if not self._script:
            raise AssertionError(f"the script has no answer left for {call!r}")
        answer = self._script.pop(0)
        if isinstance(answer, SandboxError):
            raise answer
        return answer if isinstance(answer, ExecResult) else answer(call)


def _inside(path: str) -> str:
    """Returns the path below the workspace. Raises UserError when it leads out."""
    if path == "/work" or path.startswith("/work/"):
        path = path[len("/work") :].lstrip("/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        raise UserError(f"{path!r} is outside the workspace /work")
    return "/".join(parts)
