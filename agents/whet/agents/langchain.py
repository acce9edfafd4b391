"""Between LangChain and Whet: messages, completions and tools, in both directions.

    message_of(HumanMessage("Hello"))           # Message(role="user", content="Hello")
    to_langchain(Message(role="user", content="Hello"))

A tool call's arguments are JSON text in Whet, exactly as the model wrote them, and a dict in LangChain.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.outputs import ChatGeneration, LLMResult

from whet.agents.states import to_json
from whet.core import Completion, Message, Role, ToolCall, ToolSpec, Usage, encode

__all__ = ["BOUNDED", "completion_of", "message_of", "messages_of", "to_langchain", "tools_of"]

BOUNDED = "whet"
"""The provider that ``AgentChatModel`` tells LangChain; its calls are bounded and recorded by the run itself."""

_ROLES: dict[str, Role] = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool", "function": "tool"}
_FINISHED = {"tool_use": "tool_calls", "end_turn": "stop", "max_tokens": "length"}


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
    valid = [(call["id"], call["name"], encode(to_json(call["args"])).decode()) for call in message.tool_calls]
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
            arguments = json.loads(call.arguments or "{}")
        except ValueError as error:
            arguments = str(error)
        if isinstance(arguments, dict):
            valid.append(LangChainToolCall(type="tool_call", id=call.id, name=call.name, args=arguments))
        else:
            problem = f"the arguments are no JSON object: {arguments!r}"
            broken.append(
                InvalidToolCall(
                    type="invalid_tool_call", id=call.id, name=call.name, args=call.arguments, error=problem
                )
            )
    return valid, broken


def completion_of(response: LLMResult, seconds: float) -> Completion:
    """Returns a LangChain result as a completion: the first generation, with its usage."""
    generation = response.generations[0][0]
    if not isinstance(generation, ChatGeneration):
        return Completion(text=generation.text, usage=Usage(calls=1, seconds=seconds))
    message = generation.message
    metadata = message.response_metadata
    finished = str(metadata.get("finish_reason") or metadata.get("stop_reason") or "stop")
    return Completion(
        text=str(message.text),
        tool_calls=_calls_of(message) if isinstance(message, AIMessage) else (),
        usage=_usage_of(message, seconds),
        model=str(metadata.get("model_name") or metadata.get("model") or ""),
        finish_reason=_FINISHED.get(finished, finished),
    )


def _usage_of(message: BaseMessage, seconds: float) -> Usage:
    told = message.usage_metadata if isinstance(message, AIMessage) else None
    if told is None:
        return Usage(calls=1, seconds=seconds)
    return Usage(input_tokens=told["input_tokens"], output_tokens=told["output_tokens"], calls=1, seconds=seconds)


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
