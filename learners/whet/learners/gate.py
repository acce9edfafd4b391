"""The gate: lets a candidate through only with evidence from held-out tasks.

    gate = Gate(GateConfig(min_effect=0.02))
    promotion = await gate.decide(Arm(policy=better), Arm(policy=head), tasks.heldout, evaluate, ledger=ledger)
    promotion.decision                     # promoted, rejected or insufficient_evidence

Every held-out task gives one observation: the difference of the two arms' scores on the same seeds. Tasks are drawn in
random order without repetition; ``betting.PairedTest`` looks after every one of them and stops as soon as it can.
A candidate that gained there may still have lost what it could do elsewhere: ``probes`` are tasks that tell.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Literal, TypeAlias

from whet.core.budget import Budget, Cost
from whet.core.errors import BudgetError, RefusedError, UserError
from whet.core.policy import Policy
from whet.core.records import Json, Promotion, Record, Task, Usage
from whet.feedback.report import MIN_TRUST
from whet.learners.betting import Capital, PairedTest
from whet.learners.ledger import CountingLedger, Ledger, heldout_digest, level_of_use
from whet.learners.rules import (
    Pair,
    cost_objection,
    decline_objection,
    drop_objection,
    losses_allowed,
    regression_objection,
    suspects,
)

__all__ = ["Arm", "Evaluate", "Gate", "GateConfig", "Progress", "Score"]

_FUTILITY_EVERY = 10

Decision: TypeAlias = Literal["promoted", "rejected", "insufficient_evidence"]


class Arm(Record, frozen=True, kw_only=True):
    """One side of a comparison: a policy, and the ids of the lessons that may be recalled beside it."""

    policy: Policy
    lessons: tuple[str, ...] = ()


class Score(Record, frozen=True, kw_only=True):
    """What an arm made of a task: ``value`` in [0, 1], or ``None`` where nobody could judge (a broken sandbox)."""

    value: float | None
    usage: Usage = Usage()
    run_id: str = ""


Evaluate: TypeAlias = Callable[[Arm, Task, int], Awaitable[Score]]
"""Runs an arm on a task with a seed. Raises BudgetError when the budget is used up, and nothing for what a run did."""


class Progress(Record, frozen=True, kw_only=True):
    """Where a decision stands after a pair: ``p`` is the anytime-valid p-value of a gain.

    ``of`` says which tasks are counted: those that decide, or the probes of a candidate that gained on them.
    """

    n: int
    total: int
    mean: float
    p: float
    of: Literal["tasks", "probes"] = "tasks"


class GateConfig(Record, frozen=True, kw_only=True):
    """The rules of the gate.

    ``alpha``: chance that a held-out set ever lets a worthless candidate through, over all its uses.
    ``min_effect``: the gain in score that has to be exceeded. ``repeats``: seeds per task, averaged.
    ``max_token_ratio``, ``max_dollar_ratio``: what a run may cost compared with the incumbent's; ``None``: anything.
    ``max_regressed``: share of the tasks the incumbent solved reliably that may be lost; a loss counts when it repeats
    in ``confirm`` further seeds. ``max_probe_loss``: the same share of the probes, and by how much their mean score may
    fall. ``retries``: how often a run that nobody could judge is repeated; ``max_dropped``: the share of pairs that
    may stay unjudged. ``min_trust``: what the lower bound of a judge's balanced agreement has to reach before its
    verdicts count. ``concurrency``: pairs under way at once.
    """

    alpha: float = 0.05
    min_effect: float = 0.02
    repeats: int = 1
    max_token_ratio: float | None = 4.0
    max_dollar_ratio: float | None = 4.0
    max_regressed: float = 0.05
    max_probe_loss: float = 0.1
    confirm: int = 2
    retries: int = 2
    max_dropped: float = 0.2
    min_trust: float = MIN_TRUST
    concurrency: int = 4
    seed: int = 0


class Gate:
    """Decides on candidates by one set of rules.

    Raises:
        UserError: a rule has an impossible value.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        config = config or GateConfig()
        for name in ("max_regressed", "max_dropped", "min_trust", "alpha"):
            if not 0 <= (share := getattr(config, name)) <= 1:
                raise UserError(f"{name} is {share!r}; a share between 0 and 1 is needed")
        for name in ("repeats", "concurrency"):
            if (count := getattr(config, name)) < 1:
                raise UserError(f"{name} is {count!r}; at least 1 is needed")
        if not 0 <= config.max_probe_loss < 1:
            raise UserError(f"max_probe_loss is {config.max_probe_loss!r}; a share from 0 to below 1 is needed")
        self.config = config

    async def decide(
        self,
        candidate: Arm,
        incumbent: Arm,
        tasks: Sequence[Task],
        evaluate: Evaluate,
        *,
        budget: Budget | None = None,
        ledger: Ledger | None = None,
        candidate_id: str | None = None,
        probes: Sequence[Task] = (),
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Promotion:
        """Returns the decision with its evidence; nothing is promoted here.

        Without a ``ledger`` this is the first and only use of the tasks. ``probes`` are held-out tasks of other task
        sets: they are run when the gain is shown, can only prevent a promotion, and so are no use of those sets.

        Raises:
            UserError: there are no tasks, or two of one id.
            RefusedError: a task is not of the held-out split.
        """
        _check(tasks, probes)
        ledger = ledger or CountingLedger()
        comparison = _Comparison(self.config, candidate, incumbent, evaluate, budget or Budget(), probes, on_progress)
        if not comparison.plan(tasks, await ledger.uses(tasks) + 1):
            reason = (
                f"{len(tasks)} held-out tasks cannot give enough evidence at use {comparison.use} of them; add tasks"
            )
            return comparison.promotion("insufficient_evidence", reason, candidate_id)
        comparison.plan(tasks, await ledger.spend(tasks, candidate.policy.digest))
        decision, reason = await comparison.run()
        return comparison.promotion(decision, reason, candidate_id)


class _Series:
    """The pairs on a set of tasks, in the order drawn, and the evidence on their mean difference."""

    def __init__(self, tasks: Sequence[Task], *, alpha: float, null: float) -> None:
        self.tasks = list(tasks)
        self.pairs: list[Pair] = []
        self.dropped = 0
        self.lost: list[str] = []
        self.test = PairedTest(alpha=alpha, horizon=max(len(tasks), 1), null=null)

    def take(self, pair: Pair) -> None:
        """Adds a pair; one that nobody could judge is only counted."""
        if pair.difference is None:
            self.dropped += 1
            return
        self.pairs.append(pair)
        self.test.add(pair.difference)

    @property
    def left(self) -> int:
        """How many tasks were not drawn yet."""
        return len(self.tasks) - len(self.pairs) - self.dropped

    def evidence(self) -> dict[str, Json]:
        """Returns what a promotion records of these pairs."""
        differences = [pair.difference for pair in self.pairs if pair.difference is not None]
        return {
            "heldout": heldout_digest(self.tasks),
            "tasks": len(self.tasks),
            "wins": sum(difference > 0 for difference in differences),
            "losses": sum(difference < 0 for difference in differences),
            "candidate_mean": _mean([pair.candidate for pair in self.pairs]),
            "incumbent_mean": _mean([pair.incumbent for pair in self.pairs]),
            "dropped": self.dropped,
            "regressed": [*self.lost],
        }


class _Comparison:
    """One decision under way."""

    def __init__(
        self,
        config: GateConfig,
        candidate: Arm,
        incumbent: Arm,
        evaluate: Evaluate,
        budget: Budget,
        probes: Sequence[Task],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.config, self.candidate, self.incumbent = config, candidate, incumbent
        self.evaluate, self.budget, self.on_progress = evaluate, budget, on_progress
        self.use = 1
        self.own = _Series((), alpha=config.alpha, null=config.min_effect)
        self.probes = _Series(probes, alpha=config.alpha, null=-config.max_probe_loss)
        self.usage = Usage()
        self.run_ids: list[str] = []

    def plan(self, tasks: Sequence[Task], use: int) -> bool:
        """Draws the order of the tasks for this use; returns whether they could suffice at all."""
        self.use = use
        order = list(tasks)
        random.Random(f"{self.config.seed}:{use}").shuffle(order)
        self.own = _Series(order, alpha=level_of_use(self.config.alpha, use), null=self.config.min_effect)
        return not self.own.test.futile(len(tasks))

    async def run(self) -> tuple[Decision, str]:
        """Draws pairs until the evidence suffices, cannot suffice any more, or tasks or budget are used up."""
        try:
            async with aclosing(self._taken(self.own)) as pairs:
                async for _ in pairs:
                    if (outcome := self._outcome()) is not None:
                        return await self._confirm(outcome[1]) if outcome[0] == "promoted" else outcome
        except BudgetError as error:
            return "insufficient_evidence", f"the budget is used up: {error}"
        return "insufficient_evidence", "the held-out tasks are used up"

    def _outcome(self) -> tuple[Decision, str] | None:
        test, left = self.own.test, self.own.left
        if test.above.refuted:
            return "promoted", f"gain above {self.config.min_effect:g}"
        if test.below.refuted:
            return "rejected", f"gain below {self.config.min_effect:g}"
        if (len(self.own.tasks) - left) % _FUTILITY_EVERY == 0 and test.futile(left):
            return "insufficient_evidence", "the remaining held-out tasks could not change the decision"
        return None

    async def _confirm(self, reason: str) -> tuple[Decision, str]:
        """Applies the rules that stand beside the gain."""
        if objection := drop_objection(self.own.dropped, len(self.own.pairs), self.config.max_dropped):
            return "insufficient_evidence", objection
        limits = self.config.max_token_ratio, self.config.max_dollar_ratio
        if objection := cost_objection(self.own.pairs, *limits):
            return "rejected", objection
        await self._repeat_losses(self.own, self.config.max_regressed)
        if objection := regression_objection(self.own.pairs, self.own.lost, self.config.max_regressed):
            return "rejected", objection
        return await self._probe() or ("promoted", reason)

    async def _probe(self) -> tuple[Decision, str] | None:
        """Objects where the probes tell that the candidate lost what the incumbent can do elsewhere."""
        probes, allowed = self.probes, self.config.max_probe_loss
        async with aclosing(self._taken(probes)) as pairs:
            async for _ in pairs:
                if probes.test.below.refuted:
                    return "rejected", decline_objection(probes.pairs, allowed)
        if objection := drop_objection(probes.dropped, len(probes.pairs), self.config.max_dropped):
            return "insufficient_evidence", f"of the probes {objection}"
        await self._repeat_losses(probes, allowed)
        objection = regression_objection(probes.pairs, probes.lost, allowed, what="probes")
        return ("rejected", objection) if objection else None

    async def _repeat_losses(self, series: _Series, share: float) -> None:
        """Repeats the tasks that were lost, until their number cannot matter any more or is too large."""
        allowed = losses_allowed(series.pairs, share)
        tasks = {task.id: task for task in series.tasks}
        waiting = suspects(series.pairs)
        while allowed - len(waiting) < len(series.lost) <= allowed:
            task = tasks[waiting.pop().task_id]
            again = [await self._pair(task, self.config.repeats + i) for i in range(self.config.confirm)]
            if all(repeat.lost for repeat in again):
                series.lost.append(task.id)

    async def _taken(self, series: _Series) -> AsyncGenerator[Pair, None]:
        """Yields the pairs of a series after each was added to it and told of."""
        async with aclosing(self._judged(series.tasks)) as pairs:
            async for pair in pairs:
                series.take(pair)
                if self.on_progress is not None:
                    self.on_progress(self._progress(series))
                yield pair

    async def _judged(self, tasks: Sequence[Task]) -> AsyncGenerator[Pair, None]:
        """Yields the pairs in the drawn order, whichever finishes first: the order must not depend on outcomes."""
        ahead: list[asyncio.Task[Pair]] = []
        waiting = iter(tasks)
        try:
            while True:
                while len(ahead) < self.config.concurrency and (task := next(waiting, None)) is not None:
                    ahead.append(asyncio.create_task(self._averaged(task)))
                if not ahead:
                    return
                yield await ahead.pop(0)
        finally:
            for left in ahead:
                left.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _averaged(self, task: Task) -> Pair:
        pairs = [await self._pair(task, repeat) for repeat in range(self.config.repeats)]
        return pairs[0] if len(pairs) == 1 else Pair.average(pairs)

    async def _pair(self, task: Task, repeat: int) -> Pair:
        seed = random.Random(f"{self.config.seed}:{self.use}:{task.id}:{repeat}").getrandbits(31)
        mine = await self._score(self.candidate, task, seed)
        theirs = await self._score(self.incumbent, task, seed)
        return Pair(
            task_id=task.id,
            candidate=mine.value,
            incumbent=theirs.value,
            candidate_usage=mine.usage,
            incumbent_usage=theirs.usage,
        )

    async def _score(self, arm: Arm, task: Task, seed: int) -> Score:
        """Returns the score of a run; one that nobody could judge is repeated, never held against the arm."""
        for _ in range(self.config.retries + 1):
            self.budget.reserve(Cost()).release()
            score = await self.evaluate(arm, task, seed)
            self.usage += score.usage
            self.run_ids += [score.run_id] if score.run_id else []
            if score.value is not None:
                break
        return score

    def _progress(self, series: _Series) -> Progress:
        test = series.test
        of: Literal["tasks", "probes"] = "tasks" if series is self.own else "probes"
        return Progress(n=test.n, total=len(series.tasks), mean=test.mean, p=test.above.p, of=of)

    def _candidate_low(self) -> float:
        """Returns a lower bound of the candidate's own score: what a watch may hold it to."""
        capital = Capital(alpha=self.config.alpha, horizon=len(self.own.tasks), null=0.5)
        for pair in self.own.pairs:
            capital.add(pair.candidate or 0.0)
        return capital.bound()

    def promotion(self, decision: Decision, reason: str, candidate_id: str | None) -> Promotion:
        test = self.own.test
        low, high = test.interval()
        return Promotion(
            decision=decision,
            policy=self.candidate.policy.digest,
            incumbent=self.incumbent.policy.digest,
            candidate_id=candidate_id,
            reason=reason,
            n=test.n,
            mean=test.mean if test.n else None,
            low=low,
            high=high,
            p=test.above.p,
            thresholds={
                **{name: getattr(self.config, name) for name in self.config.__struct_fields__},
                "use": self.use,
                "alpha_of_use": math.exp(-test.above.threshold),
            },
            evidence={
                **self.own.evidence(),
                "candidate_low": self._candidate_low(),
                "lessons": [*sorted(set(self.candidate.lessons) - set(self.incumbent.lessons))],
                "probes": self.probes.evidence() if self.probes.tasks else None,
            },
            run_ids=tuple(self.run_ids),
            usage=self.usage,
        )


def _check(tasks: Sequence[Task], probes: Sequence[Task]) -> None:
    if not tasks:
        raise UserError("the gate has no held-out tasks; give the task set more tasks, or a held-out share")
    for what, found in (("held-out tasks", tasks), ("probes", probes)):
        if len({task.id for task in found}) < len(found):
            raise UserError(f"two {what} have the same id; each task may be drawn once")
    if both := sorted({task.id for task in tasks} & {task.id for task in probes}):
        raise UserError(f"task {both[0]!r} decides and cannot be a probe; take probes from other task sets")
    for task in (*tasks, *probes):
        if task.split != "heldout":
            raise RefusedError(f"task {task.id!r} is of the {task.split} split; the gate reads held-out tasks only")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
