"""Feedback friction of recorded runs, by agent, model and the settings they ran under.

    for row in await recorded_friction(memory):
        print(row.agent, row.settings, row.friction.repeated, "of", row.friction.corrections)

Runs under different settings side by side show which mitigation helps; ``refine`` has knobs for two, ``heat`` and
``forbid``.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from whet.core.errors import NotFoundError
from whet.core.records import Critique, Record, Run, Step, Verdict
from whet.feedback.friction import Attempt, Friction, attempts_of, friction
from whet.learners.view import chunks
from whet.memory import Memory
from whet.memory.query import Where

__all__ = ["FrictionRow", "recorded_friction"]

_STEPS = ("model_call", "verdict", "critique")

R = TypeVar("R", Step, Verdict, Critique)


class FrictionRow(Record, frozen=True, kw_only=True):
    """The friction of runs of one agent with one model under the same ``settings`` (``heat=0.3 rounds=4``)."""

    agent: str
    model: str
    settings: str
    friction: Friction


async def recorded_friction(memory: Memory, *, since: int | None = None, limit: int = 1000) -> list[FrictionRow]:
    """Returns a row for each agent, model and settings among the newest finished runs in which feedback was given.

    Args:
        since: only runs that began then or later, in UTC milliseconds.
        limit: how many of the newest runs are looked at.
    """
    runs = await memory.find(Run, where={"status": "done"}, since=since, limit=limit, newest_first=True)
    attempts = await _attempts(memory, runs)
    settings = {digest: await _settings(memory, digest) for digest in {run.policy for run in runs}}
    groups: dict[tuple[str, str, str], list[Sequence[Attempt]]] = defaultdict(list)
    for run in runs:
        groups[run.agent, run.model, settings[run.policy]].append(attempts[run.id])
    found = [
        FrictionRow(agent=agent, model=model, settings=text, friction=friction(each))
        for (agent, model, text), each in sorted(groups.items())
    ]
    return [row for row in found if row.friction.corrections]


async def _attempts(memory: Memory, runs: Sequence[Run]) -> dict[str, list[Attempt]]:
    ids = [run.id for run in runs]
    steps = await _by_run(memory, Step, ids, {"kind": _STEPS})
    verdicts, critiques = await _by_run(memory, Verdict, ids), await _by_run(memory, Critique, ids)
    return {id: attempts_of(steps[id], verdicts[id], critiques[id]) for id in ids}


async def _by_run(memory: Memory, kind: type[R], ids: Sequence[str], where: Where | None = None) -> dict[str, list[R]]:
    found: dict[str, list[R]] = defaultdict(list)
    for part in chunks(ids):
        for record in await memory.find(kind, where={"run_id": part, **(where or {})}):
            found[record.run_id].append(record)
    return found


async def _settings(memory: Memory, digest: str) -> str:
    """Returns the settings of a policy in words; empty where it sets nothing, or is not kept here."""
    try:
        knobs = (await memory.policies.get(digest)).settings()
    except NotFoundError:
        return ""
    return " ".join(f"{name}={value}" for name, value in sorted(knobs.items()))
