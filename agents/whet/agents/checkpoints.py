"""LangGraph checkpoints whose states hold records: what the patterns keep in their states can be saved and resumed.

saver = saver_of(memory)          # memory.checkpointer, with a serializer that knows Whet's records
"""

import copy
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Send

from whet import core
from whet.core import Record, UserError, decode, encode

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["RecordSerializer", "saver_of"]

_MARK = "__whet_record__"


class RecordSerializer(JsonPlusSerializer):
    """LangGraph's serializer, with records written as their class's name and their JSON."""

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        """Returns the object as bytes, and how they were made."""
        return super().dumps_typed(_pack(obj))

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Returns the object that ``dumps_typed`` was given.

        Raises:
            UserError: it holds a record of a class that this version of Whet does not have.
        """
        return _unpack(super().loads_typed(data))


def saver_of(memory: "Memory") -> BaseCheckpointSaver[str]:
    """Returns the memory's checkpointer with a serializer that knows records."""
    saver = copy.copy(memory.checkpointer)
    saver.serde = RecordSerializer()
    return saver


def _pack(value: object) -> object:
    if isinstance(value, Record):
        return {_MARK: type(value).__name__, "json": encode(value)}
    if isinstance(value, dict):
        return {key: _pack(item) for key, item in value.items()}
    if type(value) is list:
        return [_pack(item) for item in value]
    if type(value) is tuple:
        return tuple(_pack(item) for item in value)
    if isinstance(value, Send):
        return Send(value.node, _pack(value.arg))
    return value


def _unpack(value: object) -> object:
    if isinstance(value, dict):
        if _MARK in value:
            return _record(value)
        return {key: _unpack(item) for key, item in value.items()}
    if type(value) is list:
        return [_unpack(item) for item in value]
    if type(value) is tuple:
        return tuple(_unpack(item) for item in value)
    if isinstance(value, Send):
        return Send(value.node, _unpack(value.arg))
    return value


def _record(value: dict[str, Any]) -> Record:
    kind = vars(core).get(value[_MARK])
    if not (isinstance(kind, type) and issubclass(kind, Record)):
        raise UserError(f"the checkpoint holds a record {value[_MARK]!r}, which this version of Whet does not have")
    return decode(value["json"], kind)
