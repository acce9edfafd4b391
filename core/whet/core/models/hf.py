"""A transformers model in this process, with LoRA adapters on the same weights.

    model = load_model("hf:./model", adapter="./lora")
    completion = await model.complete(messages, sampling=Sampling(temperature=0, logprobs=True))
    other = await model.adapted(Path("./other-lora"))   # shares the base weights; both can be used

Generation runs token by token in one worker thread per model, so that a seed gives the same answer whatever else is
asked meanwhile. The completion has the exact ids of the prompt and of the answer. For many requests at once, serve
the folder with vLLM and use ``openai:``.
"""

import asyncio
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import msgspec
import peft
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor

from whet.core.adapters import adapter_version, check_fit
from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.models.chat import chat_tools
from whet.core.models.chat_template import template_message
from whet.core.models.pricing import Estimate
from whet.core.records import Completion, Json, Message, Record, Sampling, ToolCall, ToolSpec, Usage
from whet.core.wire import decode, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["HFModel"]

_LOADED = 8  # adapters that stay in memory, those used last
_TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


class _Adapter(Record, frozen=True, kw_only=True):
    """An adapter's folder, and the digest that names what was in it."""

    folder: str
    version: str

    @property
    def name(self) -> str:
        """How peft calls it."""
        return self.version[:16]


class _Generated(Record, frozen=True, kw_only=True):
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str


def _tokenizer(folder: str) -> "PreTrainedTokenizerBase":
    tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer


class _Weights:
    """Base weights, tokenizer and the adapters loaded so far; used by one thread at a time."""

    def __init__(self, folder: str, device: str, dtype: str) -> None:
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self.tokenizer = _tokenizer(folder)
            base: PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=dtype
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{folder!r} is no transformers model: {_one_line(error)}") from error
        if self.tokenizer.chat_template is None:
            raise UserError(f"the tokenizer of {folder!r} has no chat template; add chat_template.jinja to the folder")
        # Encoding changes a tokenizer's state, so prompts have one of their own, beside that of the worker thread.
        self.prompt_tokenizer, self.prompt_lock = _tokenizer(folder), threading.Lock()
        self.base: torch.nn.Module = base.to(device).train(False)  # type: ignore[arg-type]  # a decorator hides it
        self.context = int(base.config.max_position_embeddings)
        ends = base.generation_config.eos_token_id if base.generation_config else None
        known = [self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]
        self.ends = frozenset(end for end in known if end is not None)
        self.device = device
        self.adapted: peft.PeftModel | None = None
        self.loaded: OrderedDict[str, None] = OrderedDict()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="whet-hf")

    def switch_on(self, adapter: _Adapter) -> peft.PeftModel:
        """Returns the model under an adapter, loaded beside those that are there; the one used longest ago goes."""
        if adapter.name not in self.loaded and adapter_version(adapter.folder) != adapter.version:
            raise UserError(f"adapter {adapter.folder!r} was written again since; ask for the model under it once more")
        try:
            if self.adapted is None:
                self.adapted = peft.PeftModel.from_pretrained(self.base, adapter.folder, adapter_name=adapter.name)
            elif adapter.name not in self.loaded:
                self.adapted.load_adapter(adapter.folder, adapter_name=adapter.name)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{adapter.folder!r} is no adapter of this model: {_one_line(error)}") from error
        self.adapted.set_adapter(adapter.name)
        self.loaded[adapter.name] = None
        self.loaded.move_to_end(adapter.name)
        if len(self.loaded) > _LOADED:
            self.adapted.delete_adapter(self.loaded.popitem(last=False)[0])
        self.adapted.to(self.device).eval()
        return self.adapted

    @contextmanager
    def using(self, adapter: _Adapter | None) -> "Iterator[torch.nn.Module]":
        """Yields the model with that adapter, or with none, switched on."""
        if adapter is not None:
            yield self.switch_on(adapter)
        elif self.adapted is not None:
            with self.adapted.disable_adapter():
                yield self.adapted
        else:
            yield self.base


class HFModel:
    """A causal language model from a folder in the transformers layout, with its chat template.

    ``adapter`` is the folder of a plain LoRA adapter, as peft writes it. ``device`` is a torch device, ``dtype`` a
    torch type or ``auto`` (that of the file). ``max_tokens`` bounds the answer where the sampling does not. Nothing is
    downloaded.

    Raises:
        UserError: the folder is no such model, or the adapter does not fit.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        adapter: str | Path | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        max_tokens: int = 1024,
        _shared: _Weights | None = None,
    ) -> None:
        self.folder = str(folder)
        self._weights = _shared or _Weights(self.folder, device, dtype)
        self._max_tokens = max_tokens
        self._adapter: _Adapter | None = None
        if adapter is not None:
            check_fit(adapter, self.folder)
            self._adapter = _Adapter(folder=str(Path(adapter).resolve()), version=adapter_version(adapter))
            self._weights.thread.submit(self._weights.switch_on, self._adapter).result()

    @property
    def name(self) -> str:
        """``hf:`` and the folder; ``+`` and the first 12 digits of the adapter's version."""
        adapter = f"+{self._adapter.version[:12]}" if self._adapter else ""
        return f"hf:{self.folder}{adapter}"

    @property
    def base(self) -> str:
        """The folder of the weights without adapter."""
        return self.folder

    async def adapted(self, adapter: Path) -> "HFModel":
        """Returns a model with another adapter on the same weights; both can be used at the same time.

        The eight adapters used last stay in memory; another one is read from its folder again.

        Raises:
            UserError: the adapter does not fit.
        """
        return await asyncio.to_thread(self._under, adapter)

    def _under(self, adapter: Path) -> "HFModel":
        return HFModel(self.folder, adapter=adapter, max_tokens=self._max_tokens, _shared=self._weights)

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns the exact number of input tokens and the most output tokens; free of charge."""
        prompt = self.prompt_ids(messages, tools)
        return Estimate(input_tokens=len(prompt), output_tokens=self._room(len(prompt), sampling), micro_dollars=0)

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Returns the token ids of the prompt, by the chat template.

        Raises:
            RefusedError: there are tools and the chat template has no place for them.
            ModelError: the chat template refuses the messages.
        """
        tokenizer = self._weights.prompt_tokenizer
        if tools and "tools" not in str(tokenizer.chat_template):
            raise RefusedError(
                f"the chat template of {self.name!r} knows no tools; use a model that was trained on them"
            )
        wire = [template_message(message) for message in messages]
        try:
            with self._weights.prompt_lock:
                text = tokenizer.apply_chat_template(
                    wire,  # type: ignore[arg-type]  # its type knows no tool calls
                    tools=[*chat_tools(tools)] or None,
                    add_generation_prompt=True,
                    tokenize=False,
                )
                return [int(i) for i in tokenizer.encode(str(text), add_special_tokens=False)]
        except (ValueError, TypeError, KeyError, jinja2.TemplateError) as error:
            message = f"the chat template of {self.name!r} failed: {_one_line(error)}"
            raise ModelError(message, failure="invalid") from error

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the answer with prompt ids, token ids and, when asked for, logprobs.

        A logprob is that of the model itself: of the token under temperature 1, whatever the sampling was.
        The default temperature is 1. A call that is cancelled stops at its next token.

        Raises:
            ModelError: the prompt leaves no room for an answer.
        """
        prompt = self.prompt_ids(messages, tools)
        room = self._room(len(prompt), sampling)
        if room < 1:
            message = f"a prompt of {len(prompt)} tokens leaves {self.name!r} no room in {self._weights.context}"
            raise ModelError(f"{message}; shorten it", failure="invalid")
        started, stop = time.monotonic(), threading.Event()
        work = asyncio.get_running_loop().run_in_executor(
            self._weights.thread, self._generate, prompt, room, sampling, stop
        )
        try:
            generated = await work
        finally:
            stop.set()
        return self._completion(generated, prompt, bool(tools), sampling, time.monotonic() - started)

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        """Returns the logprob of each token of an answer, the end token included.

        Raises:
            ModelError: prompt and answer do not fit the context.
        """
        prompt, tokenizer = self.prompt_ids(messages), self._weights.prompt_tokenizer
        with self._weights.prompt_lock:
            said = [int(i) for i in tokenizer.encode(answer, add_special_tokens=False)]
        said += [int(tokenizer.eos_token_id)] if tokenizer.eos_token_id is not None else []
        if (total := len(prompt) + len(said)) > self._weights.context:
            message = f"prompt and answer have {total} tokens, and {self.name!r} reads {self._weights.context}"
            raise ModelError(f"{message}; shorten them", failure="invalid")
        return await asyncio.get_running_loop().run_in_executor(self._weights.thread, self._scored, prompt, said)

    def _scored(self, prompt: list[int], said: list[int]) -> tuple[float, ...]:
        with self._weights.using(self._adapter) as model, torch.inference_mode():
            logits_tv = model(input_ids=torch.tensor([prompt + said], device=self._weights.device)).logits[0]
            logp_tv = torch.log_softmax(logits_tv[len(prompt) - 1 : -1].float(), -1)
        return tuple(float(logp_v[token]) for logp_v, token in zip(logp_tv, said, strict=True))

    def _room(self, prompt_tokens: int, sampling: Sampling) -> int:
        wanted = self._max_tokens if sampling.max_tokens is None else sampling.max_tokens
        return max(0, min(wanted, self._weights.context - prompt_tokens))

    def _generate(self, prompt: list[int], room: int, sampling: Sampling, stop: threading.Event) -> _Generated:
        generator = torch.Generator().manual_seed(sampling.seed) if sampling.seed is not None else None
        ids: list[int] = []
        logprobs: list[float] = []
        finish, text = "length", ""
        with self._weights.using(self._adapter) as model, torch.inference_mode():
            input_1t, cache = torch.tensor([prompt], device=self._weights.device), None
            while len(ids) < room and not stop.is_set():
                out = model(input_ids=input_1t, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                logits_v = out.logits[0, -1].float().cpu()
                token = _choose(logits_v, sampling, generator)
                ids.append(token)
                logprobs.append(float(torch.log_softmax(logits_v, -1)[token]))
                if token in self._weights.ends:
                    finish = "stop"
                    break
                if sampling.stop and (cut := _first(text := self._decode(ids), sampling.stop)) is not None:
                    finish, text = "stop", text[:cut]
                    return _Generated(token_ids=tuple(ids), logprobs=tuple(logprobs), text=text, finish_reason=finish)
                input_1t = torch.tensor([[token]], device=self._weights.device)
        text = self._decode(ids)
        return _Generated(token_ids=tuple(ids), logprobs=tuple(logprobs), text=text, finish_reason=finish)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._weights.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _completion(
        self, generated: _Generated, prompt: list[int], tools: bool, sampling: Sampling, seconds: float
    ) -> Completion:
        text, calls = _read_tool_calls(generated.text) if tools else (generated.text, ())
        return Completion(
            text=text,
            tool_calls=calls,
            usage=Usage(input_tokens=len(prompt), output_tokens=len(generated.token_ids), calls=1, seconds=seconds),
            model=self.name,
            finish_reason="tool_calls" if calls else generated.finish_reason,
            prompt_token_ids=tuple(prompt),
            token_ids=generated.token_ids,
            logprobs=generated.logprobs if sampling.logprobs else None,
        )


def _choose(logits_v: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """Returns a token: the likeliest at temperature 0, else one drawn from the nucleus ``top_p``."""
    temperature = 1.0 if sampling.temperature is None else sampling.temperature
    if temperature == 0:
        return int(logits_v.argmax())
    probs_v = torch.softmax(logits_v / temperature, -1)
    if sampling.top_p is not None and sampling.top_p < 1:
        sorted_v, order_v = probs_v.sort(descending=True)
        # A token stays while those before it have not reached top_p; the likeliest always stays.
        outside_v = sorted_v.cumsum(-1) - sorted_v >= sampling.top_p
        outside_v[0] = False
        probs_v[order_v[outside_v]] = 0
    return int(torch.multinomial(probs_v, 1, generator=generator))


def _first(text: str, ends: Sequence[str]) -> int | None:
    found = [position for end in ends if (position := text.find(end)) >= 0]
    return min(found, default=None)


class _WireCall(Record, frozen=True, kw_only=True):
    name: str
    arguments: dict[str, Json] = msgspec.field(default_factory=dict)


def _read_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Returns the text without its tool calls, and these, in the form that Hermes and Qwen models write."""
    calls = []
    for position, match in enumerate(_TOOL_CALL.finditer(text)):
        try:
            call = decode(match.group(1), _WireCall)
        except UserError as error:
            raise ModelError(f"a tool call cannot be read: {error}", failure="malformed") from error
        arguments = encode(call.arguments).decode()
        calls.append(ToolCall(id=f"call_{position}", name=call.name, arguments=arguments))
    return _TOOL_CALL.sub("", text).strip() if calls else text, tuple(calls)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
