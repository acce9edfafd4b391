"""Skills: real folders of what the record confirms, proven in a sandbox before anybody sees them."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from whet.core.budget import Budget
from whet.core.models import ScriptedModel
from whet.core.models.tiny.world import World, read_definitions
from whet.core.policy import Policy
from whet.core.records import Task
from whet.learners.gate import Arm
from whet.learners.lessons import LessonLearner
from whet.learners.skills import SkillLearner
from whet.learners.view import TrainMemory
from whet.memory import Memory
from whet.sandboxes import SandboxPool, open_sandbox
from whet.skills import Skill, disclose, run_script

Tasks = Callable[..., list[Task]]
Live = Callable[[Memory, Sequence[Task]], Awaitable[None]]
NOTHING = Arm(policy=Policy.of({"prompts/system.md": "You write Python."}))


@pytest.mark.asyncio
async def test_verified_helpers_become_a_skill_that_the_right_tasks_open(
    memory: Memory, pool: SandboxPool, world: World, world_tasks: Tasks, live: Live
) -> None:
    await live(memory, world_tasks(30))
    (proposal,) = [p async for p in SkillLearner(pool).propose(TrainMemory(memory), NOTHING, Budget())]
    policy = proposal.policy
    assert policy.text("prompts/system.md") == "You write Python."
    assert policy.skill_names() == ["world-7-helpers"]
    skill = Skill.parse(policy.skill("world-7-helpers"), folder="world-7-helpers")
    known = read_definitions(skill.body)
    assert len(known) >= 7
    assert all(world.meaning(verb) == meaning for verb, meaning in known.items())
    assert skill.advice() == []
    verb = next(iter(known))
    assert disclose(policy, f"Write solve(x): {verb}.") == [(skill.name, skill.body)]
    assert disclose(policy, "Write a poem.") == []
    async with await open_sandbox() as box:
        result = await run_script(box, skill, skill.scripts[0])
    assert f"{len(known)} functions do what was recorded" in result.stdout
    assert (proposal.candidate.policy, proposal.candidate.parent) == (policy.digest, NOTHING.policy.digest)
    assert proposal.candidate.evidence


@pytest.mark.asyncio
async def test_nothing_new_is_no_proposal(memory: Memory, pool: SandboxPool, world_tasks: Tasks, live: Live) -> None:
    view, learner = TrainMemory(memory), SkillLearner(pool)
    assert [p async for p in learner.propose(view, NOTHING, Budget())] == []
    await live(memory, world_tasks(20))
    (proposal,) = [p async for p in learner.propose(view, NOTHING, Budget())]
    assert [p async for p in learner.propose(view, Arm(policy=proposal.policy), Budget())] == []


@pytest.mark.asyncio
async def test_a_skill_takes_the_place_of_lessons_that_say_the_same(
    memory: Memory, pool: SandboxPool, world_tasks: Tasks, live: Live
) -> None:
    await live(memory, world_tasks(20))
    view = TrainMemory(memory)
    (lessons,) = [p async for p in LessonLearner(pool, hints=False).propose(view, NOTHING, Budget())]
    await memory.put(*(msgspec.structs.replace(lesson, status="active") for lesson in lessons.lessons))
    (proposal,) = [p async for p in SkillLearner(pool).propose(view, NOTHING, Budget())]
    assert set(proposal.retires) == {lesson.id for lesson in lessons.lessons}


@pytest.mark.asyncio
async def test_a_skill_whose_self_test_fails_is_not_proposed(
    memory: Memory, pool: SandboxPool, world_tasks: Tasks, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live(memory, world_tasks(20))

    # The replay is told that everything holds, so a wrong definition reaches the self-test, which runs for real.
    async def all_hold(sandboxes: object, trials: Sequence[object]) -> list[float]:
        return [1.0 for _ in trials]

    monkeypatch.setattr("whet.learners.definitions.replay", all_hold)
    assert [p async for p in SkillLearner(pool).propose(TrainMemory(memory), NOTHING, Budget())] == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "worded"),
    [
        ('{"description": "Words of a world. Use when a task names one."}', True),
        ('Here: ```json\n{"description": "Fine words."}\n```', True),
        ('{"description": "<b>bold</b>"}', False),
        ('{"description": 7}', False),
        ("I would rather not.", False),
    ],
)
async def test_a_models_wording_is_used_where_it_keeps_to_the_format(
    memory: Memory, pool: SandboxPool, world_tasks: Tasks, live: Live, answer: str, worded: bool
) -> None:
    await live(memory, world_tasks(12, lengths=(1, 2)))
    async with ScriptedModel([answer]) as model:
        (proposal,) = [p async for p in SkillLearner(pool, model).propose(TrainMemory(memory), NOTHING, Budget())]
    skill = Skill.parse(proposal.policy.skill("world-7-helpers"))
    assert (not skill.description.startswith("What the functions")) == worded
    assert proposal.candidate.usage.calls == 1
