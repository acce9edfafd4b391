"""From lessons to proposals: what is new, the trusted and the tainted apart, with the record of where it comes from.

    known = await view.lessons()
    for proposal in propose_lessons("tips", "tips", lessons, known, incumbent):
        print(proposal.candidate.summary)                   # 3 tips

What every learner of lessons shares. What is active, quarantined or retired is not proposed a second time; a text with
other exceptions (``not_when``) is another lesson.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from whet.core.records import Candidate, Lesson, Trust, Usage
from whet.learners.gate import Arm
from whet.learners.learner import Proposal

__all__ = ["Retires", "joint_trust", "propose_lessons", "replaced"]

Retires: TypeAlias = Callable[[Sequence[Lesson]], tuple[str, ...]]
"""From the lessons of a proposal to the ids of those that it takes the place of."""


def propose_lessons(
    learner: str,
    kind: str,
    lessons: Iterable[Lesson],
    known: Sequence[Lesson],
    incumbent: Arm,
    usage: Usage | None = None,
    *,
    retires: Retires = lambda chosen: (),
) -> list[Proposal]:
    """Returns a proposal of the trusted lessons that are new, and one of the tainted ones; neither where none is.

    Args:
        learner: who proposes.
        kind: what the lessons are, in the plural, for the summary.
        known: the newest version of every lesson on record.
        usage: what finding them took; the first proposal carries it.
        retires: which lessons those of one proposal take the place of.
    """
    fresh = _fresh(lessons, known)
    found: list[Proposal] = []
    for trust in ("trusted", "tainted"):
        if chosen := tuple(lesson for lesson in fresh if lesson.trust == trust):
            cost = usage if usage is not None and not found else Usage()
            found.append(_proposal(learner, kind, chosen, retires(chosen), incumbent, cost, chosen[0].trust))
    return found


def replaced(lessons: Sequence[Lesson], known: Sequence[Lesson]) -> tuple[str, ...]:
    """Returns the active lessons of the same source and scope as one of these: what is newer takes their place."""
    about = {(lesson.source, lesson.applies_when) for lesson in lessons}
    mine = {lesson.id for lesson in lessons}
    return tuple(
        old.id
        for old in known
        if old.status == "active" and (old.source, old.applies_when) in about and old.id not in mine
    )


def joint_trust(sources: Iterable[Trust]) -> Trust:
    """Returns ``tainted`` where one of the sources is, else ``trusted``."""
    return "tainted" if "tainted" in set(sources) else "trusted"


def _proposal(
    learner: str,
    kind: str,
    lessons: tuple[Lesson, ...],
    retires: tuple[str, ...],
    incumbent: Arm,
    usage: Usage,
    trust: Trust,
) -> Proposal:
    digest = incumbent.policy.digest
    candidate = Candidate(
        policy=digest,
        parent=digest,
        learner=learner,
        config={"kind": kind, "lessons": [lesson.id for lesson in lessons], "retires": [*retires]},
        summary=f"{len(lessons)} {kind if len(lessons) > 1 else kind.removesuffix('s')}",
        evidence=tuple(dict.fromkeys(id for lesson in lessons for id in lesson.derived_from)),
        usage=usage,
        trust=trust,
    )
    return Proposal(candidate=candidate, policy=incumbent.policy, lessons=lessons, retires=retires)


def _fresh(lessons: Iterable[Lesson], known: Sequence[Lesson]) -> list[Lesson]:
    """Returns the lessons that nobody has decided on; one that was proposed before keeps its record."""
    before = {(lesson.text, lesson.not_when): lesson for lesson in known}
    fresh: dict[tuple[str, str], Lesson] = {}
    for lesson in lessons:
        said = lesson.text, lesson.not_when
        old = before.get(said)
        if old is None or old.status == "proposed":
            fresh.setdefault(said, old or lesson)
    return list(fresh.values())
