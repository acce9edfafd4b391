"""After a promotion: live verdicts are watched, and what does worse than the gate measured is taken back.

    found = await watch(memory)                 # looks at the promotion in force; call it whenever verdicts came in
    if found.rolled_back:
        print(found.rolled_back.reason, found.rolled_back.evidence)
    retired = await retire_harmful(memory)      # lessons whose measured worth lies below zero

The watch is a sequential test on the live scores, in the order of the runs (``betting.Capital``): its null is that
live runs are worse than the level that the gate measured for the candidate by no more than ``tolerance``. It may be
looked at after every verdict; a promotion that keeps its level is taken back with probability at most ``alpha`` over
its whole life. The assumption is that live tasks are as hard as the held-out ones were; where they are not, give the
level to hold (``level``), for example the live score before the promotion.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from whet.core.errors import RefusedError, UserError
from whet.core.records import Candidate, Lesson, Promotion, Record, Run, Verdict
from whet.learners.betting import Capital
from whet.learners.view import current_lessons
from whet.memory import Memory

__all__ = ["Watch", "retire_harmful", "take_back", "watch"]

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
    tolerance: float = 0.0
    n: int = 0
    mean: float | None = None
    p: float = 1.0
    rolled_back: Promotion | None = None


async def watch(
    memory: Memory,
    *,
    alpha: float = 0.01,
    tolerance: float = 0.1,
    level: float | None = None,
    act: bool = True,
) -> Watch:
    """Returns how the policy in force does on live runs; takes it back when that is worse than promised (``act``).

    Only runs under this policy with purpose ``live``, judged by more than a model, count. Without a gate's promotion
    in force there is nothing to watch.

    Raises:
        UserError: ``alpha`` or ``tolerance`` is no share.
    """
    if not 0 < alpha < 1 or not 0 <= tolerance < 1:
        raise UserError(f"alpha={alpha!r} and tolerance={tolerance!r} have to be shares, for example 0.01 and 0.1")
    promotion = await _in_force(memory)
    measured = promotion.evidence.get("candidate_mean") if promotion else None
    floor = level if level is not None else float(measured) if isinstance(measured, int | float) else None
    if promotion is None or floor is None:
        return Watch(promotion=promotion)
    runs = await _live_scores(memory, promotion)
    # The capital bets that 1 - score has a mean above 1 - (level - tolerance).
    capital = Capital(alpha=alpha, horizon=HORIZON, null=min(1 - floor + tolerance, 0.999))
    for _, score in runs:
        capital.add(1 - score)
    found = Watch(
        promotion=promotion,
        level=floor,
        tolerance=tolerance,
        n=len(runs),
        mean=sum(score for _, score in runs) / len(runs) if runs else None,
        p=capital.p,
    )
    if not capital.refuted or not act:
        return found
    return await _rolled_back(memory, found, alpha, [run_id for run_id, _ in runs])


async def take_back(memory: Memory, promotion: Promotion, *, reason: str, actor: str = ACTOR) -> Promotion:
    """Returns the promotion that takes another one back: the policy before it is in force, its lessons are retired.

    Lessons that it had replaced are active again.

    Raises:
        RefusedError: it is not in force, or never was.
    """
    current = await _in_force(memory)
    if current is None or current.id != promotion.id:
        raise RefusedError(f"promotion {promotion.id!r} is not the last change; roll back to a policy by its reference")
    back = await memory.policies.rollback(promotion.incumbent, reason=reason, actor=actor)
    config = {}
    if promotion.candidate_id is not None:
        config = (await memory.get(Candidate, promotion.candidate_id)).config
    lessons = {lesson.id: lesson for lesson in await current_lessons(memory)}
    why = f"taken back with {promotion.id}: {reason}"
    for lesson in _named(config.get("lessons"), lessons):
        if lesson.status == "active":
            await memory.lessons.retire(lesson.id, reason=why, actor=actor)
    for lesson in _named(config.get("retires"), lessons):
        if lesson.status == "retired" and lesson.trust == "trusted":
            await memory.lessons.approve(lesson.id, reason=why, actor=actor)
    return back


async def retire_harmful(memory: Memory, *, min_uses: int = 10, actor: str = ACTOR) -> list[Lesson]:
    """Returns the lessons that were retired because showing them does harm: their worth's interval is below zero.

    A lesson has to have been shown and withheld ``min_uses`` times each; its worth and counts are the reason recorded.
    """
    retired = []
    for lesson in await current_lessons(memory):
        if lesson.status != "active":
            continue
        worth = await memory.worth(lesson.id)
        if min(worth.n_shown, worth.n_withheld) >= min_uses and worth.high < 0 and worth.mean is not None:
            reason = (
                f"worth {worth.mean:+.2f} ({worth.low:+.2f} to {worth.high:+.2f}), "
                f"shown in {worth.n_shown} runs and withheld from {worth.n_withheld}"
            )
            retired.append(await memory.lessons.retire(lesson.id, reason=reason, actor=actor))
    return retired


async def _in_force(memory: Memory) -> Promotion | None:
    """Returns the gate's promotion that made the head what it is; ``None`` when a person or a rollback did."""
    last = next((p for p in await memory.policies.log() if p.decision in MOVES), None)
    return last if last is not None and last.decision == "promoted" else None


async def _live_scores(memory: Memory, promotion: Promotion) -> list[tuple[str, float]]:
    """Returns (run id, mean score) of the judged live runs under the promoted policy since, in their order."""
    where = {"purpose": "live", "status": "done", "policy": promotion.policy}
    runs = await memory.find(Run, where=where, since=promotion.at)
    scores: dict[str, list[float]] = defaultdict(list)
    ids = [run.id for run in runs]
    for start in range(0, len(ids), _CHUNK):
        for verdict in await memory.find(Verdict, where={"run_id": ids[start : start + _CHUNK]}):
            if verdict.judged and verdict.repetition == 0 and verdict.kind != "model":
                scores[verdict.run_id].append(float(verdict.outcome == "pass"))
    return [(id, min(scores[id])) for id in ids if scores[id]]


async def _rolled_back(memory: Memory, found: Watch, alpha: float, run_ids: Sequence[str]) -> Watch:
    assert found.promotion is not None
    reason = (
        f"live score {found.mean:.2f} over {found.n} runs is below the promised {found.level:.2f} "
        f"by more than {found.tolerance:.2f} (p {found.p:.2g}, level {alpha:g})"
    )
    back = await take_back(memory, found.promotion, reason=reason)
    return Watch(
        promotion=found.promotion,
        level=found.level,
        tolerance=found.tolerance,
        n=found.n,
        mean=found.mean,
        p=found.p,
        rolled_back=back,
    )


def _named(ids: object, lessons: dict[str, Lesson]) -> list[Lesson]:
    return [lessons[id] for id in ids if id in lessons] if isinstance(ids, list) else []
