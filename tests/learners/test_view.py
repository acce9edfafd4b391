"""Learners see training tasks only, whatever way they ask."""

import pytest

from whet.core.errors import RefusedError
from whet.core.records import Critique, Feedback, Message, Run, Task, Verdict
from whet.learners.view import TrainMemory
from whet.memory import Memory


def task(id: str, split: str) -> Task:
    return Task(id=id, messages=(Message(role="user", content=id),), split=split)  # type: ignore[arg-type]


def run(id: str, task_id: str, purpose: str = "train", status: str = "done") -> Run:
    return Run(id=id, task_id=task_id, agent="a", status=status, purpose=purpose, answer="x")  # type: ignore[arg-type]


async def fill(memory: Memory) -> None:
    await memory.put(task("t", "train"), task("h", "heldout"), task("s", "sealed"))
    runs = [run("r-train", "t"), run("r-live", "t", "live"), run("r-gate", "t", "gate"), run("r-held", "h")]
    runs += [run("r-sealed", "s", "live"), run("r-failed", "t", status="failed"), run("r-lost", "nowhere")]
    await memory.put(*runs)
    for each in runs:
        await memory.put(
            Verdict(id=f"v-{each.id}", run_id=each.id, task_id=each.task_id, verifier="x", outcome="pass"),
            Critique(id=f"c-{each.id}", run_id=each.id, text="good", source="x"),
            Feedback(id=f"f-{each.id}", kind="comment", source="ana", run_id=each.id, text="this is a remark"),
        )
    about = [
        Feedback(id=f"f-{id}", kind="comment", source="ana", task_id=id, text="a remark") for id in ("t", "h", "s")
    ]
    await memory.put(*about)


@pytest.mark.asyncio
async def test_only_finished_runs_on_training_tasks_are_seen(memory: Memory) -> None:
    await fill(memory)
    view = TrainMemory(memory)
    assert {each.id for each in await view.runs()} == {"r-train", "r-live"}
    assert {each.run.id for each in await view.judged()} == {"r-train", "r-live"}
    assert {each.id for each in await view.feedback()} == {"f-r-train", "f-r-live", "f-r-failed", "f-t"}
    assert {each.id for each in await view.critiques(["r-train", "r-live"])} == {"c-r-train", "c-r-live"}


@pytest.mark.asyncio
async def test_asking_for_more_is_refused(memory: Memory) -> None:
    await fill(memory)
    view = TrainMemory(memory)
    for id in ("h", "s"):
        with pytest.raises(RefusedError, match="learn from the train split"):
            await view.task(id)
    for id in ("r-held", "r-sealed"):
        with pytest.raises(RefusedError, match="learn from the train split"):
            await view.run(id)
    with pytest.raises(RefusedError, match="made for the gate"):
        await view.run("r-gate")
    with pytest.raises(RefusedError):
        await view.critiques(["r-train", "r-held"])


@pytest.mark.asyncio
async def test_a_pass_needs_more_than_a_models_word(memory: Memory) -> None:
    await memory.put(task("t", "train"), run("r", "t"))
    view = TrainMemory(memory)
    by_model = Verdict(run_id="r", task_id="t", verifier="judge", outcome="pass", kind="model")
    unjudged = Verdict(run_id="r", task_id="t", verifier="x", outcome="infra_error")
    earlier = Verdict(run_id="r", task_id="t", verifier="x", outcome="fail", repetition=1)
    await memory.put(by_model, unjudged, earlier)
    (judged,) = await view.judged()
    assert (judged.verdicts, judged.passed) == ((by_model,), False)
    await memory.put(Verdict(run_id="r", task_id="t", verifier="x", outcome="pass"))
    assert (await view.judged())[0].passed
