"""Search over thoughts: the right program comes only from a rewritten thought; memory, tree, halting, resumption."""

from collections.abc import Callable, Sequence

import pytest

from whet.agents import Agent
from whet.core import Budget, Message, NodeFinished, Policy, Step, Task
from whet.core.models import ScriptedModel
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]
MakeTask = Callable[..., Task]

PUBLIC = [("[3, 1, 2]", "[2, 1, 3]"), ("[4]", "[4]")]
HIDDEN = [("[1, 5]", "[5, 1]")]
SORTS = "def solve(x):\n    y = sorted(x)\n    return y"
FIRST = "def solve(x): return x[:1]"
REVERSES = "def solve(x):\n    return x[::-1]"
BREAKS = "def solve(x): return x.y"


@pytest.mark.asyncio
async def test_the_right_program_is_found_by_rewriting_the_faulty_thought(
    settings: Settings, coding_task: MakeTask, pool: SandboxPool
) -> None:
    def from_thoughts(messages: Sequence[Message]) -> str:
        return REVERSES if "Turn it round" in messages[-1].content else SORTS

    script = [
        "1. Sort it.\n2. Take the first.",
        from_thoughts,
        "The block that sorts is wrong.\nThought: Turn it round.",
        from_thoughts,
    ]
    async with ScriptedModel(script) as model:
        result = await Agent("rethink", model, policy=settings(width=2), sandbox=pool).arun(coding_task(PUBLIC, HIDDEN))
    assert (result.answer, result.passed) == (REVERSES, True)
    rethought = model.asked[2].messages[-1].content
    assert "solve([3, 1, 2]) returned [1, 2, 3], expected [2, 1, 3]." in rethought
    assert "    y = sorted(x)\n" in rethought
    assert "y=[1, 2, 3]" in rethought, "the trace of the failing call shows what the block made"


@pytest.mark.asyncio
async def test_what_was_found_wrong_is_the_nodes_memory_and_the_steps_are_the_tree(
    settings: Settings, coding_task: MakeTask, pool: SandboxPool, memory: Memory
) -> None:
    script = ["1. Sort it.\n2. Take the first.", SORTS, BREAKS, "1. Turn it round.", REVERSES]
    policy = settings(width=2, rethinks=0, exploration=0)
    async with ScriptedModel(script) as model:
        agent = Agent("rethink", model, policy=policy, sandbox=pool, memory=memory)
        result = await agent.arun(coding_task(PUBLIC, HIDDEN))
    assert (result.answer, result.passed) == (REVERSES, True)
    asked = model.asked[3].messages[-1].content
    assert "# Thoughts so far\nSort it." in asked, "its program passes one check, the other's none"
    assert "returned [1, 2, 3], expected [2, 1, 3]" in asked
    steps = await memory.find(Step, where={"run_id": result.run.id})
    tree = {step.id: step for step in steps if step.node.endswith("/tree") and isinstance(step.body, NodeFinished)}
    parents = {step.body.output["thought"]: step.parent_id for step in tree.values()}  # type: ignore[union-attr,index,call-overload]
    assert parents["Turn it round."] in tree
    assert tree[str(parents["Turn it round."])].body.output["thought"] == "Sort it."  # type: ignore[union-attr,index,call-overload]


@pytest.mark.asyncio
async def test_its_own_score_decides_between_answers_that_pass(
    settings: Settings, coding_task: MakeTask, pool: SandboxPool
) -> None:
    lucky = "def solve(x): return [2, 1, 3] if len(x) == 3 else x"
    script = ["1. A.\n2. B.", lucky, "Only these inputs.\nScore: 10", REVERSES, "Score: 70", "1. C.", SORTS]
    async with ScriptedModel(script) as model:
        policy = settings(width=2, enough=1, rethinks=0, tries=3)
        result = await Agent("rethink", model, policy=policy, sandbox=pool).arun(coding_task(PUBLIC, HIDDEN))
    assert (result.answer, result.passed) == (REVERSES, True)
    assert [reward for _, reward in result.state["rewards"]] == pytest.approx([0.82, 0.94, 0.5])


@pytest.mark.asyncio
async def test_calls_tries_and_budget_are_kept(settings: Settings, coding_task: MakeTask, pool: SandboxPool) -> None:
    task = coding_task(PUBLIC, HIDDEN)
    endless = [lambda messages: "1. Sort it." if "numbered line" in messages[-1].content else FIRST] * 3

    async def ran(model: ScriptedModel, budget: Budget | None = None, **knobs: float) -> tuple[str, str | None, int]:
        agent = Agent("rethink", model, policy=settings(rethinks=0, depth=9, **knobs), sandbox=pool)
        result = await agent.arun(task, budget=budget)
        return result.run.status, result.answer, result.run.usage.calls

    async with ScriptedModel(endless) as model:
        assert await ran(model, calls=3) == ("done", FIRST, 3)
    async with ScriptedModel(endless[:2]) as model:
        assert await ran(model, tries=1) == ("done", FIRST, 2)
    async with ScriptedModel(endless[:1]) as model:
        assert await ran(model, calls=1) == ("done", FIRST, 1)
    async with ScriptedModel(endless) as model:
        assert await ran(model, Budget(calls=3)) == ("cancelled", None, 3)
