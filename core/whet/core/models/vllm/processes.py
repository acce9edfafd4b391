"""A server as a child process that ends with this one, however that ends.

    process = ServerProcess(["vllm", "serve", …], env={**quiet_environment(), "VLLM_API_KEY": key}, what="vLLM server")
    process.start(answers=lambda: healthy(url), seconds=600)        # ModelError with the end of its log where it fails
    process.stop()

It runs in a process group of its own, behind a shell that waits on a pipe from here: when this process is killed, the
pipe closes and the shell kills the group. Stopping asks the group to end and then kills what is left of it.
"""

import atexit
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from whet.core.errors import ModelError

__all__ = ["ServerProcess", "quiet_environment"]

_GUARD = """exec 3<&0
"$@" </dev/null 3<&- &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
{ trap '' TERM; read -r nothing <&3; kill -KILL 0; } &
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
exit "$code"
"""
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
_WRONG = re.compile(r"\b\w*([Ee]rror|Exception|No space|out of memory)\b")
_GRACE = 15.0
_TAIL = 20_000


def quiet_environment() -> dict[str, str]:
    """Returns this process's environment without what may be a secret, and with nobody asked over the network."""
    kept = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    return {**kept, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class ServerProcess:
    """One run of a server: started once, stopped once. ``what`` is how messages call it."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], what: str) -> None:
        self.what = what
        self._command, self._env = list(command), dict(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._group: subprocess.Popen[bytes] | None = None  # what is to be ended, once
        self._stopping, self._sweeping = threading.Event(), threading.Lock()
        self._owner = os.getpid()
        self.log = Path()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended. Where it ended by itself, what it left running is ended too."""
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self._sweep()
        return False

    def start(self, answers: Callable[[], bool], seconds: float) -> None:
        """Starts it and returns when ``answers`` says so; blocks.

        Raises:
            ModelError: it ended, or did not answer within so many seconds; it is stopped then, and its log is kept.
        """
        handle, name = tempfile.mkstemp(prefix="whet-server-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(handle, "wb") as log:
            self._process = self._group = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        atexit.register(self._at_exit)
        try:
            self._wait(answers, time.monotonic() + seconds, seconds)
        except BaseException:
            self._end()
            raise

    def _wait(self, answers: Callable[[], bool], deadline: float, seconds: float) -> None:
        while not self._stopping.wait(0.1):
            if not self.running:
                raise ModelError(self.ended() or f"the {self.what} was stopped", failure="unavailable")
            if answers():
                return
            if time.monotonic() > deadline:
                raise ModelError(
                    f"the {self.what} did not answer within {seconds:g} seconds; {self._tail()}", failure="unavailable"
                )
        raise ModelError(f"the {self.what} was stopped while it started", failure="unavailable")

    def ended(self) -> str:
        """Returns how it ended by itself, with the end of its log; the empty text where it runs or was stopped."""
        if self._process is None or self.running or self._stopping.is_set():
            return ""
        return f"the {self.what} ended with code {self._process.returncode}; {self._tail()}"

    def stop(self) -> None:
        """Ends it and what it started, and deletes its log; blocks for 15 seconds at most. May be called again."""
        kept = self._process is None or self._stopping.is_set()
        self._end()
        if not kept:
            self.log.unlink(missing_ok=True)

    def _end(self) -> None:
        self._stopping.set()
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self._process.pid, signal.SIGTERM)
                self._process.wait(_GRACE)
        self._sweep()

    def _sweep(self) -> None:
        """Kills what is left of the group, once: the watcher in it keeps its number from being a stranger's."""
        with self._sweeping:
            process, self._group = self._group, None
            if process is not None:
                atexit.unregister(self._at_exit)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()

    def _at_exit(self) -> None:
        if os.getpid() == self._owner:  # not in a fork of this process
            self.stop()

    def _tail(self) -> str:
        """Returns what the log says last: of errors, where it speaks of any."""
        text = self.log.read_text(errors="replace")[-_TAIL:] if self.log.is_file() else ""
        lines = [" ".join(line.split())[:300] for line in text.splitlines() if line.strip()]
        wrong = [line for line in lines if _WRONG.search(line)]
        return f"the end of its log ({self.log}): {' | '.join((wrong or lines)[-4:])}"
