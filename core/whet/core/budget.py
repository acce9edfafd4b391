"""A hard budget, checked before anything is spent and shared by everything that runs under it.

    budget = Budget(micro_dollars=2_000_000, calls=500, seconds=3600)
    with budget.reserve(Cost(calls=1, tokens=4_000)) as reservation:     # BudgetError: nothing was spent
        ...
        reservation.settle(Cost(calls=1, tokens=1_234))                  # not settled: released

While every settlement stays within its reservation, no limit is ever exceeded, however many threads and coroutines
share the budget. A settlement above its reservation is a fact and is charged in full; what goes beyond a limit is
``overshoot``, and blocks every later reservation.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from whet.core.errors import BudgetError, UserError
from whet.core.ids import new_id, now_ms
from whet.core.records import Record, Usage

__all__ = ["Budget", "BudgetEvent", "Cost", "Grant", "Ledger", "Reservation", "parse_grant"]


class Cost(Record, frozen=True, kw_only=True):
    """An amount in each unit that a budget counts; ``seconds`` of wall time."""

    calls: int = 0
    tokens: int = 0
    micro_dollars: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, usage: Usage) -> "Cost":
        """Returns what a model call or a run used, as a cost."""
        return cls(
            calls=usage.calls,
            tokens=usage.input_tokens + usage.output_tokens,
            micro_dollars=usage.micro_dollars,
            seconds=usage.seconds,
        )

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
            micro_dollars=self.micro_dollars + other.micro_dollars,
            seconds=self.seconds + other.seconds,
        )

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            calls=self.calls - other.calls,
            tokens=self.tokens - other.tokens,
            micro_dollars=self.micro_dollars - other.micro_dollars,
            seconds=self.seconds - other.seconds,
        )


NOTHING = Cost()


class Grant(Record, frozen=True, kw_only=True):
    """A limit in each unit; ``None`` is no limit."""

    calls: int | None = None
    tokens: int | None = None
    micro_dollars: int | None = None
    seconds: float | None = None


class BudgetEvent(Record, frozen=True, kw_only=True):
    """One line of a budget's ledger. ``reservation_id`` is empty for a grant, ``grant`` is set only there."""

    kind: Literal["grant", "reserve", "settle", "release"]
    budget_id: str
    parent_id: str | None = None
    reservation_id: str = ""
    grant: Grant | None = None
    cost: Cost = Cost()
    at: int


Ledger = Callable[[BudgetEvent], None]
"""Hears of every event in order, before a grant or a reservation counts: when it raises, there is none.

It runs under the budget's lock, so it has to be quick and must not use the budget."""


class Budget:
    """Limits on what a piece of work may use, and what it has used. Safe to share between threads and coroutines.

    ``calls``, ``tokens`` and ``micro_dollars`` are counted; ``seconds`` is a deadline in wall time since the budget
    was made. ``None`` is no limit. ``spent`` is what an interrupted piece of work had used before it resumed.

    Raises:
        UserError: a limit is negative.
    """

    def __init__(
        self,
        micro_dollars: int | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        seconds: float | None = None,
        *,
        spent: Cost = NOTHING,
        ledger: Ledger | None = None,
        parent: "Budget | None" = None,
    ) -> None:
        self.id = new_id()
        self.grant = Grant(calls=calls, tokens=tokens, micro_dollars=micro_dollars, seconds=seconds)
        for unit, limit in _limits(self.grant):
            if limit < 0:
                raise UserError(f"a budget of {limit!r} {unit} is negative; a limit is 0 or more, or None for no limit")
        self._parent = parent
        self._ledger = ledger
        # One lock for a whole family: a reservation is checked against all ancestors at once.
        self._lock: threading.Lock = parent._lock if parent else threading.Lock()
        self._settled = spent
        self._reserved = Cost()
        self._started = time.monotonic() - spent.seconds
        self._tell("grant", grant=self.grant)

    @classmethod
    def of(cls, grant: Grant, *, spent: Cost = NOTHING, ledger: Ledger | None = None) -> "Budget":
        """Returns a budget with the limits of ``grant``."""
        return cls(grant.micro_dollars, grant.tokens, grant.calls, grant.seconds, spent=spent, ledger=ledger)

    def child(
        self,
        micro_dollars: int | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        seconds: float | None = None,
    ) -> "Budget":
        """Returns a budget with tighter limits; what is spent under it is spent here as well.

        A limit above this budget's remainder is allowed and never reached: the smaller of the two decides.
        """
        return Budget(micro_dollars, tokens, calls, seconds, ledger=self._ledger, parent=self)

    @property
    def spent(self) -> Cost:
        """What was settled, here and in children; ``seconds`` is the wall time since the start."""
        with self._lock:
            return self._spent()

    @property
    def reserved(self) -> Cost:
        """What is reserved and not yet settled, here and in children."""
        with self._lock:
            return self._reserved

    @property
    def remaining(self) -> Grant:
        """What can still be reserved in each unit, never below 0; ``None`` where neither this nor a parent limits."""
        with self._lock:
            return self._remaining()

    @property
    def overshoot(self) -> Cost:
        """What was settled beyond this budget's own limits: 0 unless a settlement exceeded its reservation.

        Time is not counted here: a deadline passes whether or not anything is spent.
        """
        with self._lock:
            settled, grant = self._settled, self.grant
            return Cost(
                calls=_above(settled.calls, grant.calls),
                tokens=_above(settled.tokens, grant.tokens),
                micro_dollars=_above(settled.micro_dollars, grant.micro_dollars),
            )

    def reserve(self, cost: Cost = NOTHING) -> "Reservation":
        """Returns a reservation of ``cost``; use it as a context manager, so that it never stays open.

        ``Cost()`` reserves nothing and only checks: it passes while no limit is exceeded and no deadline has passed.

        Raises:
            BudgetError: this budget or a parent does not allow it; says which unit, its limit, what is spent and asked.
            UserError: a negative cost.
        """
        _refuse_negative(cost)
        reservation_id = new_id()
        with self._lock:
            for budget in self._family():
                budget._check(cost)
            self._tell("reserve", reservation_id=reservation_id, cost=cost)
            for budget in self._family():
                budget._reserved += cost
        return Reservation(self, reservation_id, cost)

    def _close(self, reservation: "Reservation", actual: Cost | None) -> None:
        with self._lock:
            if not reservation.open:
                if actual is None:
                    return
                raise UserError(f"reservation {reservation.id!r} is closed; settle it once, before it is released")
            reservation.open = False
            for budget in self._family():
                budget._reserved -= reservation.cost
                budget._settled += actual or NOTHING
            kind: Literal["settle", "release"] = "release" if actual is None else "settle"
            self._tell(kind, reservation_id=reservation.id, cost=actual or reservation.cost)

    def _family(self) -> list["Budget"]:
        budgets, budget = [], self
        while True:
            budgets.append(budget)
            if budget._parent is None:
                return budgets
            budget = budget._parent

    def _spent(self) -> Cost:
        settled = self._settled
        return Cost(
            calls=settled.calls,
            tokens=settled.tokens,
            micro_dollars=settled.micro_dollars,
            seconds=time.monotonic() - self._started,
        )

    def _check(self, cost: Cost) -> None:
        spent = self._spent()
        for unit, limit in _limits(self.grant):
            asked, used = _get(cost, unit), _get(spent, unit)
            # Seconds pass for all reservations at once, so those of others are not added.
            held = 0 if unit == "seconds" else _get(self._reserved, unit)
            if used + held + asked > limit:
                raise BudgetError(
                    f"the budget of {_show(limit, unit)} does not allow {_show(asked, unit)} more: "
                    f"{_show(used, unit)} spent, {_show(held, unit)} reserved; raise the limit to go on",
                    unit=unit,
                    limit=limit,
                    spent=used,
                    asked=asked,
                )

    def _remaining(self) -> Grant:
        left: dict[str, float] = {}
        for budget in self._family():
            spent = budget._spent()
            for unit, limit in _limits(budget.grant):
                held = 0 if unit == "seconds" else _get(budget._reserved, unit)
                own = max(0, limit - _get(spent, unit) - held)
                left[unit] = min(left.get(unit, own), own)
        return Grant(**left)  # type: ignore[arg-type]  # counted units are whole numbers

    def _tell(
        self,
        kind: Literal["grant", "reserve", "settle", "release"],
        *,
        reservation_id: str = "",
        grant: Grant | None = None,
        cost: Cost = NOTHING,
    ) -> None:
        if self._ledger is None:
            return
        parent_id = self._parent.id if self._parent else None
        self._ledger(
            BudgetEvent(
                kind=kind,
                budget_id=self.id,
                parent_id=parent_id,
                reservation_id=reservation_id,
                grant=grant,
                cost=cost,
                at=now_ms(),
            )
        )


class Reservation:
    """An amount set aside until it is settled or released. Made by ``Budget.reserve``."""

    def __init__(self, budget: Budget, id: str, cost: Cost) -> None:
        self.id = id
        self.cost = cost
        self.open = True
        self._budget = budget

    def settle(self, actual: Cost) -> None:
        """Charges what was really used and frees the rest. More than was reserved is charged as well.

        Raises:
            UserError: the reservation is closed already, or the amount is negative.
        """
        _refuse_negative(actual)
        self._budget._close(self, actual)

    def release(self) -> None:
        """Frees the reservation, charging nothing; does nothing when it is closed already."""
        self._budget._close(self, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


_FACTORS: dict[str, tuple[str, float]] = {
    "calls": ("calls", 1),
    "tokens": ("tokens", 1),
    "micro_dollars": ("micro_dollars", 1),
    "dollars": ("micro_dollars", 1_000_000),
    "seconds": ("seconds", 1),
    "minutes": ("seconds", 60),
    "hours": ("seconds", 3600),
}


def parse_grant(text: str) -> Grant:
    """Returns the limits that ``calls=500,dollars=2.5,hours=8`` says; the empty text is no limit.

    Raises:
        UserError: an unknown unit, a unit given twice, or what is no number of 0 or more.
    """
    limits: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in _FACTORS:
            raise UserError(f"unknown unit {name!r} in budget {text!r}; units are {', '.join(_FACTORS)}")
        unit, factor = _FACTORS[name]
        if unit in limits:
            raise UserError(f"budget {text!r} limits {unit} twice; give each unit once")
        limits[unit] = _number(number, name, text) * factor
    return Grant(**{u: v if u == "seconds" else int(v) for u, v in limits.items()})  # type: ignore[arg-type]


def _number(number: str, name: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{number!r} is no limit for {name} in budget {text!r}; write a number of 0 or more: {name}=10")
    return value


def _get(amount: Cost, unit: str) -> float:
    return {
        "calls": amount.calls,
        "tokens": amount.tokens,
        "micro_dollars": amount.micro_dollars,
        "seconds": amount.seconds,
    }[unit]


def _limits(grant: Grant) -> list[tuple[str, float]]:
    pairs = (
        ("calls", grant.calls),
        ("tokens", grant.tokens),
        ("micro_dollars", grant.micro_dollars),
        ("seconds", grant.seconds),
    )
    return [(unit, limit) for unit, limit in pairs if limit is not None]


def _above(settled: int, limit: int | None) -> int:
    return 0 if limit is None else max(0, settled - limit)


def _show(amount: float, unit: str) -> str:
    if unit == "micro_dollars":
        return f"${amount / 1_000_000:,.6f}".rstrip("0").rstrip(".")
    return f"{amount:,.1f} {unit}" if isinstance(amount, float) else f"{amount:,} {unit}"


def _refuse_negative(cost: Cost) -> None:
    if min(cost.calls, cost.tokens, cost.micro_dollars, cost.seconds) < 0:
        raise UserError(f"{cost!r} is negative; a cost is 0 or more in every unit")
