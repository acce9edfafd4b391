"""``Where``: which runs to learn from, as a person writes it.

    where = parse_where("agent=refine since=7d score>=0.5 verdict=pass tag='night shift'")
    str(where)                                  # the same, with the moment that 7d ago was

All conditions have to hold. ``agent``, ``task_set``: the name. ``model``: the name, with or without the ``+`` of an
adapter. ``policy``: a digest or its beginning, a tag,
``head``. ``tag``: of the run or of its task. ``since``: when the run started, as ``7d``, ``12h``, ``30m`` ago or an ISO
date. ``score``: mean of the verdicts on the answer. ``verdict``: ``pass``, ``fail`` or ``none``. ``feedback``: the run
has feedback of that kind.
"""

import operator
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from typing import get_args

from whet.core.errors import UserError
from whet.core.ids import parse_since
from whet.core.loading import nearest
from whet.core.records import FeedbackKind, Record

__all__ = ["EVERYTHING", "KEYS", "Condition", "Where", "parse_where"]

KEYS = ("since", "model", "agent", "policy", "task_set", "tag", "verdict", "score", "feedback")
"""What a condition may be about, in the order in which conditions are looked at: the cheap ones first."""

_CONDITION = re.compile(r"(\w+)(>=|<=|>|<|=)(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_VALUES: dict[str, tuple[str, ...]] = {"verdict": ("pass", "fail", "none"), "feedback": get_args(FeedbackKind)}
_SEVERAL = ("tag", "score", "feedback")


class Condition(Record, frozen=True, kw_only=True):
    """One condition; ``value`` is text, a moment as an ISO date."""

    key: str
    symbol: str = "="
    value: str

    def __str__(self) -> str:
        return f"{self.key}{self.symbol}{shlex.quote(self.value) if self.value else ''}"

    def admits(self, number: float | None) -> bool:
        """Returns whether a number fulfils a comparison; none does not."""
        return number is not None and _COMPARE[self.symbol](number, float(self.value))


class Where(Record, frozen=True, kw_only=True):
    """Conditions, all of which have to hold; made by ``parse_where``. Without any, every run is taken."""

    conditions: tuple[Condition, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(str, self.conditions))

    @property
    def since(self) -> int | None:
        """The moment from which runs are taken, in UTC milliseconds."""
        return next((parse_since(each.value) for each in self.conditions if each.key == "since"), None)

    def about(self, *keys: str) -> list[Condition]:
        """Returns the conditions about these, cheap ones first."""
        found = [condition for condition in self.conditions if condition.key in keys]
        return sorted(found, key=lambda condition: KEYS.index(condition.key))


EVERYTHING = Where()


def parse_where(text: str) -> Where:
    """Returns the conditions of a text; values with spaces are quoted as in a shell.

    Raises:
        UserError: a condition that is none, an unknown key, or a value that its key does not take.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"where {text!r} is not readable: {error}") from error
    conditions = [_condition(word) for word in words]
    for key in KEYS:
        if key not in _SEVERAL and sum(condition.key == key for condition in conditions) > 1:
            raise UserError(f"where {text!r} says {key} twice, and a run has only one; leave one out")
    return Where(conditions=tuple(conditions))


def _condition(word: str) -> Condition:
    match = _CONDITION.fullmatch(word)
    if match is None:
        raise UserError(
            f"where {word!r} is no condition such as agent=refine or score>=0.5; keys are {', '.join(KEYS)}"
        )
    key, symbol, value = match.groups()
    if key not in KEYS:
        raise UserError(f"where {word!r}: no key {key!r}{nearest(key, KEYS)}; there are {', '.join(KEYS)}")
    if symbol != "=" and key != "score":
        raise UserError(f"where {word!r}: {key} is compared with = only; score takes =, >=, <=, > and <")
    if key in _VALUES and value not in _VALUES[key]:
        raise UserError(f"where {word!r}: {key} is one of {', '.join(_VALUES[key])}")
    if not value:
        raise UserError(f"where {word!r}: {key} needs a value")
    return Condition(key=key, symbol=symbol, value=_normal(word, key, value))


def _normal(word: str, key: str, value: str) -> str:
    """Returns a value that says the same tomorrow, and a number that is one."""
    if key == "since":
        return datetime.fromtimestamp(parse_since(value) / 1000, UTC).isoformat()
    if key == "score":
        try:
            float(value)
        except ValueError:
            raise UserError(f"where {word!r}: a score is a number between 0 and 1") from None
    return value
