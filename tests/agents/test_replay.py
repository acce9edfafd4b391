"""Replay with no model and no tools; fork at a step, under another policy."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from langchain_core.globals import get_llm_cache
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import Field

from whet.agents import Agent, fork, replay, shell
from whet.agents.playback import Playback
from whet.agents.runtime import Criticise, Verify
from whet.core import (
    Completion,
    Message,
    ModelCall,
    ModelError,
    NotFoundError,
    Policy,
    Run,
    Sampling,
    Step,
    ToolResult,
    UserError,
    Verdict,
)
from whet.core.models import ScriptedModel, say_tool
from whet.memory import Memory

NOBODY = ScriptedModel([], name="scripted")


def nodes(steps: Sequence[Step]) -> list[tuple[str, str]]:
    return [(type(step.body).__name__, step.node) for step in steps]


async def steps_of(memory: Memory, run: Run) -> list[Step]:
    return await memory.find(Step, where={"run_id": run.id})


@pytest.mark.asyncio
async def test_refine_is_replayed_step_for_step(memory: Memory, wants_good: Verify, says_why: Criticise) -> None:
    async with ScriptedModel(["bad", "good"]) as model:
        agent = Agent("refine", model, memory=memory, verify=wants_good, critique=says_why)
        first = await agent.arun("Do it.", seed=3)

    def nobody(*args: object) -> list[Verdict]:
        raise AssertionError("a replay judges nothing")

    again = await replay(Agent("refine", NOBODY, memory=memory, verify=nobody, critique=nobody), first.run.id)  # type: ignore[arg-type]
    assert again.run.error is None
    assert (again.answer, again.passed) == ("good", True)
    assert (again.run.parent_id, again.run.purpose, again.run.seed) == (first.run.id, "replay", 3)
    assert again.run.usage.calls == 0, "a replay costs nothing"
    assert nodes(await steps_of(memory, again.run)) == nodes(await steps_of(memory, first.run))


@pytest.mark.asyncio
async def test_best_of_n_is_replayed_whatever_the_order(memory: Memory, wants_good: Verify) -> None:
    async with ScriptedModel(["xx", "goox", "xg", "goox"]) as model:
        first = await Agent("best_of_n", model, memory=memory, verify=wants_good).arun("Do it.")
    again = await replay(Agent("best_of_n", NOBODY, memory=memory, verify=lambda task, run: []), first.run.id)
    assert again.answer == first.answer == "goox"
    assert again.state["samples"] == first.state["samples"]  # type: ignore[index]


@pytest.mark.asyncio
async def test_tools_are_not_run_again(memory: Memory, tmp_path: Path) -> None:
    ran: list[str] = []

    def send(to: str) -> str:
        """Send a letter."""
        ran.append(to)
        return f"sent to {to}"

    async with ScriptedModel([say_tool("send", {"to": "Ada"}), "Done."]) as model:
        first = await Agent("react", model, memory=memory, tools=[send]).arun("Write to Ada.")
    again = await replay(Agent("react", NOBODY, memory=memory, tools=[send]), first.run.id)
    assert again.answer == "Done."
    assert ran == ["Ada"]
    [result] = [step.body for step in await steps_of(memory, again.run) if isinstance(step.body, ToolResult)]
    assert result.content == "sent to Ada"


@pytest.mark.asyncio
async def test_a_failed_call_fails_again(memory: Memory) -> None:
    async with ScriptedModel([ModelError("503 from the provider")]) as model:
        first = await Agent("react", model, memory=memory).arun("Hello")
    again = await replay(Agent("react", NOBODY, memory=memory), first.run.id)
    assert again.run.status == "failed"
    assert "503 from the provider" in (again.run.error or "")


@pytest.mark.asyncio
async def test_a_graph_that_changed_is_noticed(memory: Memory) -> None:
    async def changed(state: MessagesState) -> dict[str, object]:
        return {"messages": [AIMessage("never said")]}

    async with ScriptedModel(["Hello."]) as model:
        first = await Agent("react", model, memory=memory, name="mine").arun("Hi")
    run = await memory.get(Run, first.run.id)
    await memory.put(
        Run(**{**{f: getattr(run, f) for f in run.__struct_fields__}, "meta": {**run.meta, "system": "New."}})
    )
    again = await replay(Agent("react", NOBODY, memory=memory, name="mine"), first.run.id)
    assert again.run.status == "failed"
    assert "never asked this of its model" in (again.run.error or "")
    assert changed is not None


# --- graphs that ask LangChain's models themselves --------------------------------------------------------------------


class Counted(FakeListChatModel):
    """Counts how often it is asked."""

    asked: list[int] = Field(default_factory=list)

    def _call(self, *args: object, **kwargs: object) -> str:
        self.asked.append(1)
        return super()._call(*args, **kwargs)  # type: ignore[arg-type]


def asking(llm: Counted, synchronous: bool, tools: Sequence[object] = ()) -> StateGraph[MessagesState]:
    def ask(state: MessagesState) -> dict[str, object]:
        return {"messages": [llm.invoke(state["messages"])]}

    async def ask_later(state: MessagesState) -> dict[str, object]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    for name in ("one", "two"):
        graph.add_node(name, ask if synchronous else ask_later)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    return graph


@pytest.mark.asyncio
@pytest.mark.parametrize("synchronous", [True, False])
async def test_langchain_models_answer_from_the_record(memory: Memory, synchronous: bool) -> None:
    llm = Counted(responses=["first", "second"], asked=[])
    agent = Agent(asking(llm, synchronous), NOBODY, memory=memory, name="mine")
    first = await agent.arun("Hello")
    assert (first.answer, len(llm.asked)) == ("second", 2)
    again = await replay(agent, first.run.id)
    assert (again.answer, again.run.error, len(llm.asked)) == ("second", None, 2)
    calls = [step.body for step in await steps_of(memory, again.run) if isinstance(step.body, ModelCall)]
    assert [call.completion.text for call in calls if call.completion] == ["first", "second"]
    assert get_llm_cache() is None, "the process is as it was"


@pytest.mark.asyncio
async def test_a_langchain_model_past_the_cache_is_refused(memory: Memory) -> None:
    llm = Counted(responses=["a", "b", "c", "d"], asked=[], cache=False)
    agent = Agent(asking(llm, False), NOBODY, memory=memory, name="mine")
    first = await agent.arun("Hello")
    again = await replay(agent, first.run.id)
    assert again.run.status == "failed"
    assert "past the cache" in (again.run.error or "")


@pytest.mark.asyncio
async def test_a_langchain_tool_is_refused_before_it_runs(memory: Memory) -> None:
    ran: list[int] = []

    @langchain_tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        ran.append(a)
        return a + b

    def call(state: MessagesState) -> dict[str, object]:
        asked = {"name": "add", "args": {"a": 1, "b": 2}, "id": "1", "type": "tool_call"}
        return {"messages": [AIMessage("", tool_calls=[asked])]}  # type: ignore[list-item]

    graph = StateGraph(MessagesState)
    graph.add_node("call", call)
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "call")
    graph.add_edge("call", "tools")
    agent = Agent(graph, NOBODY, memory=memory, name="mine")
    first = await agent.arun("Hello")
    assert first.answer == "3"
    again = await replay(agent, first.run.id)
    assert "give the tool to the agent" in (again.run.error or "")
    assert ran == [1]


# --- fork -------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_fork_keeps_what_came_before_and_goes_on_live(
    memory: Memory, wants_good: Verify, says_why: Criticise
) -> None:
    async with ScriptedModel(["bad", "worse", "worst"]) as model:
        agent = Agent("refine", model, memory=memory, verify=wants_good, critique=says_why)
        first = await agent.arun("Do it.")
    calls = [step.seq for step in await steps_of(memory, first.run) if isinstance(step.body, ModelCall)]
    better = Policy.of({"prompts/system.md": "Be good.", "settings.toml": "rounds = 5"})
    async with ScriptedModel(["good"]) as model:
        agent = Agent("refine", model, memory=memory, verify=wants_good, critique=says_why)
        other = await fork(agent, first.run.id, before=calls[1], policy=better)
    assert other.answer == "good"
    assert other.run.policy == better.digest
    assert other.run.parent_id == first.run.id
    assert other.run.usage.calls == 1, "only what was asked live is paid"
    said = [(message.role, message.content) for message in model.asked[0].messages]
    assert said[:3] == [("system", "Be good."), ("user", "Do it."), ("assistant", "bad")]


@pytest.mark.asyncio
async def test_a_fork_rebuilds_the_workspace(memory: Memory) -> None:
    script = [say_tool("shell", {"command": "echo kept > a.txt"}), say_tool("shell", {"command": "rm a.txt"}), "Gone."]
    async with ScriptedModel(script) as model:
        first = await Agent("react", model, memory=memory, tools=[shell]).arun("Clean up.")
    calls = [step.seq for step in await steps_of(memory, first.run) if isinstance(step.body, ModelCall)]
    async with ScriptedModel([say_tool("shell", {"command": "cat a.txt"}), "Still there."]) as model:
        other = await fork(Agent("react", model, memory=memory, tools=[shell]), first.run.id, before=calls[1])
    assert other.answer == "Still there."
    assert model.asked[-1].messages[-1].content == "kept\n[exit code 0]"


@pytest.mark.asyncio
async def test_what_cannot_be_forked_is_refused(memory: Memory) -> None:
    async with ScriptedModel(["Hello."]) as model:
        first = await Agent("react", model, memory=memory).arun("Hi")
    agent = Agent("react", NOBODY, memory=memory)
    with pytest.raises(UserError, match="has 3 steps; fork it before a step from 0 to 3"):
        await fork(agent, first.run.id, before=4)
    with pytest.raises(NotFoundError):
        await replay(agent, "ffffffff")
    with pytest.raises(UserError, match="without a memory"):
        await replay(Agent("react", NOBODY), first.run.id)


def test_calls_of_one_node_are_told_apart_by_what_was_asked() -> None:
    """Two critics side by side in the node ``tools``: in a fork the second may ask first."""
    run = Run(task_id="t", agent="a")
    asked = [(Message(role="user", content=text),) for text in ("a", "b")]
    bodies = [ModelCall(messages=each, completion=Completion(text=each[0].content.upper())) for each in asked]
    steps = [Step(run_id=run.id, seq=seq, node="tools", body=body) for seq, body in enumerate(bodies)]
    playback = Playback(run, steps, [], [], live=True)
    said = [playback.complete(messages, (), Sampling(), "tools") for messages in (asked[1], asked[0], asked[0])]
    assert [completion and completion.text for completion in said] == ["B", "A", None]
