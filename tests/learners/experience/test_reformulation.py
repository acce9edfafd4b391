"""Rewrites: the chain's known answer, what is mined from sessions, the gate, noise, and what is taken back."""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent
from whet.agents.tasksets.world import world_task
from whet.core.budget import Budget
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.core.records import Completion, Feedback, Lesson, Message, Run, Sampling, Task, ToolSpec, Use, Verdict
from whet.feedback import feedback
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.experience.reformulation import ReformulationLearner, absorb, review
from whet.learners.gate import Arm, Gate, GateConfig
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory

Quick = Callable[..., Agent]
_REWRITE = re.compile(r'Asked "(.+?)", what is meant is "(.+?)"\.')


def test_absorption_is_that_of_the_chain_solved_by_hand() -> None:
    # u: 6 go on to v, 2 succeed, 1 fails and one more by the prior. v: 6 succeed, 1 fails, and one more.
    asked = [["u", "v"]] * 6 + [["u"]] * 3 + [["v"]] * 1
    ended = [True] * 6 + [True, True, False] + [False]
    found = absorb(asked, ended)
    assert found.success["v"] == pytest.approx(6 / 8)
    assert found.at["u"]["u"] == pytest.approx(2 / 10)
    assert found.at["u"]["v"] == pytest.approx(6 / 10 * 6 / 8)
    assert found.at["v"]["u"] == 0
    again = absorb([["u", "u", "u"]], [True])  # two of four times to itself, once each to success and the prior
    assert again.success["u"] == pytest.approx(0.25 / 0.5)
    assert absorb([], []).success == {}


class Listener:
    """Reads a request as a rewrite in its context says, and leaves the rest to another model."""

    name = "listener"

    def __init__(self, model: object) -> None:
        self.model = model

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        rewrites = {m[1]: m[2] for message in messages for m in _REWRITE.finditer(message.content)}
        meant = [msgspec.structs.replace(each, content=rewrites.get(each.content, each.content)) for each in messages]
        return await self.model.complete(meant, sampling=sampling)  # type: ignore[attr-defined, no-any-return]


def misheard(task: Task, number: int, split: str = "train") -> Task:
    """The same task, but with its verb misspelt."""
    said = task.prompt[:-3] + task.prompt[-2:]
    return msgspec.structs.replace(
        task,
        id=f"{task.id}/{split}/{number}",
        messages=(Message(role="user", content=said),),
        split=split,  # type: ignore[arg-type]
    )


@pytest.fixture
def knowing(world: World) -> Policy:
    """A policy that says what every verb means, so that only misspelt ones fail."""
    lines = [world.definition(verb) for verb in world.verbs]
    return Policy.of({"prompts/system.md": "\n".join(lines), "settings.toml": "withhold_rate = 0.0"})


def drawn(world: World, seed: int) -> list[Task]:
    found = [world_task(world.task([verb], seed=100 * seed + i), world) for i, verb in enumerate(world.verbs)]
    return [msgspec.structs.replace(task, split="train") for task in found]


async def talk(agent: Agent, world: World, policy: Policy, n: int = 3) -> None:
    """People ask with a misspelt verb, fail, and ask again."""
    for number in range(n):
        for task in drawn(world, number):
            tags = (f"session:{task.id}/{number}",)
            await agent.arun(misheard(task, number), policy=policy, tags=tags)
            await agent.arun(task, policy=policy, tags=tags)


async def proposals(memory: Memory, incumbent: Arm) -> list[Proposal]:
    return [each async for each in ReformulationLearner().propose(TrainMemory(memory), incumbent, Budget())]


async def decide(memory: Memory, agent: Agent, incumbent: Arm, world: World) -> list[str]:
    heldout = [misheard(task, n, "heldout") for n in range(7, 11) for task in drawn(world, n)]
    decisions = []
    for proposal in await proposals(memory, incumbent):
        await memory.put(*proposal.lessons)
        gate = Gate(GateConfig(concurrency=8))
        decisions.append((await gate.decide(proposal.arm(incumbent), incumbent, heldout, evaluator(agent))).decision)
    return decisions


@pytest.mark.asyncio
async def test_the_gate_promotes_rewrites_and_nothing_of_shuffled_ones(
    memory: Memory, tmp_path: Path, quick: Quick, world: World, knowing: Policy, inferrer: object
) -> None:
    incumbent = Arm(policy=knowing)
    async with quick(memory, Listener(inferrer)) as agent:
        await talk(agent, world, knowing)
        (proposal,) = await proposals(memory, incumbent)
        found = {lesson.text for lesson in proposal.lessons}
        assert found <= {
            f'Asked "{misheard(task, 0).prompt}", what is meant is "{task.prompt}".' for task in drawn(world, 0)
        }
        assert len(found) >= 7, "but for a misspelt verb that is guessed right"
        assert await decide(memory, agent, incumbent, world) == ["promoted"]
    tasks, runs, verdicts = [await memory.find(kind) for kind in (Task, Run, Verdict)]
    runs = [run for run in runs if run.purpose != "gate"]
    outcomes = [verdict for verdict in verdicts if verdict.run_id in {run.id for run in runs}]
    random.Random(0).shuffle(outcomes)
    moved = [
        msgspec.structs.replace(verdict, id=f"m-{run.id}", run_id=run.id, task_id=run.task_id)
        for run, verdict in zip(runs, outcomes, strict=True)
    ]
    async with await Memory.open(tmp_path / "noise") as noise, quick(noise, Listener(inferrer)) as agent:
        await noise.put(*tasks, *runs, *moved)
        assert "promoted" not in await decide(noise, agent, incumbent, world)


def request(text: str, session: str, at: int, passed: bool | None) -> list[Task | Run | Feedback]:
    task = Task(id=text, messages=(Message(role="user", content=text),))
    run = Run(task_id=text, agent="a", status="done", started_at=at, tags=(f"session:{session}",), purpose="live")
    said = [] if passed is None else [(feedback.accept if passed else feedback.reject)("ana", run_id=run.id)]
    return [task, run, *said]


@pytest.mark.asyncio
async def test_only_the_same_thing_asked_again_counts_and_only_often_enough(memory: Memory) -> None:
    incumbent = Arm(policy=Policy())
    for n in range(3):
        await memory.put(
            *request("play maj by dragons", f"s{n}", 10 * n, None),
            *request("play imagine by dragons", f"s{n}", 10 * n + 1, True),
            *request("what is the weather", f"s{n}", 10 * n + 2, False),
            *request("set a timer", f"s{n}", 10 * n + 3, True),
            *request("play maj by others", f"t{n}", 10 * n + 4, None),
        )
    (proposal,) = await proposals(memory, incumbent)
    (lesson,) = proposal.lessons
    assert lesson.text == 'Asked "play maj by dragons", what is meant is "play imagine by dragons".'
    assert "3 sessions" in lesson.reason
    learner = ReformulationLearner(min_sessions=4)
    assert [each async for each in learner.propose(TrainMemory(memory), incumbent, Budget())] == []
    assert len(await check_learner(ReformulationLearner(), memory)) == 1


@pytest.mark.asyncio
async def test_outcomes_count_for_the_version_that_produced_them(memory: Memory) -> None:
    """Runs that were shown the rewrite are not mined, and a version that loses is taken back though another one won."""
    lesson = Lesson(text='Asked "a b c", what is meant is "a b d".', source="reformulation", status="active")
    await memory.put(lesson)
    newer = await memory.lessons.revise(
        lesson.id, text='Asked "a b c", what is meant is "a b e".', reason="x", actor="y"
    )
    for n in range(24):
        version, kind, won = (
            ("1", "shown", True) if n < 8 else ("2", "shown", False) if n < 16 else ("2", "withheld", True)
        )
        task, run, said = request("a b c", f"s{n}", n, won)
        await memory.put(task, run, said, Use(run_id=run.id, item=lesson.id, version=version, kind=kind))  # type: ignore[arg-type, union-attr]
    first, second = await review(memory)
    assert (first.version, first.won, first.lost, first.won_without) == ("1", 8, 0, 0)
    assert (second.version, second.won, second.lost, second.won_without) == ("2", 0, 8, 8)
    assert first.better > 0.8
    assert second.better < 0.01
    assert newer.version == 2
    assert (await memory.get(Lesson, lesson.id)).status == "retired"
    assert await review(memory) == []
