"""Lessons: how they come in, what makes them active, how they change. Ids stay; every change is a new version.

    added = await memory.lessons.add(Lesson(text=…, applies_when=…, derived_from=(run.id,)), actor="tips")
    admission = await memory.lessons.admit(added.lesson.id)
    admission.admitted, admission.reason
    await memory.lessons.retire(added.lesson.id, reason="wrong since the API changed", actor="ada")

Admission: a lesson is born ``proposed``. It becomes ``active`` with verdicts that judged, and either a positive paired
replay (same task and seed, with and without it) or two independent runs. When all its runs failed it comes in as
``negative``. What is tainted waits for a person (``approve``). Text that was recalled is not taken in again.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec
from sqlalchemy import Connection, select

from whet.core import ConflictError, Lesson, LessonStatus, NotFoundError, Record, UserError, now_ms
from whet.memory import schema
from whet.memory.applies import exceptions
from whet.memory.evidence import judged_runs, paired_replay, runs_of, tainted
from whet.memory.keywords import Keywords
from whet.memory.kinds import kind_of
from whet.memory.query import Query, find_rows, get_row
from whet.memory.rows import write_rows
from whet.memory.similar import resemblance
from whet.memory.store import Store

__all__ = ["Added", "Admission", "Lessons"]

T = TypeVar("T")

SAME = 0.8
"""Resemblance from which two lessons say the same thing."""
ECHO = 0.6
"""Resemblance from which a new lesson echoes one that was shown in the runs it comes from."""


class Added(Record, frozen=True, kw_only=True):
    """What became of a lesson: ``added``; ``duplicate``: ``lesson`` is the known one, with the new evidence; or
    ``recalled``: it echoes ``lesson``, which was shown in the runs it comes from, and nothing was written.
    """

    outcome: Literal["added", "duplicate", "recalled"]
    lesson: Lesson


class Admission(Record, frozen=True, kw_only=True):
    """Whether a lesson became active, and why or why not. ``replay`` is the mean gain over ``pairs`` of runs."""

    lesson: Lesson
    admitted: bool
    reason: str
    runs: int = 0
    passed: int = 0
    pairs: int = 0
    replay: float = 0.0


class Lessons:
    """The lessons of a scope. A person's decisions (``approve``, ``retire``, …) take a reason."""

    def __init__(self, store: Store, scope: str) -> None:
        self._store, self._scope = store, scope

    async def add(self, lesson: Lesson, *, actor: str = "", reason: str = "") -> Added:
        """Takes a lesson in as ``proposed``; tainted if one of its sources is.

        Raises:
            ConflictError: a lesson of this id is stored.
            UserError: it says nothing.
        """
        if not lesson.text.strip():
            raise UserError("a lesson needs a text")
        return await self._write(lambda connection: _add(connection, self._scope, lesson, actor, reason))

    async def admit(self, id: str, *, actor: str = "admission") -> Admission:
        """Makes a proposed lesson active if its evidence says so; else says what is missing."""
        return await self._write(lambda connection: _admit(connection, self._scope, id, actor))

    async def approve(self, id: str, *, reason: str, actor: str) -> Lesson:
        """Makes a lesson active because a person says so, whatever its evidence or taint."""
        return await self._set(id, "active", reason, actor)

    async def retire(self, id: str, *, reason: str, actor: str) -> Lesson:
        """Takes a lesson out of use."""
        return await self._set(id, "retired", reason, actor)

    async def quarantine(self, id: str, *, reason: str, actor: str) -> Lesson:
        """Takes a lesson out of use until a person looked at it."""
        return await self._set(id, "quarantined", reason, actor)

    async def revise(
        self,
        id: str,
        *,
        reason: str,
        actor: str,
        text: str | None = None,
        applies_when: str | None = None,
        not_when: str | None = None,
        supports: Sequence[str] = (),
        contradicts: Sequence[str] = (),
    ) -> Lesson:
        """Returns a new version with other words or more evidence.

        Raises:
            UserError: nothing changes.
        """
        given = {"text": text, "applies_when": applies_when, "not_when": not_when}
        changes = {name: value for name, value in given.items() if value is not None}

        def work(connection: Connection) -> Lesson:
            old = newest(connection, self._scope, id)
            new = _with_evidence(msgspec.structs.replace(old, **changes), supports, contradicts)
            if new == old:
                raise UserError(f"lesson {id!r} says that already; nothing was changed")
            return revise(connection, self._scope, old, new, reason, actor)

        return await self._write(work)

    async def merge(self, ids: Sequence[str], *, reason: str, actor: str, text: str | None = None) -> Lesson:
        """Returns the first lesson with the evidence of all and, where given, a new text; the others are retired.

        Raises:
            UserError: fewer than two lessons are named.
        """
        if len(set(ids)) < 2:
            raise UserError(f"merging needs two lessons or more, got {list(ids)!r}")
        return await self._write(lambda connection: _merge(connection, self._scope, ids, text, reason, actor))

    async def taint(self, source: str, *, reason: str, actor: str) -> list[Lesson]:
        """Taints all lessons that rest on a record, however indirectly, and quarantines the active; returns them."""
        from whet.memory.lineage import dependents

        def work(connection: Connection) -> list[Lesson]:
            ids = [id for kind, id in dependents(connection, self._scope, [source]) if kind == "lessons"]
            found = [newest(connection, self._scope, id) for id in ids]
            return [_taint(connection, self._scope, lesson, reason, actor) for lesson in found]

        return await self._write(work)

    async def duplicates(self, statuses: Sequence[LessonStatus] = ("active", "proposed")) -> list[list[Lesson]]:
        """Returns groups of lessons in force that say the same, the oldest of each first; ``merge`` takes them in."""
        return await self._store.read(lambda connection: _duplicates(connection, self._scope, statuses))

    async def history(self, id: str) -> list[Lesson]:
        """Returns every version of a lesson, oldest first."""

        def work(connection: Connection) -> list[Lesson]:
            return versions(connection, self._scope, newest(connection, self._scope, id).id)

        return await self._store.read(work)

    async def _set(self, id: str, status: LessonStatus, reason: str, actor: str) -> Lesson:
        if not reason.strip():
            raise UserError("a decision about a lesson needs a reason")

        def work(connection: Connection) -> Lesson:
            old = newest(connection, self._scope, id)
            if old.status == status:
                raise UserError(f"lesson {old.id!r} is {status} already")
            new = msgspec.structs.replace(old, status=status)
            return revise(connection, self._scope, old, new, reason, actor)

        return await self._write(work)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._store.write(work)


# --- in a transaction -----------------------------------------------------------------------------------------------


def newest(connection: Connection, scope: str, id: str) -> Lesson:
    """Returns the newest version; raises NotFoundError."""
    return msgspec.json.decode(get_row(connection, kind_of(Lesson), scope, id), type=Lesson)


def versions(connection: Connection, scope: str, id: str) -> list[Lesson]:
    """Returns every version, oldest first."""
    found = find_rows(connection, kind_of(Lesson), scope, Query(where={"id": id}))
    return sorted((msgspec.json.decode(body, type=Lesson) for body in found), key=lambda lesson: lesson.version)


def revise(connection: Connection, scope: str, old: Lesson, new: Lesson, reason: str, actor: str) -> Lesson:
    """Closes a version and writes the one after it, which is returned."""
    now = max(now_ms(), old.valid_from)
    after = msgspec.structs.replace(new, version=old.version + 1, valid_from=now, valid_to=None, reason=reason)
    closed = [] if old.valid_to is not None else [msgspec.structs.replace(old, valid_to=now)]
    rows = [kind_of(Lesson).row(lesson, scope) for lesson in (*closed, after)]
    write_rows(connection, rows, actor=actor, reason=reason)
    return after


def _add(connection: Connection, scope: str, lesson: Lesson, actor: str, reason: str) -> Added:
    sources = (*lesson.derived_from, *lesson.supports)
    if echo := _echo(connection, scope, lesson, sources):
        return Added(outcome="recalled", lesson=echo)
    if known := _same(connection, scope, lesson):
        supported = _with_evidence(known, sources, ())
        if supported != known:
            known = revise(connection, scope, known, supported, reason or "seen again", actor)
        return Added(outcome="duplicate", lesson=known)
    try:
        newest_ = newest(connection, scope, lesson.id)
    except NotFoundError:
        trust = "tainted" if lesson.trust == "tainted" or tainted(connection, scope, sources) else "trusted"
        born = msgspec.structs.replace(lesson, status="proposed", version=1, valid_to=None, trust=trust, scope=scope)
        write_rows(connection, [kind_of(Lesson).row(born, scope)], actor=actor, reason=reason)
        return Added(outcome="added", lesson=born)
    raise ConflictError(f"lesson {newest_.id!r} is stored already; change it with revise")


def _echo(connection: Connection, scope: str, lesson: Lesson, sources: Sequence[str]) -> Lesson | None:
    """Returns a lesson that was shown in the runs this one comes from and that it repeats."""
    from whet.memory.lineage import shown_in

    for id in shown_in(connection, scope, runs_of(connection, scope, sources)):
        try:
            known = newest(connection, scope, id)
        except NotFoundError:
            continue
        if known.id != lesson.id and _alike_scope(known, lesson) and resemblance(known.text, lesson.text) >= ECHO:
            return known
    return None


def _same(connection: Connection, scope: str, lesson: Lesson) -> Lesson | None:
    """Returns the lesson that says the same as this one."""
    found = _alike(connection, scope, lesson, ("proposed", "active", "quarantined"))
    return max(found, key=lambda each: resemblance(_said(each), _said(lesson)), default=None)


def _alike(connection: Connection, scope: str, lesson: Lesson, statuses: Sequence[LessonStatus]) -> list[Lesson]:
    """Returns the other lessons in force that say the same."""
    rows = Keywords().rows(connection, scope, lesson.text, limit=20, statuses=statuses)
    bodies = find_rows(connection, kind_of(Lesson), scope, Query(where={"id": _ids(connection, rows)}))
    known = [msgspec.json.decode(body, type=Lesson) for body in bodies]
    others = [each for each in known if each.valid_to is None and each.id != lesson.id and _alike_scope(each, lesson)]
    return [each for each in others if resemblance(_said(each), _said(lesson)) >= SAME]


def _duplicates(connection: Connection, scope: str, statuses: Sequence[LessonStatus]) -> list[list[Lesson]]:
    where = {"valid_to": None, "status": list(statuses)}
    found = [
        msgspec.json.decode(body, type=Lesson)
        for body in find_rows(connection, kind_of(Lesson), scope, Query(where=where))
    ]
    groups: list[list[Lesson]] = []
    grouped: set[str] = set()
    for lesson in found:
        if lesson.id not in grouped:
            alike = [each for each in _alike(connection, scope, lesson, statuses) if each.id not in grouped]
            group = [lesson, *sorted(alike, key=lambda each: each.valid_from)]
            grouped |= {each.id for each in group}
            groups += [group] if len(group) > 1 else []
    return groups


def _ids(connection: Connection, rows: Sequence[tuple[int, float]]) -> list[str]:
    table = schema.lessons
    return list(connection.scalars(select(table.c.id).where(table.c.row.in_([row for row, _ in rows]))))


def _alike_scope(one: Lesson, other: Lesson) -> bool:
    """Whether two lessons have the same exceptions: a text that is kept from other tasks is another lesson."""
    return set(exceptions(one.not_when)) == set(exceptions(other.not_when))


def _said(lesson: Lesson) -> str:
    return f"{lesson.applies_when}\n{lesson.text}"


def _with_evidence(lesson: Lesson, supports: Sequence[str], contradicts: Sequence[str]) -> Lesson:
    known = {*lesson.derived_from, *lesson.supports}
    more = tuple(id for id in dict.fromkeys(supports) if id not in known)
    against = tuple(id for id in dict.fromkeys(contradicts) if id not in lesson.contradicts)
    return msgspec.structs.replace(
        lesson, supports=(*lesson.supports, *more), contradicts=(*lesson.contradicts, *against)
    )


def _admit(connection: Connection, scope: str, id: str, actor: str) -> Admission:
    lesson = newest(connection, scope, id)
    if lesson.status != "proposed":
        return Admission(lesson=lesson, admitted=False, reason=f"it is {lesson.status}, not proposed")
    judged = judged_runs(connection, scope, (*lesson.derived_from, *lesson.supports))
    roots = {run.root for run in judged}
    passed = {run.root for run in judged if run.passed}
    pairs, gain = paired_replay(connection, scope, lesson.id)
    missing = _missing(lesson, len(roots), pairs, gain)
    verdict = Admission(
        lesson=lesson,
        admitted=not missing,
        reason=missing,
        runs=len(roots),
        passed=len(passed),
        pairs=pairs,
        replay=gain,
    )
    if missing:
        return verdict
    kind = lesson.kind if passed or gain > 0 else "negative"
    reason = f"{pairs} paired replays, gain {gain:+.2f}" if gain > 0 else f"{len(roots)} independent judged runs"
    admitted = msgspec.structs.replace(lesson, status="active", kind=kind)
    after = revise(connection, scope, lesson, admitted, reason, actor)
    return msgspec.structs.replace(verdict, lesson=after, reason=reason)


def _missing(lesson: Lesson, runs: int, pairs: int, gain: float) -> str:
    if lesson.trust == "tainted":
        return "it is tainted; a person has to approve it"
    if not runs and not pairs:
        return "no verdict judged a run that it rests on"
    if pairs and gain <= 0:
        return f"{pairs} paired replays gained nothing ({gain:+.2f})"
    if gain > 0 or runs >= 2:
        return ""
    return "one independent run; two are needed, or a positive paired replay"


def _merge(connection: Connection, scope: str, ids: Sequence[str], text: str | None, reason: str, actor: str) -> Lesson:
    first, *others = [newest(connection, scope, id) for id in dict.fromkeys(ids)]
    evidence = [id for other in others for id in (*other.derived_from, *other.supports)]
    against = [id for other in others for id in other.contradicts]
    trust = "tainted" if any(each.trust == "tainted" for each in (first, *others)) else "trusted"
    merged = _with_evidence(first, evidence, against)
    merged = msgspec.structs.replace(merged, text=merged.text if text is None else text, trust=trust)
    for other in others:
        gone = msgspec.structs.replace(other, status="retired")
        revise(connection, scope, other, gone, f"merged into {first.id}: {reason}", actor)
    return revise(connection, scope, first, merged, reason, actor)


def _taint(connection: Connection, scope: str, lesson: Lesson, reason: str, actor: str) -> Lesson:
    status: LessonStatus = "quarantined" if lesson.status == "active" else lesson.status
    new = msgspec.structs.replace(lesson, trust="tainted", status=status)
    return revise(connection, scope, lesson, new, reason, actor) if new != lesson else lesson
