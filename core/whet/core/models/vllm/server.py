"""A vLLM server of one's own: started on a free port of this machine, and ended with this process.

async with VLLMServer("./model", command="/opt/vllm", args=("--dtype", "float32")) as server:
    model = VLLMModel(server)
"""

import asyncio
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import httpx

from whet.core.errors import ModelError, UserError
from whet.core.models.openai import OpenAIModel
from whet.core.models.vllm.endpoint import VLLMEndpoint
from whet.core.models.vllm.processes import ServerProcess, quiet_environment

__all__ = ["VLLMServer"]

_BASE = "base"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as --max-lora-rank


class VLLMServer(VLLMEndpoint):
    """A vLLM server of one's own, on a free port of this machine: started, and ended with this process.

    Args:
        folder: the base model, in the transformers layout.
        command: the ``vllm`` executable, or the virtual environment it is in; it need not be this one.
        port: a free one unless given.
        max_loras: adapters loaded at once; each takes memory of the size of ``max_lora_rank``.
        context: the longest prompt and answer, in tokens; the model's own unless given.
        sleep: lets it sleep while something else uses its GPU.
        args: further arguments of ``vllm serve``, such as ``("--dtype", "float32")``.
        env: further environment variables; what may be a secret is not handed down.
        start_seconds: how long it may take to answer.

    Raises:
        UserError: the folder is no model, or there is no such executable.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        command: str | Path = "vllm",
        port: int = 0,
        max_loras: int = 4,
        max_lora_rank: int = 16,
        context: int | None = None,
        sleep: bool = False,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        start_seconds: float = 600.0,
        timeout: float = 120.0,
    ) -> None:
        key = secrets.token_urlsafe(24)
        super().__init__(folder, base_url=f"http://127.0.0.1:{port}", api_key=key, max_loras=max_loras, timeout=timeout)
        self.max_rank = next((rank for rank in _RANKS if rank >= max_lora_rank), None)
        if max_lora_rank < 1 or self.max_rank is None:
            raise UserError(f"vLLM serves no adapters of rank {max_lora_rank!r}; max_lora_rank is 1 to {_RANKS[-1]}")
        self._port, self._start_seconds = port, start_seconds
        self._executable = _find(command)
        self._arguments = ["--max-loras", str(max_loras), "--max-lora-rank", str(self.max_rank)]
        self._arguments += ["--max-model-len", str(context)] if context else []
        self._arguments += ["--enable-sleep-mode", *args] if sleep else [*args]
        path = os.pathsep.join([str(self._executable.parent), os.environ.get("PATH", os.defpath)])
        self._env = {**quiet_environment(), "PATH": path, "VLLM_API_KEY": key}
        self._env |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", **({"VLLM_SERVER_DEV_MODE": "1"} if sleep else {})}
        self._env |= dict(env or {})
        self._process: ServerProcess | None = None
        self._started: Future[None] | None = None

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"vLLM server of {str(self.folder)!r}"

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.running

    @property
    def log(self) -> Path | None:
        """Where its output goes; kept where it failed, deleted when it is stopped."""
        return None if self._process is None else self._process.log

    def ended(self) -> str:
        """Returns how the server ended by itself, with the end of its log; else the empty text."""
        return "" if self._process is None else self._process.ended()

    async def start(self) -> None:
        """Starts it, unless it runs, and returns once it answers.

        Raises:
            ModelError: it ended or did not answer in time; the message has the end of its log.
        """
        with self._lock:
            if self._started is None or (self._started.done() and not self.running):
                self._started = Future()
                # Not to be cancelled with whoever happens to be first: others wait for the same start.
                self._started.set_running_or_notify_cancel()
                threading.Thread(target=self._start, args=(self._started,), daemon=True).start()
            started = self._started
        await asyncio.wrap_future(started)

    def _start(self, started: Future[None]) -> None:
        try:
            if self._process is not None:
                self._process.stop()
            port = self._port or _free_port()
            self._connect(f"http://127.0.0.1:{port}")
            for name in self.slots.names:
                self.slots.forget(name)
            self._process = ServerProcess(self._command(port), env=self._env, what=self.what)
            self._process.start(self._answers, self._start_seconds)
            self._model, self._asleep = self._ask_for(_BASE), False
            started.set_result(None)
        except BaseException as error:
            started.set_exception(error)

    def _command(self, port: int) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", _BASE]
        # Logprobs of the model itself, as every back end gives them; a line per request would fill the log.
        how = ["--enable-lora", "--logprobs-mode", "raw_logprobs", "--uvicorn-log-level", "warning"]
        return [str(self._executable), "serve", str(self.folder.resolve()), *where, *how, *self._arguments]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    async def ready(self) -> OpenAIModel:
        """Returns the base model at the server, which is started at the first call.

        Raises:
            ModelError: it did not start, or ended since (``start`` starts it again).
        """
        if self._started is not None and self._started.done() and not self.running:
            failure = self._started.exception()
            said = str(failure) if failure else self.ended() or f"the {self.what} was stopped"
            raise ModelError(f"{said}; await server.start() starts it again", failure="unavailable")
        await self.start()
        assert self._model is not None, "made by the start"
        return self._model

    async def stop(self) -> None:
        """Ends it; may be called again."""
        if self._process is not None:
            await asyncio.shield(asyncio.to_thread(self._process.stop))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


def _find(command: str | Path) -> Path:
    """Returns the executable of that name, path or virtual environment."""
    inside = Path(command) / "bin" / "vllm"
    found = str(inside) if inside.is_file() else shutil.which(command)
    if found is None:
        raise UserError(
            f"there is no vLLM at {str(command)!r}; install it into an environment of its own (pip install vllm) and "
            "give command=ENVIRONMENT"
        )
    return Path(found).absolute()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
