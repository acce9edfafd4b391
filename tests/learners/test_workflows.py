"""Workflows over listed tools: learned, read and accepted by a person, followed by an agent; nothing from noise.

Two models are scripted. A colleague writes programs, and improves them when he hears that they fail. A follower does
what an agent's model does with a skill: it calls the tools as the steps say.
"""

import random
import re
from collections.abc import Sequence

import msgspec
import pytest

from whet.agents import Agent, tool
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import ScriptedModel, say_tool
from whet.core.records import Completion, Message, Sampling, Task, ToolSpec, Usage, VerifierSpec
from whet.learners.adoption import incumbent_arm
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.gate import Gate
from whet.learners.learner import Proposal, load_learner
from whet.learners.quarantine import approve, waiting
from whet.learners.view import TrainMemory
from whet.learners.workflows import Workflow, WorkflowLearner
from whet.memory import Memory
from whet.sandboxes import SandboxPool
from whet.skills import Skill

ITEMS = {str(order): [order % 7, order % 5] for order in range(100)}


def order_items(order: str) -> list[int]:
    """Which items an order has."""
    return ITEMS[order]


@tool
def price(item: int) -> int:
    """What an item costs."""
    return 3 * item + 1


TOOLS = [order_items, price]
HEAD = "# name: order-total\n# description: Totals of orders. Use when a task asks for one.\n# keywords: order total\n"
RIGHT = "order = task.split()[-1]\nanswer = sum([price(item) for item in order_items(order)])"
DRAFTS = ("answer = len(order_items(task.split()[-1]))", RIGHT)


def tasks(n: int, split: str = "train", *, answers: Sequence[int] = ()) -> list[Task]:
    """Orders and their totals; held-out ones are others than those of training."""
    orders = [str(number) for number in (range(n) if split == "train" else range(99, 99 - n, -1))]
    right = [sum(3 * item + 1 for item in ITEMS[order]) for order in orders]
    return [
        Task(
            id=f"{split}/{order}",
            messages=(Message(role="user", content=f"What is the total of order {order}"),),
            verifiers=(VerifierSpec(kind="exact", params={"expected": str(total)}),),
            split="train" if split == "train" else "heldout",
        )
        for order, total in zip(orders, answers or right, strict=True)
    ]


class Follower:
    """Follows the program of a skill by calling tools; without one it does not know."""

    name = "follower"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        program = re.search(r"```python\n(.*?)\n```", messages[0].content, re.DOTALL)
        asked = next(message.content for message in messages if message.role == "user")
        usage = Usage(input_tokens=20, output_tokens=5, calls=1)
        if program is None:
            return Completion(text="42", usage=usage)
        results = iter([message.content for message in messages if message.role == "tool"])
        space: dict[str, object] = {"task": asked}

        def bridged(spec: ToolSpec) -> object:
            def call(value: object) -> object:
                said = next(results, None)
                if said is None:
                    raise LookupError(spec.name, {next(iter(spec.parameters["properties"])): value})
                return msgspec.json.decode(said)

            return call

        try:
            exec(program[1], space | {spec.name: bridged(spec) for spec in tools}, space)  # noqa: S102
        except LookupError as wanted:
            return msgspec.structs.replace(say_tool(*wanted.args), usage=usage)
        return Completion(text=str(space["answer"]), usage=usage)


def answer(code: str) -> str:
    return f"Here:\n```python\n{HEAD}{code}\n```"


def colleague(drafts: Sequence[str] = DRAFTS) -> ScriptedModel:
    return ScriptedModel([answer(code) for code in drafts], name="colleague")


async def propose(memory: Memory, learner: WorkflowLearner, train: Sequence[Task]) -> list[Proposal]:
    view = TrainMemory(memory, tasks=train)
    return [p async for p in learner.propose(view, await incumbent_arm(memory), Budget(calls=10))]


async def accepts(workflow: Workflow) -> str:
    return ""


@pytest.mark.asyncio
async def test_a_workflow_that_does_the_tasks_is_learned_and_the_gate_promotes_it(
    memory: Memory, pool: SandboxPool
) -> None:
    async with colleague() as model:
        (proposal,) = await propose(memory, WorkflowLearner(TOOLS, pool, model, accepts), tasks(12))
    first, second = (asked.messages[-1].content for asked in model.asked)
    assert "price(item: int) -> int: What an item costs." in first
    assert "What is the total of order 5" in first
    assert "It failed 7 of 8 tasks." in second
    skill = Skill.parse(proposal.policy.skill("order-total"))
    assert skill.allowed_tools == ("order_items", "price")
    assert "1. Let `order` be `task.split()[-1]`." in skill.body
    async with Agent("react", Follower(), tools=TOOLS, memory=memory) as agent:
        before = await incumbent_arm(memory)
        decision = await Gate().decide(proposal.arm(before), before, tasks(30, "heldout"), evaluator(agent))
    assert decision.decision == "promoted", decision.reason
    assert decision.evidence["candidate_mean"] == 1.0


@pytest.mark.asyncio
async def test_from_shuffled_answers_nothing_is_proposed_and_what_would_be_is_not_promoted(
    memory: Memory, pool: SandboxPool
) -> None:
    totals = [int(str(task.verifiers[0].params["expected"])) for task in tasks(30)]
    noise = tasks(30, answers=random.Random(1).sample(totals, len(totals)))
    async with colleague([*DRAFTS, DRAFTS[0]]) as model:
        assert await propose(memory, WorkflowLearner(TOOLS, pool, model, accepts), noise) == []
    (forced,) = await propose(memory, WorkflowLearner(TOOLS, pool, colleague(), accepts, min_share=0.0), noise)
    async with Agent("react", Follower(), tools=TOOLS, memory=memory) as agent:
        before = await incumbent_arm(memory)
        decision = await Gate().decide(forced.arm(before), before, tasks(30, "heldout"), evaluator(agent))
    assert decision.decision != "promoted"


@pytest.mark.asyncio
async def test_a_person_reads_the_steps_and_what_they_say_goes_to_the_model(memory: Memory, pool: SandboxPool) -> None:
    shown: list[list[str]] = []

    async def review(workflow: Workflow) -> str:
        shown.append(workflow.steps)
        return "" if len(shown) > 1 else "Ask for the items first."

    edited = "items = order_items(task.split()[-1])\nanswer = sum([price(item) for item in items])"
    async with colleague([RIGHT, edited]) as model:
        (proposal,) = await propose(memory, WorkflowLearner(TOOLS, pool, model, review), tasks(4))
    assert model.asked[1].messages[-1].content.startswith("Ask for the items first.")
    assert shown[1][0] == "1. Call `order_items(task.split()[-1])` and keep the result as `items`."
    assert proposal.candidate.trust == "trusted"
    assert proposal.candidate.config["steps"] == shown[1]


@pytest.mark.asyncio
async def test_what_nobody_read_waits_for_a_person(memory: Memory, pool: SandboxPool) -> None:
    async with colleague([RIGHT]) as model:
        learner = WorkflowLearner(TOOLS, pool, model, remark="Use price.")
        memory_view = TrainMemory(memory, tasks=tasks(4))
        (proposal,) = await check_learner(learner, memory, memory_view)
    assert "A person said about an earlier draft: Use price." in model.asked[0].messages[0].content
    assert proposal.candidate.trust == "tainted"
    await memory.policies.put(proposal.policy)
    await memory.put(proposal.candidate)
    assert [candidate.id for candidate in await waiting(memory)] == [proposal.candidate.id]
    await approve(memory, "order-total", reason="read the steps", actor="ana")
    assert (await memory.policies.head()).skill_names() == ["order-total"]
    assert await waiting(memory) == []


@pytest.mark.asyncio
async def test_what_is_no_workflow_goes_back_with_the_line_and_tools_never_tell_the_model(
    memory: Memory, pool: SandboxPool
) -> None:
    drafts = ["import os\nanswer = os.getcwd()", "answer = price(task)", RIGHT]
    async with colleague(drafts) as model:
        assert len(await propose(memory, WorkflowLearner(TOOLS, pool, model, accepts), tasks(4))) == 1
    said = [asked.messages[-1].content for asked in model.asked]
    assert "line 4: Import is not allowed" in said[1]
    assert "price raised TypeError" in said[2]
    nameless = ScriptedModel(["answer = price(1)", answer(RIGHT)])
    assert len(await propose(memory, WorkflowLearner(TOOLS, pool, nameless, accepts), tasks(4))) == 1
    assert "name has 0 characters" in nameless.asked[1].messages[-1].content


@pytest.mark.asyncio
async def test_what_is_missing_is_said(memory: Memory) -> None:
    with pytest.raises(UserError, match=r"--set tools=package\.module:NAME --set model=NAME"):
        await propose(memory, WorkflowLearner(), tasks(1))
    with pytest.raises(UserError, match="no list of functions"):
        load_learner("workflows", tools="whet.learners.workflows:WorkflowLearner")
    with pytest.raises(UserError, match="inside a run only"):
        load_learner("workflows", tools=[__import__("whet.agents").agents.shell])
    with pytest.raises(UserError, match="is no function"):
        WorkflowLearner(tools=[3])  # type: ignore[list-item]
