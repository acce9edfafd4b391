"""Sessions in a memory, and what they say: runs that go on with an earlier run's conversation, read for signals.

    for item in await new_signals(memory):         # what users did next, as feedback that is not stored yet
        print(item.source, item.run_id, item.value)
    await memory.put(*found, actor="signals")

A run goes on with another when its task's messages are those of the other's task, the other's answer, and one more
message. What a person made of an answer (an edit on record) is the text they kept. Values are calibrated on the runs
that tests judged. Found again, a signal has the same id, so it is stored once.
"""

from collections.abc import Sequence

import msgspec

from whet.core.ids import digest
from whet.core.records import Feedback, HumanEdit, Message, Run, Step, Task, Verdict
from whet.core.wire import encode
from whet.feedback.signals import Turn, calibrate, signals
from whet.learners.view import chunks
from whet.memory import Memory

__all__ = ["new_signals", "stored_sessions"]

PURPOSES = ("live", "import")


async def new_signals(memory: Memory, *, now: int | None = None) -> list[Feedback]:
    """Returns the signals in the sessions of a memory that are not stored yet, session by session.

    ``now`` in UTC milliseconds is when silence is looked at; the clock's time unless given.
    """
    sessions = await stored_sessions(memory)
    guessed = [item for session in sessions for item in signals(session, now=now)]
    verdicts: list[Verdict] = []
    for part in chunks(sorted({item.run_id for item in guessed if item.run_id})):
        verdicts += await memory.find(Verdict, where={"run_id": part, "kind": "execution", "repetition": 0})
    worth = calibrate(guessed, verdicts)
    found = [_named(item) for session in sessions for item in signals(session, worth, now=now)]
    known: set[str] = set()
    for part in chunks([item.id for item in found]):
        known |= {item.id for item in await memory.find(Feedback, where={"id": part})}
    return [item for item in found if item.id not in known]


async def stored_sessions(memory: Memory) -> list[list[Turn]]:
    """Returns the sessions of at least two turns among live and imported runs, in order of time."""
    runs = await memory.find(Run, where={"purpose": PURPOSES, "status": "done"})
    parts = chunks(sorted({run.task_id for run in runs}))
    tasks = {task.id: task for part in parts for task in await memory.find(Task, where={"id": part})}
    edits = await _edits(memory, [run.id for run in runs])
    sessions: dict[str, list[Turn]] = {}  # by what a run that goes on has before its own message
    begun: list[list[Turn]] = []
    for run in runs:
        if (task := tasks.get(run.task_id)) is None or not task.prompt:
            continue
        session = sessions.pop(_key(task.messages[:-1]), None)
        if session is None:
            begun.append(session := [])
        session.append(_turn(run, task, edits.get(run.id)))
        sessions[_key([*task.messages, Message(role="assistant", content=run.answer or "")])] = session
    return [session for session in begun if len(session) > 1]


def _turn(run: Run, task: Task, edit: Step | None) -> Turn:
    kept = edit.body.after if edit is not None and isinstance(edit.body, HumanEdit) else None
    return Turn(
        run_id=run.id,
        said=task.prompt,
        answer=run.answer or "",
        at=run.started_at,
        kept=kept,
        kept_at=None if edit is None else edit.at,
        person=run.actor,
        trust=run.trust,
    )


def _key(messages: Sequence[Message]) -> str:
    """Returns what names a conversation; system messages and tools are left out, clients change them on the way."""
    return digest(encode([[m.role, m.content] for m in messages if m.role in ("user", "assistant") and m.content]))


def _named(item: Feedback) -> Feedback:
    return msgspec.structs.replace(item, id=f"signal-{digest(f'{item.source}/{item.run_id}/{item.at}')[:24]}")


async def _edits(memory: Memory, run_ids: Sequence[str]) -> dict[str, Step]:
    """Returns the last edit of each run's answer."""
    found: dict[str, Step] = {}
    for part in chunks(run_ids):
        found |= {step.run_id: step for step in await memory.find(Step, where={"run_id": part, "kind": "edit"})}
    return found
