"""Worth, measured: how runs that were shown a lesson or skill fared against runs from which it was withheld.

    worth = await memory.worth(lesson.id)
    worth.mean, worth.low, worth.high          # difference of mean scores, with its 95 % interval

A run's score is the mean of its verdicts that judged (pass or fail). Withholding is random, so the difference is an
effect and not a correlation; runs of the gate do not count, since nothing is withheld in them. The interval is that of
Agresti and Caffo (2000): one success and one failure are added to each arm, and the normal interval taken of the
difference. It is made for proportions; a score in [0, 1] varies no more than a proportion of the same mean, so for
scores it is at most too wide. It is not anytime-valid: the gate decides about policies, this estimate orders what is
recalled and says what to retire.
"""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Connection, Select, bindparam, func, select

from whet.core import Record
from whet.memory.schema import runs, uses, verdicts

__all__ = ["Worth", "worths"]

_Z = 1.959964
_CHUNK = 500


class Worth(Record, frozen=True, kw_only=True):
    """The worth of a lesson (``item`` is its id) or a skill (``skill:NAME``) in points of score, -1 to 1.

    ``mean`` is ``None`` until both arms have a judged run.
    """

    item: str
    mean: float | None = None
    low: float = -1.0
    high: float = 1.0
    n_shown: int = 0
    n_withheld: int = 0

    @property
    def proven(self) -> float:
        """How far the interval lies from zero, signed: 0 while it holds zero."""
        return max(self.low, 0.0) + min(self.high, 0.0)


def worths(connection: Connection, scope: str, items: Sequence[str]) -> dict[str, Worth]:
    """Returns the worth of each item."""
    arms: dict[tuple[str, str], tuple[int, float]] = {}
    for start in range(0, len(items), _CHUNK):
        arms |= _arms(connection, scope, items[start : start + _CHUNK])
    return {
        item: _estimate(item, arms.get((item, "shown"), (0, 0.0)), arms.get((item, "withheld"), (0, 0.0)))
        for item in items
    }


def _arms(connection: Connection, scope: str, items: Sequence[str]) -> dict[tuple[str, str], tuple[int, float]]:
    """Returns (number of judged runs, sum of their scores) by item and whether it was shown or withheld."""
    found = connection.execute(_statement(), {"scope": scope, "items": list(items)})
    return {(item, kind): (n, float(total)) for item, kind, n, total in found}


@cache
def _statement() -> Select[str, str, int, float]:
    """Returns the query; made once, for making it costs more than running it."""
    scored = (
        select(uses.c.item, uses.c.kind, uses.c.run_id, func.avg(verdicts.c.score).label("score"))
        .join(verdicts, (verdicts.c.scope == uses.c.scope) & (verdicts.c.run_id == uses.c.run_id))
        .outerjoin(runs, (runs.c.scope == uses.c.scope) & (runs.c.id == uses.c.run_id))
        .where(
            uses.c.scope == bindparam("scope"),
            uses.c.item.in_(bindparam("items", expanding=True)),
            uses.c.kind.in_(("shown", "withheld")),
            verdicts.c.outcome.in_(("pass", "fail")),
            verdicts.c.repetition == 0,  # the run's answer; the others judged attempts on the way
            func.coalesce(runs.c.purpose, "") != "gate",
        )
        .group_by(uses.c.item, uses.c.kind, uses.c.run_id)
        .subquery()
    )
    query = select(scored.c.item, scored.c.kind, func.count(), func.sum(scored.c.score))
    return query.group_by(scored.c.item, scored.c.kind)


def _estimate(item: str, shown: tuple[int, float], withheld: tuple[int, float]) -> Worth:
    (n, total), (m, other) = shown, withheld
    p, q = (total + 1) / (n + 2), (other + 1) / (m + 2)
    half = _Z * (p * (1 - p) / (n + 2) + q * (1 - q) / (m + 2)) ** 0.5
    known = n > 0 and m > 0
    return Worth(
        item=item,
        mean=total / n - other / m if known else None,
        low=max(p - q - half, -1.0) if known else -1.0,
        high=min(p - q + half, 1.0) if known else 1.0,
        n_shown=n,
        n_withheld=m,
    )
