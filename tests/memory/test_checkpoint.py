"""The checkpointer passes LangGraph's own suite, is durable when asked, and keeps forks and pruned threads right."""

import operator
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from whet.memory import Memory
from whet.memory.checkpoint import Checkpointer


class State(TypedDict):
    said: Annotated[list[str], operator.add]


def chain(*names: str) -> "StateGraph[State]":
    """A graph whose nodes run in a row, each saying its name; ``ask`` interrupts."""

    def node(name: str) -> Callable[[State], State]:
        return lambda state: {"said": [str(interrupt("which?")) if name == "ask" else name]}

    builder = StateGraph(State)
    for name in names:
        builder.add_node(name, node(name))
    for before, after in zip((START, *names), names, strict=False):
        builder.add_edge(before, after)
    return builder


@pytest.mark.asyncio
async def test_langgraphs_conformance_suite_passes(url: str) -> None:
    @checkpointer_test(name="whet")
    async def factory() -> AsyncIterator[Checkpointer]:
        async with await Memory.open(url) as memory:
            yield memory.checkpointer

    report = await validate(factory)
    failed = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failed == {}
    assert all(result.detected and result.tests_passed for result in report.results.values())
    assert report.passed_all_base()
