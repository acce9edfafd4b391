"""Where a record comes from and what rests on it: ``why`` a lesson says what it says, and what it is ``used by``.

why = await memory.why("7f3a")
[(source.relation, source.kind, source.id, source.verdicts) for source in why.sources], why.worth
used = await memory.used_by("7f3a")
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, TypeVar

import msgspec
from sqlalchemy import Connection, select

from whet.core import Candidate, Critique, Feedback, Lesson, Promotion, Record, Run, Use, Verdict
from whet.memory import schema
from whet.memory.evidence import chunks
from whet.memory.kinds import kind_of
from whet.memory.lessons import newest, versions
from whet.memory.query import Query, find_rows
from whet.memory.worth import Worth, worths

__all__ = ["Judgement", "Source", "UsedBy", "Why", "dependents", "read", "shown_in", "used_by", "why"]

R = TypeVar("R", bound=Record)
Relation = Literal["derived_from", "supports", "contradicts"]
_OF_RUNS = (schema.verdicts, schema.critiques, schema.feedback, schema.failure_labels)


class Judgement(Record, frozen=True, kw_only=True):
    """What a verifier said about a run."""

    verifier: str
    outcome: str
    score: float


class Source(Record, frozen=True, kw_only=True):
    """A record that a lesson rests on. ``kind`` is its table, ``missing`` for one that was forgotten.

    ``label`` says in a few words what it is; ``verdicts`` are those of the run that it is or speaks of.
    """

    relation: Relation
    kind: str
    id: str
    label: str = ""
    run_id: str | None = None
    task_id: str | None = None
    trust: str = "trusted"
    verdicts: tuple[Judgement, ...] = ()


class Why(Record, frozen=True, kw_only=True):
    """Why a lesson says what it says: its newest version, what each version rests on, and what it is worth."""

    lesson: Lesson
    versions: tuple[Lesson, ...]
    sources: tuple[Source, ...]
    worth: Worth


class UsedBy(Record, frozen=True, kw_only=True):
    """What a lesson or skill went into: its uses, and the lessons, candidates and promotions that rest on it."""

    item: str
    uses: tuple[Use, ...]
    lessons: tuple[Lesson, ...]
    candidates: tuple[Candidate, ...]
    promotions: tuple[Promotion, ...]


def read(connection: Connection, kind: type[R], scope: str, field: str, values: Iterable[str]) -> list[R]:
    """Returns the records of a kind whose ``field`` is one of the values."""
    found: list[R] = []
    for part in chunks(values):
        bodies = find_rows(connection, kind_of(kind), scope, Query(where={field: part}))
        found += [msgspec.json.decode(body, type=kind) for body in bodies]
    return found


def why(connection: Connection, scope: str, id: str) -> Why:
    """Returns why a lesson says what it says.

    Raises:
        NotFoundError: there is no such lesson.
    """
    lesson = newest(connection, scope, id)
    ids: dict[Relation, tuple[str, ...]] = {
        "derived_from": lesson.derived_from,
        "supports": lesson.supports,
        "contradicts": lesson.contradicts,
    }
    known = _sources(connection, scope, [each for group in ids.values() for each in group])
    missing = Source(relation="derived_from", kind="missing", id="", label="forgotten or never stored")
    sources = [
        msgspec.structs.replace(known.get(each, missing), relation=relation, id=each)
        for relation, group in ids.items()
        for each in group
    ]
    return Why(
        lesson=lesson,
        versions=tuple(versions(connection, scope, lesson.id)),
        sources=tuple(sources),
        worth=worths(connection, scope, [lesson.id])[lesson.id],
    )


def _sources(connection: Connection, scope: str, ids: list[str]) -> dict[str, Source]:
    """Returns the sources by id, with ``derived_from`` as a stand-in for the relation."""
    found = [_of_run(run) for run in read(connection, Run, scope, "id", ids)]
    found += [_of_feedback(each) for each in read(connection, Feedback, scope, "id", ids)]
    found += [_of_verdict(each) for each in read(connection, Verdict, scope, "id", ids)]
    found += [_of_critique(each) for each in read(connection, Critique, scope, "id", ids)]
    found += [_of_lesson(each) for each in read(connection, Lesson, scope, "id", ids) if each.valid_to is None]
    runs = [source.run_id for source in found if source.run_id]
    judged: dict[str, list[Judgement]] = defaultdict(list)
    for verdict in read(connection, Verdict, scope, "run_id", runs):
        line = Judgement(verifier=verdict.verifier, outcome=verdict.outcome, score=verdict.score)
        judged[verdict.run_id].append(line)
    return {
        source.id: msgspec.structs.replace(source, verdicts=tuple(judged.get(source.run_id or "", ())))
        for source in found
    }


def _of_run(run: Run) -> Source:
    label = f"{run.agent} on {run.task_id}"
    return _source("runs", run.id, label, run.id, run.task_id, run.trust)


def _of_feedback(each: Feedback) -> Source:
    label = f"{each.kind} by {each.person or each.source}: {_short(each.text)}"
    return _source("feedback", each.id, label, each.run_id, each.task_id, each.trust)


def _of_verdict(each: Verdict) -> Source:
    return _source("verdicts", each.id, f"{each.verifier}: {each.outcome}", each.run_id, each.task_id)


def _of_critique(each: Critique) -> Source:
    return _source("critiques", each.id, f"{each.source}: {_short(each.text)}", each.run_id, None)


def _of_lesson(each: Lesson) -> Source:
    return _source("lessons", each.id, _short(each.text), None, None, each.trust)


def _source(kind: str, id: str, label: str, run_id: str | None, task_id: str | None, trust: str = "trusted") -> Source:
    return Source(relation="derived_from", kind=kind, id=id, label=label, run_id=run_id, task_id=task_id, trust=trust)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def used_by(connection: Connection, scope: str, item: str) -> UsedBy:
    """Returns what a lesson (its id or the beginning of one) or skill (``skill:NAME``) went into.

    Raises:
        NotFoundError: there is no such lesson.
    """
    name = item if item.startswith("skill:") else newest(connection, scope, item).id
    resting = dependents(connection, scope, [name])
    ids = {kind: [id for each, id in resting if each == kind] for kind, _ in resting}
    lessons = read(connection, Lesson, scope, "id", ids.get("lessons", []))
    return UsedBy(
        item=name,
        uses=tuple(read(connection, Use, scope, "item", [name])),
        lessons=tuple(lesson for lesson in lessons if lesson.valid_to is None),
        candidates=tuple(read(connection, Candidate, scope, "id", ids.get("candidates", []))),
        promotions=tuple(read(connection, Promotion, scope, "candidate_id", ids.get("candidates", []))),
    )


def shown_in(connection: Connection, scope: str, runs: Iterable[str]) -> list[str]:
    """Returns the ids of the lessons that were shown in these runs."""
    table, found = schema.uses, dict[str, None]()
    for part in chunks(runs):
        query = select(table.c.item).where(
            table.c.scope == scope, table.c.run_id.in_(part), table.c.kind.in_(("shown", "adopted"))
        )
        found |= dict.fromkeys(item for item in connection.scalars(query) if not item.startswith("skill:"))
    return list(found)


def dependents(connection: Connection, scope: str, ids: Iterable[str]) -> list[tuple[str, str]]:
    """Returns (table, id) of everything that rests on these records, however indirectly, nearest first.

    What is said about a run (verdicts, critiques, feedback, labels) rests on it, and so does a run forked from it.
    """
    seen, found = set(ids), list[tuple[str, str]]()
    frontier = list(seen)
    while frontier:
        reached = [pair for part in chunks(frontier) for pair in _resting(connection, scope, part)]
        new = [pair for pair in dict.fromkeys(reached) if pair[1] not in seen]
        seen |= {id for _, id in new}
        found += new
        frontier = [id for _, id in new]
    return found


def _resting(connection: Connection, scope: str, ids: list[str]) -> list[tuple[str, str]]:
    edges = schema.lineage
    query = select(edges.c.kind, edges.c.source).where(edges.c.scope == scope, edges.c.target.in_(ids))
    found = [(kind, source) for kind, source in connection.execute(query)]
    for table in _OF_RUNS:
        about = select(table.c.id).where(table.c.scope == scope, table.c.run_id.in_(ids))
        found += [(table.name, id) for id in connection.scalars(about)]
    runs = schema.runs
    forks = select(runs.c.id).where(runs.c.scope == scope, runs.c.parent_id.in_(ids))
    return [*found, *((runs.name, id) for id in connection.scalars(forks))]
