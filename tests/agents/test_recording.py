"""Every kind of LangGraph graph is recorded: nodes, sub-graphs, fan-out, models, tools, failures, questions."""

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel, FakeListChatModelError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt

from whet.agents import ListRecorder, Trace, record_graph
from whet.agents.recording import GraphRecorder
from whet.core import (
    Budget,
    BudgetError,
    Interrupted,
    ModelCall,
    NodeFinished,
    NodeStarted,
    Run,
    Step,
    StepBody,
    ToolResult,
)


class State(TypedDict):
    n: int
    log: Annotated[list[str], operator.add]


def chain(**nodes: Callable[[State], object]) -> StateGraph[State]:
    graph = StateGraph(State)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    return graph


def new_run() -> Run:
    return Run(task_id="t", agent="test")


def steps_of(recorder: ListRecorder) -> list[Step]:
    return [record for record in recorder.records if isinstance(record, Step)]


def bodies(recorder: ListRecorder, kind: type[StepBody]) -> list[Any]:
    return [step.body for step in steps_of(recorder) if isinstance(step.body, kind)]


def outline(recorder: ListRecorder) -> list[str]:
    """Returns a line per step: its kind, its node, and below which node it hangs."""
    steps = {step.id: step for step in steps_of(recorder)}
    lines = []
    for step in steps.values():
        parent = steps[step.parent_id].node if step.parent_id else "-"
        lines.append(f"{type(step.body).__name__} {step.node} < {parent}")
    return lines


async def async_one(state: State) -> dict[str, object]:
    await asyncio.sleep(0)
    return {"n": state["n"] + 1, "log": ["one"]}


def sync_two(state: State) -> dict[str, object]:
    return {"n": state["n"] * 10, "log": ["two"]}


@pytest.mark.asyncio
async def test_nodes_are_recorded_with_their_news_and_outputs() -> None:
    recorder = ListRecorder()
    graph = record_graph(chain(one=async_one, two=sync_two), recorder, new_run())
    assert await graph.ainvoke({"n": 1, "log": ["start"]}) == {"n": 20, "log": ["start", "one", "two"]}
    assert outline(recorder) == [
        "NodeStarted one < -",
        "NodeFinished one < one",
        "NodeStarted two < -",
        "NodeFinished two < two",
    ]
    assert [step.seq for step in steps_of(recorder)] == [0, 1, 2, 3]
    started = bodies(recorder, NodeStarted)
    assert started[0].input == {"n": 1, "log": ["start"]}
    assert started[1].input == {"n": 2, "log": ["one"]}, "only what is new in the state"
    finished = bodies(recorder, NodeFinished)
    assert finished[0].output == {"n": 2, "log": ["one"]}
    assert finished[0].error is None
    assert finished[0].seconds > 0


def test_a_synchronous_graph_is_recorded_alike() -> None:
    recorder = ListRecorder()
    record_graph(chain(two=sync_two), recorder, new_run()).invoke({"n": 1, "log": []})
    assert outline(recorder) == ["NodeStarted two < -", "NodeFinished two < two"]


@pytest.mark.asyncio
async def test_streaming_is_recorded_alike() -> None:
    recorder = ListRecorder()
    graph = record_graph(chain(one=async_one, two=sync_two), recorder, new_run())
    updates = [update async for update in graph.astream({"n": 1, "log": []}, stream_mode="updates")]
    assert [next(iter(update)) for update in updates] == ["one", "two"]
    assert len(steps_of(recorder)) == 4


@pytest.mark.asyncio
async def test_the_functional_api_is_recorded() -> None:
    @task
    async def double(n: int) -> int:
        return 2 * n

    @entrypoint()
    async def flow(n: int) -> int:
        return await double(n) + 1

    recorder = ListRecorder()
    assert await record_graph(flow, recorder, new_run()).ainvoke(3) == 7
    assert "NodeStarted flow < -" in outline(recorder)
    assert any(line.startswith("NodeFinished") and "double" in line for line in outline(recorder))


@pytest.mark.asyncio
async def test_sub_graphs_give_paths_and_a_tree() -> None:
    inner = chain(deep=async_one).compile()

    async def calls_a_graph(state: State) -> dict[str, object]:
        return {"log": (await inner.ainvoke({"n": 0, "log": []}))["log"]}

    recorder = ListRecorder()
    graph = chain(mounted=inner, called=calls_a_graph)  # type: ignore[arg-type]
    await record_graph(graph, recorder, new_run()).ainvoke({"n": 1, "log": []})
    assert outline(recorder) == [
        "NodeStarted mounted < -",
        "NodeStarted mounted/deep < mounted",
        "NodeFinished mounted/deep < mounted/deep",
        "NodeFinished mounted < mounted",
        "NodeStarted called < -",
        "NodeStarted called/deep < called",
        "NodeFinished called/deep < called/deep",
        "NodeFinished called < called",
    ]


@pytest.mark.asyncio
async def test_parallel_nodes_keep_their_own_steps() -> None:
    async def fan(state: State) -> Command[str]:
        return Command(goto=[Send("work", {"n": n, "log": []}) for n in range(5)])

    async def work(state: State) -> dict[str, object]:
        await asyncio.sleep(0.01 * (5 - state["n"]))
        return {"log": [str(state["n"])]}

    graph = StateGraph(State)
    graph.add_node("fan", fan, destinations=("work",))
    graph.add_node("work", work)
    graph.add_edge(START, "fan")
    recorder = ListRecorder()
    await record_graph(graph, recorder, new_run()).ainvoke({"n": 0, "log": []})
    steps = {step.id: step for step in steps_of(recorder)}
    for step in steps.values():
        if step.node == "work" and isinstance(step.body, NodeFinished):
            assert step.parent_id is not None
            started = steps[step.parent_id].body
            assert isinstance(started, NodeStarted)
            assert isinstance(started.input, dict)
            assert step.body.output == {"log": [str(started.input["n"])]}


@pytest.mark.asyncio
async def test_many_runs_at_once_do_not_mix() -> None:
    recorder = ListRecorder()
    compiled = chain(one=async_one, two=sync_two).compile()
    runs = [new_run() for _ in range(20)]
    await asyncio.gather(
        *(record_graph(compiled, recorder, run).ainvoke({"n": n, "log": []}) for n, run in enumerate(runs))
    )
    for n, run in enumerate(runs):
        steps = [step for step in steps_of(recorder) if step.run_id == run.id]
        assert [step.seq for step in steps] == [0, 1, 2, 3]
        assert isinstance(steps[-1].body, NodeFinished)
        assert steps[-1].body.output == {"n": (n + 1) * 10, "log": ["two"]}


@pytest.mark.asyncio
@pytest.mark.parametrize("synchronous", [True, False])
async def test_a_node_that_fails_is_recorded_with_its_error(synchronous: bool) -> None:
    def fails(state: State) -> dict[str, object]:
        raise ValueError("no such file\nand more")

    async def fails_later(state: State) -> dict[str, object]:
        return fails(state)

    inner = chain(deep=fails if synchronous else fails_later).compile()
    recorder = ListRecorder()
    graph = record_graph(chain(one=async_one, outer=inner), recorder, new_run())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such file"):
        await graph.ainvoke({"n": 1, "log": []})
    failed = [(step.node, step.body.error) for step in steps_of(recorder) if isinstance(step.body, NodeFinished)]
    assert failed == [("one", None), ("outer/deep", "ValueError: no such file"), ("outer", "ValueError: no such file")]


@pytest.mark.asyncio
async def test_chains_inside_a_node_are_no_nodes() -> None:
    pipe = RunnableLambda(lambda n: n + 1) | RunnableLambda(lambda n: n * 2)

    async def node(state: State) -> dict[str, object]:
        return {"n": await pipe.ainvoke(state["n"])}

    recorder = ListRecorder()
    await record_graph(chain(node=node), recorder, new_run()).ainvoke({"n": 1, "log": []})
    assert outline(recorder) == ["NodeStarted node < -", "NodeFinished node < node"]


# --- models and tools -------------------------------------------------------------------------------------------------


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.asyncio
@pytest.mark.parametrize("synchronous", [True, False])
async def test_langchain_models_are_recorded_below_their_node(synchronous: bool) -> None:
    llm = FakeListChatModel(responses=["Bonjour."])

    def ask(state: MessagesState) -> dict[str, object]:
        return {"messages": [llm.invoke([SystemMessage("Speak French."), *state["messages"]])]}

    async def ask_later(state: MessagesState) -> dict[str, object]:
        return {"messages": [await llm.ainvoke([SystemMessage("Speak French."), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask if synchronous else ask_later)
    graph.add_edge(START, "ask")
    recorder = ListRecorder()
    await record_graph(graph, recorder, new_run()).ainvoke({"messages": [HumanMessage("Hello")]})
    assert outline(recorder)[1] == "ModelCall ask < ask"
    [call] = bodies(recorder, ModelCall)
    assert [(message.role, message.content) for message in call.messages] == [
        ("system", "Speak French."),
        ("user", "Hello"),
    ]
    assert call.completion.text == "Bonjour."
    assert call.completion.usage.calls == 1


@pytest.mark.asyncio
async def test_a_langchain_model_that_fails_is_recorded() -> None:
    llm = FakeListChatModel(responses=["partial"], error_on_chunk_number=0)

    async def ask(state: State) -> dict[str, object]:
        return {"log": [chunk.text async for chunk in llm.astream("Hello")]}

    recorder = ListRecorder()
    with pytest.raises(FakeListChatModelError):
        await record_graph(chain(ask=ask), recorder, new_run()).ainvoke({"n": 0, "log": []})
    [call] = bodies(recorder, ModelCall)
    assert call.completion is None
    assert call.error is not None


@pytest.mark.asyncio
async def test_tool_nodes_are_recorded_with_call_and_result() -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "tools")
    recorder = ListRecorder()
    call = {"name": "add", "args": {"a": 2, "b": 3}, "id": "call_1", "type": "tool_call"}
    asked = AIMessage("", tool_calls=[call])  # type: ignore[list-item]
    await record_graph(graph, recorder, new_run()).ainvoke({"messages": [asked]})
    [result] = bodies(recorder, ToolResult)
    assert (result.call.name, result.call.arguments, result.call.id) == ("add", '{"a":2,"b":3}', "call_1")
    assert (result.content, result.error, result.trust) == ("5", None, "tainted")


@pytest.mark.asyncio
async def test_a_budget_stops_a_langchain_model_before_it_is_asked() -> None:
    llm = FakeListChatModel(responses=["a", "b", "c"])

    async def ask(state: State) -> dict[str, object]:
        return {"log": [(await llm.ainvoke("Hello")).text, (await llm.ainvoke("Hello")).text]}

    budget = Budget(calls=1)
    recorder = ListRecorder()
    handler = GraphRecorder(Trace(recorder, new_run()), budget=budget)
    with pytest.raises(BudgetError, match="1 calls"):
        await chain(ask=ask).compile().ainvoke({"n": 0, "log": []}, {"callbacks": [handler]})
    assert budget.spent.calls == 1
    assert len([call for call in bodies(recorder, ModelCall) if call.completion]) == 1


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_question_is_recorded_once_at_the_node_that_asks() -> None:
    def ask(state: State) -> dict[str, object]:
        return {"log": [interrupt({"question": "Go on?"})]}

    inner = chain(ask=ask).compile()
    graph = chain(one=async_one, outer=inner).compile(checkpointer=InMemorySaver())  # type: ignore[arg-type]
    recorder = ListRecorder()
    recorded = record_graph(graph, recorder, new_run())
    config: Any = {"configurable": {"thread_id": "1"}}
    await recorded.ainvoke({"n": 1, "log": []}, config)
    assert outline(recorder)[-1] == "Interrupted outer/ask < outer/ask"
    [asked] = bodies(recorder, Interrupted)
    assert asked.value == {"question": "Go on?"}
    assert not [body for body in bodies(recorder, NodeFinished) if body.error], "asking is no failure"
    state = await recorded.ainvoke(Command(resume="yes"), config)
    assert state["log"][-1] == "yes"
    assert outline(recorder)[-1] == "NodeFinished outer < outer"


@pytest.mark.asyncio
async def test_a_breakpoint_is_recorded() -> None:
    graph = chain(one=async_one, two=sync_two).compile(checkpointer=InMemorySaver(), interrupt_before=["two"])
    recorder = ListRecorder()
    config: Any = {"configurable": {"thread_id": "1"}}
    await record_graph(graph, recorder, new_run()).ainvoke({"n": 1, "log": []}, config)
    [stopped] = bodies(recorder, Interrupted)
    assert stopped.value == {"breakpoint": "interrupt_before"}


def test_a_trace_with_a_listener_needs_a_loop() -> None:
    with pytest.raises(RuntimeError):
        Trace(ListRecorder(), new_run(), listener=lambda step: None)
