"""Any provider, through LiteLLM, with what the call really cost.

    model = load_model("anthropic/claude-haiku-4-5")          # the provider's own environment variable has the key
    model = load_model("litellm:ollama/llama3", base_url="http://localhost:11434")

Prices come from the list inside the LiteLLM package; nothing is downloaded and nothing is reported to anybody.
"""

import asyncio
import functools
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import msgspec

from whet.core.errors import ModelError, UserError
from whet.core.loops import PerLoop
from whet.core.models.backoff import Backoff
from whet.core.models.chat import chat_request, read_response
from whet.core.models.failures import model_errors
from whet.core.models.pricing import Estimate, Price, estimate_call
from whet.core.records import Completion, Json, Message, Sampling, ToolSpec, Usage

__all__ = ["LiteLLMModel"]


# Retries are this module's. Tools are plain tools: LiteLLM's way round by MCP needs a package that it does not bring.
_SETTINGS = {"num_retries": 0, "_skip_mcp_handler": True}


@functools.cache
def _litellm() -> ModuleType:
    # Set before the import: a price list is fetched and .env files are read while it runs, unless these say no.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.suppress_debug_info = True  # its hints go to stdout, which belongs to data
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    return litellm


def _loop_suffix() -> str:
    return f"-{id(asyncio.get_running_loop())}"


async def _close_clients(suffix: str) -> None:
    """Closes the clients that LiteLLM keeps for a loop that ends.

    LiteLLM files them under the id of the loop, which a later loop may have again: a stale client would serve it.
    """
    cache = _litellm().in_memory_llm_clients_cache.cache_dict
    for key in [key for key in cache if key.endswith(suffix)]:
        await cache.pop(key).close()


_clients = PerLoop(open=_loop_suffix, close=_close_clients)


class LiteLLMModel:
    """A model that LiteLLM knows as ``provider/name``.

    Failures that cost nothing are tried again up to ``attempts`` times; ``timeout`` is in seconds and bounds each
    attempt as a whole. ``price`` replaces what LiteLLM knows of the price. ``params`` are further LiteLLM parameters
    of every request. A seed and logprobs are asked for where the provider takes them; any other choice of the
    sampling that the provider does not take is refused.

    Raises:
        UserError: LiteLLM knows no provider of that name.
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
        params: Mapping[str, Json] | None = None,
    ) -> None:
        self.model = model
        self._timeout = timeout
        self._backoff = Backoff(attempts=attempts)
        self._price = price
        self._listed = _listed_price(model)
        self._takes = frozenset(_litellm().get_supported_openai_params(model=model) or ())
        self._params: dict[str, Json] = {"api_base": base_url, "api_key": api_key, **(params or {})}

    @property
    def name(self) -> str:
        """LiteLLM's name of the model, e.g. ``anthropic/claude-haiku-4-5``."""
        return self.model

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns the bound by bytes at the given or the listed price; without a price the money is not known."""
        price = self._price or self._listed
        bound = estimate_call(None, messages, tools, sampling, price or Price())
        return bound if price else msgspec.structs.replace(bound, micro_dollars=None)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the provider's first choice, with what it cost.

        Raises:
            ModelError: the provider cannot be reached, refuses, is too slow or answers what is no completion.
        """
        sampling = msgspec.structs.replace(
            sampling,
            seed=sampling.seed if "seed" in self._takes else None,
            logprobs=sampling.logprobs and "logprobs" in self._takes,
        )
        body = chat_request(messages, tools, sampling)
        await _clients.get()
        started = time.monotonic()
        response = await self._backoff.run(lambda: self._ask(body), again=lambda e: e.transient and not e.billed)
        data = response.model_dump_json(warnings=False)
        completion = read_response(data, name=self.name, messages=messages, tools=tools, price=self._price)
        dollars = completion.usage.micro_dollars if self._price else self._cost(response, completion.usage)
        usage = msgspec.structs.replace(completion.usage, micro_dollars=dollars, seconds=time.monotonic() - started)
        return msgspec.structs.replace(completion, usage=usage)

    async def _ask(self, body: Mapping[str, Json]) -> Any:  # LiteLLM's response type is built at run time
        try:
            with model_errors(self.name):
                async with asyncio.timeout(self._timeout):
                    return await _litellm().acompletion(
                        model=self.model, **body, **self._params, **_SETTINGS, timeout=self._timeout
                    )
        except TimeoutError as error:
            message = f"{self.name!r} gave no answer within {self._timeout:g} seconds; raise timeout="
            raise ModelError(message, failure="timeout") from error

    def _cost(self, response: Any, usage: Usage) -> int:
        if self._listed is None:
            return 0
        try:
            dollars: float = _litellm().completion_cost(completion_response=response, model=self.model)
        except Exception:  # a boundary: LiteLLM raises plain ones where it cannot price, and the call was made
            return self._listed.of(usage.input_tokens, usage.output_tokens)
        return math.ceil(dollars * 1_000_000)


def _listed_price(model: str) -> Price | None:
    """Returns the highest listed price per token (long contexts cost more at some providers), if there is any."""
    litellm = _litellm()
    try:
        litellm.get_llm_provider(model)
    except litellm.BadRequestError as error:
        raise UserError(
            f"model {model!r} is not known: it is no model of Whet (tiny, hf:FOLDER, openai:NAME, recorded:FILE, "
            "package.module:Name) and LiteLLM knows no such provider; for LiteLLM write provider/name"
        ) from error
    try:
        info: dict[str, object] = litellm.get_model_info(model)
    except litellm.ModelNotMappedError:
        return None
    return Price(input=_highest(info, "input_cost_per_token"), output=_highest(info, "output_cost_per_token"))


def _highest(info: Mapping[str, object], prefix: str) -> int:
    prices = [value for key, value in info.items() if key.startswith(prefix) and isinstance(value, int | float)]
    return math.ceil(max(prices, default=0) * 1e12)
