"""CodeTree: depth first over strategies and fixes; the critic has a say in when it ends."""

from collections.abc import Callable

import pytest

from whet.agents import Agent
from whet.agents.runtime import Criticise, Verify
from whet.core import Budget, NodeFinished, Policy, Step
from whet.core.models import ScriptedModel
from whet.memory import Memory

Settings = Callable[..., Policy]

ACCEPT, REFINE, ABANDON = (
    f"Hm.\nScore: {score}\nDecision: {said}" for score, said in ((9, "accept"), (5, "refine"), (1, "abandon"))
)


@pytest.mark.asyncio
async def test_depth_first_fixes_before_other_strategies(
    wants_good: Verify, says_why: Criticise, settings: Settings, memory: Memory
) -> None:
    script = [
        "1. First.\n2. Second.",
        "gxxx",
        REFINE,
        "1. Fix one.\n2. Fix two.",
        "goox",
        REFINE,
        "- More o.",
        "good",
        ACCEPT,
    ]
    async with ScriptedModel(script) as model:
        agent = Agent("code_tree", model, verify=wants_good, critique=says_why, policy=settings(), memory=memory)
        result = await agent.arun("Do it.")
    assert (result.answer, result.passed) == ("good", True)
    said = [asked.messages[-1].content for asked in model.asked]
    assert said[1].endswith("# Way\nFirst.")
    assert "# Answer\ngxxx\n\n# Checks\n'gxxx' is wrong.\n\n# Review\nHm." in said[4]
    assert said[4].endswith("# Way\nFix one.")
    steps = await memory.find(Step, where={"run_id": result.run.id})
    tree = {step.id: step for step in steps if step.node == "review/tree" and isinstance(step.body, NodeFinished)}
    plans = {id: step.body.output["plan"] for id, step in tree.items()}  # type: ignore[union-attr,index,call-overload]
    above = {plans[id]: plans.get(str(step.parent_id)) for id, step in tree.items()}
    assert above == {"First.": None, "Fix one.": "First.", "More o.": "Fix one."}


@pytest.mark.asyncio
async def test_what_is_worse_or_abandoned_is_left_for_the_next_on_the_stack(
    wants_good: Verify, settings: Settings
) -> None:
    script = ["1. A.\n2. B.\n3. C.", "goox", REFINE, "1. Fix.", "xxxx", REFINE, "oooo", ABANDON, "good", ACCEPT]
    async with ScriptedModel(script) as model:
        result = await Agent("code_tree", model, verify=wants_good, policy=settings()).arun("Do it.")
    assert result.answer == "good"
    ways = [asked.messages[-1].content.rpartition("# Way\n")[2] for asked in model.asked]
    assert [ways[number] for number in (1, 4, 6, 8)] == ["A.", "Fix.", "B.", "C."]


@pytest.mark.asyncio
async def test_a_passing_answer_is_not_enough_for_the_critic(wants_good: Verify, settings: Settings) -> None:
    script = ["1. A.", "good", REFINE, "1. Say more.", "good", ACCEPT]
    async with ScriptedModel(script) as model:
        result = await Agent("code_tree", model, verify=wants_good, policy=settings()).arun("Do it.")
    assert result.run.usage.calls == 6
    values = {node["id"]: node["value"] for node in result.state["nodes"]}
    assert values[1] == pytest.approx(1 + 5 / 15 + 5 / 15)
    assert values[2] == pytest.approx(1 + 9 / 15 + 5 / 15)


@pytest.mark.asyncio
async def test_an_accepting_critic_does_not_overrule_a_check(wants_good: Verify, settings: Settings) -> None:
    script = ["1. A.", "goox", ACCEPT, "1. Again.", "good", ACCEPT]
    async with ScriptedModel(script) as model:
        result = await Agent("code_tree", model, verify=wants_good, policy=settings()).arun("Do it.")
    assert result.answer == "good"


@pytest.mark.asyncio
async def test_tries_calls_and_budget_are_kept(wants_good: Verify, settings: Settings) -> None:
    async def ran(script: list[str], budget: Budget | None = None, **knobs: float) -> tuple[str, str | None]:
        async with ScriptedModel(script) as model:
            agent = Agent("code_tree", model, verify=wants_good, policy=settings(**knobs))
            result = await agent.arun("Do it.", budget=budget)
        return result.run.status, result.answer

    assert await ran(["1. A.\n2. B.", "gxxx", REFINE], tries=1) == ("done", "gxxx")
    assert await ran(["1. A.\n2. B.", "gxxx"], calls=2) == ("done", "gxxx")
    assert await ran(["goxx"], calls=1) == ("done", "goxx")
    assert await ran(["1. A.\n2. B.", "gxxx", ABANDON, "goxx", ABANDON]) == ("done", "goxx"), "the stack is empty"
    assert await ran(["1. A.\n2. B.", "gxxx"], Budget(calls=2)) == ("cancelled", None)
