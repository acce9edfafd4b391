"""Running an agent as one arm of a comparison, and measuring an arm on a set of tasks.

evaluate = evaluator(agent, budget)
score = await evaluate(Arm(policy=policy, lessons=ids), task, seed)     # 1.0, 0.0, or None: nobody could judge
result = await measure(evaluate, arm, sealed_tasks)                     # pass rate with its interval
"""

import asyncio
import re
from collections.abc import Callable, Sequence

from whet.agents import Agent, RunResult
from whet.core.budget import Budget
from whet.core.calibration import Share
from whet.core.errors import BudgetError, RefusedError, UserError
from whet.core.records import Record, Task, Usage
from whet.feedback.report import MIN_TRUST
from whet.learners.gate import Arm, Evaluate, Score
from whet.learners.judging import refuse_unheard

__all__ = ["Measured", "evaluator", "measure", "score_of"]

# What is not the agent's doing: a run that failed so was not judged, whatever it was about to answer.
_HOST = re.compile(r"\b(ModelError|SandboxError|StoreError|VerifierError)\b")


class Measured(Record, frozen=True, kw_only=True):
    """A pass rate with its 95 % Wilson interval over tasks; ``dropped`` runs were judged by nobody."""

    mean: float | None
    low: float
    high: float
    n: int
    dropped: int = 0
    usage: Usage = Usage()


def evaluator(
    agent: Agent, budget: Budget | None = None, *, tags: Sequence[str] = (), min_trust: float = MIN_TRUST
) -> Evaluate:
    """Returns what runs the agent under an arm's policy and lessons for the gate: nothing is withheld.

    It raises BudgetError when the budget ends a run, and nothing for what a run did; RefusedError where a judge has a
    say whose agreement with verifiers or people is not surely as high as ``min_trust``.
    """
    heard: set[str] = set()

    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        result = await agent.arun(
            task, seed=seed, budget=budget, purpose="gate", policy=arm.policy, lessons=arm.lessons, tags=tags
        )
        judges = {verdict.verifier for verdict in result.verdicts if verdict.kind == "model"} - heard
        await refuse_unheard(agent.resources.memory, judges, min_trust)
        heard.update(judges)
        return score_of(result)

    return evaluate


def score_of(result: RunResult) -> Score:
    """Returns 1 for a pass, 0 for a fail or an agent that broke down, ``None`` where the host failed or nobody judged.

    An answer that never ends or that interferes with its tests scores 0: left out, it would pay to give such answers
    to the tasks that would otherwise be failed.

    Raises:
        BudgetError: the budget ended the run.
    """
    run = result.run
    if run.status == "cancelled":
        raise BudgetError(f"run {run.id!r} was ended: {run.error}")
    value: float | None = None
    if run.status == "failed" and not _HOST.search(run.error or ""):
        value = 0.0
    if run.status == "done" and result.score is not None:
        value = float(result.passed)
    if run.status == "done" and any(verdict.outcome in ("timeout", "tampered") for verdict in result.verdicts):
        value = 0.0
    return Score(value=value, usage=run.usage, run_id=run.id)


async def measure(
    evaluate: Evaluate,
    arm: Arm,
    tasks: Sequence[Task],
    *,
    seed: int = 0,
    concurrency: int = 4,
    on_score: Callable[[Task, Score], None] | None = None,
) -> Measured:
    """Returns the pass rate of an arm, one run per task.

    Raises:
        UserError: there are no tasks.
        BudgetError: the budget ended a run.
        RefusedError: the evaluator does not hear a judge.
    """
    if not tasks:
        raise UserError("there are no tasks to measure on; give the task set more tasks")
    slots = asyncio.Semaphore(concurrency)

    async def one(task: Task) -> Score:
        async with slots:
            score = await evaluate(arm, task, seed)
        if on_score is not None:
            on_score(task, score)
        return score

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(task)) for task in tasks]
    except* (BudgetError, RefusedError) as errors:
        raise errors.exceptions[0] from None
    return _summary([task.result() for task in running])


def _summary(scores: Sequence[Score]) -> Measured:
    values = [score.value for score in scores if score.value is not None]
    n = len(values)
    mean = sum(values) / n if n else None
    share = Share.of(sum(values), n)
    usage = sum((score.usage for score in scores), Usage())
    return Measured(mean=mean, low=share.low, high=share.high, n=n, dropped=len(scores) - n, usage=usage)
