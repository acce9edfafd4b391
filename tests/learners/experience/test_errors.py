"""Fast error memory on a world that drifts: the next run is better, nothing is learned from noise, and it expires."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.ids import now_ms
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.core.records import Check, Lesson, Message, Run, Task, Verdict
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.experience.errors import ErrorLearner, ErrorMemory, Refreshed
from whet.learners.gate import Arm, Gate, GateConfig
from whet.learners.view import TrainMemory, current_lessons
from whet.memory import Memory

Quick = Callable[..., Agent]
Single = Callable[[World], list[Task]]
Tasks = Callable[..., list[Task]]


def told(task_id: str, passed: bool, at: int, **run: object) -> list[Run | Verdict]:
    made = Run(task_id=task_id, agent="a", status="done", answer="x", started_at=at, **run)  # type: ignore[arg-type]
    checks = (Check(name="c", passed=passed, call="solve(1)", got="2", expected="3"),)
    outcome = "pass" if passed else "fail"
    return [made, Verdict(run_id=made.id, task_id=task_id, verifier="v", outcome=outcome, checks=checks)]  # type: ignore[arg-type]


def asked(id: str, text: str) -> Task:
    return Task(id=id, messages=(Message(role="user", content=text),))


async def rate(agent: Agent, tasks: Sequence[Task], errors: ErrorMemory | None) -> float:
    passed = 0
    for number, task in enumerate(tasks):
        passed += (await agent.arun(task, seed=number)).passed
        if errors is not None:
            await errors.refresh()
    return passed / len(tasks)


@pytest.mark.asyncio
async def test_in_a_world_that_drifts_the_very_next_run_is_better(
    tmp_path: Path, quick: Quick, single: Single, drifted: Callable[[World], World], world: World
) -> None:
    before, after = single(world), single(drifted(world)) * 2
    rates: dict[bool, float] = {}
    for remembers in (False, True):
        async with await Memory.open(tmp_path / f"{remembers}") as memory, quick(memory) as agent:
            errors = ErrorMemory(memory) if remembers else None
            await rate(agent, before, errors)
            rates[remembers] = await rate(agent, after, errors)
    assert rates[False] < 0.2, rates
    assert rates[True] == 0.5, "wrong the first time after the drift, right the second"


@pytest.mark.asyncio
async def test_a_lesson_stands_from_the_error_until_a_pass_and_expires(memory: Memory) -> None:
    now = now_ms()
    errors = ErrorMemory(memory, lifetime=100.0)
    await memory.put(asked("t", "Count the vowels of a word."), asked("u", "Draw a red circle."))
    await memory.put(*told("t", False, now - 50_000))
    (noted,) = (await errors.refresh()).noted
    assert (noted.kind, noted.status, noted.trust) == ("negative", "active", "trusted")
    assert "Count the vowels of a word.\nsolve(1) returned 2, expected 3." in noted.text
    assert [found.lesson for found in await memory.recall("Count the vowels of a name.")] == [noted]
    assert await errors.refresh() == Refreshed(), "nothing happened since"
    assert await errors.chance("Count the vowels of a word.") == 1.0
    await memory.put(*told("u", False, now - 49_000), *told("t", True, now - 48_000))
    again = await errors.refresh()
    assert [lesson.id for lesson in again.retired] == [noted.id]
    assert "red circle" in again.noted[0].text
    assert (await errors.chance("Count the vowels of a word.") or 0) < 0.5
    gone = await ErrorMemory(memory, lifetime=10.0).refresh()
    assert [lesson.id for lesson in gone.retired] == [again.noted[0].id]


@pytest.mark.asyncio
async def test_what_a_person_retired_and_what_strangers_wrote_is_not_in_force(memory: Memory) -> None:
    now = now_ms()
    errors = ErrorMemory(memory)
    await memory.put(asked("t", "Count the vowels of a word."), asked("u", "Draw a red circle."))
    await memory.put(*told("t", False, now), *told("u", False, now, trust="tainted"))
    mine, theirs = (await errors.refresh()).noted
    assert (mine.status, theirs.status) == ("active", "quarantined")
    await memory.lessons.retire(mine.id, reason="wrong", actor="ana")
    assert (await errors.refresh()).noted == ()
    assert [lesson.status for lesson in await current_lessons(memory)] == ["retired", "quarantined"]


@pytest.mark.asyncio
async def test_no_more_than_the_capacity_stands_and_models_make_no_error(memory: Memory) -> None:
    now = now_ms()
    words = ["apple", "brick", "cloud", "dance", "eagle"]
    for number, word in enumerate(words):
        await memory.put(asked(word, f"Explain {word}."), *told(word, False, now + number))
    judged = told("apple", False, now + 9)
    await memory.put(judged[0], msgspec.structs.replace(judged[1], kind="model"))
    noted = (await ErrorMemory(memory, capacity=2).refresh()).noted
    assert [lesson.task_text for lesson in noted] == ["Explain dance.", "Explain eagle."]
    with pytest.raises(UserError, match="capacity is 0"):
        ErrorMemory(memory, capacity=0)


async def decide(memory: Memory, quick: Quick, heldout: Sequence[Task]) -> tuple[str, int]:
    arm = Arm(policy=Policy())
    proposals = [each async for each in ErrorLearner().propose(TrainMemory(memory), arm, Budget())]
    lessons = tuple(lesson for proposal in proposals for lesson in proposal.lessons)
    await memory.put(*lessons)
    mine = Arm(policy=Policy(), lessons=tuple(lesson.id for lesson in lessons))
    async with quick(memory) as agent:
        promotion = await Gate(GateConfig(concurrency=8)).decide(mine, arm, heldout, evaluator(agent))
    return promotion.decision, len(lessons)


@pytest.mark.asyncio
async def test_the_gate_promotes_errors_and_nothing_of_shuffled_ones(
    memory: Memory, tmp_path: Path, quick: Quick, single: Single, world: World, world_tasks: Tasks
) -> None:
    heldout = world_tasks(30, lengths=(2, 3), split="heldout")
    async with quick(memory) as agent:
        await rate(agent, single(world), None)
    assert await decide(memory, quick, heldout) == ("promoted", 7)
    tasks, runs, verdicts = [await memory.find(kind) for kind in (Task, Run, Verdict)]
    runs = [run for run in runs if run.purpose != "gate"]
    texts = {verdict.run_id: verdict for verdict in verdicts}
    moved = runs[3:] + runs[:3]
    random.Random(0).shuffle(moved)
    noise = [
        msgspec.structs.replace(texts[other.id], id=f"moved-{run.id}", run_id=run.id, task_id=run.task_id)
        for run, other in zip(runs, moved, strict=True)
    ]
    async with await Memory.open(tmp_path / "noise") as other:
        await other.put(*tasks, *runs, *noise)
        decision, proposed = await decide(other, quick, heldout)
    assert proposed > 0
    assert decision != "promoted"


@pytest.mark.asyncio
async def test_the_contract_is_kept(memory: Memory, quick: Quick, single: Single, world: World) -> None:
    async with quick(memory) as agent:
        await rate(agent, single(world), None)
    (proposal,) = await check_learner(ErrorLearner(), memory)
    assert all(isinstance(lesson, Lesson) and lesson.kind == "negative" for lesson in proposal.lessons)
