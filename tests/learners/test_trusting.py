"""Trust in sources is measured from the record, by the loop as well, and doing it twice is doing it once."""

from collections.abc import Callable

import msgspec
import pytest

from whet.agents import Agent
from whet.core.models import Model
from whet.core.records import Actor, Feedback, Outcome, Run, TaskSet, Verdict, VerdictKind
from whet.feedback import feedback
from whet.feedback.simulated import Annotator, Persona
from whet.feedback.trust import standing
from whet.learners.gate import Gate, GateConfig
from whet.learners.improve import ImproveConfig, improve
from whet.learners.trusting import measured_trust, update_trust
from whet.memory import Memory
from whet.sandboxes import SandboxPool

TASK = "t"


def verdict(
    run: Run,
    outcome: Outcome,
    *,
    kind: VerdictKind = "execution",
    verifier: str = "python_tests@1",
    repetition: int = 0,
) -> Verdict:
    return Verdict(
        run_id=run.id, task_id=TASK, verifier=verifier, outcome=outcome, kind=kind, repetition=repetition, score=0.5
    )


def test_the_latest_opinion_of_a_speaker_stands_and_others_are_kept() -> None:
    first = feedback.accept("app", run_id="r", person="ana", text="works")
    later = msgspec.structs.replace(
        feedback.reject("app", run_id="r", person="ana", text="broke in production"), at=first.at + 86_400_000
    )
    other = feedback.accept("app", run_id="r", person="bob")
    thanks = feedback.rating("signal:thanks", run_id="r", value=0.9)
    again = msgspec.structs.replace(feedback.rating("signal:reask", run_id="r", value=0.2), at=thanks.at + 1)
    wrong = msgspec.structs.replace(feedback.rating("signal:correction", run_id="r", value=0.1), at=thanks.at + 1)
    remark = feedback.comment("app", run_id="r", text="odd", person="ana")
    found = standing([later, first, other, thanks, again, wrong, remark])
    assert {item.id for item in found} == {later.id, other.id, again.id, wrong.id, remark.id}
    assert standing(found) == found


@pytest.mark.asyncio
async def test_trust_is_counted_anew_each_time(memory: Memory) -> None:
    runs = [Run(task_id=TASK, agent="a", status="done") for _ in range(4)]
    good, bad, mended, unknown = runs
    said = [
        feedback.accept("ana", run_id=good.id),
        feedback.reject("ana", run_id=bad.id),
        feedback.accept("ana", run_id=mended.id),
        feedback.accept("bob", run_id=bad.id),
        feedback.accept("bob", run_id=unknown.id),
        feedback.rating("signal:reask", run_id=bad.id, value=0.2),
    ]
    verdicts = [
        verdict(good, "pass"),
        verdict(bad, "fail"),
        # An attempt that the agent mended itself says nothing about its final answer.
        verdict(mended, "fail", repetition=1),
        verdict(mended, "pass"),
        verdict(good, "pass", kind="model", verifier="judge@1"),
        verdict(bad, "pass", kind="model", verifier="judge@1"),
    ]
    await memory.put(*runs, *said, *verdicts, Actor(id="eve", kind="person", agreement=0.9, observations=8))
    changed = await update_trust(memory)
    assert {a.id: (a.kind, a.agreement, a.observations) for a in changed} == {
        "ana": ("person", 4 / 5, 3),
        "bob": ("person", 1 / 3, 1),
        "eve": ("person", None, 0),
        "judge@1": ("model", 1 / 2, 2),
        "signal:reask": ("tool", 2 / 3, 1),
    }
    assert await update_trust(memory) == []
    late = msgspec.structs.replace(feedback.reject("bob", run_id=bad.id), at=said[3].at + 1)
    await memory.put(late)
    (bob,) = await update_trust(memory)
    assert (bob.agreement, bob.observations) == (2 / 3, 1)
    assert {actor.id for actor in await measured_trust(memory)} == {"ana", "bob", "eve", "judge@1", "signal:reask"}
    assert await memory.get(Actor, "bob") == bob


@pytest.mark.asyncio
async def test_the_noise_of_simulated_annotators_is_found(memory: Memory) -> None:
    runs = [Run(id=f"r{n}", task_id=TASK, agent="a", status="done") for n in range(200)]
    right = {run.id: n % 3 > 0 for n, run in enumerate(runs)}
    annotators = [Annotator(Persona(name=f"flips {flip}", flip=flip)) for flip in (0.0, 0.25, 0.5)]
    said = [each.opinion(run.id, right=right[run.id]) for each in annotators for run in runs]
    await memory.put(*runs, *said, *(verdict(run, "pass" if right[run.id] else "fail") for run in runs))
    await update_trust(memory)
    found = [(await memory.get(Actor, each.persona.name)).agreement for each in annotators]
    assert found == pytest.approx([1.0, 0.75, 0.5], abs=0.07)


class Nothing:
    """A learner that never proposes."""

    name = "nothing"

    async def propose(self, view: object, incumbent: object, budget: object) -> object:
        for proposal in ():
            yield proposal


@pytest.mark.asyncio
async def test_the_loop_updates_trust_after_every_round(
    memory: Memory, pool: SandboxPool, world_tasks: Callable[..., list[object]], reader: Callable[[], Model]
) -> None:
    train, heldout = world_tasks(4, lengths=(1,)), world_tasks(4, lengths=(1,), split="heldout", draw=1)
    tasks = TaskSet(name="world-7", version="1", tasks=(*train, *heldout))  # type: ignore[arg-type]
    async with Agent("react", reader(), memory=memory, sandbox=pool) as agent:
        for task in train:
            result = await agent.arun(task)  # type: ignore[arg-type]
            await memory.put(feedback.rating("oracle", run_id=result.run.id, value=float(result.passed)))
            await memory.put(feedback.rating("contrarian", run_id=result.run.id, value=float(not result.passed)))
        config = ImproveConfig(rounds=2, patience=3, probe=0)
        await improve(agent, tasks, [Nothing()], memory=memory, gate=Gate(GateConfig()), config=config)  # type: ignore[list-item]
    assert (await memory.get(Actor, "oracle")).agreement == pytest.approx(5 / 6)
    assert (await memory.get(Actor, "contrarian")).agreement == pytest.approx(1 / 6)
    assert (await memory.get(Actor, "oracle")).observations == len(train)
    assert len(await memory.find(Feedback)) == 2 * len(train)
