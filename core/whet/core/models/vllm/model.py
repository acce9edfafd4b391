"""The model of a vLLM server, under any of its adapters.

model = load_model("vllm:./model", base_url="http://host:8000/v1")
other = await model.adapted(folder)
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import openai

from whet.core.errors import ModelError, UserError
from whet.core.loading import call_factory
from whet.core.models.pricing import FREE, Estimate, estimate_call
from whet.core.models.vllm.endpoint import Lora, VLLMEndpoint
from whet.core.models.vllm.server import VLLMServer
from whet.core.records import Completion, Message, Sampling, ToolSpec

__all__ = ["VLLMModel", "load_vllm"]


class VLLMModel:
    """The base model of a server, or that under an adapter. With logprobs it gives the exact token ids as well."""

    def __init__(self, server: VLLMEndpoint, *, _lora: Lora | None = None) -> None:
        self.server = server
        self._lora = _lora

    @property
    def name(self) -> str:
        """``vllm:`` and the folder; ``+`` and the first 12 digits of the adapter's version."""
        adapter = f"+{self._lora.version[:12]}" if self._lora else ""
        return f"vllm:{self.server.folder}{adapter}"

    @property
    def base(self) -> str:
        """The folder of the weights without adapter."""
        return str(self.server.folder)

    async def adapted(self, adapter: Path) -> "VLLMModel":
        """Returns the model under an adapter, which is loaded; if it makes room for others, again when asked.

        Raises:
            UserError: the adapter does not fit, or the server cannot load it.
            RefusedError: the server lets no adapters be loaded.
            ModelError: the server cannot be reached.
        """
        lora = await asyncio.to_thread(self.server.fit, Path(adapter))
        async with self.server.asking(lora):
            return VLLMModel(self.server, _lora=lora)

    async def sleep(self) -> None:
        """Lets the server sleep; raises as ``VLLMEndpoint.sleep``."""
        await self.server.sleep()

    async def wake(self) -> None:
        """Wakes the server; raises as ``VLLMEndpoint.wake``."""
        await self.server.wake()

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns a bound by bytes, free of charge."""
        return estimate_call(None, messages, tools, sampling, FREE)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the server's answer; its ``model`` is the name of this one, the adapter's version included.

        Raises:
            ModelError: the server cannot be reached, ended, or refuses the request.
        """
        try:
            return await self._ask(messages, tools, sampling)
        except ModelError as error:
            if self._lora is None or not isinstance(error.__cause__, openai.NotFoundError):
                raise
            # The server was started again, or somebody else unloaded the adapter.
            self.server.slots.forget(self._lora.name)
            return await self._ask(messages, tools, sampling)

    async def _ask(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling) -> Completion:
        async with self.server.asking(self._lora) as model:
            completion = await model.complete(messages, tools=tools, sampling=sampling)
        return msgspec.structs.replace(completion, model=self.name)


def load_vllm(
    folder: str, *, base_url: str | None = None, api_key: str = "", timeout: float = 120.0, **start: object
) -> VLLMModel:
    """Returns the model of a folder at the vLLM server at ``base_url``, or at one of its own, started when first asked.

    Further options are those of ``VLLMServer``; of a server that runs already, ``max_loras``.

    Raises:
        UserError: an option does not exist, or is for the other case.
    """
    if base_url is None and api_key:
        raise UserError("a vLLM server of one's own makes its own API key; leave api_key out, or give base_url=")
    kind = VLLMServer if base_url is None else VLLMEndpoint
    there = {} if base_url is None else {"base_url": base_url, "api_key": api_key}
    options = {"timeout": timeout, **there, **start}
    return VLLMModel(call_factory(kind, folder, options=options, what=f"model 'vllm:{folder}'"))
