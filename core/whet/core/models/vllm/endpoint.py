"""A vLLM server that runs somewhere: its base model, the adapters it has loaded, whether it sleeps.

    server = VLLMEndpoint("./model", base_url="http://host:8000/v1")
    name = await server.load(folder)                       # whet-<first 12 digits of its version>
    async with server.asking(server.fit(folder)) as model: await model.complete(messages)
    await server.unload(name)                              # once the last request under it is done

A name stands for one adapter for ever, whatever else was loaded before. vLLM loads adapters of another base without a
word and answers nonsense, so they are checked here. It may read an adapter's folder again at any time, so the folder
stays while the adapter is loaded.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from whet.core.adapters import adapter_rank, adapter_version, base_digest, check_fit
from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.loops import PerLoop
from whet.core.models.failures import model_errors
from whet.core.models.openai import OpenAIModel
from whet.core.models.pricing import FREE
from whet.core.models.vllm.slots import Changes, LoraSlots
from whet.core.records import Record
from whet.core.wire import decode

__all__ = ["Lora", "VLLMEndpoint"]


class Lora(Record, frozen=True, kw_only=True):
    """An adapter that fits a server's base: its folder, its version, and the name it has there."""

    folder: str
    version: str

    @property
    def name(self) -> str:
        """The name at the server."""
        return f"whet-{self.version[:12]}"


class _Listed(Record, frozen=True, kw_only=True):
    id: str
    owned_by: str = ""
    root: str | None = None
    parent: str | None = None


class _Models(Record, frozen=True, kw_only=True):
    data: list[_Listed]


class _Problem(Record, frozen=True, kw_only=True):
    message: str = ""


class _Refusal(Record, frozen=True, kw_only=True):
    error: _Problem = _Problem()
    detail: str = ""


class VLLMEndpoint:
    """A vLLM server that serves the base model in ``folder`` and takes adapters.

    ``base_url`` is where it is. At most ``max_loras`` adapters are loaded at once; the idle one used longest ago makes
    room. ``timeout`` is in seconds and bounds each request. The server must see the adapters' folders.
    """

    def __init__(
        self, folder: str | Path, *, base_url: str, api_key: str = "", max_loras: int = 4, timeout: float = 120.0
    ) -> None:
        self.folder = Path(folder)
        base_digest(self.folder)  # refuses what is no model
        self.slots = LoraSlots(self._load, self._unload, limit=max_loras)
        self.max_rank: int | None = None
        self.api_key, self._timeout = api_key or "none", timeout
        self._lock, self._changes = threading.Lock(), Changes()
        self._active, self._asleep = 0, False
        self._connect(base_url)

    def _connect(self, base_url: str) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self._http = PerLoop(open=self._open, close=httpx.AsyncClient.aclose)
        self._model: OpenAIModel | None = None

    def _open(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.api_key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=self._timeout)

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"vLLM server at {self.url}"

    @property
    def in_flight(self) -> int:
        """How many requests wait for their answer."""
        return self._active

    def ended(self) -> str:
        """Returns how the server ended, where that is known; else the empty text."""
        return ""

    # --- adapters ---------------------------------------------------------------------------------------------------

    def fit(self, adapter: Path) -> Lora:
        """Returns an adapter as one that this server can load.

        Raises:
            UserError: it is of another base, or its rank is above what the server was started for.
        """
        check_fit(adapter, self.folder)
        rank = adapter_rank(adapter)
        if self.max_rank is not None and rank > self.max_rank:
            raise UserError(
                f"adapter {str(adapter)!r} has rank {rank}, above the server's {self.max_rank}; "
                f"start it with max_lora_rank={rank}"
            )
        return Lora(folder=str(adapter.resolve()), version=adapter_version(adapter))

    async def load(self, adapter: str | Path) -> str:
        """Returns the name of an adapter at the server, after it was loaded; an idle one may have made room.

        Raises:
            UserError: it does not fit, or the server cannot read it.
            RefusedError: the server lets no adapters be loaded.
            ModelError: the server cannot be reached.
        """
        lora = await asyncio.to_thread(self.fit, Path(adapter))
        async with self.asking(lora):
            return lora.name

    async def unload(self, name: str) -> None:
        """Takes an adapter from the server once the last request under it is done; one that is not there is none."""
        with self._explained():
            await self.slots.unload(name)

    @asynccontextmanager
    async def asking(self, lora: Lora | None) -> AsyncIterator[OpenAIModel]:
        """Yields the model at the server under that adapter (or none), which stays loaded while the block lasts."""
        with self._explained():
            model = await self.ready()
            with self._awake():
                if lora is None:
                    yield model
                else:
                    async with self.slots.using(lora.name, Path(lora.folder)):
                        yield model.named(lora.name)

    async def _load(self, name: str, folder: Path) -> None:
        response = await self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        said = _said(response)
        if response.is_success or "already been loaded" in said:
            return
        if response.status_code in (404, 405) and said == "Not Found":
            raise RefusedError(
                f"the {self.what} lets no adapters be loaded; start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
            )
        raise UserError(f"the {self.what} cannot load adapter {str(folder)!r} (it must see that folder): {said}")

    async def _unload(self, name: str) -> None:
        response = await self._post("/v1/unload_lora_adapter", {"lora_name": name})
        if not response.is_success and response.status_code != 404:  # 404: somebody else did
            raise ModelError(f"the {self.what} cannot unload adapter {name!r}: {_said(response)}", failure="invalid")

    # --- the server -------------------------------------------------------------------------------------------------

    async def ready(self) -> OpenAIModel:
        """Returns the base model at the server, once it answers.

        Raises:
            ModelError: it cannot be reached.
            UserError: it is no vLLM server, or serves another base.
        """
        if self._model is None:
            with model_errors(self.what):
                response = await (await self._http.get()).get("/v1/models")
            served = await asyncio.to_thread(self._find_base, response)
            self._model = self._ask_for(served)
        return self._model

    def _ask_for(self, served: str) -> OpenAIModel:
        return OpenAIModel(
            served,
            base_url=f"{self.url}/v1",
            api_key=self.api_key,
            timeout=self._timeout,
            price=FREE,
            token_ids=True,
        )

    def _find_base(self, response: httpx.Response) -> str:
        if response.status_code == 401:
            raise ModelError(f"the {self.what} wants another API key; give api_key=", failure="auth")
        try:
            listed = decode(response.content, _Models).data
        except UserError as error:
            raise UserError(f"{self.url!r} is no vLLM server: {error}") from error
        base = next((each for each in listed if each.owned_by == "vllm" and each.parent is None), None)
        if base is None:
            raise UserError(f"{self.url!r} is no vLLM server; ask it as openai:NAME, without adapters")
        # A path that is not on this machine cannot be looked into.
        there = Path(base.root or "")
        if base.root and (there / "config.json").is_file() and base_digest(there) != base_digest(self.folder):
            raise UserError(f"the {self.what} serves {base.root!r}, not {str(self.folder)!r}; name the one it serves")
        return base.id

    async def sleep(self) -> None:
        """Frees the server's GPU for something else, once every request is done; until ``wake`` it refuses others.

        The weights go to the memory of the machine (level 1): adapters stay loaded, cached prefixes go.

        Raises:
            RefusedError: the server was not started for that.
            ModelError: it cannot be reached, or cannot sleep.
        """
        with self._explained():
            await self.ready()
            self._asleep = True
            try:
                await self._idle()
                response = await self._post("/sleep?level=1", {})
                if response.status_code == 404:
                    raise RefusedError(
                        f"the {self.what} does not sleep; start it with sleep=True (--enable-sleep-mode and "
                        "VLLM_SERVER_DEV_MODE=1), which needs a GPU"
                    )
                if not response.is_success:
                    raise ModelError(f"the {self.what} cannot sleep: {_said(response)}", failure="invalid")
            except BaseException:
                self._asleep = False
                raise

    async def wake(self) -> None:
        """Puts the weights back on the GPU; nothing to do where it is awake."""
        with self._explained():
            if self._asleep:
                response = await self._post("/wake_up", {})
                if not response.is_success:
                    raise ModelError(f"the {self.what} does not wake: {_said(response)}", failure="unavailable")
                self._asleep = False

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Counts a request in flight; refuses it where the server sleeps."""
        with self._lock:
            if self._asleep:
                raise ModelError(f"the {self.what} sleeps; await server.wake() first", failure="unavailable")
            self._active += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                self._changes.tell()

    async def _idle(self) -> None:
        while True:
            with self._lock:
                changed = self._changes.next() if self._active else None
            if changed is None:
                return
            await changed

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says that the server ended, and how, where that is why a request failed."""
        try:
            yield
        except ModelError as error:
            if (said := self.ended()) and said not in str(error):
                raise ModelError(said, failure="unavailable") from error
            raise

    async def _post(self, path: str, body: Mapping[str, str]) -> httpx.Response:
        with model_errors(self.what):
            return await (await self._http.get()).post(path, json=body)


def _said(response: httpx.Response) -> str:
    """Returns why a server refused, on one line."""
    try:
        refusal = decode(response.content, _Refusal)
    except UserError:
        return " ".join(response.text.split())[:300]
    return " ".join((refusal.error.message or refusal.detail).split())[:300]
