"""Many runs at once: order, isolation of failures, one budget that is never exceeded, a clean stop."""

import asyncio
from collections.abc import Sequence

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from whet.agents import Agent, AgentChatModel, RunResult, run_tasks
from whet.core import Budget, Completion, Message, Run, Sampling, Step, Task, ToolSpec, Usage, UserError
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
    async def waits(state: MessagesState) -> None:
        await asyncio.sleep(60)

    graph = StateGraph(MessagesState)
    graph.add_node("waits", waits)
    graph.add_edge(START, "waits")
    batch = asyncio.create_task(run_tasks(Agent(graph, ScriptedModel([]), memory=memory), tasks(4), concurrency=4))
    while await memory.count(Step) < 4:
        await asyncio.sleep(0.01)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert [run.status for run in await memory.find(Run)] == ["cancelled"] * 4


@pytest.mark.asyncio
async def test_a_concurrency_of_none_is_refused() -> None:
    with pytest.raises(UserError, match="a concurrency of 0"):
        await run_tasks(Agent("react", SlowEcho()), tasks(1), concurrency=0)
