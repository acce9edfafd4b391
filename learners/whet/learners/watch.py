"""After a promotion: live verdicts are watched, and what does worse than the gate vouched for is taken back.

    found = await watch(memory)                 # looks at the promotion in force; call it whenever verdicts came in
    if found.rolled_back:
        print(found.rolled_back.reason, found.rolled_back.run_ids)
    retired = await retire_harmful(memory)      # lessons and skills whose measured worth lies below zero

The watch is a sequential test on the live scores, in the order of the runs (``betting.Capital``): its null is that
live runs pass at least at the level the gate vouched for (the lower confidence bound of the candidate's own score),
less ``tolerance``. It may be looked at after every verdict; a promotion that keeps its level is taken back with
probability at most ``alpha`` over its whole life. The assumption is that live tasks are as hard as the held-out ones
were; where they are not, give the level to hold (``level``), for example the live score before the promotion.
"""

from collections import defaultdict
from collections.abc import Sequence

from whet.core.errors import RefusedError, UserError
from whet.core.records import Candidate, Json, Lesson, Promotion, Record, Run, Verdict
from whet.learners.betting import Capital
from whet.learners.view import current_lessons
from whet.memory import Memory
from whet.memory.worth import Worth
from whet.skills import remove

__all__ = ["Retired", "Watch", "retire_harmful", "take_back", "watch"]

ACTOR = "watch"
MOVES = ("promoted", "rolled_back", "committed")
HORIZON = 100
_CHUNK = 400


class Watch(Record, frozen=True, kw_only=True):
    """What the watch found: ``mean`` live score over ``n`` runs against ``level``; ``p`` anytime-valid.

    ``rolled_back`` is the promotion that took the change back, where that was called for.
    """

    promotion: Promotion | None = None
    level: float = 0.0
    n: int = 0
    mean: float | None = None
    p: float = 1.0
    rolled_back: Promotion | None = None


class Retired(Record, frozen=True, kw_only=True):
    """A lesson (``item`` is its id) or skill (``skill:NAME``) that was retired, and the worth that says why."""

    item: str
    worth: Worth
    reason: str


async def watch(
    memory: Memory, *, alpha: float = 0.01, tolerance: float = 0.05, level: float | None = None, act: bool = True
) -> Watch:
    """Returns how the policy in force does on live runs; takes it back when that is worse than vouched for (``act``).

    Only runs under this policy with purpose ``live``, judged by more than a model, count. Without a gate's promotion
    in force there is nothing to watch.

    Raises:
        UserError: ``alpha`` or ``tolerance`` is no share.
    """
    if not 0 < alpha < 1 or not 0 <= tolerance < 1:
        raise UserError(f"alpha={alpha!r} and tolerance={tolerance!r} have to be shares, for example 0.01 and 0.05")
    promotion = await _in_force(memory)
    vouched = promotion.evidence.get("candidate_low") if promotion else None
    floor = level if level is not None else float(vouched) if isinstance(vouched, int | float) else None
    if promotion is None or floor is None:
        return Watch(promotion=promotion)
    scores = await _live_scores(memory, promotion)
    held = max(floor - tolerance, 0.001)
    # The capital bets on failures: that 1 - score has a mean above 1 - held.
    capital = Capital(alpha=alpha, horizon=HORIZON, null=1 - held)
    for score in scores.values():
        capital.add(1 - score)
    mean = sum(scores.values()) / len(scores) if scores else None
    found = Watch(promotion=promotion, level=held, n=len(scores), mean=mean, p=capital.p)
    if not capital.refuted or not act:
        return found
    reason = (
        f"live score {mean:.2f} over {len(scores)} runs is below {held:.2f}, which was vouched for (p {capital.p:.2g})"
    )
    thresholds: dict[str, Json] = {"alpha": alpha, "level": held, "tolerance": tolerance}
    back = await take_back(
        memory, promotion, reason=reason, p=capital.p, mean=mean, run_ids=tuple(scores), thresholds=thresholds
    )
    return Watch(promotion=promotion, level=held, n=len(scores), mean=mean, p=capital.p, rolled_back=back)


async def take_back(
    memory: Memory,
    promotion: Promotion,
    *,
    reason: str,
    actor: str = ACTOR,
    mean: float | None = None,
    p: float | None = None,
    run_ids: Sequence[str] = (),
    thresholds: dict[str, Json] | None = None,
) -> Promotion:
    """Returns the promotion that takes another one back: the policy before it is in force, its lessons are retired.

    Lessons that it had replaced are active again. ``mean`` (live score), ``p`` and ``run_ids`` are the evidence.

    Raises:
        RefusedError: it is not in force.
        ConflictError: the head moved meanwhile.
    """
    current = await _in_force(memory)
    if current is None or current.id != promotion.id:
        raise RefusedError(f"promotion {promotion.id!r} is not the last change; roll back to a policy by its reference")
    back = Promotion(
        decision="rolled_back",
        policy=promotion.incumbent,
        incumbent=promotion.policy,
        candidate_id=promotion.candidate_id,
        reason=reason,
        actor=actor,
        n=len(run_ids),
        mean=mean,
        p=p,
        thresholds=thresholds or {},
        evidence={"takes_back": promotion.id},
        run_ids=tuple(run_ids),
    )
    await memory.policies.promote(back)
    await _take_back_lessons(memory, promotion, f"taken back with {promotion.id}: {reason}", actor)
    return back


async def retire_harmful(memory: Memory, *, min_uses: int = 10, actor: str = ACTOR) -> list[Retired]:
    """Returns the lessons and skills that were retired because showing them does harm: their worth lies below zero.

    Each has to have been shown and withheld ``min_uses`` times; its worth and counts are the reason recorded.
    """
    retired = []
    for lesson in await current_lessons(memory):
        if lesson.status == "active" and (found := await _harm(memory, lesson.id, min_uses)):
            await memory.lessons.retire(lesson.id, reason=found.reason, actor=actor)
            retired.append(found)
    for name in (await memory.policies.head()).skill_names():
        if found := await _harm(memory, f"skill:{name}", min_uses):
            slimmer = remove(await memory.policies.head(), name)
            await memory.policies.commit(slimmer, reason=f"skill {name} does harm: {found.reason}", actor=actor)
            retired.append(found)
    return retired


async def _harm(memory: Memory, item: str, min_uses: int) -> Retired | None:
    worth = await memory.worth(item)
    if min(worth.n_shown, worth.n_withheld) < min_uses or worth.high >= 0 or worth.mean is None:
        return None
    reason = (
        f"worth {worth.mean:+.2f} ({worth.low:+.2f} to {worth.high:+.2f}), "
        f"shown in {worth.n_shown} runs and withheld from {worth.n_withheld}"
    )
    return Retired(item=item, worth=worth, reason=reason)


async def _take_back_lessons(memory: Memory, promotion: Promotion, why: str, actor: str) -> None:
    if promotion.candidate_id is None:
        return
    config = (await memory.get(Candidate, promotion.candidate_id)).config
    lessons = {lesson.id: lesson for lesson in await current_lessons(memory)}
    for lesson in _named(config.get("lessons"), lessons):
        if lesson.status == "active":
            await memory.lessons.retire(lesson.id, reason=why, actor=actor)
    for lesson in _named(config.get("retires"), lessons):
        if lesson.status == "retired" and lesson.trust == "trusted":
            await memory.lessons.approve(lesson.id, reason=why, actor=actor)


async def _in_force(memory: Memory) -> Promotion | None:
    """Returns the gate's promotion that made the head what it is; ``None`` when a person or a rollback did."""
    last = next((p for p in await memory.policies.log() if p.decision in MOVES), None)
    return last if last is not None and last.decision == "promoted" else None


async def _live_scores(memory: Memory, promotion: Promotion) -> dict[str, float]:
    """Returns the scores of the judged live runs under the promoted policy since then, by run, in their order."""
    where = {"purpose": "live", "status": "done", "policy": promotion.policy}
    runs = await memory.find(Run, where=where, since=promotion.at)
    scores: dict[str, list[float]] = defaultdict(list)
    ids = [run.id for run in runs]
    for start in range(0, len(ids), _CHUNK):
        for verdict in await memory.find(Verdict, where={"run_id": ids[start : start + _CHUNK]}):
            told = verdict.judged or verdict.outcome in ("timeout", "tampered")  # as the gate counts them
            if told and verdict.repetition == 0 and verdict.kind != "model":
                scores[verdict.run_id].append(float(verdict.outcome == "pass"))
    return {id: min(scores[id]) for id in ids if scores[id]}


def _named(ids: object, lessons: dict[str, Lesson]) -> list[Lesson]:
    return [lessons[id] for id in ids if id in lessons] if isinstance(ids, list) else []
