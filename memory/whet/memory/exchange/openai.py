"""OpenAI chat messages as JSON lines: ``{"messages": [...], "tools": [...]}``, the form of fine-tuning files."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from whet.core import Completion, Json, Message, ModelCall, Role, Run, ToolCall, ToolSpec
from whet.memory.exchange.format import Arrival, Bundle, convert, json_lines
from whet.memory.exchange.transcript import (
    answer_of,
    bodies_from,
    messages_of,
    model_calls,
    numbered,
    task_from,
    trailing,
)

__all__ = ["OpenAI", "WireMessage", "completion_of", "message_from", "message_json", "tools_json"]


class _Function(msgspec.Struct):
    name: str
    arguments: str = ""


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class WireMessage(msgspec.Struct):
    """A chat message on the wire."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Tool(msgspec.Struct):
    name: str
    description: str = ""
    parameters: dict[str, Json] = {}


class _ToolEntry(msgspec.Struct):
    function: _Tool


class _Row(msgspec.Struct):
    messages: list[WireMessage]
    tools: list[_ToolEntry] | None = None
    model: str = ""


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def message_from(wire: WireMessage) -> Message:
    """Returns the record of a message; of a content of parts the text parts are joined."""
    content = wire.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or () if part.type == "text")
    calls = tuple(
        ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in wire.tool_calls or ()
    )
    return Message(
        role=_ROLES[wire.role], content=text, tool_calls=calls, tool_call_id=wire.tool_call_id, name=wire.name
    )


def completion_of(message: Message, model: str = "") -> Completion:
    """Returns an assistant's message as what a model answered."""
    return Completion(text=message.content, tool_calls=message.tool_calls, model=model)


def message_json(message: Message) -> dict[str, Json]:
    """Returns a message as the wire has it."""
    found: dict[str, Json] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
        found["content"] = message.content or None
    if message.tool_call_id is not None:
        found["tool_call_id"] = message.tool_call_id
    if message.name is not None and message.role != "tool":
        found["name"] = message.name
    return found


def tools_json(tools: tuple[ToolSpec, ...]) -> list[Json]:
    """Returns tool definitions as the wire has them."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]


class OpenAI:
    """Reads and writes chat messages."""

    name = "openai"
    suffix = ".jsonl"
    own_only = False

    def documents(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields the lines of the file."""
        return json_lines(data)

    def read(self, document: Json, arrival: Arrival) -> Bundle:
        """Returns the task (what came before the first answer), the run and its steps."""
        row = convert(document, _Row)
        messages = [message_from(wire) for wire in row.messages]
        task = task_from(messages, arrival, self.name)
        tools = tuple(
            ToolSpec(
                name=tool.function.name, description=tool.function.description, parameters=tool.function.parameters
            )
            for tool in row.tools or ()
        )
        bodies = bodies_from(messages, lambda _, said: completion_of(said, row.model))
        steps = [
            (index, msgspec.structs.replace(body, tools=tools) if isinstance(body, ModelCall) else body)
            for index, body in bodies
        ]
        rest = trailing(messages)
        run = Run(
            id=arrival.run_id,
            task_id=task.id,
            agent="import:openai",
            model=row.model,
            status="done",
            answer=answer_of(messages),
            purpose="import",
            meta={"trailing": msgspec.to_builtins(rest)} if rest else {},
            trust="tainted" if any(message.role == "tool" for message in messages) else arrival.trust,
            started_at=arrival.at,
            ended_at=arrival.at,
            scope=arrival.scope,
        )
        return Bundle(task=task, run=run, steps=tuple(numbered(steps, arrival)))

    def write(self, bundle: Bundle) -> Json:
        """Returns ``{"messages": …}``, with ``tools`` and ``model`` where known."""
        messages = messages_of(bundle.task, bundle.run, bundle.steps)
        found: dict[str, Json] = {"messages": [message_json(message) for message in messages]}
        answered = model_calls(bundle.steps)
        if answered and answered[-1][1].tools:
            found["tools"] = tools_json(answered[-1][1].tools)
        if bundle.run.model:
            found["model"] = bundle.run.model
        return found
