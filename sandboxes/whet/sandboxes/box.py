"""The ``Sandbox`` of every back end that runs the zygote: it speaks frames and knows nothing of how the box is shut."""

import asyncio
import hashlib
import os
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, cast

import msgspec

from whet.core.errors import SandboxError, UserError
from whet.core.records import ExecResult, ExecStatus
from whet.sandboxes.channel import Answer
from whet.sandboxes.launch import Started
from whet.sandboxes.sandbox import Sandbox, SandboxSpec, Snapshot, Tier

__all__ = ["Box"]

_GRACE = 10.0  # seconds a box may take beyond a deadline that it keeps itself
_BOOT = 30.0
_MAX_STDIN = 64 << 20


class Box:
    """A running box. Requests are answered one after the other."""

    def __init__(
        self, started: Started, spec: SandboxSpec, tier: Tier, again: Callable[[], Awaitable[Sandbox]]
    ) -> None:
        self.spec = spec
        self._started, self._tier, self._again = started, tier, again
        self._channel = started.channel
        self._next = 0
        self._lost = ""
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()

    @property
    def tier(self) -> Tier:
        """How strong the isolation is."""
        return self._tier

    @property
    def pid(self) -> int:
        """The process id of the box's outermost process."""
        return self._started.process.pid

    async def boot(self) -> Self:
        """Returns the box when its zygote answers.

        Raises:
            SandboxError: it does not; the message holds what it said.
        """
        try:
            async with asyncio.timeout(_BOOT):
                await self._channel.send(self._started.config)
                await self._channel.receive()
            self._started.adopt(self._started)
        except (SandboxError, TimeoutError) as error:
            await self._stop()
            said = self._started.complaint() or str(error) or f"no answer in {_BOOT:g} s"
            await self._end()
            raise SandboxError(f"the sandbox did not start: {said}") from error
        except asyncio.CancelledError:
            await asyncio.shield(self._end())
            raise
        return self

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/work",
    ) -> ExecResult:
        """Returns what became of a command. ``timeout`` takes the place of ``spec.limits.wall_seconds``."""
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        merged = {**self._started.env, **(env or {})}
        if not argv or any("\0" in part for part in (*argv, *merged, *merged.values())):
            raise UserError(f"command {shlex.join(argv)[:80]!r}: one word at least, and no NUL bytes")
        return await self._execute({"argv": argv, "env": merged}, stdin, timeout, cwd)

    async def run_python(
        self, code: str, *, stdin: bytes = b"", timeout: float | None = None, cwd: str = "/work"
    ) -> ExecResult:
        """Returns what became of a program, run as ``python -I`` in a fork of the warm interpreter."""
        return await self._execute({"code": code}, stdin, timeout, cwd)

    async def read(self, path: str, *, max_bytes: int = 16 << 20) -> bytes:
        """Returns a file's content. Raises UserError for what is no regular file of the workspace, or is larger."""
        return (await self._ask({"op": "read", "path": path, "max_bytes": max_bytes}))[1]

    async def write(self, path: str, data: bytes | str) -> None:
        """Writes a file, making its folders. Raises UserError where that cannot be (no space, outside)."""
        await self._ask({"op": "write", "path": path}, data.encode() if isinstance(data, str) else data)

    async def list(self, path: str = ".") -> list[str]:
        """Returns the files and links under a folder, relative to it, sorted."""
        names = (await self._ask({"op": "list", "path": path}))[1]  # any bytes but NUL
        return [os.fsdecode(name) for name in names.split(b"\0")[:-1]]

    async def snapshot(self) -> Snapshot:
        """Returns the workspace: folders, files and links, no times or owners. Equal workspaces have equal digests."""
        limit = 2 * self.spec.limits.work_bytes
        archive = (await self._ask({"op": "snapshot", "max_bytes": limit}))[1]
        return Snapshot(digest=hashlib.sha256(archive).hexdigest(), archive=archive)

    async def restore(self, snapshot: Snapshot) -> None:
        """Makes the workspace what it was. Raises UserError when the archive does not have its digest."""
        if hashlib.sha256(snapshot.archive).hexdigest() != snapshot.digest:
            raise UserError(f"snapshot {snapshot.digest[:12]!r} is damaged: its archive has another digest")
        await self._ask({"op": "restore", "bytes": len(snapshot.archive)}, stream=snapshot.archive)

    async def fork(self) -> Sandbox:
        """Returns a new sandbox of the same spec with a copy of this workspace."""
        snapshot = await self.snapshot()
        copy = await self._again()
        try:
            await copy.restore(snapshot)
        except BaseException:
            await copy.close()
            raise
        return copy

    async def health(self) -> None:
        """Returns when a forked child answered.

        Raises:
            SandboxError: it did not; the sandbox is lost.
        """
        result = await self._execute({"code": "print('whet')"}, b"", 10.0, ".")
        if result.stdout != "whet\n":
            raise self._lose(f"a probe ended with {result.status}: {result.stderr.strip()[-200:]!r}")

    async def close(self) -> None:
        """Ends everything inside; idempotent."""
        if not self._closed:
            await asyncio.shield(self._end())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _execute(self, what: dict[str, object], stdin: bytes, timeout: float | None, cwd: str) -> ExecResult:
        seconds = self.spec.limits.wall_seconds if timeout is None else timeout
        if not 0 < seconds < float("inf") or len(stdin) > _MAX_STDIN:
            raise UserError(
                f"timeout={timeout!r}, {len(stdin)} bytes of stdin: finite seconds above 0, {_MAX_STDIN} bytes at most"
            )
        before = self._started.ooms()
        request = {"op": "exec", "cwd": cwd, "timeout": seconds, **what}
        answer, body = await self._ask(request, stdin, seconds=seconds)
        result = _result(answer, body)
        if result.status == "signal" and self._started.ooms() > before:
            limit = self.spec.limits.memory_bytes
            return msgspec.structs.replace(result, status="oom", detail=f"more than {limit} bytes of memory")
        return result

    async def _ask(
        self, request: dict[str, object], body: bytes = b"", *, stream: bytes = b"", seconds: float = 120.0
    ) -> tuple[Answer, bytes]:
        async with self._turn():
            if self._lost or self._closed:
                raise SandboxError(f"the sandbox is lost: {self._lost}" if self._lost else "the sandbox is closed")
            self._next += 1
            mine, sent = self._next, False
            try:
                async with asyncio.timeout(seconds + _GRACE):
                    await self._channel.send({**request, "id": mine}, body)
                    if stream:
                        await self._channel.send_raw(stream)
                    sent = True
                    answer, data = await self._answer(mine)
            except TimeoutError as error:
                raise self._lose(f"no answer in {seconds + _GRACE:g} s") from error
            except SandboxError as error:
                raise self._lose(self._started.complaint() or str(error)) from error
            except asyncio.CancelledError:
                if not (sent and self._channel.send_now({"op": "cancel", "id": mine})):
                    self._lose("cancelled in the middle of a request")
                raise
        if answer.refused:
            raise UserError(answer.refused)
        return answer, data

    async def _answer(self, mine: int) -> tuple[Answer, bytes]:
        parts = []
        while True:
            answer, body = await self._channel.receive()
            if answer.id != mine:
                continue  # of a request that was cancelled
            parts.append(body)
            if not answer.more:
                return answer, b"".join(parts) if len(parts) > 1 else body

    def _turn(self) -> asyncio.Lock:
        """A lock that belongs to the running loop: a sandbox may be used from one loop after the other."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    def _lose(self, reason: str) -> SandboxError:
        """Latches: what a lost box would have answered is never mistaken for the guest's doing."""
        self._lost = self._lost or reason
        self._channel.close()
        self._started.kill()
        return SandboxError(f"the sandbox is lost: {self._lost}")

    async def _stop(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._started.stop, 5.0)

    async def _end(self) -> None:
        try:
            await self._stop()
        finally:
            self._started.release()


def _result(answer: Answer, body: bytes) -> ExecResult:
    return ExecResult(
        status=cast(ExecStatus, answer.status),
        exit_code=answer.exit_code,
        signal=answer.signal,
        stdout=body[: answer.split].decode("utf-8", "replace"),
        stderr=body[answer.split :].decode("utf-8", "replace"),
        truncated=answer.truncated,
        seconds=answer.seconds,
        detail=answer.detail,
    )
