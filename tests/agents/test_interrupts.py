"""A graph that asks a person goes on after a restart: question in one process, answer in another."""

import json
import operator
import subprocess
import sys
from pathlib import Path
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from whet.agents import Agent, adapt
from whet.core import Interrupted, Json, NotFoundError, Policy, Run, Step, UserError
from whet.core.models import ScriptedModel
from whet.memory import Memory

GRAPH = """
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from whet.agents import AgentChatModel

llm = AgentChatModel()

async def draft(state: MessagesState):
    return {"messages": [await llm.ainvoke(state["messages"])]}

def ask(state: MessagesState):
    said = interrupt({"question": "Send it?", "draft": state["messages"][-1].text})
    return {"messages": [AIMessage(f"{state['messages'][-1].text} / {said}")]}

inner = StateGraph(MessagesState)
inner.add_node("ask", ask)
inner.add_edge(START, "ask")
graph = StateGraph(MessagesState)
graph.add_node("draft", draft)
graph.add_node("review", inner.compile())
graph.add_edge(START, "draft")
graph.add_edge("draft", "review")
"""

FIRST = """
import sys
from whet.agents import Agent
from whet.core import Policy
from whet.core.models import ScriptedModel

policy = Policy.of({"prompts/system.md": "Write a letter."})
agent = Agent(sys.argv[1] + ":graph", ScriptedModel(["Dear Ada"]), memory=sys.argv[2], policy=policy)
result = agent.run("To Ada.")
import json
print(json.dumps({"run": result.run.id, "status": result.run.status, "interrupts": result.interrupts}))
"""


@pytest.mark.asyncio
async def test_a_question_is_answered_in_another_process(tmp_path: Path) -> None:
    graph, store = tmp_path / "letters.py", tmp_path / "store"
    graph.write_text(GRAPH)
    asked = subprocess.run(  # noqa: ASYNC221  # nothing else runs here
        [sys.executable, "-c", FIRST, str(graph), str(store)], capture_output=True, text=True, check=True
    )
    said = json.loads(asked.stdout)
    assert said["status"] == "interrupted"
    assert said["interrupts"] == [{"question": "Send it?", "draft": "Dear Ada"}]
    async with await Memory.open(store) as memory:
        agent = Agent(f"{graph}:graph", ScriptedModel([]), memory=memory)
        result = await agent.resume(said["run"], "yes")
        assert (result.run.id, result.run.status, result.answer) == (said["run"], "done", "Dear Ada / yes")
        assert result.run.usage.calls == 1, "what was spent before the restart is kept"
        steps = await memory.find(Step, where={"run_id": result.run.id})
        assert [step.seq for step in steps] == list(range(len(steps)))
        questions = [(step.node, step.body) for step in steps if isinstance(step.body, Interrupted)]
        assert [node for node, _ in questions] == ["review/ask", "review"]
        assert questions[1][1].resumed_with == "yes"
        assert (await memory.get(Run, result.run.id)).policy == Policy.of(
            {"prompts/system.md": "Write a letter."}
        ).digest


def asks_twice(state: MessagesState) -> dict[str, object]:
    first = interrupt("name?")
    second = interrupt("age?")
    return {"messages": [("ai", f"{first} {second}")]}


def twice() -> StateGraph[MessagesState]:
    graph = StateGraph(MessagesState)
    graph.add_node("ask", asks_twice)
    graph.add_edge(START, "ask")
    return graph


@pytest.mark.asyncio
async def test_one_question_after_another(memory: Memory) -> None:
    agent = Agent(twice(), ScriptedModel([]), memory=memory)
    asked = await agent.arun("Who?")
    assert (asked.run.status, asked.interrupts, asked.run.ended_at) == ("interrupted", ("name?",), None)
    again = await agent.resume(asked.run.id, "Ada")
    assert (again.run.status, again.interrupts) == ("interrupted", ("age?",))
    done = await agent.resume(asked.run.id[:20], 36)
    assert (done.run.status, done.answer) == ("done", "Ada 36")


@pytest.mark.asyncio
async def test_several_questions_at_once_take_several_answers(memory: Memory) -> None:
    class State(TypedDict):
        messages: list[object]
        log: Annotated[list[str], operator.add]

    graph = StateGraph(State)
    for name in ("left", "right"):
        graph.add_node(name, lambda state, name=name: {"log": [f"{name}: {interrupt(name + '?')}"]})
        graph.add_edge(START, name)
    agent = Agent(adapt(graph, leave=lambda state: " ".join(sorted(state["log"]))), ScriptedModel([]), memory=memory)
    asked = await agent.arun("Which?")
    assert set(asked.interrupts) == {"left?", "right?"}
    with pytest.raises(UserError, match="a list of 2"):
        await agent.resume(asked.run.id, "one")
    answers: list[Json] = [f"yes to {question}" for question in asked.interrupts]
    assert (await agent.resume(asked.run.id, answers)).answer == "left: yes to left? right: yes to right?"


@pytest.mark.asyncio
async def test_a_breakpoint_goes_on_without_an_answer(memory: Memory) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("one", lambda state: {"messages": [("ai", "one")]})
    graph.add_node("two", lambda state: {"messages": [("ai", "two")]})
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    agent = Agent(graph.compile(interrupt_before=["two"]), ScriptedModel([]), memory=memory, name="b")
    stopped = await agent.arun("Go.")
    assert stopped.run.status == "interrupted"
    assert (await agent.resume(stopped.run.id)).answer == "two"


CRASH = """
import asyncio, os, sys
from whet.agents import Agent
from whet.core.models import ScriptedModel

def kill(messages):
    os.kill(os.getpid(), 9)

agent = Agent("refine", ScriptedModel(["bad", kill]), memory=sys.argv[1], durability="sync",
              verify=lambda task, run: [__import__("whet.core").core.Verdict(
                  run_id=run.id, task_id=task.id, verifier="v", outcome="fail")],
              critique=lambda task, run, verdicts: [])
agent.run("Do it.")
"""


@pytest.mark.asyncio
async def test_a_killed_run_goes_on_from_its_last_durable_step(tmp_path: Path) -> None:
    crashed = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path / "store")], capture_output=True)  # noqa: ASYNC221
    assert crashed.returncode == -9
    async with await Memory.open(tmp_path / "store") as memory:
        [run] = await memory.find(Run)
        assert run.status == "running"
        before = await memory.find(Step, where={"run_id": run.id})
        async with ScriptedModel(["better"]) as model:
            agent = Agent("refine", model, memory=memory, verify=lambda task, run: [])
            result = await agent.resume(run.id)
        assert (result.run.status, result.answer) == ("done", "better")
        assert result.run.usage.calls == 2, "with what was spent before the kill"
        assert [message.content for message in model.asked[0].messages][:2] == ["Do it.", "bad"]
        after = await memory.find(Step, where={"run_id": run.id})
        assert after[: len(before)] == before
        assert [step.seq for step in after] == list(range(len(after)))


@pytest.mark.asyncio
async def test_what_cannot_be_resumed_is_refused(memory: Memory) -> None:
    async with ScriptedModel(["done"]) as model:
        ended = await Agent("react", model, memory=memory).arun("Hello")
    agent = Agent("react", ScriptedModel([]), memory=memory)
    with pytest.raises(UserError, match="no checkpoint to go on from"):
        await agent.resume(ended.run.id)
    with pytest.raises(NotFoundError):
        await agent.resume("ffffffff")
    with pytest.raises(UserError, match="made by another agent: agent 'react'"):
        await Agent("refine", ScriptedModel([]), memory=memory).resume(ended.run.id)
    with pytest.raises(UserError, match="without a memory the agent cannot resume a run"):
        await Agent("react", ScriptedModel([])).resume(ended.run.id)


KILLED = """
import os, sys, time
from pathlib import Path
from whet.agents import Agent, tool
from whet.core import Completion
from whet.core.models import ScriptedModel, say_tool

@tool
def send(to: str) -> str:
    '''Send a letter.'''
    with open(sys.argv[2], "a") as log:
        log.write(to + chr(10))
    return "sent to " + to

@tool
def crash(after: str) -> str:
    '''Crash once the other call is saved.'''
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(os.getpid(), 9)
    return ""

calls = [say_tool("send", {"to": "Ada"}).tool_calls[0], say_tool("crash", {"after": "send"}).tool_calls[0]]
model = ScriptedModel([Completion(text="", tool_calls=tuple(calls))])
Agent("react", model, tools=[send, crash], memory=sys.argv[1], durability="sync").run("Write.")
"""


@pytest.mark.asyncio
async def test_a_tool_that_was_done_before_a_kill_is_not_run_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    crashed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "store"), str(log)], capture_output=True)  # noqa: ASYNC221
    assert crashed.returncode == -9, crashed.stderr

    def send(to: str) -> str:
        """Send a letter."""
        log.write_text(log.read_text() + to + "\n")
        return f"sent to {to}"

    def crash(after: str) -> str:
        """Crash once the other call is saved."""
        return "not this time"

    async with await Memory.open(tmp_path / "store") as memory:
        [run] = await memory.find(Run)
        async with ScriptedModel(["Done."]) as model:
            result = await Agent("react", model, tools=[send, crash], memory=memory).resume(run.id)
    assert result.answer == "Done."
    assert log.read_text() == "Ada\n"
    assert [message.content for message in model.asked[0].messages[-2:]] == ["sent to Ada", "not this time"]
