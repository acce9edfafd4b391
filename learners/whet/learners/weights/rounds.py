"""Learning in rounds: practise, build rows, train on them, and again with what was learned.

    reports = await learn_in_rounds(trainer, rollout, prepare, Rollouts(rounds=8), on_round=print)

``rollout(n)`` gives the experience of round n under the policy as it stands when it begins, ``prepare`` makes data of
it. With a staleness of s, practice runs up to s rounds ahead of training; with 0 they take turns. Drift is watched:
when what is practised goes up while the probe goes down, learning stops.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeAlias

import msgspec

from whet.core.records import Record
from whet.learners.weights.datum import Datum, units
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Rollouts
from whet.learners.weights.reports import StepReport, TrainReport
from whet.learners.weights.trainer import Trainer
from whet.learners.weights.training import stoppable

__all__ = ["Prepare", "Probe", "Rate", "Rollout", "RoundReport", "drift", "learn_in_rounds"]

Rollout: TypeAlias = Callable[[int], Coroutine[None, None, Experience]]
"""Practises for a round."""
Prepare: TypeAlias = Callable[[int, Experience], Awaitable[Sequence[Datum]]]
"""Makes data of a round's experience; none where there is nothing to learn."""


class Rate(Record, frozen=True, kw_only=True):
    """A share of ``n`` that passed."""

    mean: float
    n: int


Turn: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
"""What is done around training, and taken back after it."""
Probe: TypeAlias = Callable[[int], Awaitable[Rate]]
"""Measures the policy as it stands on training tasks that are never practised."""


class RoundReport(Record, frozen=True, kw_only=True):
    """A round: share of episodes that passed, mean score, share of distinct answers, and what training said of it.

    ``mismatch`` estimates KL(sampler‖trainer) per token (k3), so it shows whether the server and the trainer agree on
    the policy; ``entropy`` is that of the policy per counted token. ``loss`` is that of the round's last step.
    """

    round: int
    episodes: int
    passed: float
    score: float
    distinct: float
    data: int
    steps: int = 0
    loss: float | None = None
    entropy: float | None = None
    mismatch: float | None = None
    probe: Rate | None = None
    alarm: str = ""
    seconds: float = 0.0


async def learn_in_rounds(
    trainer: Trainer,
    rollout: Rollout,
    prepare: Prepare,
    plan: Rollouts,
    *,
    probe: Probe | None = None,
    trained: Callable[[int], Awaitable[None]] | None = None,
    turn: Turn = nullcontext,
    on_step: Callable[[StepReport], None] | None = None,
    on_round: Callable[[RoundReport], None] | None = None,
) -> tuple[RoundReport, ...]:
    """Returns a report of each round. ``trained`` is awaited after a round's training, before the next rollout begins.

    ``turn`` is entered around the training of each round.

    Raises:
        UserError: the experience of a round lacks what the method needs.
        BudgetError: a rollout used the budget up.
    """
    reports: list[RoundReport] = []
    ahead: deque[asyncio.Task[Experience]] = deque()
    begun = 0
    try:
        for number in range(plan.rounds):
            while begun < plan.rounds and len(ahead) <= plan.staleness:
                ahead.append(asyncio.create_task(rollout(begun)))
                begun += 1
            started, experience = time.monotonic(), await ahead.popleft()
            data = await prepare(number, experience)
            async with turn():
                training = await _train(trainer, data, plan, number, on_step) if data else None
            if trained is not None:
                await trained(number)
            report = _report(number, experience, data, training, time.monotonic() - started)
            if probe is not None:
                report = await _probed(report, reports, probe)
            reports.append(report)
            if on_round is not None:
                on_round(report)
            if report.alarm:
                break
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)
    return tuple(reports)


async def _train(
    trainer: Trainer,
    data: Sequence[Datum],
    plan: Rollouts,
    number: int,
    on_step: Callable[[StepReport], None] | None,
) -> TrainReport:
    steps = max(1, math.ceil(len(units(data)) * plan.epochs / trainer.config.batch))
    trainer.total = max(trainer.total, trainer.done + steps * (plan.rounds - number))
    return await stoppable(lambda told: trainer.run(data, steps, on_step=told), on_step)


def _report(
    number: int, experience: Experience, data: Sequence[Datum], training: TrainReport | None, seconds: float
) -> RoundReport:
    episodes = experience.episodes
    measures = {} if training is None else training.measures
    return RoundReport(
        round=number,
        episodes=len(episodes),
        passed=_mean([float(episode.passed) for episode in episodes if episode.passed is not None]),
        score=_mean([episode.score for episode in episodes if episode.score is not None]),
        distinct=_distinct(episodes),
        data=len(data),
        steps=0 if training is None else training.steps,
        loss=training.losses[-1] if training is not None and training.losses else None,
        entropy=measures.get("entropy"),
        mismatch=measures.get("mismatch"),
        seconds=seconds,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _distinct(episodes: Sequence[Episode]) -> float:
    """Returns the share of answers that differ from the others of their task."""
    answers = {(episode.task.id, episode.answer) for episode in episodes}
    return len(answers) / len(episodes) if episodes else 0.0


async def _probed(report: RoundReport, before: Sequence[RoundReport], probe: Probe) -> RoundReport:
    report = msgspec.structs.replace(report, probe=await probe(report.round))
    return msgspec.structs.replace(report, alarm=drift([*before, report]))


def drift(reports: Sequence[RoundReport]) -> str:
    """Returns why learning should stop, or nothing: practice improves while what is not practised gets worse.

    The probe has to lie two standard errors of the difference below its best round, and practice not below that round.
    """
    probed = [report for report in reports if report.probe is not None]
    if len(probed) < 2:
        return ""
    best = max(probed[:-1], key=lambda report: report.probe.mean if report.probe else 0.0)
    now = probed[-1]
    assert best.probe is not None
    assert now.probe is not None
    error = math.sqrt(_variance(best.probe) + _variance(now.probe))
    if now.probe.mean >= best.probe.mean - 2 * error or now.passed < best.passed:
        return ""
    return (
        f"practice rose from {best.passed:.2f} to {now.passed:.2f} since round {best.round + 1}, while tasks that are "
        f"not practised fell from {best.probe.mean:.2f} to {now.probe.mean:.2f}"
    )


def _variance(rate: Rate) -> float:
    # The rate of one more pass and one more fail: no sample is so good that its error is 0.
    share = (rate.mean * rate.n + 1) / (rate.n + 2)
    return share * (1 - share) / max(rate.n, 1)
