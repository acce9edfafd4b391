"""The wire form of the OpenAI chat protocol: records to request JSON, response JSON to a ``Completion``.

body = chat_request(messages, tools, sampling)
completion = read_response(response_json, name="openai:llama", messages=messages, tools=tools, price=None)
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from whet.core.errors import ModelError, UserError
from whet.core.models.pricing import Price, bound_tokens
from whet.core.records import Completion, Json, Message, Record, Sampling, ToolCall, ToolSpec, Usage
from whet.core.wire import decode

__all__ = ["chat_messages", "chat_request", "chat_tools", "read_response"]


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Json]]:
    """Returns the messages as the protocol writes them."""
    return [_message(message) for message in messages]


def _message(message: Message) -> dict[str, Json]:
    wire: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        wire["name"] = message.name
    return wire


def chat_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Json]]:
    """Returns the tools as the protocol writes them."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]


def chat_request(messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling) -> dict[str, Json]:
    """Returns the body of a request without ``model``; what the sampling leaves open is left out."""
    body: dict[str, Json] = {"messages": list[Json](chat_messages(messages))}
    if tools:
        body["tools"] = list[Json](chat_tools(tools))
    choices: dict[str, Json] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list[Json](sampling.stop) or None,
        "logprobs": sampling.logprobs or None,
    }
    return body | {name: value for name, value in choices.items() if value is not None}


class _Function(Record, frozen=True, kw_only=True):
    name: str
    arguments: str = ""


class _Call(Record, frozen=True, kw_only=True):
    id: str = ""
    function: _Function


class _Part(Record, frozen=True, kw_only=True):
    text: str = ""


class _Answer(Record, frozen=True, kw_only=True):
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    refusal: str | None = None


class _TokenLogprob(Record, frozen=True, kw_only=True):
    token: str
    logprob: float


class _Logprobs(Record, frozen=True, kw_only=True):
    content: list[_TokenLogprob] | None = None


class _Choice(Record, frozen=True, kw_only=True):
    message: _Answer
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Usage(Record, frozen=True, kw_only=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Response(Record, frozen=True, kw_only=True):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    model: str | None = None
    usage: _Usage | None = None
    prompt_token_ids: list[int] | None = None


def read_response(
    data: bytes | str, *, name: str, messages: Sequence[Message], tools: Sequence[ToolSpec], price: Price | None
) -> Completion:
    """Returns the first choice of a response. ``usage`` lacks the seconds, and the money where ``price`` is ``None``.

    A server that reports no usage is charged at the bound by bytes, so that a budget of tokens still holds.

    Raises:
        ModelError: the response is not of the protocol's form.
    """
    try:
        response = decode(data, _Response)
    except UserError as error:
        raise ModelError(f"{name!r} answered what the protocol does not allow: {error}", failure="malformed") from error
    choice = response.choices[0]
    text = _text(choice.message)
    calls = tuple(
        ToolCall(id=call.id or f"call_{position}", name=call.function.name, arguments=call.function.arguments)
        for position, call in enumerate(choice.message.tool_calls or ())
    )
    token_ids, logprobs = _tokens(choice)
    wire = response.usage or _Usage(
        prompt_tokens=bound_tokens(messages, tools), completion_tokens=len(token_ids or text.encode())
    )
    return Completion(
        text=text,
        tool_calls=calls,
        usage=Usage(
            input_tokens=wire.prompt_tokens,
            output_tokens=wire.completion_tokens,
            micro_dollars=price.of(wire.prompt_tokens, wire.completion_tokens) if price else 0,
            calls=1,
        ),
        model=response.model or name,
        finish_reason=choice.finish_reason or "stop",
        prompt_token_ids=None if response.prompt_token_ids is None else tuple(response.prompt_token_ids),
        token_ids=token_ids,
        logprobs=logprobs,
    )


def _text(answer: _Answer) -> str:
    if isinstance(answer.content, list):
        return "".join(part.text for part in answer.content)
    return answer.content or answer.refusal or ""


def _tokens(choice: _Choice) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    token_ids = None if choice.token_ids is None else tuple(choice.token_ids)
    if choice.logprobs is None or choice.logprobs.content is None:
        return token_ids, None
    return token_ids, tuple(token.logprob for token in choice.logprobs.content)
