"""LangChain chat models as models, and models as LangChain chat models.

    model = LangChainModel(ChatAnthropic(model="claude-haiku-4-5"))     # whatever chat model one already has
    llm = WhetChatModel(model=load_model("tiny"))                       # in any LangChain or LangGraph code
    agent = create_react_agent(llm, tools)

A tool call's arguments are JSON text in Whet, exactly as the model wrote them, and a dict in LangChain.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict

from whet.core.errors import ModelError, RefusedError, UserError, WhetError
from whet.core.loops import run_sync
from whet.core.models.chat import chat_tools
from whet.core.models.failures import model_errors
from whet.core.models.model import Model
from whet.core.models.pricing import Estimate, Price, estimate_call
from whet.core.records import Completion, Message, Role, Sampling, ToolCall, ToolSpec, Usage
from whet.core.wire import decode

__all__ = [
    "LangChainModel",
    "WhetChatModel",
    "chat_result",
    "completion_of",
    "message_of",
    "messages_of",
    "to_langchain",
    "tools_of",
]

_ROLES: dict[str, Role] = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool", "function": "tool"}
_FINISHED = {"tool_use": "tool_calls", "end_turn": "stop", "max_tokens": "length"}

# What the chat models of the providers call a choice of the sampling; the first name that a model has is set.
_FIELDS = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "max_tokens": ("max_tokens", "max_output_tokens", "num_predict", "max_new_tokens"),
    "seed": ("seed",),
    "logprobs": ("logprobs",),
}
# A provider that takes no seed or gives no logprobs goes without.
_OPTIONAL = {"seed", "logprobs"}


# --- messages, completions and tools --------------------------------------------------------------------------------


def message_of(message: BaseMessage) -> Message:
    """Returns a LangChain message as a message; content blocks that are no text (images, say) are left out."""
    role = _ROLES.get(message.type)
    if role is None:
        role = "assistant" if isinstance(message, ChatMessage) and message.role == "assistant" else "user"
    return Message(
        role=role,
        content=str(message.text),
        tool_calls=_calls_of(message) if isinstance(message, AIMessage) else (),
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else None,
        name=message.name,
    )


def messages_of(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Returns LangChain messages as messages."""
    return tuple(message_of(message) for message in messages)


def _calls_of(message: AIMessage) -> tuple[ToolCall, ...]:
    valid = [
        (call["id"], call["name"], msgspec.json.encode(call["args"], enc_hook=repr, order="deterministic").decode())
        for call in message.tool_calls
    ]
    broken = [(call["id"], call["name"], call["args"] or "") for call in message.invalid_tool_calls]
    return tuple(ToolCall(id=id or "", name=name or "", arguments=text) for id, name, text in valid + broken)


def to_langchain(message: Message) -> BaseMessage:
    """Returns a message as a LangChain message."""
    match message.role:
        case "system":
            return SystemMessage(message.content, name=message.name)
        case "user":
            return HumanMessage(message.content, name=message.name)
        case "tool":
            return ToolMessage(message.content, tool_call_id=message.tool_call_id or "", name=message.name)
        case "assistant":
            valid, broken = _split_calls(message.tool_calls)
            return AIMessage(message.content, name=message.name, tool_calls=valid, invalid_tool_calls=broken)


def _split_calls(calls: Sequence[ToolCall]) -> tuple[list[LangChainToolCall], list[InvalidToolCall]]:
    """Returns the calls whose arguments are a JSON object, and the others as LangChain keeps what it cannot read."""
    valid: list[LangChainToolCall] = []
    broken: list[InvalidToolCall] = []
    for call in calls:
        try:
            arguments = decode(call.arguments or "{}", dict[str, Any])
            valid.append(LangChainToolCall(type="tool_call", id=call.id, name=call.name, args=arguments))
        except UserError as error:
            broken.append(
                InvalidToolCall(
                    type="invalid_tool_call",
                    id=call.id,
                    name=call.name,
                    args=call.arguments,
                    error=f"the arguments are no JSON object: {error}",
                )
            )
    return valid, broken


def completion_of(response: LLMResult, seconds: float) -> Completion:
    """Returns a LangChain result as a completion: the first generation, with its usage."""
    generation = response.generations[0][0]
    if not isinstance(generation, ChatGeneration):
        return Completion(text=generation.text, usage=Usage(calls=1, seconds=seconds))
    return _completion(generation.message, seconds)


def _completion(message: BaseMessage, seconds: float) -> Completion:
    metadata = message.response_metadata
    finished = str(metadata.get("finish_reason") or metadata.get("stop_reason") or "stop")
    return Completion(
        text=str(message.text),
        tool_calls=_calls_of(message) if isinstance(message, AIMessage) else (),
        usage=_usage_of(message, seconds),
        model=str(metadata.get("model_name") or metadata.get("model") or ""),
        finish_reason=_FINISHED.get(finished, finished),
        logprobs=_logprobs_of(metadata),
    )


def _usage_of(message: BaseMessage, seconds: float) -> Usage:
    told = message.usage_metadata if isinstance(message, AIMessage) else None
    if told is None:
        return Usage(calls=1, seconds=seconds)
    return Usage(input_tokens=told["input_tokens"], output_tokens=told["output_tokens"], calls=1, seconds=seconds)


def _logprobs_of(metadata: Mapping[str, Any]) -> tuple[float, ...] | None:
    content = (metadata.get("logprobs") or {}).get("content")
    return None if content is None else tuple(float(token["logprob"]) for token in content)


def tools_of(tools: Sequence[Mapping[str, Any]]) -> tuple[ToolSpec, ...]:
    """Returns tools in OpenAI's or Anthropic's form as specs; a built-in tool of a provider has only its type."""
    specs = []
    for tool in tools:
        said = tool.get("function", tool)
        specs.append(
            ToolSpec(
                name=str(said.get("name") or tool.get("type", "")),
                description=str(said.get("description") or ""),
                parameters=said.get("parameters") or said.get("input_schema") or {},
            )
        )
    return tuple(specs)


# --- a LangChain chat model as a model ------------------------------------------------------------------------------


class LangChainModel:
    """Asks a LangChain chat model. ``price`` is needed under a budget of money.

    A choice of the sampling is set on a copy of the chat model; one that it does not have is refused, except for
    the seed and logprobs, which are left out.
    """

    def __init__(self, chat: BaseChatModel, *, name: str | None = None, price: Price | None = None) -> None:
        self.chat = chat
        self._name = name or _name_of(chat)
        self._price = price

    @property
    def name(self) -> str:
        """``langchain:``, the class and the model's own name, unless given."""
        return self._name

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns the bound by bytes; the money only where the price was given."""
        bound = estimate_call(None, messages, tools, sampling, self._price or Price())
        return bound if self._price else msgspec.structs.replace(bound, micro_dollars=None)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the chat model's answer.

        Raises:
            ModelError: the chat model raised; its own error is the cause.
            RefusedError: the chat model takes no such choice of the sampling, or no tools.
        """
        runnable = self._prepare(tools, sampling)
        asked = [to_langchain(message) for message in messages]
        started = time.monotonic()
        try:
            with model_errors(self.name):
                # A graph around this call would otherwise hear of it as of a call of its own.
                said = await runnable.ainvoke(asked, config={"callbacks": []}, stop=list(sampling.stop) or None)
        except WhetError:
            raise
        except Exception as error:  # a boundary: each provider's package raises errors of its own
            text = " ".join(str(error).split())[:500]
            raise ModelError(f"{self.name!r} failed: {type(error).__name__}: {text}") from error
        completion = _completion(said, time.monotonic() - started)
        spent = completion.usage
        dollars = self._price.of(spent.input_tokens, spent.output_tokens) if self._price else 0
        usage = msgspec.structs.replace(spent, micro_dollars=dollars)
        return msgspec.structs.replace(completion, usage=usage, model=completion.model or self.name)

    def _prepare(self, tools: Sequence[ToolSpec], sampling: Sampling) -> Runnable[LanguageModelInput, AIMessage]:
        chat = self.chat.model_copy(update=self._choices(sampling))
        if not tools:
            return chat
        try:
            return chat.bind_tools(chat_tools(tools))
        except NotImplementedError as error:
            raise RefusedError(f"{self.name!r} calls no tools; give the agent another model, or no tools") from error

    def _choices(self, sampling: Sampling) -> dict[str, object]:
        choices: dict[str, object] = {}
        for name, known_as in _FIELDS.items():
            value = getattr(sampling, name)
            if value is None or value is False:
                continue
            field = next((field for field in known_as if field in type(self.chat).model_fields), None)
            if field is not None:
                choices[field] = value
            elif name not in _OPTIONAL:
                raise RefusedError(
                    f"{self.name!r} takes no {name}; choose it where the chat model is made and leave it open here"
                )
        return choices


def _name_of(chat: BaseChatModel) -> str:
    params = chat._get_ls_params()
    model = params.get("ls_model_name")
    return f"langchain:{type(chat).__name__}" + (f":{model}" if model else "")


# --- a model as a LangChain chat model ------------------------------------------------------------------------------


class WhetChatModel(BaseChatModel):
    """Any model of Whet where LangChain or LangGraph expects a chat model.

    ``sampling`` is what a call leaves open; ``bind(temperature=…)`` and the like replace parts of it. Streaming
    gives the whole answer in one chunk.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Model
    sampling: Sampling = Sampling()

    @property
    def _llm_type(self) -> str:
        return "whet"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model": self.model.name, "sampling": msgspec.to_builtins(self.sampling)}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Returns the model with tools that it may call.

        Raises:
            RefusedError: a tool is to be forced.
        """
        if tool_choice not in (None, "auto"):
            raise RefusedError(f"tool_choice={tool_choice!r} is not supported: the model chooses; leave it out")
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        tools = tools_of(kwargs.pop("tools", None) or ())
        sampling = self._sampling(stop, kwargs)
        return chat_result(await self.model.complete(messages_of(messages), tools=tools, sampling=sampling))

    def _sampling(self, stop: list[str] | None, choices: Mapping[str, Any]) -> Sampling:
        if unknown := sorted(set(choices) - set(_FIELDS)):
            raise UserError(
                f"unknown options {unknown!r} for {self.model.name!r}; known are {', '.join(_FIELDS)}, stop"
            )
        sampling = msgspec.structs.replace(self.sampling, **choices)
        return msgspec.structs.replace(sampling, stop=tuple(stop)) if stop else sampling

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return run_sync(lambda: self._agenerate(messages, stop, None, **kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunk = _chunk(await self._agenerate(messages, stop, run_manager, **kwargs))
        if run_manager:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunk = _chunk(self._generate(messages, stop, run_manager, **kwargs))
        if run_manager:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk


def chat_result(completion: Completion) -> ChatResult:
    """Returns a completion as LangChain's result, with usage, finish reason and token ids in the metadata."""
    usage = completion.usage
    said = Message(role="assistant", content=completion.text, tool_calls=completion.tool_calls)
    metadata: dict[str, object] = {"model_name": completion.model, "finish_reason": completion.finish_reason}
    if completion.token_ids is not None:
        metadata |= {"token_ids": completion.token_ids, "prompt_token_ids": completion.prompt_token_ids}
    if completion.logprobs is not None:
        metadata["token_logprobs"] = completion.logprobs
    message = to_langchain(said).model_copy(
        update={
            "usage_metadata": UsageMetadata(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                total_tokens=usage.input_tokens + usage.output_tokens,
            ),
            "response_metadata": metadata,
        }
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunk(result: ChatResult) -> ChatGenerationChunk:
    said = message_of(result.generations[0].message)
    whole = result.generations[0].message
    calls = [
        tool_call_chunk(id=call.id, name=call.name, args=call.arguments, index=index)
        for index, call in enumerate(said.tool_calls)
    ]
    usage = whole.usage_metadata if isinstance(whole, AIMessage) else None
    message = AIMessageChunk(
        content=said.content, tool_call_chunks=calls, usage_metadata=usage, response_metadata=whole.response_metadata
    )
    return ChatGenerationChunk(message=message)
