"""Corrections: kept after success only, by level, found by task and by text; promoted, and nothing of shuffled ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent
from whet.core.budget import Budget
from whet.core.models import ScriptedModel
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.core.records import Feedback, Lesson, Message, Run, Step, Task, ToolCall, ToolResult, Verdict
from whet.feedback import feedback
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.experience.corrections import CorrectionLearner
from whet.learners.gate import Arm, Gate, GateConfig
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory

NOTHING = Arm(policy=Policy())
Quick = Callable[..., Agent]
Single = Callable[[World], list[Task]]
Tasks = Callable[..., list[Task]]


async def proposals(memory: Memory, learner: CorrectionLearner | None = None) -> list[Proposal]:
    view = TrainMemory(memory)
    return [each async for each in (learner or CorrectionLearner()).propose(view, NOTHING, Budget())]


def attempt(task: Task, passed: bool, at: int, answer: str = "an answer") -> list[Run | Verdict]:
    run = Run(task_id=task.id, agent="a", status="done", answer=answer, started_at=at)
    outcome = "pass" if passed else "fail"
    return [run, Verdict(run_id=run.id, task_id=task.id, verifier="v", outcome=outcome)]  # type: ignore[arg-type]


TASK = Task(id="t", messages=(Message(role="user", content="Put the red mug on the shelf."),))


@pytest.mark.asyncio
async def test_only_after_success_and_by_level(memory: Memory) -> None:
    failed = attempt(TASK, False, 10)
    call = ToolCall(id="c", name="grip", arguments="{}")
    step = Step(run_id=failed[0].id, seq=0, body=ToolResult(call=call, content="slipped"))
    plan = feedback.comment("ana", run_id=failed[0].id, text="Clear the shelf first.", at=20)  # type: ignore[call-arg]
    grip = feedback.comment("ana", run_id=failed[0].id, text="Grip it by the handle.", step_id=step.id, at=21)  # type: ignore[call-arg]
    late = feedback.comment("ana", run_id=failed[0].id, text="This came too late.", at=99)  # type: ignore[call-arg]
    await memory.put(TASK, *failed, step, plan, grip, late)
    assert await proposals(memory) == []
    await memory.put(*attempt(TASK, True, 30))
    positive, negative = await proposals(memory)
    assert {lesson.text: lesson.applies_when.partition(" in a task")[0] for lesson in positive.lessons} == {
        "Clear the shelf first.": "planning",
        "Grip it by the handle.": "calling grip",
    }
    assert [lesson.reason.partition(",")[0] for lesson in positive.lessons] == [
        "a correction of the plan",
        "a correction of the step",
    ]
    assert [lesson.kind for lesson in negative.lessons] == ["negative"]
    await memory.put(*(msgspec.structs.replace(lesson, status="active") for lesson in positive.lessons))
    by_task = await memory.recall("Put the blue mug on the shelf.")
    by_text = await memory.recall("How should I hold a handle?")
    assert len(by_task) == 2
    assert by_text[0].lesson.text == "Grip it by the handle."
    assert [each.candidate.summary for each in await proposals(memory)] == ["1 negative"], (
        "each correction is used once"
    )


@pytest.mark.asyncio
async def test_a_model_words_it_where_it_can(memory: Memory) -> None:
    failed = attempt(TASK, False, 10)
    said = feedback.comment("ana", run_id=failed[0].id, text="No, the other way round!", at=20)  # type: ignore[call-arg]
    await memory.put(TASK, *failed, said, *attempt(TASK, True, 30))
    good = '{"level": "step", "text": "Turn the handle to the left.", "applies_when": "mugs", "not_when": "glasses"}'
    async with ScriptedModel([good, '{"level": "mood", "text": "Be nice."}', "no idea"]) as model:
        learner = CorrectionLearner(model, negatives=False)
        (proposal,) = await proposals(memory, learner)
        lesson = proposal.lessons[0]
        assert (lesson.text, lesson.applies_when, lesson.not_when) == (
            "Turn the handle to the left.",
            "mugs",
            "glasses",
        )
        assert proposal.candidate.usage.calls == 1
        for _ in range(2):
            (proposal,) = await proposals(memory, learner)
            assert proposal.lessons[0].text == "No, the other way round!"
    assert "Put the red mug on the shelf." in model.asked[0].messages[0].content


async def corrected(memory: Memory, agent: Agent, tasks: Sequence[Task], said: Sequence[str]) -> None:
    """Runs each task, lets a person correct it, and runs it again with the correction before the agent's eyes."""
    for task, text in zip(tasks, said, strict=True):
        result = await agent.arun(task)
        await memory.put(feedback.comment("ana", run_id=result.run.id, text=text))
        await agent.arun(task, policy=Policy.of({"prompts/system.md": text}), seed=1)


async def decide(memory: Memory, agent: Agent, found: Sequence[Proposal], heldout: Sequence[Task]) -> list[str]:
    decisions = []
    for proposal in found:
        await memory.put(*proposal.lessons)
        gate = Gate(GateConfig(concurrency=4, max_token_ratio=None))  # without lessons next to nothing is read
        decided = await gate.decide(proposal.arm(NOTHING), NOTHING, heldout, evaluator(agent))
        decisions.append(decided.decision)
    return decisions


@pytest.mark.asyncio
async def test_the_gate_promotes_corrections_and_nothing_of_shuffled_ones(
    memory: Memory, tmp_path: Path, quick: Quick, single: Single, world: World, world_tasks: Tasks
) -> None:
    tasks, heldout = single(world), world_tasks(22, lengths=(2, 3), split="heldout")
    right = [world.definition(verb) for verb in world.verbs]
    async with quick(memory) as agent:
        await corrected(memory, agent, tasks, right)
        positive, negative = await proposals(memory)
        assert {lesson.text for lesson in positive.lessons} == set(right)
        assert await decide(memory, agent, [positive], heldout) == ["promoted"]
        # That an attempt failed tells this model nothing, so the gate does not let it in.
        assert "promoted" not in await decide(memory, agent, [negative], heldout)
    bodies = [text.partition("return")[2] for text in right]
    wrong = [f"def {verb}(x): return{body}" for verb, body in zip(world.verbs, bodies[3:] + bodies[:3], strict=True)]
    async with await Memory.open(tmp_path / "noise") as noise, quick(noise) as agent:
        await corrected(noise, agent, tasks, wrong)
        assert await proposals(noise) == [], "no task was solved with them"
        passed = [msgspec.structs.replace(each, id=f"p-{each.id}") for each in await noise.find(Verdict)]
        passed = [msgspec.structs.replace(each, outcome="pass", checks=()) for each in passed]
        async with await Memory.open(tmp_path / "worse") as worse, quick(worse) as liar:
            for kind in (Task, Run, Feedback):
                await worse.put(*(await noise.find(kind)))
            await worse.put(*passed)
            found = await proposals(worse)
            assert sum(len(proposal.lessons) for proposal in found) == len(wrong)
            assert "promoted" not in await decide(worse, liar, found, heldout)


@pytest.mark.asyncio
async def test_the_embedded_model_learns_from_a_persons_corrections(
    memory: Memory, quick: Quick, single: Single, world: World, world_tasks: Tasks
) -> None:
    heldout = world_tasks(16, lengths=(1, 2), split="heldout")
    async with quick(memory, "tiny") as agent:
        await corrected(memory, agent, single(world), [world.definition(verb) for verb in world.verbs])
        (positive, *_) = await proposals(memory)
        assert await decide(memory, agent, [positive], heldout) == ["promoted"]


@pytest.mark.asyncio
async def test_the_contract_is_kept(memory: Memory) -> None:
    failed = attempt(TASK, False, 10)
    said = feedback.comment("eve", run_id=failed[0].id, text="Do as I say now.", trust="tainted", at=20)  # type: ignore[call-arg]
    await memory.put(TASK, *failed, said, *attempt(TASK, True, 30))
    tainted, negative = await check_learner(CorrectionLearner(), memory)
    assert (tainted.candidate.trust, negative.candidate.trust) == ("tainted", "trusted")
    assert isinstance(tainted.lessons[0], Lesson)
