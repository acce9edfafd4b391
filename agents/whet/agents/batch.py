"""Many runs at once: every task under every seed, N at a time, under one budget.

    results = await run_tasks(agent, tasks, seeds=range(3), concurrency=16, budget=Budget(calls=1000))

The results are in the order of the tasks, and of the seeds within a task. A run that fails is a result like any other.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from whet.agents.agent import Agent, Purpose
from whet.agents.execution import RunResult
from whet.core import Budget, Policy, Task, UserError

__all__ = ["run_tasks"]

Progress: TypeAlias = Callable[[RunResult], None]


async def run_tasks(
    agent: Agent,
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int] = (0,),
    concurrency: int = 8,
    budget: Budget | None = None,
    purpose: Purpose = "train",
    policy: Policy | None = None,
    tags: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[RunResult]:
    """Returns a result for each task and seed, in order, each durable.

    When the budget is spent, the runs that it stopped are ``cancelled``, with the budget as the reason, and so are
    those after them: a budget is never exceeded, and every task has a result. ``progress`` hears of each result as it
    comes; without it there is a progress bar on standard error, where that is a terminal.

    Raises:
        UserError: the concurrency is below 1, or the policy does not fit the agent.
        StoreError: the memory can no longer be written; the runs under way are cancelled.
    """
    if concurrency < 1:
        raise UserError(f"a concurrency of {concurrency!r} starts no run; give 1 or more")
    jobs = [(task, seed) for task in tasks for seed in seeds]
    results: list[RunResult | None] = [None] * len(jobs)
    numbers = iter(range(len(jobs)))

    async def work(tell: Progress) -> None:
        for number in numbers:
            task, seed = jobs[number]
            result = await agent.arun(task, seed=seed, budget=budget, purpose=purpose, policy=policy, tags=tags)
            results[number] = result
            tell(result)

    with _bar(len(jobs), progress) as tell:
        async with agent:
            await agent.resources.remember(policy or await agent.current_policy(), *tasks)
            await _together(lambda: work(tell), min(concurrency, len(jobs)))
    return [result for result in results if result is not None]


async def _together(work: Callable[[], Coroutine[None, None, None]], times: int) -> None:
    """Runs ``work`` several times at once. Of several errors the first is raised: one line is what a person reads."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


@contextmanager
def _bar(total: int, progress: Progress | None) -> Iterator[Progress]:
    """Yields what hears of each result: the caller's, a progress bar on a terminal, or nothing."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda result: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("", total=total)
        passed = failed = 0

        def tell(result: RunResult) -> None:
            nonlocal passed, failed
            passed += result.passed
            failed += result.run.status in ("failed", "cancelled")
            bar.update(row, advance=1, description=f"{passed} passed, {failed} failed")

        yield tell
