"""Test-driven: tests come first, what fails is reported as the enforcement says, the best program is the answer."""

from collections.abc import Callable

import pytest

from whet.agents import Agent, replay
from whet.core import Budget, Message, ModelCall, Policy, Step, Task, ToolResult, Verdict, VerifierSpec
from whet.core.models import ScriptedModel
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]

TESTS = "```python\nassert double(2) == 4\nassert double(0) == 0\nassert double(-1) == -2\n```"
WRONG = "def double(x):\n    return x + 2"
HALF = "def double(x):\n    return abs(x) * 2"
RIGHT = "def double(x):\n    return x * 2"
JUDGE = VerifierSpec(kind="python_tests", params={"form": "cases", "entry_point": "double", "cases": [["7", "14"]]})
TASK = Task(id="double", messages=(Message(role="user", content="Write double(x)."),), verifiers=(JUDGE,))


@pytest.mark.asyncio
async def test_tests_come_first_and_failures_are_repaired(memory: Memory, pool: SandboxPool) -> None:
    async with ScriptedModel([TESTS, WRONG, RIGHT]) as model:
        result = await Agent("test_driven", model, memory=memory, sandbox=pool).arun(TASK, purpose="gate")
    assert (result.answer, result.passed) == (RIGHT, True)
    assert "Write the acceptance tests" in model.asked[0].messages[0].content
    asked = [message.content for message in model.asked[1].messages]
    assert asked[0] == "Write double(x)."
    assert "assert double(-1) == -2" in asked[1], "they are seen before the first line is written"
    report = model.asked[2].messages[-1].content
    assert "double(0) returned 2, expected 0." in report
    assert "double(-1) returned 1, expected -2." in report


@pytest.mark.asyncio
async def test_hidden_tests_are_heard_of_when_they_fail(pool: SandboxPool, settings: Settings) -> None:
    async with ScriptedModel([TESTS, WRONG, RIGHT]) as model:
        agent = Agent("test_driven", model, sandbox=pool, policy=settings(enforcement=0))
        await agent.arun(TASK, purpose="gate")
    assert [message.content for message in model.asked[1].messages] == ["Write double(x)."]
    assert model.asked[2].messages[-1].content.count("expected") == 2


@pytest.mark.asyncio
async def test_stepwise_one_failure_is_heard_of_at_a_time(pool: SandboxPool, settings: Settings) -> None:
    async with ScriptedModel([TESTS, WRONG, HALF, RIGHT]) as model:
        agent = Agent("test_driven", model, sandbox=pool, policy=settings(enforcement=2))
        result = await agent.arun(TASK, purpose="gate")
    reports = [request.messages[-1].content for request in model.asked[2:]]
    assert [("double(0)" in report, "double(-1)" in report) for report in reports] == [(True, False), (False, True)]
    assert result.answer == RIGHT


@pytest.mark.asyncio
async def test_repairs_are_bounded_and_the_best_program_is_the_answer(pool: SandboxPool, settings: Settings) -> None:
    async with ScriptedModel([TESTS, HALF, WRONG]) as model:
        agent = Agent("test_driven", model, sandbox=pool, policy=settings(repairs=1))
        assert (await agent.arun(TASK, purpose="gate")).answer == HALF


@pytest.mark.asyncio
@pytest.mark.parametrize("tests", ["I would rather not.", "```python\nassert double(\n```", ""])
async def test_tests_that_cannot_be_run_decide_nothing(pool: SandboxPool, tests: str) -> None:
    async with ScriptedModel([tests, RIGHT]) as model:
        result = await Agent("test_driven", model, sandbox=pool).arun(TASK, purpose="gate")
    assert (result.answer, result.passed) == (RIGHT, True)


@pytest.mark.asyncio
async def test_the_models_own_tests_are_no_evidence(memory: Memory, pool: SandboxPool) -> None:
    """A wrong test is obeyed, and the verdict is that of the task's verifier alone."""
    wrong = "```python\nassert double(2) == 5\n```"
    async with ScriptedModel([wrong, "def double(x):\n    return x + 3"]) as model:
        result = await Agent("test_driven", model, memory=memory, sandbox=pool).arun(TASK, purpose="gate")
    verdicts = await memory.find(Verdict, where={"run_id": result.run.id})
    assert [verdict.outcome for verdict in verdicts] == ["fail"]


@pytest.mark.asyncio
async def test_public_tests_count_as_well(pool: SandboxPool) -> None:
    public = VerifierSpec(kind="python_tests", params={**JUDGE.params, "cases": [["1", "2"]]}, public=True)
    task = Task(id="t", messages=TASK.messages, verifiers=(public,))
    weak = "```python\nassert double(2) == 4\n```"
    async with ScriptedModel([weak, WRONG, RIGHT]) as model:
        result = await Agent("test_driven", model, sandbox=pool).arun(task, purpose="gate")
    assert "double(1) returned 3, expected 2." in model.asked[2].messages[-1].content
    assert result.answer == RIGHT


@pytest.mark.asyncio
async def test_it_is_replayed_without_model_and_sandbox(memory: Memory, pool: SandboxPool) -> None:
    async with ScriptedModel([TESTS, WRONG, RIGHT]) as model:
        first = await Agent("test_driven", model, memory=memory, sandbox=pool).arun(TASK, purpose="gate")
    again = await replay(Agent("test_driven", ScriptedModel([]), memory=memory), first.run.id)
    assert (again.answer, again.run.error) == (RIGHT, None)
    steps = [await memory.find(Step, where={"run_id": run.id}) for run in (first.run, again.run)]
    kinds = [[(step.node, type(step.body)) for step in found] for found in steps]
    assert kinds[0] == kinds[1]
    assert [node for node, kind in kinds[0] if kind is ToolResult] == ["check", "check"]


@pytest.mark.asyncio
async def test_the_budget_ends_it(memory: Memory, pool: SandboxPool) -> None:
    async with ScriptedModel([TESTS, WRONG]) as model:
        agent = Agent("test_driven", model, memory=memory, sandbox=pool)
        result = await agent.arun(TASK, purpose="gate", budget=Budget(calls=2))
    assert result.run.status == "cancelled"
    calls = [step for step in await memory.find(Step) if isinstance(step.body, ModelCall)]
    assert len(calls) == 2
