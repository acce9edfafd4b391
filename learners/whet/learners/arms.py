"""Arms: versions of a skill side by side on the same training tasks, with what each costs.

    arms = skill_arms(new, "dates", old=head)              # {"without": …, "old": …, "new": …}
    found = await compare_arms(view, tasks, arms)
    found.gain("new", "without"), found.arms["new"].tokens

After the skill-creator's loop: every task is run in every arm at the same seeds; an assertion (a check of a verdict)
that passes always and in every arm says nothing and is dropped.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from whet.core.budget import Budget
from whet.core.errors import NotFoundError
from whet.core.policy import Policy
from whet.core.prompting import describe_failure
from whet.core.records import Check, Record, Task, Usage
from whet.learners.evaluation import score_of
from whet.learners.view import TrainMemory
from whet.skills import remove

if TYPE_CHECKING:
    from whet.agents import RunResult

__all__ = ["ArmResult", "Assertion", "Comparison", "compare_arms", "skill_arms"]


class ArmResult(Record, frozen=True, kw_only=True):
    """How an arm did: mean and standard deviation of its tasks' pass rates; tokens and seconds of a run on average."""

    tasks: int
    passed: float
    deviation: float
    tokens: float
    seconds: float


class Assertion(Record, frozen=True, kw_only=True):
    """A check that tells arms apart, or fails: ``shares`` says in which share of an arm's runs it passed.

    ``failures`` describes, for each arm in which it failed, how it did so last.
    """

    task_id: str
    name: str
    shares: dict[str, float]
    failures: dict[str, str]


class Comparison(Record, frozen=True, kw_only=True):
    """What a comparison found. ``scores``: arm, task id, pass rate. ``dropped`` assertions always passed everywhere."""

    arms: dict[str, ArmResult]
    scores: dict[str, dict[str, float]]
    assertions: tuple[Assertion, ...] = ()
    dropped: int = 0
    usage: Usage = Usage()

    def gain(self, arm: str, over: str) -> float:
        """Returns the mean difference of two arms' pass rates over the tasks that both were judged on; 0 for none."""
        mine, theirs = self.scores[arm], self.scores[over]
        return fmean([mine[task] - theirs[task] for task in mine if task in theirs] or [0.0])


def skill_arms(new: Policy, name: str, old: Policy | None = None) -> dict[str, Policy]:
    """Returns the arms for a skill: ``without`` it, ``old`` (where that policy has another version of it), ``new``.

    Raises:
        NotFoundError: the new policy has no such skill.
    """
    arms = {"without": remove(new, name), "new": new}
    if old is not None and old.skill(name) not in ({}, new.skill(name)):
        changes: dict[str, str | bytes | None] = {
            f"skills/{name}/{path}": data for path, data in old.skill(name).items()
        }
        arms = {"without": arms["without"], "old": arms["without"].edit(changes), "new": new}
    return arms


async def compare_arms(
    view: TrainMemory,
    tasks: Sequence[Task],
    arms: Mapping[str, Policy],
    *,
    seeds: Sequence[int] = (0,),
    budget: Budget | None = None,
) -> Comparison:
    """Returns how the arms do on training tasks, each task run once per seed in every arm; no skill is withheld.

    Raises:
        NotFoundError: no task could be judged in some arm.
        UserError: the view has no agent to run.
        RefusedError: one of the tasks is held out or sealed.
        BudgetError: the budget ended a run.
    """
    results: dict[str, list[RunResult]] = {}
    for name, policy in arms.items():
        shown = policy.with_settings(withhold_rate=0.0)
        results[name] = await view.practise(tasks, policy=shown, seeds=seeds, budget=budget, tags=(f"arm:{name}",))
    scores = {name: _scores(found) for name, found in results.items()}
    if empty := [name for name, found in scores.items() if not found]:
        raise NotFoundError(f"no run of arm {empty[0]!r} was judged; compare on tasks with verifiers")
    assertions = list(_assertions(results))
    telling = tuple(each for each in assertions if min(each.shares.values()) < 1.0)
    return Comparison(
        arms={name: _result(results[name], scores[name]) for name in arms},
        scores=scores,
        assertions=telling,
        dropped=len(assertions) - len(telling),
        usage=sum((result.run.usage for found in results.values() for result in found), Usage()),
    )


def _scores(results: "Iterable[RunResult]") -> dict[str, float]:
    """Returns the pass rate of each task over its seeds, those left out that nobody could judge."""
    values: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if (value := score_of(result).value) is not None:
            values[result.run.task_id].append(value)
    return {task: fmean(found) for task, found in values.items()}


def _result(results: "Sequence[RunResult]", scores: Mapping[str, float]) -> ArmResult:
    runs = [result.run for result in results]
    return ArmResult(
        tasks=len(scores),
        passed=fmean(scores.values()),
        deviation=pstdev(scores.values()),
        tokens=fmean(run.usage.input_tokens + run.usage.output_tokens for run in runs),
        seconds=fmean(((run.ended_at or run.started_at) - run.started_at) / 1000 for run in runs),
    )


def _assertions(results: "Mapping[str, Sequence[RunResult]]") -> Iterable[Assertion]:
    """Yields the checks that were made in every arm."""
    made: dict[tuple[str, str], dict[str, list[Check]]] = defaultdict(lambda: defaultdict(list))
    for arm, found in results.items():
        for result in found:
            for check in (check for verdict in result.verdicts for check in verdict.checks):
                made[result.run.task_id, check.name][arm].append(check)
    for (task_id, name), by_arm in made.items():
        if len(by_arm) == len(results):
            shares = {arm: fmean(check.passed for check in checks) for arm, checks in by_arm.items()}
            failed = {arm: check for arm, checks in by_arm.items() for check in checks if not check.passed}
            failures = {arm: _describe(check) for arm, check in failed.items()}
            yield Assertion(task_id=task_id, name=name, shares=shares, failures=failures)


def _describe(check: Check) -> str:
    return describe_failure(check.call, check.got, check.expected) if check.call else check.message
