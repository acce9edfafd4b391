"""The embedded model: a real, small transformer that runs on NumPy alone, with or without a LoRA adapter.

model = TinyModel()
completion = await model.complete([Message(role="user", content="Write solve(x): zorp.")])
other = await model.adapted(Path("./lora"))             # both can be used
"""

import asyncio
import copy
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from whet.core.adapters import adapter_version, check_fit
from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.models.pricing import Estimate
from whet.core.models.tiny.blas import one_blas_thread
from whet.core.models.tiny.llama import Array, Llama, load_llama
from whet.core.models.tiny.tokenizer import ChatTokenizer
from whet.core.records import Completion, Message, Sampling, ToolSpec, Usage

__all__ = ["WEIGHTS", "TinyModel"]

WEIGHTS = Path(__file__).parent / "weights"
_MAX_TOKENS = 256
_KEPT = 8  # adapters that stay merged: a copy of the weights each
_TEMPERATURE = 0.5  # at 1 the tail of so small a model shows; a guess is as good as uniform at either


@functools.cache
def _shipped() -> Llama:
    """Returns the shipped weights, read once per process; nothing ever changes them."""
    return load_llama(WEIGHTS, None)


@dataclass(frozen=True)
class _Answer:
    """What was generated, without the end token in the text; ``finish_reason`` is ``stop`` or ``length``."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str


class TinyModel:
    """The shipped weights (or a folder like them) behind the ``Model`` protocol.

    Calls are computed one after the other in a worker thread; any number may wait. ``Sampling`` left open means
    temperature 0.5, top-p 1, 256 tokens and a fresh seed. Token ids and logprobs (of the model itself, before
    temperature and top-p; the end token included) come with every completion.

    Args:
        adapter: a peft LoRA folder, merged at load.
        folder: a transformers folder with a Llama model and this package's tokenizer.

    Raises:
        UserError: the folder or the adapter cannot be used.
    """

    def __init__(self, adapter: str | Path | None = None, *, folder: str | Path = WEIGHTS) -> None:
        self._folder, self._own, self._version = Path(folder), Path(folder) == WEIGHTS, ""
        if not (self._folder / "tokenizer.json").is_file():
            raise UserError(
                f"no model in {str(self._folder)!r}; it must hold config.json, model.safetensors, tokenizer.json"
            )
        self._tokenizer = ChatTokenizer(Tokenizer.from_file(str(self._folder / "tokenizer.json")))
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tiny-model")
        self._kept: OrderedDict[str, Llama] = OrderedDict()
        if adapter is None:
            self._llama = _shipped() if self._own else load_llama(self._folder, None)
        else:
            self._version = adapter_version(adapter)
            self._llama = self._merged(Path(adapter), self._version)

    @property
    def name(self) -> str:
        """``tiny``, or with the folder's name; ``+`` and the first 12 digits of the adapter's version."""
        base = "tiny" if self._own else f"tiny:{self._folder.name}"
        return f"{base}+{self._version[:12]}" if self._version else base

    @property
    def base(self) -> str:
        """The folder of the weights without adapter."""
        return str(self._folder)

    async def adapted(self, adapter: Path) -> "TinyModel":
        """Returns this model under an adapter, merged into a copy of the weights; the last eight stay merged.

        Raises:
            UserError: the adapter does not fit.
        """
        return await asyncio.to_thread(self._under, adapter)

    def _under(self, adapter: Path) -> "TinyModel":
        other, version = copy.copy(self), adapter_version(adapter)
        other._version, other._llama = version, self._merged(adapter, version)
        return other

    def _merged(self, adapter: Path, version: str) -> Llama:
        with self._loading:
            if version not in self._kept:
                check_fit(adapter, self._folder)
                self._kept[version] = load_llama(self._folder, adapter)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(version)
            return self._kept[version]

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns the exact number of input tokens and the most output tokens; free of charge."""
        prompt = len(self._prompt(messages))
        limit = _MAX_TOKENS if sampling.max_tokens is None else sampling.max_tokens
        room = max(0, self._llama.shape.context - prompt)
        return Estimate(input_tokens=prompt, output_tokens=min(limit, room), micro_dollars=0)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the model's answer.

        Raises:
            RefusedError: tools were given, or a message has a role the model does not know.
            ModelError: the conversation does not fit the context.
        """
        if tools:
            raise RefusedError("the tiny model calls no tools; give the agent another model, or no tools")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self.answer, messages, sampling)

    def answer(self, messages: Sequence[Message], sampling: Sampling = Sampling()) -> Completion:
        """Returns the model's answer, computed in the calling thread; raises as ``complete`` does."""
        prompt = self._prompt(messages)
        limit = _MAX_TOKENS if sampling.max_tokens is None else sampling.max_tokens
        if len(prompt) >= (context := self._llama.shape.context):
            raise ModelError(f"the conversation has {len(prompt)} tokens; the tiny model reads at most {context - 1}")
        started = time.monotonic()
        with self._lock, one_blas_thread():
            answer = self._generate(prompt, min(limit, context - len(prompt)), sampling)
        usage = Usage(
            input_tokens=len(prompt),
            output_tokens=len(answer.ids),
            calls=1,
            seconds=time.monotonic() - started,
        )
        return Completion(
            text=answer.text,
            usage=usage,
            model=self.name,
            finish_reason=answer.finish_reason,
            prompt_token_ids=tuple(prompt),
            token_ids=answer.ids,
            logprobs=answer.logprobs,
        )

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        """Returns the logprob of each token of an answer, the end token included.

        Raises:
            RefusedError: a message has a role the model does not know.
            ModelError: the conversation does not fit the context.
        """
        prompt, said = self._prompt(messages), [*self._tokenizer.encode(answer), self._tokenizer.end]
        if (total := len(prompt) + len(said)) > (context := self._llama.shape.context):
            raise ModelError(f"prompt and answer have {total} tokens; the tiny model reads at most {context}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._scored, prompt, said)

    def _scored(self, prompt: Sequence[int], said: Sequence[int]) -> tuple[float, ...]:
        with self._lock, one_blas_thread():
            logits_tv = self._llama.all_logits([*prompt, *said])[len(prompt) - 1 : -1]
        return tuple(float(_log_softmax(logits)[token]) for logits, token in zip(logits_tv, said, strict=True))

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        foreign = [message.role for message in messages if message.role == "tool" or message.tool_calls]
        if foreign or not messages:
            raise RefusedError("the tiny model reads system, user and assistant messages, at least one, and no tools")
        return self._tokenizer.prompt([(message.role, message.content) for message in messages])

    def _generate(self, prompt: Sequence[int], limit: int, sampling: Sampling) -> _Answer:
        ids: list[int] = []
        logprobs: list[float] = []
        for token, logprob in self._tokens(prompt, limit, sampling):
            ids.append(token)
            logprobs.append(logprob)
            if token == self._tokenizer.end:
                return _Answer(self._tokenizer.decode(ids[:-1]), tuple(ids), tuple(logprobs), "stop")
            if sampling.stop and (cut := _find_stop(self._tokenizer.decode(ids), sampling.stop)) is not None:
                return _Answer(self._tokenizer.decode(ids)[:cut], tuple(ids), tuple(logprobs), "stop")
        return _Answer(self._tokenizer.decode(ids), tuple(ids), tuple(logprobs), "length")

    def _tokens(self, prompt: Sequence[int], limit: int, sampling: Sampling) -> Iterator[tuple[int, float]]:
        """Yields up to ``limit`` (token id, logprob)."""
        rng = np.random.default_rng(sampling.seed)
        cache = self._llama.cache(len(prompt) + limit)
        following = prompt
        for _ in range(limit):
            logits = self._llama.logits(following, cache)
            token = _choose(logits, sampling, rng)
            yield token, float(_log_softmax(logits)[token])
            following = [token]


def _find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Returns where the earliest stop string begins, if one is there."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(found) if found else None


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max()
    normalised: Array = shifted - np.log(np.exp(shifted).sum())
    return normalised


def _choose(logits: Array, sampling: Sampling, rng: np.random.Generator) -> int:
    """Returns a token: the likeliest at temperature 0, else one drawn from the nucleus (arXiv 1904.09751)."""
    temperature = _TEMPERATURE if sampling.temperature is None else sampling.temperature
    if temperature <= 0:
        return int(logits.argmax())
    probabilities = np.exp(_log_softmax(logits / np.float32(temperature))).astype(np.float64)
    if sampling.top_p is not None and sampling.top_p < 1:
        order = np.argsort(-probabilities)
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= sampling.top_p]] = 0.0  # the first token stays, whatever top-p is
    if sampling.top_p is not None and sampling.top_p <= 0:
        return int(logits.argmax())
    return int(rng.choice(len(probabilities), p=probabilities / probabilities.sum()))
