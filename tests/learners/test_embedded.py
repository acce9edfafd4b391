"""The whole loop on the embedded model: real weights, real sandboxes, a world it has never seen."""

from collections.abc import Callable

import pytest

from whet.agents import Agent, run_tasks
from whet.agents.tasksets.world import world_task
from whet.core.models import Model, load_model
from whet.core.models.tiny.world import OPERATIONS, World, read_definitions
from whet.core.policy import Policy
from whet.core.prompting import render_system
from whet.core.records import Lesson, Message, Sampling, Task, TaskSet
from whet.learners.adoption import incumbent_arm
from whet.learners.evaluation import evaluator, measure
from whet.learners.gate import Gate, GateConfig
from whet.learners.improve import ImproveConfig, improve
from whet.learners.lessons import LessonLearner
from whet.learners.skills import SkillLearner
from whet.learners.view import current_lessons
from whet.learners.watch import retire_harmful
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Tasks = Callable[..., list[Task]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load_model("tiny")


async def settle(memory: Memory, **knobs: float) -> None:
    text = "".join(f"{name} = {value!r}\n" for name, value in knobs.items())
    await memory.policies.commit(Policy.of({"settings.toml": text}), reason="settings of a test", actor="test")


def splits(world_tasks: Tasks, train: int, heldout: int, lengths: tuple[int, ...]) -> TaskSet:
    first = world_tasks(train + heldout, lengths=lengths)[:train]
    rest = world_tasks(train + heldout, lengths=lengths, split="heldout")[train:]
    return TaskSet(name="world-7", version="1", tasks=(*first, *rest))


@pytest.mark.asyncio
@pytest.mark.parametrize("learner", [LessonLearner, SkillLearner])
async def test_what_is_learned_makes_the_embedded_model_better(
    memory: Memory,
    pool: SandboxPool,
    world_tasks: Tasks,
    tiny: Model,
    learner: Callable[[SandboxPool], LessonLearner | SkillLearner],
) -> None:
    tasks = splits(world_tasks, train=24, heldout=30, lengths=(1, 2))
    heldout = [task for task in tasks.tasks if task.split == "heldout"]
    await settle(memory, temperature=1.0, rounds=3, max_tokens=120)
    async with Agent("refine", tiny, memory=memory, sandbox=pool) as agent:
        before = await incumbent_arm(memory)
        report = await improve(
            agent,
            tasks,
            [learner(pool)],
            memory=memory,
            gate=Gate(GateConfig(max_token_ratio=20.0)),
            config=ImproveConfig(rounds=1),
        )
        after = await incumbent_arm(memory)
        scores = [await measure(evaluator(agent), arm, heldout, seed=99) for arm in (before, after)]
    assert [promotion.decision for promotion in report.promotions][:1] == ["promoted"]
    assert scores[1].low > scores[0].high, scores


async def misleading(model: Model, world: World) -> tuple[str, str]:
    """Returns a verb and a false meaning that the model follows though the prompt has the true one.

    Which of two definitions it follows depends on the operations, so a lesson that is merely false may do no harm.
    """
    for verb in world.verbs:
        for wrong in OPERATIONS:
            lesson = f"def {verb}(x): return {wrong}"
            system = render_system(world.definition(verb), lessons=[lesson])
            messages = [
                Message(role="system", content=system),
                Message(role="user", content=f"Write solve(x): {verb}."),
            ]
            answer = await model.complete(messages, sampling=Sampling(temperature=0.0))
            if wrong != world.meaning(verb) and read_definitions(answer.text).get(verb) == wrong:
                return verb, wrong
    raise AssertionError("the model never follows a false lesson against its prompt")


@pytest.mark.asyncio
async def test_a_planted_harmful_lesson_is_found_and_a_useful_one_kept(
    memory: Memory, pool: SandboxPool, world: World, tiny: Model
) -> None:
    """One verb is defined in the prompt, and a lesson contradicts it; another is known from its lesson alone."""
    known, wrong = await misleading(tiny, world)
    taught = next(verb for verb in world.verbs if verb != known)
    harmful = Lesson(text=f"def {known}(x): return {wrong}", status="active", source="eve")
    useful = Lesson(text=world.definition(taught), status="active", source="ana")
    await memory.put(harmful, useful)
    settings = "temperature = 0.0\nwithhold_rate = 0.5\nmax_tokens = 120\n"
    policy = Policy.of({"settings.toml": settings, "prompts/system.md": world.definition(known)})
    await memory.policies.commit(policy, reason="settings of a test", actor="test")
    tasks = [world_task(world.task([verb], seed=seed), world) for verb in (known, taught) for seed in range(40)]
    async with Agent("react", tiny, memory=memory, sandbox=pool) as agent:
        await run_tasks(agent, tasks, purpose="live", progress=lambda result: None)
    retired = await retire_harmful(memory)
    assert [found.item for found in retired] == [harmful.id]
    status = {lesson.id: lesson.status for lesson in await current_lessons(memory)}
    assert status == {harmful.id: "retired", useful.id: "active"}
    assert (await memory.worth(useful.id)).low > 0
