"""From proposal to policy: take a proposal in, and carry out what the gate decided about it.

incumbent = await incumbent_arm(memory)            # the head of the history and the active lessons
proposal = await take_in(memory, proposal)         # stored, nothing in force yet
await adopt(memory, proposal, promotion)           # in force, if promoted; else the decision is logged
"""

from collections.abc import Mapping

import msgspec

from whet.core.records import Candidate, Json, Lesson, Promotion
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.view import current_lessons
from whet.memory import Memory

__all__ = ["adopt", "incumbent_arm", "named_ids", "reconcile", "take_in"]

ACTOR = "gate"


async def incumbent_arm(memory: Memory) -> Arm:
    """Returns what is in force: the head of the policy history, and the lessons that are active."""
    lessons = [lesson.id for lesson in await current_lessons(memory) if lesson.status == "active"]
    return Arm(policy=await memory.policies.head(), lessons=tuple(lessons))


async def take_in(memory: Memory, proposal: Proposal) -> Proposal:
    """Stores policy, lessons and candidate, and returns the proposal as it was stored.

    A lesson that says what a stored one says becomes that one; one that only echoes what its runs were shown is
    dropped; tainted lessons are quarantined until a person looked at them.
    """
    lessons = [stored for lesson in proposal.lessons if (stored := await _take_lesson(memory, lesson)) is not None]
    config: dict[str, Json] = {**proposal.candidate.config, "lessons": [lesson.id for lesson in lessons]}
    candidate = msgspec.structs.replace(proposal.candidate, config=config)
    await memory.policies.put(proposal.policy)
    await memory.put(candidate, actor=candidate.learner)
    return msgspec.structs.replace(proposal, candidate=candidate, lessons=tuple(lessons))


async def adopt(memory: Memory, proposal: Proposal, promotion: Promotion) -> None:
    """Logs the decision; a promotion moves the head and activates the lessons, a rejection retires them.

    Lessons on which there was not enough evidence stay proposed.

    Raises:
        ConflictError: the head moved since the decision was made; nothing was changed.
    """
    await memory.policies.promote(promotion)
    why = f"{promotion.decision} by {promotion.id}: {promotion.reason}"
    if promotion.decision == "promoted":
        for lesson in proposal.lessons:
            if lesson.status == "proposed":
                await memory.lessons.approve(lesson.id, reason=why, actor=ACTOR)
        for id in proposal.retires:
            await memory.lessons.retire(id, reason=f"replaced by {proposal.candidate.summary}; {why}", actor=ACTOR)
    elif promotion.decision == "rejected":
        for lesson in proposal.lessons:
            if lesson.status == "proposed":
                await memory.lessons.retire(lesson.id, reason=why, actor=ACTOR)


async def reconcile(memory: Memory) -> None:
    """Carries out what a promotion said about lessons where a crash came between; does nothing when all is done."""
    lessons = {lesson.id: lesson for lesson in await current_lessons(memory)}
    for promotion in await memory.find(Promotion, where={"decision": "promoted"}):
        if promotion.candidate_id is None:
            continue
        config = (await memory.get(Candidate, promotion.candidate_id)).config
        why = f"promoted by {promotion.id}: {promotion.reason}"
        for id in named_ids(config, "lessons"):
            if id in lessons and lessons[id].status == "proposed":
                await memory.lessons.approve(id, reason=why, actor=ACTOR)
        for id in named_ids(config, "retires"):
            if id in lessons and lessons[id].status == "active":
                await memory.lessons.retire(id, reason=why, actor=ACTOR)


def named_ids(config: Mapping[str, Json], key: str) -> list[str]:
    """Returns the ids that a candidate's configuration holds under a key; none where there is no such list."""
    ids = config.get(key)
    return [id for id in ids if isinstance(id, str)] if isinstance(ids, list) else []


async def _take_lesson(memory: Memory, lesson: Lesson) -> Lesson | None:
    known = {each.id: each for each in await memory.find(Lesson, where={"id": lesson.id})}
    if known:
        return await memory.get(Lesson, lesson.id)
    added = await memory.lessons.add(lesson, actor=lesson.source)
    if added.outcome == "recalled" or added.lesson.status in ("quarantined", "retired"):
        return None
    if added.lesson.trust == "tainted" and added.lesson.status == "proposed":
        why = "rests on what strangers wrote"
        return await memory.lessons.quarantine(added.lesson.id, reason=why, actor=ACTOR)
    return added.lesson
