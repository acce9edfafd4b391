"""The confidence sequence: coverage at all times at once, bounds that only tighten, forms that agree."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.core.errors import UserError
from whet.learners.betting import Capital, PairedTest

differences = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=60)
levels = st.floats(0.001, 0.3)


def fed(values: list[float], **options: float) -> PairedTest:
    test = PairedTest(alpha=options.get("alpha", 0.05), horizon=100, null=options.get("null", 0.0))
    for value in values:
        test.add(value)
    return test


@given(differences, levels)
def test_the_interval_stays_in_range_and_only_tightens(values: list[float], alpha: float) -> None:
    test = PairedTest(alpha=alpha, horizon=50)
    before = (-1.0, 1.0)
    for value in values:
        test.add(value)
        low, high = test.interval()
        assert -1 <= low <= high <= 1
        if low < high:
            assert low >= before[0] - 1e-9
            assert high <= before[1] + 1e-9
            before = low, high


@given(differences, levels, st.floats(-0.5, 0.5))
def test_the_test_and_the_interval_agree(values: list[float], alpha: float, null: float) -> None:
    test = fed(values, alpha=alpha, null=null)
    lower, upper = 2 * test.above.bound() - 1, 1 - 2 * test.below.bound()
    if abs(test.above.peak - test.above.threshold) > 1e-6:
        assert test.above.refuted == (lower > null) or abs(lower - null) < 1e-6
    if abs(test.below.peak - test.below.threshold) > 1e-6:
        assert test.below.refuted == (upper < null) or abs(upper - null) < 1e-6


@given(differences)
def test_both_sides_mirror_each_other(values: list[float]) -> None:
    one, other = fed(values), fed([-value for value in values])
    assert one.above.log_e == pytest.approx(other.below.log_e, abs=1e-9)
    assert one.interval()[0] == pytest.approx(-other.interval()[1], abs=1e-6)


@given(differences, differences, levels)
def test_larger_differences_give_no_less_reach(values: list[float], more: list[float], alpha: float) -> None:
    capital = Capital(alpha=alpha, horizon=100, null=0.5)
    for value in values:
        capital.add((value + 1) / 2)
    reach = [capital.within_reach(mean, remaining) for mean, remaining in ((0.5, 0), (0.8, 10), (1.0, 10), (1.0, 100))]
    assert reach == sorted(reach)


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=2, unique=True), st.floats(0.1, 0.9))
def test_the_capital_is_fair_under_the_null(points: list[float], share: float) -> None:
    """Summed over all outcomes of six draws, weighted by probability, the expected capital is 1: nothing is created."""
    low, high = sorted(points)
    mean = low + share * (high - low)
    expected = 0.0
    for outcome in range(2**6):
        draws = [outcome >> i & 1 for i in range(6)]
        capital = Capital(alpha=0.05, horizon=6, null=mean)
        for draw in draws:
            capital.add(high if draw else low)
        weight = math.prod(share if draw else 1 - share for draw in draws)
        expected += weight * math.exp(capital.log_e)
    # The stake is cut at c / m, so no factor is ever below 1 - c and the expectation is exact.
    assert expected == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.5])
def test_the_interval_covers_the_mean_at_all_times_at_once(mean: float) -> None:
    """400 sequences, looked at after every draw: each side misses in at most 5 % (plus three standard errors)."""
    rng = np.random.default_rng(7)
    missed = np.zeros(2)
    for _ in range(400):
        test = PairedTest(alpha=0.05, horizon=80, null=mean)
        for value in np.where(rng.random(120) < (1 + mean) / 2, 1.0, -1.0):
            test.add(float(value))
        low, high = test.interval()  # the running intersection: it has missed once it ever missed
        missed += (low > mean, high < mean)
    assert (missed <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)).all()


def test_evidence_for_a_large_gain_comes_early_and_p_never_rises() -> None:
    test = PairedTest(alpha=0.05, horizon=100)
    ps = []
    while not test.above.refuted:
        test.add(1.0)
        ps.append(test.above.p)
    assert test.n <= 7
    test.add(-1.0)
    assert ps == sorted(ps, reverse=True)
    assert test.above.p == ps[-1]
    assert test.above.refuted


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"alpha": 0, "horizon": 10}, "alpha"),
        ({"alpha": 1, "horizon": 10}, "alpha"),
        ({"alpha": 0.05, "horizon": 0}, "horizon"),
        ({"alpha": 0.05, "horizon": 10, "null": 1.0}, "null"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        PairedTest(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1.01, -2, float("nan"), float("inf")])
def test_what_is_no_difference_of_scores_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="outside"):
        PairedTest(alpha=0.05, horizon=10).add(value)
