"""Any server that speaks the OpenAI chat protocol, through the OpenAI SDK.

    model = load_model("openai:gpt-4o-mini")                                     # OPENAI_API_KEY
    model = load_model("openai:llama", base_url="http://localhost:8000/v1")      # vLLM, llama.cpp, Ollama, a proxy

From a vLLM server the completion carries token ids and logprobs when the sampling asks for logprobs. To serve adapters
from one, name it as ``vllm:FOLDER`` (``whet.core.models.vllm``).
"""

import asyncio
import copy
import os
import time
from collections.abc import Mapping, Sequence

import httpx
import msgspec
import openai

from whet.core.errors import ModelError, UserError
from whet.core.loops import PerLoop
from whet.core.models.backoff import Backoff
from whet.core.models.chat import chat_request, read_response
from whet.core.models.failures import model_errors
from whet.core.models.pricing import Estimate, Price, estimate_call
from whet.core.records import Completion, Json, Message, Sampling, ToolSpec

__all__ = ["OpenAIModel"]


class OpenAIModel:
    """A model behind an OpenAI-compatible server.

    Failures that cost nothing (rate limit, server not there) are tried again up to ``attempts`` times; put
    ``Retrying`` around it for the others. ``timeout`` is in seconds and bounds each attempt as a whole. ``price`` is
    needed under a budget of money. ``token_ids`` asks for token ids as vLLM gives them; ``None`` asks only a server
    that says it is vLLM. ``params`` are further fields of every request.

    Raises:
        UserError: OpenAI's own server without an API key.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        price: Price | None = None,
        attempts: int = 4,
        token_ids: bool | None = None,
        params: Mapping[str, Json] | None = None,
    ) -> None:
        self.model = model
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if self.base_url else "")
        if not self._api_key:
            raise UserError(
                f"model {self.name!r} needs an API key; set OPENAI_API_KEY, or name a server with base_url="
            )
        self._timeout = timeout
        self._price = price
        self._backoff = Backoff(attempts=attempts)
        self._token_ids = token_ids
        self._params = dict(params or {})
        self._clients = PerLoop(open=self._open, close=openai.AsyncOpenAI.close)

    @property
    def name(self) -> str:
        """``openai:`` and the name of the model at the server."""
        return f"openai:{self.model}"

    def named(self, model: str) -> "OpenAIModel":
        """Returns another model of the same server, asked over the same connections."""
        other = copy.copy(self)
        other.model = model
        return other

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns the bound by bytes; the money only where the price was given."""
        bound = estimate_call(None, messages, tools, sampling, self._price or Price())
        return bound if self._price else msgspec.structs.replace(bound, micro_dollars=None)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the server's first choice.

        Raises:
            ModelError: the server cannot be reached, refuses, is too slow or answers what is no completion.
        """
        client = await self._clients.get()
        body = chat_request(messages, tools, sampling) | self._params
        if self.base_url is None and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if sampling.logprobs and await self._gives_token_ids(client):
            body["return_token_ids"] = True
        started = time.monotonic()
        data = await self._backoff.run(lambda: self._post(client, body), again=lambda e: e.transient and not e.billed)
        completion = read_response(data, name=self.name, messages=messages, tools=tools, price=self._price)
        usage = msgspec.structs.replace(completion.usage, seconds=time.monotonic() - started)
        return msgspec.structs.replace(completion, usage=usage)

    async def _post(self, client: openai.AsyncOpenAI, body: dict[str, Json]) -> bytes:
        try:
            with model_errors(self.name):
                async with asyncio.timeout(self._timeout):
                    response = await client.post(
                        "/chat/completions", body={"model": self.model, **body}, cast_to=httpx.Response
                    )
        except TimeoutError as error:
            message = f"{self.name!r} gave no answer within {self._timeout:g} seconds; raise timeout="
            raise ModelError(message, failure="timeout") from error
        return response.content

    async def _gives_token_ids(self, client: openai.AsyncOpenAI) -> bool:
        if self._token_ids is None:
            self._token_ids = self.base_url is not None and await self._is_vllm(client)
        return self._token_ids

    async def _is_vllm(self, client: openai.AsyncOpenAI) -> bool:
        with model_errors(self.name):
            try:
                listed = await client.models.list()
            except openai.APIStatusError:  # a server that lists no models is not vLLM
                return False
        return any(model.owned_by == "vllm" for model in listed.data)

    def _open(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=self._api_key, base_url=self.base_url, timeout=self._timeout, max_retries=0)
