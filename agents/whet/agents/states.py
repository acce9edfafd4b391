"""Graph state as JSON: whatever a node takes or returns, snapshotted at the moment it is recorded.

to_json({"messages": [HumanMessage("hi")], "n": 1})   # {"messages": [{"type": "human", "content": "hi"}], "n": 1}
"""

import dataclasses
import math

import msgspec
from langchain_core.messages import BaseMessage
from langgraph.types import Send
from pydantic import BaseModel

from whet.core import Json

__all__ = ["to_json"]

_DEEPEST = 32
_LONGEST_REPR = 2_000
_INT64 = 1 << 63


def to_json(value: object, depth: int = 0) -> Json:
    """Returns the value as JSON. What JSON cannot say becomes ``{"repr": …}``, so a state is never lost or refused."""
    kind = type(value)
    if kind is str:
        return _text(value)  # type: ignore[arg-type]  # narrowed by identity of the type: this is a hot path
    if value is None or kind is bool:
        return value  # type: ignore[return-value]
    if depth > _DEEPEST:
        return _repr(value)
    if isinstance(value, dict):
        return {k if type(k) is str else str(k): to_json(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item, depth + 1) for item in value]
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, BaseMessage):
        return _message(value, depth)
    return _structured(value, depth)


def _text(value: str) -> str:
    """Returns the text without lone surrogates, which UTF-8 cannot carry."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _number(value: int | float) -> Json:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"repr": repr(value)}
    return int(value) if -_INT64 <= value < _INT64 else {"repr": repr(value)}


def _message(message: BaseMessage, depth: int) -> Json:
    """Returns a LangChain message by its public fields that say something."""
    found: dict[str, Json] = {"type": message.type, "content": to_json(message.content, depth + 1)}
    for field in ("name", "tool_calls", "invalid_tool_calls", "tool_call_id", "status"):
        value = message.__dict__.get(field)
        if value and value != "success":
            found[field] = to_json(value, depth + 1)
    return found


def _structured(value: object, depth: int) -> Json:
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, msgspec.Struct):
        return {name: to_json(getattr(value, name), depth + 1) for name in value.__struct_fields__}
    if isinstance(value, BaseModel):
        return {name: to_json(item, depth + 1) for name, item in value}
    if isinstance(value, Send):
        return {"node": value.node, "arg": to_json(value.arg, depth + 1)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value)}
    return _repr(value)


def _repr(value: object) -> Json:
    shown = value[:_LONGEST_REPR] if isinstance(value, bytes) else value  # a whole archive would be slow to show
    return {"repr": _text(repr(shown)[:_LONGEST_REPR])}
