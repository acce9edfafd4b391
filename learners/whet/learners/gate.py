"""The gate: lets a candidate through only with evidence from held-out tasks.

    gate = Gate(GateConfig(min_effect=0.02))
    promotion = await gate.decide(Arm(policy=better), Arm(policy=head), tasks.heldout, evaluate, ledger=ledger)
    promotion.decision                     # promoted, rejected or insufficient_evidence

Every held-out task gives one observation: the difference of the two arms' scores on the same seeds. Tasks are drawn in
random order without repetition; ``betting.PairedTest`` looks after every one of them and stops as soon as it can.
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
from whet.core.records import Promotion, Record, Task, Usage
from whet.learners.betting import Capital, PairedTest
from whet.learners.ledger import CountingLedger, Ledger, heldout_digest, level_of_use
from whet.learners.rules import Pair, cost_objection, drop_objection, losses_allowed, regression_objection, suspects

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
    """Where a decision stands after a pair: ``p`` is the anytime-valid p-value of a gain."""

    n: int
    total: int
    mean: float
    p: float


class GateConfig(Record, frozen=True, kw_only=True):
    """The rules of the gate.

    ``alpha``: chance that a held-out set ever lets a worthless candidate through, over all its uses.
    ``min_effect``: the gain in score that has to be exceeded. ``repeats``: seeds per task, averaged.
    ``max_token_ratio``, ``max_dollar_ratio``: what a run may cost compared with the incumbent's; ``None``: anything.
    ``max_regressed``: share of the tasks the incumbent solved reliably that may be lost; a loss counts when it repeats
    in ``confirm`` further seeds. ``retries``: how often a run that nobody could judge is repeated; ``max_dropped``: the
    share of pairs that may stay unjudged. ``concurrency``: pairs under way at once.
    """

    alpha: float = 0.05
    min_effect: float = 0.02
    repeats: int = 1
    max_token_ratio: float | None = 4.0
    max_dollar_ratio: float | None = 4.0
    max_regressed: float = 0.05
    confirm: int = 2
    retries: int = 2
    max_dropped: float = 0.2
    concurrency: int = 4
    seed: int = 0


class Gate:
    """Decides on candidates by one set of rules.

    Raises:
        UserError: a rule has an impossible value.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        config = config or GateConfig()
        shares = {"max_regressed": config.max_regressed, "max_dropped": config.max_dropped, "alpha": config.alpha}
        counts = {"repeats": config.repeats, "concurrency": config.concurrency}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"{name} is {share!r}; a share between 0 and 1 is needed")
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"{name} is {count!r}; at least 1 is needed")
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
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Promotion:
        """Returns the decision with its evidence; nothing is promoted here.

        Without a ``ledger`` this is the first and only use of the tasks.

        Raises:
            UserError: there are no tasks, or two of one id.
            RefusedError: a task is not of the held-out split.
        """
        _check(tasks)
        ledger = ledger or CountingLedger()
        comparison = _Comparison(self.config, candidate, incumbent, evaluate, budget or Budget())
        if not comparison.plan(tasks, await ledger.uses(tasks) + 1):
            reason = (
                f"{len(tasks)} held-out tasks cannot give enough evidence at use {comparison.use} of them; add tasks"
            )
            return comparison.promotion("insufficient_evidence", reason, candidate_id)
        comparison.plan(tasks, await ledger.spend(tasks, candidate.policy.digest))
        decision, reason = await comparison.run(on_progress)
        return comparison.promotion(decision, reason, candidate_id)


class _Comparison:
    """One decision under way."""

    def __init__(self, config: GateConfig, candidate: Arm, incumbent: Arm, evaluate: Evaluate, budget: Budget) -> None:
        self.config, self.candidate, self.incumbent = config, candidate, incumbent
        self.evaluate, self.budget = evaluate, budget
        self.use = 1
        self.order: list[Task] = []
        self.pairs: list[Pair] = []
        self.dropped = 0
        self.regressed: list[str] = []
        self.usage = Usage()
        self.run_ids: list[str] = []
        self.test = PairedTest(alpha=config.alpha, horizon=1)

    def plan(self, tasks: Sequence[Task], use: int) -> bool:
        """Draws the order of the tasks for this use; returns whether they could suffice at all."""
        self.use = use
        self.order = list(tasks)
        random.Random(f"{self.config.seed}:{use}").shuffle(self.order)
        alpha = level_of_use(self.config.alpha, use)
        self.test = PairedTest(alpha=alpha, horizon=len(tasks), null=self.config.min_effect)
        return not self.test.futile(len(tasks))

    async def run(self, on_progress: Callable[[Progress], None] | None) -> tuple[Decision, str]:
        """Draws pairs until the evidence suffices, cannot suffice any more, or tasks or budget are used up."""
        try:
            async with aclosing(self._judged()) as pairs:
                async for pair in pairs:
                    self._take(pair)
                    if on_progress is not None:
                        on_progress(self._progress())
                    if (outcome := self._outcome()) is not None:
                        return await self._confirm(outcome[1]) if outcome[0] == "promoted" else outcome
        except BudgetError as error:
            return "insufficient_evidence", f"the budget is used up: {error}"
        return "insufficient_evidence", "the held-out tasks are used up"

    def _take(self, pair: Pair) -> None:
        if pair.difference is None:
            self.dropped += 1
            return
        self.pairs.append(pair)
        self.test.add(pair.difference)

    def _outcome(self) -> tuple[Decision, str] | None:
        done = len(self.pairs) + self.dropped
        if self.test.above.refuted:
            return "promoted", f"gain above {self.config.min_effect:g}"
        if self.test.below.refuted:
            return "rejected", f"gain below {self.config.min_effect:g}"
        if done % _FUTILITY_EVERY == 0 and self.test.futile(len(self.order) - done):
            return "insufficient_evidence", "the remaining held-out tasks could not change the decision"
        return None

    async def _confirm(self, reason: str) -> tuple[Decision, str]:
        """Applies the rules that stand beside the gain."""
        if objection := drop_objection(self.dropped, len(self.pairs), self.config.max_dropped):
            return "insufficient_evidence", objection
        limits = self.config.max_token_ratio, self.config.max_dollar_ratio
        if objection := cost_objection(self.pairs, *limits):
            return "rejected", objection
        await self._repeat_losses()
        if objection := regression_objection(self.pairs, self.regressed, self.config.max_regressed):
            return "rejected", objection
        return "promoted", reason

    async def _repeat_losses(self) -> None:
        """Repeats the tasks that were lost, until their number cannot matter any more or is too large."""
        allowed = losses_allowed(self.pairs, self.config.max_regressed)
        tasks = {task.id: task for task in self.order}
        waiting = suspects(self.pairs)
        while allowed - len(waiting) < len(self.regressed) <= allowed:
            task = tasks[waiting.pop().task_id]
            again = [await self._pair(task, self.config.repeats + i) for i in range(self.config.confirm)]
            if all(repeat.lost for repeat in again):
                self.regressed.append(task.id)

    async def _judged(self) -> AsyncGenerator[Pair, None]:
        """Yields the pairs in the drawn order, whichever finishes first: the order must not depend on outcomes."""
        ahead: list[asyncio.Task[Pair]] = []
        waiting = iter(self.order)
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

    def _progress(self) -> Progress:
        return Progress(n=self.test.n, total=len(self.order), mean=self.test.mean, p=self.test.above.p)

    def _candidate_low(self) -> float:
        """Returns a lower bound of the candidate's own score: what a watch may hold it to."""
        capital = Capital(alpha=self.config.alpha, horizon=len(self.order), null=0.5)
        for pair in self.pairs:
            capital.add(pair.candidate or 0.0)
        return capital.bound()

    def promotion(self, decision: Decision, reason: str, candidate_id: str | None) -> Promotion:
        low, high = self.test.interval()
        differences = [pair.difference for pair in self.pairs if pair.difference is not None]
        return Promotion(
            decision=decision,
            policy=self.candidate.policy.digest,
            incumbent=self.incumbent.policy.digest,
            candidate_id=candidate_id,
            reason=reason,
            n=self.test.n,
            mean=self.test.mean if self.test.n else None,
            low=low,
            high=high,
            p=self.test.above.p,
            thresholds={
                **{name: getattr(self.config, name) for name in self.config.__struct_fields__},
                "use": self.use,
                "alpha_of_use": math.exp(-self.test.above.threshold),
            },
            evidence={
                "heldout": heldout_digest(self.order),
                "tasks": len(self.order),
                "wins": sum(difference > 0 for difference in differences),
                "losses": sum(difference < 0 for difference in differences),
                "candidate_mean": _mean([pair.candidate for pair in self.pairs]),
                "candidate_low": self._candidate_low(),
                "incumbent_mean": _mean([pair.incumbent for pair in self.pairs]),
                "dropped": self.dropped,
                "regressed": [*self.regressed],
                "lessons": [*sorted(set(self.candidate.lessons) - set(self.incumbent.lessons))],
            },
            run_ids=tuple(self.run_ids),
            usage=self.usage,
        )


def _check(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise UserError("the gate has no held-out tasks; give the task set more tasks, or a held-out share")
    if len({task.id for task in tasks}) < len(tasks):
        raise UserError("two held-out tasks have the same id; each task may be drawn once")
    for task in tasks:
        if task.split != "heldout":
            raise RefusedError(f"task {task.id!r} is of the {task.split} split; the gate reads held-out tasks only")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
