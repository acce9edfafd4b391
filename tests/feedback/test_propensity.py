"""Implicit feedback on simulated logs whose truth is known: what is naive is wrong, what is corrected is right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core import UserError
from whet.feedback.propensity import View, fit_positions, ips, relevance, snips

EXAMINED = (1.0, 0.5, 0.25, 0.1)
RELEVANT = {"best": 0.8, "good": 0.5, "fair": 0.3, "poor": 0.1}


def clicks(n: int, *, shuffled: float, seed: int = 0) -> list[View]:
    """Views of four answers, most of the time in an order that shows the worst first."""
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(n):
        order = ["poor", "fair", "good", "best"]
        if rng.random() < shuffled:
            rng.shuffle(order)
        for place, item in enumerate(order):
            views.append(View(item=item, place=place, clicked=bool(rng.random() < EXAMINED[place] * RELEVANT[item])))
    return views


def test_places_and_relevance_are_told_apart() -> None:
    views = clicks(8000, shuffled=0.15)
    examined = fit_positions(views)
    assert examined == pytest.approx(EXAMINED, abs=0.05)
    found = relevance(views, examined)
    assert found == pytest.approx(RELEVANT, abs=0.1)
    naive = relevance(views, [1.0] * 4)
    assert max(naive, key=lambda item: naive[item]) != "best", "shown last, the best is clicked least"
    assert sorted(found, key=lambda item: -found[item]) == list(RELEVANT)


def test_what_was_never_moved_cannot_be_told_apart() -> None:
    with pytest.raises(UserError, match="shuffle now and then"):
        fit_positions(clicks(50, shuffled=0.0))
    with pytest.raises(UserError, match="place 9"):
        relevance([View(item="a", place=9, clicked=True)], EXAMINED)
    with pytest.raises(UserError, match="below 0"):
        fit_positions([View(item="a", place=-1, clicked=True), View(item="a", place=0, clicked=True)])


LOGGED = np.array([0.7, 0.2, 0.1])
WANTED = np.array([0.1, 0.2, 0.7])
WORTH = np.array([0.2, 0.5, 0.9])


def log(n: int, seed: int) -> tuple[list[float], list[float], list[float]]:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(3, size=n, p=LOGGED)
    rewards = (rng.random(n) < WORTH[chosen]).astype(float)
    return rewards.tolist(), LOGGED[chosen].tolist(), WANTED[chosen].tolist()


def test_another_policy_is_judged_from_the_log_of_this_one() -> None:
    truth = float(WANTED @ WORTH)
    runs = [log(500, seed) for seed in range(60)]
    naive = float(np.mean([np.mean(rewards) for rewards, _, _ in runs]))
    assert truth - naive > 0.3
    for estimator in (ips, snips):
        found = [estimator(*run) for run in runs]
        assert np.mean([each.mean for each in found]) == pytest.approx(truth, abs=0.02)
        covered = sum(abs(each.mean - truth) < 2 * each.error for each in found)
        assert covered >= 50, "two standard errors hold the truth nearly always"
    assert np.std([snips(*run).mean for run in runs]) < np.std([ips(*run).mean for run in runs])


def test_clipping_trades_bias_for_variance() -> None:
    runs = [log(500, seed) for seed in range(60)]
    clipped = [ips(*run, clip=2.0).mean for run in runs]
    assert np.mean(clipped) < float(WANTED @ WORTH) - 0.2
    assert np.std(clipped) < np.std([ips(*run).mean for run in runs])
    assert ips(*runs[0], clip=2.0).effective > ips(*runs[0]).effective


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 1), st.floats(0.05, 1)), min_size=2, max_size=30),
    st.floats(-5, 5),
)
def test_a_constant_added_to_all_rewards_is_added_to_the_self_normalised_estimate(
    rows: list[tuple[float, float, float]], constant: float
) -> None:
    rewards, logged, wanted = (list(each) for each in zip(*rows, strict=True))
    before = snips(rewards, logged, wanted).mean
    assert snips([each + constant for each in rewards], logged, wanted).mean == pytest.approx(
        before + constant, abs=1e-6
    )
    assert ips(rewards, logged, logged).mean == pytest.approx(float(np.mean(rewards)), abs=1e-9)


@pytest.mark.parametrize(
    ("rewards", "logged", "wanted"), [([], [], []), ([1], [0.0], [0.5]), ([1], [1.5], [0.5]), ([1, 0], [1, 1], [1])]
)
def test_impossible_logs_are_refused(rewards: list[float], logged: list[float], wanted: list[float]) -> None:
    with pytest.raises(UserError):
        ips(rewards, logged, wanted)
    with pytest.raises(UserError, match="log more of it"):
        snips([1.0], [0.5], [0.0])
