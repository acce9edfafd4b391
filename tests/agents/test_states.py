"""Graph states as JSON: nothing is refused, nothing changes afterwards, everything can be encoded."""

import dataclasses
import math
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import Command, Send
from pydantic import BaseModel

from whet.agents.states import to_json
from whet.core import Message, decode, encode

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no character that UTF-8 can carry.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)


@given(anything)
def test_whatever_a_state_holds_can_be_encoded(value: object) -> None:
    assert isinstance(encode(to_json(value)), bytes)


@given(json_values)
def test_json_comes_back_as_it_was(value: object) -> None:
    assert decode(encode(to_json(value)), object) == value


class Point(msgspec.Struct):
    x: int


class Settings(BaseModel):
    depth: int
    names: list[str]


@dataclasses.dataclass
class Place:
    point: Point


class Pair(NamedTuple):
    left: int
    right: int


def test_structures_become_their_fields() -> None:
    assert to_json(Settings(depth=2, names=["a"])) == {"depth": 2, "names": ["a"]}
    assert to_json(Place(Point(1))) == {"point": {"x": 1}}
    assert to_json(Pair(1, 2)) == [1, 2]
    assert to_json(Message(role="user", content="hi")) == {
        "role": "user",
        "content": "hi",
        "tool_calls": [],
        "tool_call_id": None,
        "name": None,
    }


def test_langchain_messages_keep_what_they_say_and_no_more() -> None:
    call = {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}
    assert to_json(HumanMessage("hi")) == {"type": "human", "content": "hi"}
    assert to_json(AIMessage("", tool_calls=[call])) == {"type": "ai", "content": "", "tool_calls": [call]}
    failed = ToolMessage("no", tool_call_id="1", status="error")
    assert to_json(failed) == {"type": "tool", "content": "no", "tool_call_id": "1", "status": "error"}


def test_commands_and_sends_say_where_they_go() -> None:
    said = to_json(Command(update={"n": 1}, goto=[Send("work", {"k": 2})]))
    assert isinstance(said, dict)
    assert said["goto"] == [{"node": "work", "arg": {"k": 2}}]
    assert said["update"] == {"n": 1}


@pytest.mark.parametrize("value", [object(), 2**64, math.nan, 1j, b"bytes", lambda: None])
def test_what_json_cannot_say_is_shown(value: object) -> None:
    assert set(to_json(value)) == {"repr"}  # type: ignore[arg-type]


def test_a_state_that_holds_itself_ends() -> None:
    state: dict[str, object] = {}
    state["self"] = state
    encode(to_json(state))


def test_the_record_does_not_change_with_the_state() -> None:
    messages = [HumanMessage("before")]
    recorded = to_json({"messages": messages})
    messages[0].content = "after"
    messages.append(HumanMessage("more"))
    assert recorded == {"messages": [{"type": "human", "content": "before"}]}
