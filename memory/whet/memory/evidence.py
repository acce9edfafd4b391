"""Evidence: from ids of runs, verdicts, critiques or feedback to the runs they speak of and how those were judged.

judged = judged_runs(connection, scope, lesson.derived_from + lesson.supports)
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from whet.memory import schema

__all__ = ["JudgedRun", "chunks", "judged_runs", "paired_replay", "runs_of", "tainted"]

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run with verdicts that judged: ``score`` is their mean, ``root`` the run that it replays, or itself."""

    id: str
    root: str
    passed: bool
    score: float


def chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    """Yields the distinct ids in lists that fit into a statement."""
    distinct = list(dict.fromkeys(ids))
    for start in range(0, len(distinct), _CHUNK):
        yield distinct[start : start + _CHUNK]


def runs_of(connection: Connection, scope: str, ids: Iterable[str]) -> set[str]:
    """Returns the ids of the runs that these records are, or speak of."""
    found: set[str] = set()
    about = (schema.verdicts, schema.critiques, schema.feedback, schema.steps)
    for part in chunks(ids):
        own = select(schema.runs.c.id).where(schema.runs.c.scope == scope, schema.runs.c.id.in_(part))
        found |= set(connection.scalars(own))
        for table in about:
            query = select(table.c.run_id).where(table.c.scope == scope, table.c.id.in_(part))
            found |= {run_id for run_id in connection.scalars(query) if run_id}
    return found


def judged_runs(connection: Connection, scope: str, ids: Iterable[str]) -> list[JudgedRun]:
    """Returns the runs behind the ids that were judged: a verdict said pass or fail, whatever others could not say."""
    runs, verdicts = schema.runs, schema.verdicts
    found: list[JudgedRun] = []
    for part in chunks(sorted(runs_of(connection, scope, ids))):
        query = (
            select(
                runs.c.id,
                func.coalesce(runs.c.parent_id, runs.c.id),
                func.min(verdicts.c.outcome),
                func.max(verdicts.c.outcome),
                func.avg(verdicts.c.score),
            )
            .join(verdicts, (verdicts.c.scope == runs.c.scope) & (verdicts.c.run_id == runs.c.id))
            .where(runs.c.scope == scope, runs.c.id.in_(part), verdicts.c.outcome.in_(("pass", "fail")))
            .group_by(runs.c.id, runs.c.parent_id)
        )
        found += [
            JudgedRun(id, root, first == last == "pass", float(score))
            for id, root, first, last, score in connection.execute(query)
        ]
    return found


def paired_replay(connection: Connection, scope: str, item: str) -> tuple[int, float]:
    """Returns (pairs, mean difference of scores) over runs of the same task and seed with and without the item."""
    runs, uses, verdicts = schema.runs, schema.uses, schema.verdicts
    query = (
        select(runs.c.task_id, runs.c.seed, uses.c.kind, func.avg(verdicts.c.score))
        .select_from(uses)
        .join(runs, (runs.c.scope == uses.c.scope) & (runs.c.id == uses.c.run_id))
        .join(verdicts, (verdicts.c.scope == uses.c.scope) & (verdicts.c.run_id == uses.c.run_id))
        .where(
            uses.c.scope == scope,
            uses.c.item == item,
            uses.c.kind.in_(("shown", "withheld")),
            verdicts.c.outcome.in_(("pass", "fail")),
        )
        .group_by(runs.c.task_id, runs.c.seed, uses.c.kind)
    )
    arms: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for task_id, seed, kind, score in connection.execute(query):
        arms[task_id, seed][kind] = float(score)
    gains = [arm["shown"] - arm["withheld"] for arm in arms.values() if len(arm) == 2]
    return len(gains), sum(gains) / len(gains) if gains else 0.0


def tainted(connection: Connection, scope: str, ids: Iterable[str]) -> bool:
    """Returns whether one of the records is tainted: a run, feedback, or the newest version of a lesson."""
    runs, feedback, lessons = schema.runs, schema.feedback, schema.lessons
    for part in chunks(ids):
        for table in (runs, feedback, lessons):
            query = select(table.c.id).where(table.c.scope == scope, table.c.id.in_(part), table.c.trust == "tainted")
            query = query.where(lessons.c.valid_to.is_(None)) if table is lessons else query
            if connection.scalar(query.limit(1)) is not None:
                return True
    return False
