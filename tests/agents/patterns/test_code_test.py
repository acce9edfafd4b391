"""Programs and tests by one model: the rule decides, public checks come first, a person may be asked about tests."""

from collections.abc import Callable

import pytest

from whet.agents import Agent
from whet.core import Interrupted, Policy, Step, Task
from whet.core.models import ScriptedModel
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]
MakeTask = Callable[..., Task]

RIGHT = "def solve(x): return x[::-1]"
WRONG = "def solve(x): return sorted(x)"
ODD = "def solve(x): return x + [0]"
HIDDEN = [("[3, 1, 2]", "[2, 1, 3]"), ("[1, 5]", "[5, 1]")]


@pytest.mark.asyncio
@pytest.mark.parametrize(("rule", "answer"), [(1, RIGHT), (2, RIGHT), (3, WRONG)])
async def test_the_rule_of_the_policy_chooses(
    rule: int, answer: str, settings: Settings, coding_task: MakeTask, pool: SandboxPool
) -> None:
    tests = (
        "Tests:\nassert solve([1, 2]) == [2, 1]\nassert solve([]) == []\nassert solve([3, 4, 5]) == [5, 4, 3]\nassert ("
    )
    async with ScriptedModel([tests, WRONG, WRONG, RIGHT]) as model:
        agent = Agent("code_test", model, policy=settings(n=3, rule=rule), sandbox=pool)
        result = await agent.arun(coding_task([], HIDDEN))
    assert result.answer == answer
    assert result.state["tests"] == tests.splitlines()[1:4]
    assert result.state["passes"] == [[False, True, False]] * 2 + [[True] * 3]


@pytest.mark.asyncio
async def test_public_checks_come_before_the_rule(settings: Settings, coding_task: MakeTask, pool: SandboxPool) -> None:
    wrong_test = "assert solve([2, 1]) == [2, 1, 0]"
    async with ScriptedModel([wrong_test, ODD, ODD, RIGHT]) as model:
        agent = Agent("code_test", model, policy=settings(n=3), sandbox=pool)
        result = await agent.arun(coding_task(HIDDEN[:1], HIDDEN))
    assert result.answer == RIGHT


@pytest.mark.asyncio
async def test_a_person_says_which_tests_are_right_and_the_choice_follows(
    settings: Settings, coding_task: MakeTask, pool: SandboxPool, memory: Memory
) -> None:
    script = ["assert solve([2, 1, 3]) == [1, 2, 3]\nassert solve([2, 3, 1]) == [1, 2, 3]", WRONG, WRONG, RIGHT]
    policy = settings(n=3, questions=2)
    async with ScriptedModel(script) as model:
        agent = Agent("code_test", model, policy=policy, sandbox=pool, memory=memory)
        asked = await agent.arun(coding_task([], HIDDEN))
    assert asked.run.status == "interrupted"
    assert asked.interrupts[0]["test"] == "assert solve([2, 1, 3]) == [1, 2, 3]"  # type: ignore[index,call-overload]
    later = Agent("code_test", ScriptedModel([]), policy=policy, sandbox=pool, memory=memory)
    unclear = await later.resume(asked.run.id, "hm")
    assert unclear.interrupts[0]["question"].startswith("Please answer")  # type: ignore[index,call-overload,union-attr]
    result = await later.resume(asked.run.id, "assert solve([2, 1, 3]) == [3, 1, 2]")
    assert (result.run.status, result.answer, result.run.usage.calls) == ("done", RIGHT, 4)
    assert result.passed
    assert result.state["answers"] == {script[0].splitlines()[0]: False, "assert solve([2, 1, 3]) == [3, 1, 2]": True}
    steps = await memory.find(Step, where={"run_id": asked.run.id})
    assert sum(isinstance(step.body, Interrupted) for step in steps) >= 2


@pytest.mark.asyncio
async def test_without_usable_tests_and_calls_it_still_answers(
    settings: Settings, coding_task: MakeTask, pool: SandboxPool
) -> None:
    async with ScriptedModel(["I cannot.", RIGHT]) as model:
        agent = Agent("code_test", model, policy=settings(n=8, calls=2, questions=3), sandbox=pool)
        result = await agent.arun(coding_task([], HIDDEN))
    assert (result.answer, result.state["tests"]) == (RIGHT, [])
