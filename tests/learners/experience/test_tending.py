"""Tending: one call retires what no longer holds, and tells of errors only where that is asked for."""

import pytest

from whet.core import now_ms
from whet.core.records import Feedback, Lesson, Message, Run, Task, Use, Verdict
from whet.feedback import feedback
from whet.learners.experience.tending import tend
from whet.memory import Memory

TASK = Task(id="t", messages=(Message(role="user", content="Play maj."),))


@pytest.mark.asyncio
async def test_what_lost_and_what_faded_is_retired_and_errors_wait_to_be_asked_for(memory: Memory) -> None:
    said = Feedback(kind="comment", source="ana", person="ana", task_id="t", text="Too loud.", at=now_ms() - 10**11)
    faded = Lesson(
        text="Likes it quiet.",
        applies_when="person: ana",
        source="propositions",
        status="active",
        derived_from=(said.id,),
    )
    lost, kept = [
        Lesson(text=f'Asked "{u}", what is meant is "v".', source="reformulation", status="active") for u in "ab"
    ]
    await memory.put(TASK, said, faded, lost, kept)
    for number in range(16):
        shown = bool(number % 2)
        run = Run(task_id="t", agent="a", status="done", tags=(f"session:{number}",))
        use = Use(run_id=run.id, item=lost.id, version="1", kind="shown" if shown else "withheld")
        opinion = (feedback.reject if shown else feedback.accept)("ana", run_id=run.id)
        await memory.put(run, use, opinion)
    failed = Run(task_id="t", agent="a", status="done")
    await memory.put(failed, Verdict(run_id=failed.id, task_id="t", verifier="v", outcome="fail", detail="silence"))
    assert {lesson.id: lesson.status for lesson in await tend(memory)} == {faded.id: "retired", lost.id: "retired"}
    assert await tend(memory) == []
    (error,) = await tend(memory, errors=True)
    assert (error.kind, error.status) == ("negative", "active")
    assert error.text == "This went wrong lately:\nPlay maj.\nsilence"
