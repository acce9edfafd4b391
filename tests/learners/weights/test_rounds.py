"""Rounds of practice, in one process and as a plan: what is sampled is what is trained on, turns, staleness, drift."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from whet.core.errors import BudgetError, UserError
from whet.core.records import Message, Sampling
from whet.learners.weights.datum import Datum
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Rollouts
from whet.learners.weights.methods.grpo import GRPO
from whet.learners.weights.rounds import Rate, RoundReport, drift, learn_in_rounds
from whet.learners.weights.rows import answer_row
from whet.learners.weights.templates import encode_rows


def report(number: int, passed: float, probe: float, n: int = 100) -> RoundReport:
    rate = Rate(mean=probe, n=n)
    return RoundReport(round=number, episodes=n, passed=passed, score=passed, distinct=1.0, data=1, probe=rate)


def test_drift_is_practice_that_rises_while_the_probe_falls() -> None:
    good = [report(0, 0.2, 0.2), report(1, 0.5, 0.5), report(2, 0.8, 0.7)]
    assert drift(good) == ""
    assert "fell from 0.70 to 0.30" in drift([*good, report(3, 0.9, 0.3)])
    assert drift([*good, report(3, 0.9, 0.65)]) == "", "a few tasks fewer are noise"
    assert drift([*good, report(3, 0.3, 0.3)]) == "", "where practice falls as well it is no drift"
    assert drift([report(0, 0.2, 0.7, n=4), report(1, 0.9, 0.3, n=4)]) == "", "four tasks prove nothing"


@pytest.mark.asyncio
async def test_what_was_sampled_has_the_logprobs_that_training_computes(bench: Any) -> None:
    trainer = bench.trainer(GRPO())
    experience = bench.practice(trainer).rollout(bench.train[:6], 4)
    attempts = [attempt for episode in experience.episodes for attempt in episode.attempts]
    assert all(attempt.completion.logprobs for attempt in attempts)
    data = encode_rows([answer_row(a.messages, a.completion) for a in attempts], bench.template).data
    for datum, scored in zip(data, trainer.score(data), strict=True):
        recorded = [logprob for logprob, counts in zip(datum.logprobs, datum.mask, strict=True) if counts]
        assert recorded == pytest.approx(scored.tolist(), abs=2e-3)


@pytest.mark.asyncio
async def test_practice_retries_with_the_critique_in_view_and_repeats_under_a_seed(bench: Any) -> None:
    trainer = bench.trainer(GRPO())
    first = bench.practice(trainer, retries=2, seed=3).rollout(bench.train, 2)
    again = bench.practice(trainer, retries=2, seed=3).rollout(bench.train, 2)
    assert [e.answer for e in first.episodes] == [e.answer for e in again.episodes]
    retried = next(episode for episode in first.episodes if len(episode.attempts) > 1)
    assert retried.attempts[1].messages[-1].content.startswith("Rejected.")
    assert retried.attempts[0].critiques[0].text in retried.attempts[1].messages[-1].content
    with pytest.raises(UserError, match="temperature only"):
        await bench.practice(trainer).ask([Message(role="user", content="x")], sampling=Sampling(top_p=0.5))
    with pytest.raises(UserError, match="staleness=0"):
        await bench.practice(trainer).learn(GRPO(), bench.train, Rollouts(staleness=1))


@pytest.mark.asyncio
@pytest.mark.parametrize("staleness", [0, 1, 2])
async def test_practice_runs_ahead_no_further_than_it_may(bench: Any, staleness: int) -> None:
    trainer, trained, lags = bench.trainer(GRPO()), 0, list[int]()

    async def rollout(number: int) -> Experience:
        lags.append(number - trained)
        await asyncio.sleep(0.001)
        return Experience()

    async def prepare(number: int, experience: Experience) -> Sequence[Datum]:
        return []

    async def stored(number: int) -> None:
        nonlocal trained
        trained = number + 1

    plan = Rollouts(rounds=6, staleness=staleness)
    reports = await learn_in_rounds(trainer, rollout, prepare, plan, trained=stored)
    assert [each.round for each in reports] == list(range(6))
    assert max(lags) == staleness, lags


@pytest.mark.asyncio
async def test_a_budget_that_ends_a_rollout_ends_the_rounds_and_what_ran_ahead(bench: Any) -> None:
    ended = list[int]()

    async def rollout(number: int) -> Experience:
        if number == 1:
            raise BudgetError("spent")
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        except asyncio.CancelledError:
            ended.append(number)
            raise
        return Experience()

    async def prepare(number: int, experience: Experience) -> Sequence[Datum]:
        return []

    with pytest.raises(BudgetError, match="spent"):
        await learn_in_rounds(bench.trainer(GRPO()), rollout, prepare, Rollouts(rounds=5, staleness=2))
    assert ended == [2], "the third was called off before it began"
