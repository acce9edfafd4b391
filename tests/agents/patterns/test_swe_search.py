"""Search over actions: workspaces per node, values and hindsight, bonuses, the debate, halting."""

import math
from collections.abc import Callable

import pytest

from whet.agents import Agent, shell
from whet.agents.patterns.swe_search import Action, worth
from whet.agents.tree import Tree
from whet.core import Budget, Completion, ExecResult, Execution, NodeFinished, Policy, Step
from whet.core.models import ScriptedModel, say_tool
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]


def run(command: str) -> Completion:
    return say_tool("shell", {"command": command})


@pytest.mark.asyncio
async def test_each_node_has_its_workspace_and_the_steps_are_the_tree(
    settings: Settings, pool: SandboxPool, memory: Memory
) -> None:
    script = [
        run("echo one > found"),
        "Too early.\nScore: 10",
        run("cat found; echo two > found"),
        "Good.\nScore: 80",
        run("cat found"),
        "Right.\nScore: 90",
        "It is two.",
        "Done.\nScore: 95",
    ]
    policy = settings(width=2, finished=1)
    async with ScriptedModel(script) as model:
        agent = Agent("swe_search", model, tools=[shell], policy=policy, sandbox=pool, memory=memory)
        result = await agent.arun("What is found?")
    assert result.answer == "It is two."
    steps = await memory.find(Step, where={"run_id": result.run.id})
    said = [step.body.result for step in steps if isinstance(step.body, Execution)]
    assert [isinstance(each, ExecResult) and each.stdout for each in said] == ["", "", "two\n"]
    assert "No such file" in said[1].stderr, "the second branch begins without what the first one wrote"
    again = model.asked[2].messages[-1].content
    assert 'shell {"command":"echo one > found"}\nToo early.' in again
    tree = {step.id: step for step in steps if step.node == "value/tree" and isinstance(step.body, NodeFinished)}
    ids = {id: step.body.output["id"] for id, step in tree.items()}  # type: ignore[union-attr,index,call-overload]
    assert {ids[id]: ids.get(str(step.parent_id), 0) for id, step in tree.items()} == {1: 0, 2: 0, 3: 2, 4: 3}


@pytest.mark.asyncio
async def test_a_debate_chooses_among_finished_answers(settings: Settings) -> None:
    script = ["First.", "Fine.\nScore: 60", "Second.", "Worse.\nScore: 40"]
    debate = ["The other.\nScore: 2", "I agree.\nScore: 2", "No.\nScore: 1"]
    async with ScriptedModel([*script, *debate]) as model:
        result = await Agent("swe_search", model, policy=settings(finished=2, width=2)).arun("Which?")
    assert result.answer == "Second."
    last = model.asked[-1].messages[-1].content
    assert "# Solution 1\nFirst." in last
    assert "The other." in last
    async with ScriptedModel(script) as model:
        result = await Agent("swe_search", model, policy=settings(finished=2, width=2, debaters=0)).arun("Which?")
    assert result.answer == "First."


@pytest.mark.asyncio
async def test_checks_that_may_be_heard_outrank_the_models_value(
    settings: Settings, coding_task: Callable[..., object], pool: SandboxPool
) -> None:
    task = coding_task([("[3, 1, 2]", "[2, 1, 3]")], [("[1, 5]", "[5, 1]")])
    script = ["def solve(x): return x", "def solve(x): return x[::-1]"]
    async with ScriptedModel(script) as model:
        result = await Agent("swe_search", model, policy=settings(), sandbox=pool).arun(task)  # type: ignore[arg-type]
    assert (result.answer, result.passed) == (script[1], True)
    assert "returned [3, 1, 2], expected [2, 1, 3]" in model.asked[1].messages[-1].content
    assert [reward for _, reward in result.state["rewards"]] == [-100.0, 100.0]


@pytest.mark.asyncio
async def test_the_last_step_is_an_answer_and_no_limit_is_passed(settings: Settings, pool: SandboxPool) -> None:
    async def ran(
        script: list[Completion | str], budget: Budget | None = None, **knobs: float
    ) -> tuple[str, str | None]:
        async with ScriptedModel(script) as model:
            agent = Agent("swe_search", model, tools=[shell], policy=settings(**knobs), sandbox=pool)
            result = await agent.arun("Go.", budget=budget)
        return result.run.status, result.answer

    look, rated = run("ls"), "Score: 0"
    assert await ran([look, rated, "So.", rated], expansions=2) == ("done", "So.")
    assert await ran([look, rated, "So.", rated], calls=4) == ("done", "So.")
    assert await ran(["So."], calls=1) == ("done", "So.")
    assert await ran(["So.", rated], depth=1, width=1) == ("done", "So.")
    assert await ran([look, rated], Budget(calls=2)) == ("cancelled", None)


def action(id: int, parent: int | None, value: float, answer: str | None = None) -> Action:
    return Action(id=id, parent=parent, value=value, step="", said=[], box="", answer=answer, passed=False, why="")


def test_bonuses_and_penalties() -> None:
    root = action(0, None, 0)
    rewards = [(1, 60.0), (2, 20.0), (3, 80.0)]
    log = [root, action(1, 0, 60), action(2, 1, 20), action(3, 0, 80)]
    tree = Tree(log, rewards)
    assert worth(tree, log[0], 0.0) == pytest.approx(tree.mean(0) + 200 * math.exp(0.8) - 5), "a child of 80"
    assert worth(tree, log[1], 0.0) == pytest.approx(40 + 5 * (60 - 20) - 0.8), "its one child is a bad tool call"
    assert worth(tree, log[2], 0.0) == pytest.approx(20 - 0.8 * math.sqrt(2))
    assert worth(tree, log[3], 0.0) == pytest.approx(80 + 20 - 0.8), "good and not expanded"
    solved = Tree([*log, action(4, 3, 100, "So.")], rewards)
    assert worth(solved, log[3], 0.0) == pytest.approx(80 - 5 - 50 - 0.8), "its branch has an answer of 100"
