"""The checkpointer passes LangGraph's own suite, is durable when asked, and keeps forks and pruned threads right."""

import operator
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, TypedDict

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Durability, interrupt

from whet.core import ConflictError, UserError
from whet.memory import Memory
from whet.memory.checkpoint import Checkpointer
from whet.memory.store import Store


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


@pytest.mark.asyncio
async def test_an_interrupted_graph_goes_on_in_another_process(url: str) -> None:
    config = {"configurable": {"thread_id": "t"}}
    async with await Memory.open(url) as memory:
        asked = await chain("a", "ask", "b").compile(checkpointer=memory.checkpointer).ainvoke({"said": []}, config)
        assert asked["__interrupt__"][0].value == "which?"
    async with await Memory.open(url) as memory:
        graph = chain("a", "ask", "b").compile(checkpointer=memory.checkpointer)
        assert await graph.ainvoke(Command(resume="this"), config) == {"said": ["a", "this", "b"]}


def test_a_synchronous_graph_needs_no_event_loop(url: str) -> None:
    store = Store(url)
    graph = chain("a", "ask", "b").compile(checkpointer=Checkpointer(store))
    config = {"configurable": {"thread_id": "t"}}
    graph.invoke({"said": []}, config)
    assert graph.get_state(config).next == ("ask",)
    assert graph.invoke(Command(resume="this"), config) == {"said": ["a", "this", "b"]}
    assert [len(state.values.get("said", ())) for state in graph.get_state_history(config)] == [3, 2, 1, 0, 0]
    store.close_now()


@pytest.mark.asyncio
async def test_two_forks_of_a_thread_keep_their_own_values(memory: Memory) -> None:
    graph = chain("a", "ask", "b").compile(checkpointer=memory.checkpointer)
    config = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"said": []}, config)
    asked = (await graph.aget_state(config)).config
    left, right = [await graph.aupdate_state(asked, {"said": [way]}, as_node="ask") for way in ("left", "right")]
    assert await graph.ainvoke(None, left) == {"said": ["a", "left", "b"]}
    assert await graph.ainvoke(None, right) == {"said": ["a", "right", "b"]}
    ends = [state.values["said"] async for state in graph.aget_state_history(config) if not state.next]
    assert sorted(ends) == [["a", "left", "b"], ["a", "right", "b"]]


@pytest.mark.asyncio
@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_a_graph_that_asks_for_the_disk_waits_for_it(tmp_path: Path, durability: Durability) -> None:
    async with await Memory.open(tmp_path) as memory:
        graph = chain("a", "b").compile(checkpointer=memory.checkpointer)
        await graph.ainvoke({"said": []}, {"configurable": {"thread_id": "t"}}, durability=durability)
        assert memory.store.writer.settled() is None, "something was still on its way"


@pytest.mark.asyncio
async def test_a_checkpoint_that_could_not_be_written_is_reported(tmp_path: Path) -> None:
    async with await Memory.open(f"sqlite:///{tmp_path}/whet.db?timeout=0.05") as memory:
        config = {"configurable": {"thread_id": "t"}}
        graph = chain("a").compile(checkpointer=memory.checkpointer)
        other = sqlite3.connect(tmp_path / "whet.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await graph.ainvoke({"said": []}, config)
        with pytest.raises(ConflictError, match="is locked"):
            await graph.aget_state(config)
        with pytest.raises(ConflictError, match="is locked"):
            await memory.recorder.flush()
        other.close()
        assert await graph.ainvoke({"said": []}, config) == {"said": ["a"]}


@pytest.mark.asyncio
async def test_unchanged_values_are_written_once(memory: Memory) -> None:
    class Big(TypedDict):
        text: str
        count: int

    builder = StateGraph(Big)
    for n in range(10):
        builder.add_node(f"n{n}", lambda state: {"count": state["count"] + 1})
        builder.add_edge(f"n{n - 1}" if n else START, f"n{n}")
    graph = builder.compile(checkpointer=memory.checkpointer)
    await graph.ainvoke({"text": "x" * 50_000, "count": 0}, {"configurable": {"thread_id": "t"}})
    (stored,) = await memory.query("SELECT sum(length(data)) AS size FROM checkpoint_values")
    # Once as the input of the graph and once as the channel's value.
    assert int(str(stored["size"])) < 110_000


class Deltas(TypedDict):
    items: Annotated[list[int], DeltaChannel(lambda left, writes: left + [x for w in writes for x in w])]


@pytest.mark.asyncio
async def test_pruning_keeps_what_the_newest_checkpoint_is_rebuilt_from(memory: Memory) -> None:
    builder = StateGraph(Deltas)
    builder.add_node("n", lambda state: {"items": [len(state["items"])]})
    builder.add_edge(START, "n")
    graph = builder.compile(checkpointer=memory.checkpointer)
    config = {"configurable": {"thread_id": "t"}}
    for _ in range(5):
        await graph.ainvoke({"items": [-1]}, config)
    before = (await graph.aget_state(config)).values
    await memory.checkpointer.aprune(["t"])
    assert (await graph.aget_state(config)).values == before
    assert await graph.ainvoke({"items": [-1]}, config) == {"items": [*before["items"], -1, 11]}


@pytest.mark.asyncio
async def test_pruning_and_deleting_leave_no_rows(memory: Memory) -> None:
    graph = chain(*"abcdef").compile(checkpointer=memory.checkpointer)
    for thread in ("t", "u"):
        await graph.ainvoke({"said": []}, {"configurable": {"thread_id": thread}})
    await memory.checkpointer.aprune(["t"])
    counts = "SELECT count(*) AS n FROM {} WHERE thread_id = 't'"
    assert await memory.query(counts.format("checkpoints")) == [{"n": 1}]
    assert (await graph.aget_state({"configurable": {"thread_id": "t"}})).values == {"said": [*"abcdef"]}
    with pytest.raises(UserError, match="no strategy to prune with"):
        await memory.checkpointer.aprune(["t"], strategy="keep_some")
    await memory.checkpointer.adelete_thread("t")
    for table in ("checkpoints", "checkpoint_values", "checkpoint_writes"):
        assert await memory.query(counts.format(table)) == [{"n": 0}]
    assert (await graph.aget_state({"configurable": {"thread_id": "u"}})).values == {"said": [*"abcdef"]}
