"""Advantages are baselines, not biases: identities that hold for any rewards, and what each form is for."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.learners.weights.advantages import (
    contributions,
    duration_scale,
    first_turn_baseline,
    group_center,
    group_std,
    improvement,
    informative,
    leave_one_out,
    overlong,
    per_segment,
    per_step_index,
    progress,
    unary,
)

rewards = st.lists(st.floats(-10, 10), min_size=2, max_size=12)


@given(rewards)
def test_a_group_s_advantages_sum_to_zero_and_do_not_depend_on_where_zero_is(found: list[float]) -> None:
    centred = group_center(found)
    assert sum(centred) == pytest.approx(0, abs=1e-9)
    assert group_center([reward + 5 for reward in found]) == pytest.approx(centred, abs=1e-9)


@given(rewards)
def test_standardised_advantages_do_not_depend_on_the_scale_of_rewards(found: list[float]) -> None:
    if informative(found) and max(found) - min(found) > 1e-3:
        scaled = group_std([3 * reward + 1 for reward in found])
        assert scaled == pytest.approx(group_std(found), abs=1e-6)
        assert sum(value * value for value in scaled) / len(found) == pytest.approx(1.0)


def test_standardising_weighs_a_rare_success_more_than_centring_does() -> None:
    rare, even = [1.0] + [0.0] * 7, [1.0] * 4 + [0.0] * 4
    assert group_std(rare)[0] > 2 * group_std(even)[0]
    assert group_center(rare)[0] < 2 * group_center(even)[0]


@given(rewards)
def test_leaving_oneself_out_of_the_baseline_scales_the_centred_advantage(found: list[float]) -> None:
    n = len(found)
    others = [reward - (sum(found) - reward) / (n - 1) for reward in found]
    assert leave_one_out(found) == pytest.approx(others, abs=1e-9)
    assert leave_one_out(found) == pytest.approx([a * n / (n - 1) for a in group_center(found)], abs=1e-9)


def test_leaving_oneself_out_is_unbiased_where_centring_shrinks() -> None:
    """On a two-armed bandit the expected gradient is p(1−p) exactly; centred it is that times (n−1)/n."""
    n, p = 4, 0.3
    expected = {True: 0.0, False: 0.0}
    for pattern in range(2**n):
        hits = [bool(pattern >> index & 1) for index in range(n)]
        chance = 1.0
        for hit in hits:
            chance *= p if hit else 1 - p
        rewards = [float(hit) for hit in hits]
        for exact, advantages in ((True, leave_one_out(rewards)), (False, group_center(rewards))):
            # d log π / d logit of the chosen arm, where the first arm is the one that pays.
            scores = [(1 - p) if hit else -p for hit in hits]
            expected[exact] += chance * sum(a * s for a, s in zip(advantages, scores, strict=True)) / n
    assert expected[True] == pytest.approx(p * (1 - p), abs=1e-12)
    assert expected[False] == pytest.approx(p * (1 - p) * (n - 1) / n, abs=1e-12)


@pytest.mark.parametrize("found", [[], [1.0], [0.0, 0.0, 0.0], [0.25, 0.25]])
def test_a_group_that_says_nothing_is_told_apart(found: list[float]) -> None:
    assert not informative(found)
    assert group_std(found) == [0.0] * len(found)


def test_each_segment_is_compared_on_its_own_reward() -> None:
    members = [{"slate": 1.0, "rank": 0.0}, {"slate": 0.0, "rank": 1.0}, {"slate": 1.0}]
    found = per_segment(members)
    assert found[0]["slate"] > 0 > found[0]["rank"]
    assert found[1]["slate"] < 0 < found[1]["rank"]
    assert set(found[2]) == {"slate"}
    for name in ("slate", "rank"):
        assert sum(member.get(name, 0.0) for member in found) == pytest.approx(0)


def test_with_one_segment_it_is_the_group_s_advantage() -> None:
    found = [0.0, 0.5, 1.0]
    assert [m["all"] for m in per_segment([{"all": r} for r in found])] == group_center(found)


def test_steps_are_compared_with_the_same_step_of_the_others() -> None:
    found = per_step_index([[0.0, 1.0], [0.0, 0.0], [1.0]])
    assert found[0] == [pytest.approx(-1 / 3), pytest.approx(0.5)]
    assert found[1] == [pytest.approx(-1 / 3), pytest.approx(-0.5)]
    assert found[2] == [pytest.approx(2 / 3)]


def test_a_step_in_which_nothing_differs_is_none_and_no_zero() -> None:
    assert per_step_index([[1.0, 0.0], [1.0, 1.0]]) == [[None, -0.5], [None, 0.5]]
    assert per_step_index([[1.0], [1.0, 0.5]]) == [[None], [None, None]]


def test_the_first_turn_baseline_keeps_its_signal_when_every_revision_succeeds() -> None:
    first, later = [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0]
    assert first_turn_baseline(first, later) == [0.75] * 3
    assert group_center(later) == [0.0] * 3


def test_a_critique_is_worth_what_it_changed() -> None:
    assert improvement([0.25, 1.0], [1.0, 0.5]) == [0.75, -0.5]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 100)), min_size=1, max_size=10))
def test_scaling_by_duration_keeps_the_batch_s_scale(pairs: list[tuple[float, float]]) -> None:
    seconds = [value for _, value in pairs]
    scales = duration_scale([1.0] * len(pairs), seconds)
    assert sum(scales) / len(scales) == pytest.approx(1.0)
    assert duration_scale([a for a, _ in pairs], seconds) == pytest.approx(
        [a * scale for (a, _), scale in zip(pairs, scales, strict=True)], abs=1e-9
    )


def test_scaling_by_duration_undoes_what_waiting_does_to_a_fast_arm() -> None:
    """In a fixed time a fast arm is drawn more often; weighed by duration both count by the time they took."""
    fast, slow = [1.0] * 9, [1.0]
    weights = duration_scale(fast + slow, [1.0] * 9 + [9.0])
    assert sum(weights[:9]) == pytest.approx(weights[9])


def test_an_unknown_duration_counts_as_the_mean_and_none_at_all_changes_nothing() -> None:
    assert duration_scale([1.0, 1.0, 1.0], [1.0, 3.0, 0.0]) == [0.5, 1.5, 1.0]
    assert duration_scale([1.0, -2.0], [0.0, 0.0]) == [1.0, -2.0]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8), st.floats(-3, 3))
def test_progress_sums_to_the_final_reward(estimates: list[float], final: float) -> None:
    assert sum(progress(estimates, final)) == pytest.approx(final, abs=1e-9)


def _runs(count: int, seed: int = 0) -> tuple[list[list[str]], list[float]]:
    """Runs of three steps, of which one alone decides the outcome."""
    rng = random.Random(seed)
    steps = [[rng.choice("ab"), rng.choice(["good", "bad"]), rng.choice("cd")] for _ in range(count)]
    return steps, [float(own[1] == "good") for own in steps]


def test_contributions_sum_to_the_reward_and_find_the_step_that_decided() -> None:
    steps, finals = _runs(16)
    found = contributions(steps, finals)
    assert [sum(own) for own in found] == pytest.approx(finals)
    for own, deeds in zip(found, steps, strict=True):
        decisive = own[1] - (own[0] + own[2]) / 2
        assert decisive > 0.2 if deeds[1] == "good" else decisive < -0.2


def test_contributions_of_a_run_do_not_depend_on_its_own_reward_but_for_their_sum() -> None:
    steps, finals = _runs(8)
    changed = contributions(steps, [1 - finals[0], *finals[1:]])[0]
    own = contributions(steps, finals)[0]
    assert [a - own[0] for a in own] == pytest.approx([b - changed[0] for b in changed])


def test_from_noise_contributions_learn_to_spread_the_reward_evenly() -> None:
    rng = random.Random(1)
    steps, _ = _runs(200)
    finals = [float(rng.random() < 0.5) for _ in steps]
    spread = [max(own) - min(own) for own in contributions(steps, finals)]
    assert sum(spread) / len(spread) < 0.15


@pytest.mark.parametrize(("steps", "finals"), [([], []), ([["a", "b"]], [1.0])])
def test_a_single_run_spreads_its_reward_evenly(steps: Sequence[Sequence[str]], finals: list[float]) -> None:
    assert contributions(steps, finals) == [[0.5, 0.5]][: len(steps)]


def test_trying_again_pays_less_each_time_and_repeating_costs() -> None:
    assert unary(1, True, 1, 0.9, 0.5) == 1
    assert unary(3, True, 3, 0.9, 0.5) == pytest.approx(0.81)
    assert unary(4, False, 1, 0.9, 0.5) == pytest.approx(-0.375)
    assert unary(4, False, 4, 0.9, 0.5) == 0


@pytest.mark.parametrize(("tokens", "penalty"), [(10, 0), (192, 0), (224, -0.5), (256, -1), (999, -1)])
def test_an_answer_loses_by_its_length_from_the_buffer_on(tokens: int, penalty: float) -> None:
    assert overlong(tokens, 256, 64) == penalty


def test_without_a_buffer_the_limit_is_a_wall() -> None:
    assert (overlong(256, 256, 0), overlong(257, 256, 0)) == (0, -1)
