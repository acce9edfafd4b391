"""Sessions: what one person asked one after the other, and how each request ended.

    for session in await read_sessions(view):
        print([(turn.text, turn.ended) for turn in session])     # [("play maj", False), ("play madge", True)]

A run belongs to the session that it is tagged with (``session:NAME``) or that its ``meta["session_id"]`` names; else to
that of its ``actor``, as long as no more than ``gap`` seconds lie between two runs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from whet.core.records import Feedback, Record, Run, Use
from whet.learners.view import TrainMemory

__all__ = ["Turn", "read_sessions"]

TAG = "session:"


class Turn(Record, frozen=True, kw_only=True):
    """A request in a session. ``ended``: well, badly (asked again counts as that), or ``None`` where nobody knows.

    ``judged`` says whether verdicts or feedback told so. ``uses`` are the lessons and skills of its run.
    """

    run: Run
    text: str
    ended: bool | None
    judged: bool
    uses: tuple[Use, ...] = ()


async def read_sessions(view: TrainMemory, *, gap: float = 300.0) -> list[list[Turn]]:
    """Returns the sessions of the newest runs, each in order of time. Verdicts outrank what people said."""
    runs = await view.runs()
    ids = [run.id for run in runs]
    texts = {task.id: " ".join(task.prompt.split()) for task in await view.tasks({run.task_id for run in runs})}
    verdicts = {item.run.id: item.passed for item in await view.judged()}
    said = _opinions(await view.about(Feedback, ids))
    uses: dict[str, list[Use]] = defaultdict(list)
    for use in await view.about(Use, ids):
        uses[use.run_id].append(use)
    known = {**said, **verdicts}
    sessions = []
    for session in _grouped(runs, gap):
        last = session[-1].id
        sessions.append(
            [
                Turn(
                    run=run,
                    text=texts[run.task_id],
                    ended=known.get(run.id, None if run.id == last else False),
                    judged=run.id in known,
                    uses=tuple(uses[run.id]),
                )
                for run in session
            ]
        )
    return sessions


def _opinions(feedback: Sequence[Feedback]) -> dict[str, bool]:
    """Returns, by run, whether people were content with it; the latest word counts."""
    found: dict[str, bool] = {}
    for item in feedback:
        if item.run_id is None or item.trust == "tainted":
            continue
        if item.kind in ("accept", "reject"):
            found[item.run_id] = item.kind == "accept"
        elif item.kind == "rating" and item.value is not None and item.value != 0.5:
            found[item.run_id] = item.value > 0.5
    return found


def _grouped(runs: Sequence[Run], gap: float) -> list[list[Run]]:
    by_name: Mapping[str, list[Run]] = defaultdict(list)
    by_actor: Mapping[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.started_at):
        if name := _session_of(run):
            by_name[name].append(run)
        elif run.actor:
            by_actor[run.actor].append(run)
    sessions = list(by_name.values())
    for line in by_actor.values():
        current = [line[0]]
        for before, after in pairwise(line):
            if after.started_at - before.started_at > 1000 * gap:
                sessions.append(current)
                current = []
            current.append(after)
        sessions.append(current)
    return sessions


def _session_of(run: Run) -> str:
    named = run.meta.get("session_id")
    tagged = next((tag.removeprefix(TAG) for tag in run.tags if tag.startswith(TAG)), "")
    return tagged or (named if isinstance(named, str) else "")
