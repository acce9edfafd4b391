"""Self-consistency: votes by answer and by behaviour, and that it stops when the vote is decided."""

from collections.abc import Callable

import pytest

from whet.agents import Agent, run_tasks
from whet.agents.behaviour import program_of, public_calls
from whet.agents.patterns.self_consistency import decided, group, plain_answer
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core import Budget, Message, Policy, Task, VerifierSpec
from whet.core.models import ScriptedModel
from whet.core.models.tiny.world import World
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]
MakeTask = Callable[..., Task]

REVERSED = ["def solve(x): return x[::-1]", "def solve(x):\n    return list(reversed(x))"]
SORTED = ["def solve(x): return sorted(x)"] * 2
BROKEN = ["def solve(x): return y", "def solve(x): return z", "def solve(x): return a", "def solve(x: return"]


@pytest.mark.asyncio
async def test_the_most_frequent_answer_wins_however_it_is_worded(settings: Settings) -> None:
    async with ScriptedModel(["It is 4.", "Let me see.\nAnswer: 5", "The sum is 5.", "answer: 5"]) as model:
        agent = Agent("self_consistency", model, policy=settings(n=4))
        result = await agent.arun("2 + 3? End with 'Answer: N'.")
    assert result.state["groups"][0] == [1, 3]
    assert result.answer == "Let me see.\nAnswer: 5"


def test_the_last_line_is_the_answer() -> None:
    assert plain_answer("First, add.\n\nFinal answer:  Forty  TWO. \n") == "forty two"
    assert plain_answer("") == ""


@pytest.mark.asyncio
async def test_programs_that_do_the_same_vote_together(
    settings: Settings, coding_task: MakeTask, pool: SandboxPool
) -> None:
    task = coding_task([], [("[3, 1, 2]", "[2, 1, 3]")])
    said = [*SORTED[:1], *REVERSED, SORTED[0], *BROKEN]
    async with ScriptedModel(["solve([3, 1, 2])\nsolve([5, 4, 9])\nNothing else.", *said, REVERSED[0]]) as model:
        policy = settings(n=9, width=9, inputs=8)
        result = await Agent("self_consistency", model, policy=policy, sandbox=pool).arun(task)
    assert result.state["calls"] == ["solve([3, 1, 2])", "solve([5, 4, 9])"]
    assert result.state["groups"][0] == [1, 2, 8], "two ways to reverse and one more sample agree"
    assert result.answer == REVERSED[0]
    assert result.passed


@pytest.mark.asyncio
async def test_the_inputs_of_public_tests_are_compared_without_asking(
    settings: Settings, coding_task: MakeTask, pool: SandboxPool
) -> None:
    task = coding_task([("[3, 1, 2]", "[2, 1, 3]")], [("[1, 2]", "[2, 1]")])
    async with ScriptedModel([SORTED[0], *REVERSED]) as model:
        agent = Agent("self_consistency", model, policy=settings(n=3), sandbox=pool)
        result = await agent.arun(task)
    assert (result.state["calls"], result.answer) == (["solve([3, 1, 2])"], REVERSED[0])


@pytest.mark.asyncio
async def test_it_stops_when_the_vote_is_decided(settings: Settings) -> None:
    async with ScriptedModel(["7", "7", "7"]) as model:
        agent = Agent("self_consistency", model, policy=settings(n=5, width=3))
        result = await agent.arun("Which?")
    assert (result.answer, result.run.usage.calls) == ("7", 3)
    assert not decided([3, 2], 1)
    assert decided([3, 1], 1)
    assert not decided([], 0)


@pytest.mark.asyncio
async def test_no_more_calls_than_the_knobs_and_the_budget_allow(settings: Settings, coding_task: MakeTask) -> None:
    async with ScriptedModel(["a", "b"]) as model:
        result = await Agent("self_consistency", model, policy=settings(n=9, calls=2)).arun("Which?")
    assert (result.run.status, result.answer) == ("done", "a")
    async with ScriptedModel(["a", "b", "c"]) as model:
        agent = Agent("self_consistency", model, policy=settings(n=9, width=1))
        result = await agent.arun("Which?", budget=Budget(calls=3))
    assert result.run.status == "cancelled"


def test_broken_programs_never_win() -> None:
    assert group([("raised NameError",), ("raised NameError",), ("1",)])[0] == [2]
    assert group([("raised NameError", "1"), ("raised NameError", "1"), ("1", "1")])[0] == [0, 1]


def test_calls_of_a_public_test_are_found_but_those_with_names_of_its_own() -> None:
    test = (
        "def check(candidate):\n    x = 1\n    assert candidate([2], k=3) == 1\n    assert candidate(x) == solve('b')\n"
    )

    def task(public: bool, test: str) -> Task:
        spec = VerifierSpec(
            kind="python_tests", params={"form": "check", "entry_point": "solve", "test": test}, public=public
        )
        return Task(id="t", messages=(Message(role="user", content="?"),), verifiers=(spec,))

    assert sorted(public_calls(task(True, test))) == ["solve('b')", "solve([2], k=3)"]
    assert public_calls(task(False, test)) == []
    assert public_calls(task(True, "assert (")) == []
    assert program_of(task(True, test), "So:\n```python\ndef solve(x): return 1\n```") == "def solve(x): return 1\n"


@pytest.mark.asyncio
async def test_the_embedded_model_is_more_often_right_by_majority_than_at_once() -> None:
    world = World(7, verbs=8)
    tasks = [world_task(task, world) for task in world.tasks(8, lengths=(2, 3))]
    told = Policy.of({"prompts/system.md": "\n".join(world.definitions(world.verbs))})

    async def solved(graph: str, **knobs: float) -> int:
        policy = told.with_settings(temperature=1.3, max_tokens=60, **knobs)
        agent = Agent(graph, "tiny", policy=policy, verify=lambda task, run: judge_answer(task, run.answer or ""))
        return sum(result.passed for result in await run_tasks(agent, tasks, progress=lambda result: None))

    assert await solved("self_consistency", n=7, width=7) > await solved("react") + 1
