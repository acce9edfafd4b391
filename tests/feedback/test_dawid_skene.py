"""Dawid–Skene: planted error rates come back without any ground truth, and weighted votes beat a majority."""

import random

import numpy as np
import pytest

from whet.core import UserError
from whet.feedback.dawid_skene import Vote, fit

RATES = {"good": (0.95, 0.9), "fair": (0.8, 0.75), "lenient": (0.97, 0.35), "coin": (0.5, 0.5), "weak": (0.6, 0.62)}


def cast(n: int, seed: int = 0, share: float = 0.6) -> tuple[dict[str, bool], list[Vote]]:
    rng = random.Random(seed)
    truth = {f"run{i}": rng.random() < share for i in range(n)}
    votes = []
    for item, right in truth.items():
        for source, (sensitivity, specificity) in RATES.items():
            correct = rng.random() < (sensitivity if right else specificity)
            votes.append(Vote(item=item, source=source, passed=right if correct else not right))
    return truth, votes


def test_planted_rates_come_back_without_ground_truth() -> None:
    _, votes = cast(3000)
    found = fit(votes)
    for source, (sensitivity, specificity) in RATES.items():
        one = found.sources[source]
        assert (one.sensitivity, one.specificity) == pytest.approx((sensitivity, specificity), abs=0.05)
        assert one.votes == 3000
    assert found.prior == pytest.approx(0.6, abs=0.04)
    weights = {source: one.weight for source, one in found.sources.items()}
    assert weights["good"] > weights["fair"] > weights["lenient"] > weights["coin"]
    assert weights["coin"] < 0.2


def test_the_fit_is_right_more_often_than_the_majority() -> None:
    truth, votes = cast(1500, seed=1)
    found = fit(votes)
    said: dict[str, list[bool]] = {item: [] for item in truth}
    for vote in votes:
        said[vote.item].append(vote.passed)
    mine = np.mean([(found.passed[item] > 0.5) == right for item, right in truth.items()])
    theirs = np.mean([(np.mean(said[item]) > 0.5) == right for item, right in truth.items()])
    assert mine > theirs + 0.03


def test_what_is_known_stays_and_holds_two_sources_to_the_truth() -> None:
    truth, votes = cast(400, seed=2)
    two = [vote for vote in votes if vote.source in ("good", "lenient")]
    found = fit(two, known=truth)
    assert found.passed == {item: float(right) for item, right in truth.items()}
    assert found.sources["lenient"].specificity == pytest.approx(0.35, abs=0.1)
    assert found.sources["good"].balanced > 0.85


def test_the_likelihood_rises_and_the_order_of_votes_does_not_matter() -> None:
    _, votes = cast(200, seed=3)
    found = fit(votes)
    shuffled = list(votes)
    random.Random(0).shuffle(shuffled)
    again = fit(shuffled)
    assert again.sources.keys() == found.sources.keys()
    assert again.likelihood == pytest.approx(found.likelihood)
    assert found.steps < 200


def test_a_source_that_is_mostly_wrong_has_no_weight_and_no_votes_are_refused() -> None:
    truth, votes = cast(300, seed=4)
    votes += [Vote(item=item, source="liar", passed=not right) for item, right in truth.items()]
    assert fit(votes).sources["liar"].weight == 0.0
    with pytest.raises(UserError, match="no votes"):
        fit([])
