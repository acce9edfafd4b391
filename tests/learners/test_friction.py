"""Feedback friction, counted over runs that an agent really made."""

from collections.abc import Sequence

import pytest

from whet.agents import Agent
from whet.core import Critique, Message, Policy, Run, Task, Verdict
from whet.core.models import ScriptedModel
from whet.feedback.friction import Attempt, Friction, friction
from whet.learners.friction import recorded_friction
from whet.memory import Memory

SCORES = {"right": 1.0, "near": 0.6, "far": 0.2}


def judge(task: Task, run: Run) -> Sequence[Verdict]:
    score = SCORES.get(" ".join((run.answer or "").split()), 0.0)
    outcome = "pass" if score == 1.0 else "fail"
    return [Verdict(run_id=run.id, task_id=task.id, verifier="v", outcome=outcome, score=score)]


def criticise(task: Task, run: Run, verdicts: Sequence[Verdict]) -> Sequence[Critique]:
    ids = tuple(verdict.id for verdict in verdicts)
    return [Critique(run_id=run.id, text="wrong", source="v", verdict_ids=ids)]


def musing(task: Task, run: Run, verdicts: Sequence[Verdict]) -> Sequence[Critique]:
    return [Critique(run_id=run.id, text="hm", source="v")]


async def run(memory: Memory, *answers: str, critic: object = criticise, **knobs: int) -> None:
    policy = Policy().with_settings(rounds=len(answers) - 1, **knobs)
    task = Task(id="-".join(answers), messages=(Message(role="user", content="Do it."),))
    async with ScriptedModel(answers) as model:
        await Agent("refine", model, memory=memory, verify=judge, critique=critic, policy=policy).arun(task)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_what_becomes_of_every_correction_is_counted(memory: Memory) -> None:
    await run(memory, "near", "near\n", "far", "near", "right")
    await run(memory, "far", "near", "far", "nowhere", "far")
    (row,) = await recorded_friction(memory)
    assert (row.agent, row.model, row.settings) == ("refine", "scripted", "rounds=4")
    # near → near again, → far (worse), → near again, → right; far → near (changed), → far again, → nowhere, → far again
    assert row.friction == Friction(runs=2, first=0, last=1, repeated=4, worse=2, changed=1, fixed=1)
    assert row.friction.corrections == 8


@pytest.mark.asyncio
async def test_feedback_without_ground_is_not_counted_and_settings_are_kept_apart(memory: Memory) -> None:
    await run(memory, "far", "far", critic=musing)
    assert await recorded_friction(memory) == []
    await run(memory, "far", "right")
    await run(memory, "far", "far", forbid=1)
    rows = {row.settings: row.friction for row in await recorded_friction(memory)}
    assert rows == {
        "rounds=1": Friction(runs=2, last=1, fixed=1),
        "forbid=1 rounds=1": Friction(runs=1, repeated=1),
    }


@pytest.mark.asyncio
async def test_what_is_said_after_the_next_answer_was_sampled_corrects_nothing(memory: Memory) -> None:
    async with ScriptedModel(["far", "near", "far"]) as model:
        policy = Policy().with_settings(n=3)
        agent = Agent("best_of_n", model, memory=memory, verify=judge, critique=criticise, policy=policy)
        assert (await agent.arun("Do it.")).critiques
    assert await recorded_friction(memory) == []


def test_runs_without_answers_say_nothing() -> None:
    assert friction([[], []]) == Friction()
    once = [Attempt(text="a", passed=True, score=1.0, corrected=True), Attempt(text="b", passed=False, score=0.0)]
    assert friction([once]) == Friction(runs=1, first=1), "an answer that passed cannot be corrected"
