"""Budgets: checked before, shared without overshoot, explained when they refuse."""

import asyncio
import contextlib
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from whet.core import Budget, BudgetError, BudgetEvent, Cost, Grant, Reservation, Usage, UserError, parse_grant

LIMITS = Grant(calls=20, tokens=100, micro_dollars=1_000)

costs = st.builds(
    Cost,
    calls=st.integers(0, 5),
    tokens=st.integers(0, 40),
    micro_dollars=st.integers(0, 400),
)


class SharedBudget(RuleBasedStateMachine):
    """A parent and two children under random reservations, settlements within them, and releases."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[BudgetEvent] = []
        self.parent = Budget.of(LIMITS, ledger=self.events.append)
        self.children = [self.parent.child(calls=8, tokens=60), self.parent.child(micro_dollars=500)]
        self.open: list[tuple[Budget, Reservation]] = []
        self.settled = {budget.id: Cost() for budget in self.budgets}

    @property
    def budgets(self) -> list[Budget]:
        return [self.parent, *self.children]

    @rule(which=st.integers(0, 2), cost=costs)
    def reserve(self, which: int, cost: Cost) -> None:
        budget = self.budgets[which]
        left, before = budget.remaining, self.parent.reserved
        fits = all(
            limit is None or asked <= limit
            for asked, limit in (
                (cost.calls, left.calls),
                (cost.tokens, left.tokens),
                (cost.micro_dollars, left.micro_dollars),
            )
        )
        try:
            self.open.append((budget, budget.reserve(cost)))
            assert fits
        except BudgetError:
            assert not fits
            assert self.parent.reserved == before

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        budget, reservation = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        cost = reservation.cost
        actual = Cost(
            calls=data.draw(st.integers(0, cost.calls)),
            tokens=data.draw(st.integers(0, cost.tokens)),
            micro_dollars=data.draw(st.integers(0, cost.micro_dollars)),
        )
        reservation.settle(actual)
        for charged in {budget.id: budget, self.parent.id: self.parent}.values():
            self.settled[charged.id] += actual

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        _, reservation = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        reservation.release()

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        for budget in self.budgets:
            spent, grant = budget.spent, budget.grant
            assert grant.calls is None or spent.calls <= grant.calls
            assert grant.tokens is None or spent.tokens <= grant.tokens
            assert grant.micro_dollars is None or spent.micro_dollars <= grant.micro_dollars
            assert budget.overshoot == Cost()

    @invariant()
    def everything_settled_is_charged(self) -> None:
        for budget in self.budgets:
            spent, expected = budget.spent, self.settled[budget.id]
            assert (spent.calls, spent.tokens, spent.micro_dollars) == (
                expected.calls,
                expected.tokens,
                expected.micro_dollars,
            )

    @invariant()
    def the_ledger_adds_up(self) -> None:
        settled = sum((event.cost for event in self.events if event.kind == "settle"), Cost())
        assert settled.tokens == self.parent.spent.tokens
        reserved = {e.reservation_id for e in self.events if e.kind == "reserve"}
        closed = {e.reservation_id for e in self.events if e.kind in ("settle", "release")}
        assert reserved - closed == {reservation.id for _, reservation in self.open}


TestSharedBudget = SharedBudget.TestCase


def test_a_reservation_is_refused_before_anything_is_spent() -> None:
    budget = Budget(calls=2)
    budget.reserve(Cost(calls=1)).settle(Cost(calls=1))
    with pytest.raises(BudgetError, match="budget of 2 calls does not allow 2 calls more: 1 calls spent") as refused:
        budget.reserve(Cost(calls=2))
    assert (refused.value.unit, refused.value.limit, refused.value.spent, refused.value.asked) == ("calls", 2, 1, 2)
    assert budget.remaining == Grant(calls=1)


def test_money_is_shown_in_dollars() -> None:
    with pytest.raises(BudgetError, match=r"budget of \$1.5 does not allow \$2 more: \$0 spent"):
        Budget(micro_dollars=1_500_000).reserve(Cost(micro_dollars=2_000_000))


def test_what_is_not_settled_is_released_also_after_an_error() -> None:
    budget = Budget(tokens=10)
    with pytest.raises(ZeroDivisionError), budget.reserve(Cost(tokens=10)):
        1 / 0  # noqa: B018
    assert budget.reserved == Cost()
    assert budget.remaining.tokens == 10


def test_a_settlement_above_its_reservation_is_charged_and_blocks_what_follows() -> None:
    budget = Budget(tokens=10)
    budget.reserve(Cost(tokens=5)).settle(Cost(tokens=14))
    assert budget.spent.tokens == 14
    assert budget.overshoot == Cost(tokens=4)
    with pytest.raises(BudgetError):
        budget.reserve(Cost())


def test_a_settlement_above_its_reservation_within_the_limit_is_no_overshoot() -> None:
    budget = Budget(tokens=10)
    budget.reserve(Cost(tokens=5)).settle(Cost(tokens=8))
    assert budget.overshoot == Cost()
    budget.reserve(Cost(tokens=2)).release()


def test_a_reservation_is_closed_once() -> None:
    budget = Budget(calls=3)
    reservation = budget.reserve(Cost(calls=1))
    reservation.settle(Cost(calls=1))
    reservation.release()
    with pytest.raises(UserError, match="is closed"):
        reservation.settle(Cost(calls=1))
    assert budget.spent.calls == 1


def test_a_child_is_bounded_by_its_parent() -> None:
    parent = Budget(calls=3)
    child = parent.child(calls=100, tokens=5)
    assert child.remaining == Grant(calls=3, tokens=5)
    parent.reserve(Cost(calls=2)).settle(Cost(calls=2))
    with pytest.raises(BudgetError, match="3 calls"):
        child.reserve(Cost(calls=2))


def test_a_deadline_is_checked_before_a_call() -> None:
    budget = Budget(seconds=0.02)
    budget.reserve().release()
    with pytest.raises(BudgetError, match="seconds"):
        budget.reserve(Cost(seconds=10))
    time.sleep(0.03)
    with pytest.raises(BudgetError, match="seconds"):
        budget.reserve()
    assert budget.remaining.seconds == 0


def test_work_resumes_with_what_it_had_spent() -> None:
    budget = Budget(calls=10, seconds=100, spent=Cost(calls=9, seconds=90))
    assert budget.remaining.calls == 1
    assert budget.remaining.seconds is not None
    assert budget.remaining.seconds <= 10


def test_nothing_is_reserved_when_the_ledger_refuses() -> None:
    def ledger(event: BudgetEvent) -> None:
        if event.kind == "reserve":
            raise OSError("disk full")

    budget = Budget(calls=1, ledger=ledger)
    with pytest.raises(OSError, match="disk full"):
        budget.reserve(Cost(calls=1))
    assert budget.reserved == Cost()


def test_threads_and_coroutines_share_a_budget_without_overshoot() -> None:
    budget = Budget(calls=500)
    granted: list[int] = []

    async def work() -> int:
        count = 0
        for _ in range(20):
            try:
                with budget.reserve(Cost(calls=1)) as reservation:
                    await asyncio.sleep(0)
                    reservation.settle(Cost(calls=1))
                    count += 1
            except BudgetError:
                pass
        return count

    async def many() -> None:
        granted.append(sum(await asyncio.gather(*(work() for _ in range(10)))))

    threads = [threading.Thread(target=lambda: asyncio.run(many())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 1,200 attempts for 500 calls; an attempt may fail while another one holds the last call.
    assert sum(granted) == budget.spent.calls
    assert budget.spent.calls == 500
    assert budget.reserved == Cost()


@pytest.mark.parametrize("limits", [{"calls": -1}, {"seconds": -0.1}])
def test_a_negative_limit_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(UserError, match="negative"):
        Budget(**limits)


def test_a_negative_cost_is_refused() -> None:
    with pytest.raises(UserError, match="negative"):
        Budget(calls=1).reserve(Cost(calls=-1))
    with pytest.raises(UserError, match="negative"):
        Budget(calls=1).reserve().settle(Cost(tokens=-1))


def test_a_grant_is_read_from_text() -> None:
    assert parse_grant("calls=500, dollars=2.5,hours=8") == Grant(calls=500, micro_dollars=2_500_000, seconds=28_800)
    assert parse_grant("") == Grant()


@pytest.mark.parametrize("text", ["calls", "calls=-1", "call=3", "calls=inf", "calls=nan", "calls=1,calls=2", "=3"])
def test_a_grant_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"budget|unit"):
        parse_grant(text)


@given(st.text(max_size=30))
def test_reading_a_grant_never_fails_otherwise(text: str) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(parse_grant(text), Grant)


def test_a_usage_is_a_cost() -> None:
    usage = Usage(input_tokens=3, output_tokens=4, micro_dollars=5, calls=1, seconds=0.5)
    assert Cost.of(usage) == Cost(calls=1, tokens=7, micro_dollars=5, seconds=0.5)
    assert Cost.of(usage) + Cost.of(usage) - Cost.of(usage) == Cost.of(usage)
