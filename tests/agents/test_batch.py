"""Many runs at once: order, isolation of failures, one budget that is never exceeded, a clean stop."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from whet.agents import Agent, AgentChatModel, RunResult, run_tasks
from whet.core import Budget, Completion, Message, Run, Sampling, Step, StoreError, Task, ToolSpec, Usage, UserError
from whet.core.models import ScriptedModel
from whet.memory import Memory


class SlowEcho:
    """Answers the last message after a moment, and knows how many calls ran at once."""

    name = "slow-echo"

    def __init__(self) -> None:
        self.calls = self.running = self.most = 0

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.002)
        self.running -= 1
        return Completion(text=messages[-1].content, usage=Usage(input_tokens=5, output_tokens=5, calls=1))


def tasks(n: int) -> list[Task]:
    return [Task(id=f"t{i}", messages=(Message(role="user", content=f"task {i}"),)) for i in range(n)]


def three_calls() -> StateGraph[MessagesState]:
    """A user's graph whose node asks its model three times."""
    llm = AgentChatModel()

    async def answer(state: MessagesState) -> dict[str, object]:
        return {"messages": [await llm.ainvoke(state["messages"]) for _ in range(3)][-1:]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph


@pytest.mark.asyncio
async def test_results_are_in_the_order_of_tasks_and_seeds(memory: Memory) -> None:
    heard: list[RunResult] = []
    results = await run_tasks(
        Agent("react", SlowEcho(), memory=memory), tasks(6), seeds=(0, 1), concurrency=5, progress=heard.append
    )
    assert [(result.run.task_id, result.run.seed) for result in results] == [
        (f"t{i}", seed) for i in range(6) for seed in (0, 1)
    ]
    assert [result.answer for result in results] == [f"task {i}" for i in range(6) for _ in range(2)]
    assert len(heard) == 12
    assert await memory.count(Run, where={"status": "done"}) == 12


@pytest.mark.asyncio
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_no_more_runs_at_once_than_asked_for(concurrency: int) -> None:
    model = SlowEcho()
    await run_tasks(Agent("react", model), tasks(12), concurrency=concurrency)
    assert model.most == concurrency


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", [0, 1, 23, 60])
async def test_sixteen_runs_under_one_budget_never_exceed_it(memory: Memory, limit: int) -> None:
    model, budget = SlowEcho(), Budget(calls=limit)
    results = await run_tasks(
        Agent(three_calls(), model, memory=memory), tasks(20), concurrency=16, budget=budget, purpose="gate"
    )
    assert model.calls == min(limit, 60) == budget.spent.calls
    assert budget.overshoot.calls == 0
    done = [result for result in results if result.run.status == "done"]
    stopped = [result for result in results if result.run.status == "cancelled"]
    assert len(done) + len(stopped) == 20
    assert all(result.run.error and result.run.error.startswith("budget: ") for result in stopped)
    assert sum(result.run.usage.calls for result in results) == model.calls
    stored = {run.id: run for run in await memory.find(Run)}
    assert all(stored[result.run.id] == result.run for result in results)


@pytest.mark.asyncio
async def test_tokens_are_bounded_too() -> None:
    model, budget = SlowEcho(), Budget(tokens=2_000)
    await run_tasks(Agent("react", model), tasks(20), concurrency=16, budget=budget)
    assert budget.spent.tokens <= 2_000
    assert model.calls < 20


@pytest.mark.asyncio
async def test_a_run_that_fails_leaves_its_siblings_alone(memory: Memory) -> None:
    def answer(state: MessagesState) -> dict[str, object]:
        if state["messages"][-1].text == "task 2":
            raise RuntimeError("boom")
        return {"messages": [AIMessage("fine")]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    results = await run_tasks(Agent(graph, ScriptedModel([]), memory=memory), tasks(5), concurrency=3)
    assert [result.run.status for result in results] == ["done", "done", "failed", "done", "done"]
    assert results[2].run.error == "node 'answer': RuntimeError: boom"


@pytest.mark.asyncio
async def test_steps_of_runs_at_once_stay_apart(memory: Memory) -> None:
    results = await run_tasks(Agent(three_calls(), SlowEcho(), memory=memory), tasks(10), concurrency=10)
    for result in results:
        steps = await memory.find(Step, where={"run_id": result.run.id})
        assert [step.seq for step in steps] == list(range(5))
        assert {step.node for step in steps} == {"answer"}


@pytest.mark.asyncio
async def test_a_cancelled_batch_leaves_every_run_with_an_end(memory: Memory) -> None:
    all_wait = asyncio.Barrier(5)

    async def waits(state: MessagesState) -> None:
        await all_wait.wait()
        await asyncio.sleep(60)

    graph = StateGraph(MessagesState)
    graph.add_node("waits", waits)
    graph.add_edge(START, "waits")
    batch = asyncio.create_task(run_tasks(Agent(graph, ScriptedModel([]), memory=memory), tasks(4), concurrency=4))
    await all_wait.wait()
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert [run.status for run in await memory.find(Run)] == ["cancelled"] * 4


@pytest.mark.asyncio
async def test_a_concurrency_of_none_is_refused() -> None:
    with pytest.raises(UserError, match="a concurrency of 0"):
        await run_tasks(Agent("react", SlowEcho()), tasks(1), concurrency=0)


@pytest.mark.asyncio
async def test_a_memory_that_cannot_be_written_stops_the_batch_with_one_error(memory: Memory) -> None:
    agent = Agent("react", SlowEcho(), memory=memory)
    await memory.close()
    with pytest.raises(StoreError):
        await run_tasks(agent, tasks(4), concurrency=4)


INTERRUPTED = """
import asyncio, sys
from langgraph.graph import START, MessagesState, StateGraph
from whet.agents import Agent, run_tasks
from whet.core import Message, Task
from whet.core.models import ScriptedModel

async def waits(state: MessagesState):
    print("waiting", flush=True)
    await asyncio.sleep(60)

graph = StateGraph(MessagesState)
graph.add_node("waits", waits)
graph.add_edge(START, "waits")
tasks = [Task(id=f"t{i}", messages=(Message(role="user", content="x"),)) for i in range(3)]
asyncio.run(run_tasks(Agent(graph, ScriptedModel([]), memory=sys.argv[1]), tasks, concurrency=2))
"""


@pytest.mark.asyncio
async def test_ctrl_c_ends_every_run_as_cancelled(tmp_path: Path) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs here
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    async with await Memory.open(tmp_path / "store") as memory:
        runs = await memory.find(Run)
    assert [(run.status, run.ended_at is not None) for run in runs] == [("cancelled", True)] * 2


BAR = """
import asyncio
from whet.agents import Agent, run_tasks
from whet.core import Message, Task
from whet.core.models import ScriptedModel

tasks = [Task(id=f"t{i}", messages=(Message(role="user", content="x"),)) for i in range(3)]
asyncio.run(run_tasks(Agent("react", ScriptedModel(["ok"] * 3)), tasks))
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_there_is_a_progress_bar_on_a_terminal_only(terminal: bool) -> None:
    ours, theirs = os.openpty() if terminal else os.pipe()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", BAR], stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True
    )
    os.set_blocking(ours, False)
    with contextlib.suppress(BlockingIOError):
        assert (b"3/3" in os.read(ours, 1 << 16)) is terminal
    assert done.stdout == b""
    os.close(ours)
    os.close(theirs)
