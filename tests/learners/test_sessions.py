"""Sessions are found among the runs of a memory, and their signals are stored once, with values that tests support."""

import pytest

from whet.core import HumanEdit, Message, Run, Step, Task, Verdict
from whet.feedback.signals import IDLE
from whet.learners.sessions import new_signals, stored_sessions
from whet.learners.trusting import update_trust
from whet.memory import Memory

NOW = 1_700_000_000_000


async def session(
    memory: Memory, name: str, *rounds: tuple[str, str], purpose: str = "live", system: str = ""
) -> list[Run]:
    """Stores a run for each (message, answer), each with the conversation before it, a minute apart."""
    messages: tuple[Message, ...] = (Message(role="system", content=system),) if system else ()
    runs = []
    for n, (said, answer) in enumerate(rounds):
        messages = (*messages, Message(role="user", content=said))
        task = Task(id=f"{name}-{n}", messages=messages)
        run = Run(
            id=f"{name}-{n}",
            task_id=task.id,
            agent="a",
            status="done",
            answer=answer,
            purpose=purpose,  # type: ignore[arg-type]
            started_at=NOW + 60_000 * n,
        )
        await memory.put(task, run)
        runs.append(run)
        messages = (*messages, Message(role="assistant", content=answer))
    return runs


@pytest.mark.asyncio
async def test_runs_that_go_on_with_a_conversation_are_a_session(memory: Memory) -> None:
    await session(
        memory, "a", ("Sort it.", "sorted(x)"), ("No, I meant descending.", "sorted(x)[::-1]"), ("Thanks!", "Welcome.")
    )
    await session(memory, "b", ("Sort it.", "x.sort()"), ("And now?", "Nothing."), system="Be brief.")
    await session(memory, "alone", ("Hello.", "Hello."))
    await session(memory, "practice", ("Sort it.", "x"), ("Again.", "x"), purpose="train")
    found = await stored_sessions(memory)
    assert sorted([turn.run_id for turn in turns] for turns in found) == [["a-0", "a-1", "a-2"], ["b-0", "b-1"]]
    said = await new_signals(memory, now=NOW + 130_000)
    assert [(item.source, item.run_id) for item in said] == [("signal:correction", "a-0"), ("signal:thanks", "a-1")]
    late = await new_signals(memory, now=NOW + 180_000 + IDLE)
    assert {item.run_id for item in late if item.source == "signal:abandoned"} == {"a-2", "b-1"}


@pytest.mark.asyncio
async def test_signals_are_stored_once_and_calibrated_on_what_tests_judged(memory: Memory) -> None:
    for n in range(6):
        first, _ = await session(memory, f"s{n}", (f"Sort list {n}.", f"sorted({n})"), ("No, wrong.", "?"))
        verdict = Verdict(run_id=first.id, task_id=first.task_id, verifier="v", outcome="pass" if n == 0 else "fail")
        await memory.put(verdict)
    found = await new_signals(memory, now=NOW + 100_000)
    assert {item.value for item in found} == {(1 + 1) / (2 + 6)}
    await memory.put(*found)
    assert await new_signals(memory, now=NOW + 100_000) == []
    (actor,) = await update_trust(memory)
    assert (actor.id, actor.kind, actor.observations) == ("signal:correction", "tool", 6)
    assert actor.agreement == pytest.approx(6 / 8)


@pytest.mark.asyncio
async def test_what_a_person_made_of_an_answer_is_what_they_kept(memory: Memory) -> None:
    first, second = await session(memory, "a", ("Write it.", "one two three four"), ("Now the next.", "five"))
    edit = HumanEdit(before="one two three four", after="one two three five", actor="ana")
    await memory.put(Step(run_id=first.id, seq=0, body=edit, at=NOW + 5_000))
    (item,) = await new_signals(memory, now=NOW + 61_000)
    assert (item.source, item.meta["kept"], item.at) == ("signal:edited", 0.75, NOW + 5_000)
    assert item.run_id != second.id
