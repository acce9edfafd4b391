"""Tips: what a colleague writes after reading the record is promoted, from shuffled verdicts nothing is."""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent, shell
from whet.core.budget import Budget
from whet.core.errors import BudgetError
from whet.core.models import Model, ScriptedModel, say_tool
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.core.records import Completion, Lesson, Message, Run, Sampling, Task, ToolSpec, Usage, Verdict, VerifierSpec
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.experience.tips import TipLearner
from whet.learners.gate import Arm, Gate, GateConfig
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory
from whet.sandboxes import SandboxPool

NOTHING = Arm(policy=Policy())
Quick = Callable[..., Agent]
Single = Callable[[World], list[Task]]
Tasks = Callable[..., list[Task]]
Infer = Callable[[str], dict[str, str]]


class Colleague:
    """Reads the runs that it is shown as a competent colleague would: what do the failing checks say of the verbs?"""

    name = "colleague"

    def __init__(self, infer: Infer) -> None:
        self.infer = infer

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        text = messages[-1].content.replace("Task: ", "").replace("Outcome: failed. ", "")
        told = self.infer(re.sub(r"(expected [^.]+\.) ", r"\1\n", text))
        tips = [{"text": f"def {verb}(x): return {meaning}", "applies_when": verb} for verb, meaning in told.items()]
        return Completion(text=f"Here they are:\n{json.dumps(tips)}", usage=Usage(calls=1))


async def proposals(memory: Memory, model: Model) -> list[Proposal]:
    return [each async for each in TipLearner(model).propose(TrainMemory(memory), NOTHING, Budget())]


async def decide(memory: Memory, agent: Agent, model: Model, heldout: Sequence[Task]) -> list[str]:
    decisions = []
    for proposal in await proposals(memory, model):
        await memory.put(*proposal.lessons)
        gate = Gate(GateConfig(concurrency=4, max_token_ratio=None))  # without tips next to nothing is read
        decisions.append((await gate.decide(proposal.arm(NOTHING), NOTHING, heldout, evaluator(agent))).decision)
    return decisions


@pytest.mark.asyncio
async def test_the_gate_promotes_tips_and_nothing_of_shuffled_verdicts(
    memory: Memory, tmp_path: Path, quick: Quick, single: Single, world: World, world_tasks: Tasks, infer: Infer
) -> None:
    heldout = world_tasks(24, lengths=(1, 2), split="heldout")
    async with quick(memory) as agent:
        for task in single(world):
            await agent.arun(task)
        assert await decide(memory, agent, Colleague(infer), heldout) == ["promoted"]
    tasks, runs, verdicts = [await memory.find(kind) for kind in (Task, Run, Verdict)]
    runs = [run for run in runs if run.purpose != "gate"]
    outcomes = [verdict for verdict in verdicts if verdict.run_id in {run.id for run in runs}]
    random.Random(0).shuffle(outcomes)
    moved = [
        msgspec.structs.replace(verdict, id=f"m-{run.id}", run_id=run.id, task_id=run.task_id)
        for run, verdict in zip(runs, outcomes, strict=True)
    ]
    async with await Memory.open(tmp_path / "noise") as noise, quick(noise) as agent:
        await noise.put(*tasks, *runs, *moved)
        assert "promoted" not in await decide(noise, agent, Colleague(infer), heldout)


@pytest.mark.asyncio
async def test_the_embedded_model_is_better_for_tips(
    memory: Memory, quick: Quick, single: Single, world: World, world_tasks: Tasks, infer: Infer
) -> None:
    async with quick(memory, "tiny") as agent:
        for task in single(world):
            await agent.arun(task)
        heldout = world_tasks(16, lengths=(1, 2), split="heldout")
        assert await decide(memory, agent, Colleague(infer), heldout) == ["promoted"]


@pytest.mark.asyncio
async def test_the_list_is_written_anew_from_actions_and_the_tips_so_far(memory: Memory, pool: SandboxPool) -> None:
    task = Task(
        id="t",
        messages=(Message(role="user", content="Say hi."),),
        verifiers=(VerifierSpec(kind="exact", params={"expected": "hi"}),),
    )
    script = [say_tool("shell", {"command": "cat nowhere"}), say_tool("dig", {}), "no"]
    await Agent("react", ScriptedModel(script), tools=[shell], memory=memory, sandbox=pool).arun(task)
    good, bad = [Lesson(text=text, source="tips", status="active") for text in ("Be kind.", "Be rude.")]
    await memory.put(good, bad)
    answer = '[{"text": "Be kind."}, {"text": "Ask first.", "not_when": "an emergency"}]'
    async with ScriptedModel([answer, '[{"text": "Be kind."}]']) as model:
        (proposal,) = await proposals(memory, model)
        assert [(tip.text, tip.not_when) for tip in proposal.lessons] == [("Ask first.", "an emergency")]
        assert proposal.retires == (bad.id,)
        assert await proposals(memory, model) == [], "nothing to add"
    shown = model.asked[0].messages[0].content
    assert "- Be kind.\n- Be rude." in shown
    assert '- shell {"command":"cat nowhere"} -> [stderr]' in shown
    assert "- dig {} -> error: there is no tool 'dig'" in shown


@pytest.mark.asyncio
async def test_the_contract_and_the_budget_are_kept(
    memory: Memory, quick: Quick, single: Single, world: World, infer: Infer
) -> None:
    async with quick(memory) as agent:
        for task in single(world)[:3]:
            await agent.arun(task)
    assert await check_learner(TipLearner(Colleague(infer)), memory)
    with pytest.raises(BudgetError):
        _ = [p async for p in TipLearner(ScriptedModel([])).propose(TrainMemory(memory), NOTHING, Budget(calls=0))]
