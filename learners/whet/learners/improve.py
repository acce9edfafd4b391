"""``improve``: run on training tasks, learn, decide on held-out tasks, promote, and again, under one hard budget.

    async with await Memory.open(".whet") as memory, Agent("refine", "tiny", memory=memory) as agent:
        report = await improve(agent, load_tasks("world:7"), ["lessons"], memory=memory, budget=Budget(calls=2000))
    report.promotions[-1].decision, report.stopped

Learners take turns, one per round, so that a held-out set is not used up by changes that say the same. Where a round
stands is kept in a ``Job`` after every step: Ctrl-C stops cleanly, and ``resume=job_id`` goes on from there.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from whet.agents import Agent, RunResult, run_tasks
from whet.core.budget import Budget, Cost
from whet.core.errors import BudgetError, ConflictError, UserError
from whet.core.ids import digest, now_ms
from whet.core.records import Job, Json, Promotion, Record, Run, Task, TaskSet, Usage
from whet.core.wire import decode, encode
from whet.feedback.verifiers.registry import judges_of
from whet.learners.adoption import adopt, incumbent_arm, reconcile, take_in
from whet.learners.evaluation import evaluator, measure
from whet.learners.gate import Arm, Evaluate, Gate, Score
from whet.learners.gate import Progress as GateProgress
from whet.learners.judging import refuse_unheard
from whet.learners.learner import Learner, Proposal, load_learner
from whet.learners.ledger import StoredLedger, heldout_digest
from whet.learners.stages import Stage, first_objection, load_stage
from whet.learners.trusting import update_trust
from whet.learners.view import TrainMemory
from whet.memory import Memory

__all__ = ["Event", "ImproveConfig", "ImproveReport", "improve", "spent_by"]

KIND = "improve"


class ImproveConfig(Record, frozen=True, kw_only=True):
    """How the loop goes.

    ``rounds``: at most so many. ``tasks_per_round``: training tasks run in a round (``None``: all), taken in turn.
    ``repeats``: runs per training task. ``concurrency``: runs at once. ``seed``: of the first run. ``probe``: training
    tasks on which a proposal has to gain something before it may use the held-out set (0: none). ``patience``: rounds
    in a row without a promotion after which the loop stops.
    """

    rounds: int = 4
    tasks_per_round: int | None = None
    repeats: int = 1
    concurrency: int = 4
    seed: int = 0
    probe: int = 12
    patience: int = 2


EventKind: TypeAlias = Literal["round", "run", "proposal", "pruned", "waiting", "gate", "decision", "stopped"]


class Event(Record, frozen=True, kw_only=True):
    """What the loop says of itself. ``done`` of ``total`` where it counts; ``promotion`` with a decision."""

    kind: EventKind
    text: str
    round: int = 0
    done: int = 0
    total: int = 0
    promotion: Promotion | None = None


class State(Record, frozen=True, kw_only=True):
    """Where a loop stands: kept in its job."""

    round: int = 0
    decided: tuple[str, ...] = ()
    promotions: tuple[str, ...] = ()
    pass_rates: tuple[float, ...] = ()
    quiet: int = 0
    spent: Cost = Cost()


class ImproveReport(Record, frozen=True, kw_only=True):
    """What a loop did: decisions in order, pass rates on training tasks per round, why it stopped, what it spent."""

    job_id: str
    promotions: tuple[Promotion, ...]
    pass_rates: tuple[float, ...]
    stopped: str
    spent: Cost


async def improve(
    agent: Agent,
    tasks: TaskSet,
    learners: Sequence[Learner | str],
    *,
    memory: Memory,
    gate: Gate | None = None,
    budget: Budget | None = None,
    config: ImproveConfig | None = None,
    probes: Sequence[Task] = (),
    stages: Sequence[Stage | str] = ("lint",),
    options: Sequence[str] = (),
    on_event: Callable[[Event], None] | None = None,
    resume: str | None = None,
) -> ImproveReport:
    """Returns what the loop did. The agent has to use the same memory.

    The budget covers all runs of the loop. When it is used up the loop ends with a report; when the caller is cancelled
    (Ctrl-C) the job is closed as ``cancelled`` and the cancellation goes on.

    Args:
        learners: learners or their names; they take turns.
        probes: held-out tasks of other task sets, on which what is promoted must not be worse.
        stages: what looks at a candidate before it may use the held-out set, or names of such stages.
        options: what the learners were made with, as ``name=value``; kept with the job, which goes on with the same.
        resume: the id (or its beginning) of the job to go on with; give the budget what ``spent_by`` says.

    Raises:
        UserError: no learners or training tasks, or the job to resume was made with other settings.
        NotFoundError: no such job.
    """
    named = [load_learner(learner) if isinstance(learner, str) else learner for learner in learners]
    config = config or ImproveConfig()
    train = [task for task in tasks.tasks if task.split == "train"]
    heldout = [task for task in tasks.tasks if task.split == "heldout"]
    if not named or not train or not heldout:
        raise UserError("improve needs a learner, training tasks and held-out tasks; see whet tasks validate")
    gate = gate or Gate()
    before = [load_stage(stage) if isinstance(stage, str) else stage for stage in stages]
    settings = _settings(agent, tasks, named, options, gate, config, probes, before)
    job = await _begin(memory, settings, resume)
    loop = _Loop(
        agent=agent,
        memory=memory,
        gate=gate,
        config=config,
        budget=budget or Budget(),
        train=train,
        heldout=heldout,
        held_back=[*(task for task in tasks.tasks if task.split != "train"), *probes],
        probes=probes,
        stages=before,
        learners=named,
        job=job,
        tell=on_event or (lambda event: None),
    )
    return await loop.run()


def spent_by(job: Job) -> Cost:
    """Returns what a loop had spent when its job was last written: ``Budget.of(grant, spent=spent_by(job))``."""
    return decode(encode(job.state), State).spent


@dataclass(kw_only=True)
class _Loop:
    """One loop under way."""

    agent: Agent
    memory: Memory
    gate: Gate
    config: ImproveConfig
    budget: Budget
    train: Sequence[Task]
    heldout: Sequence[Task]
    held_back: Sequence[Task]
    probes: Sequence[Task]
    stages: Sequence[Stage]
    learners: Sequence[Learner]
    job: Job
    tell: Callable[[Event], None]
    promotions: list[Promotion] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = decode(encode(self.job.state), State)
        tags, min_trust = (f"job:{self.job.id}",), self.gate.config.min_trust
        self.evaluate: Evaluate = evaluator(self.agent, self.budget, tags=tags, min_trust=min_trust)

    async def run(self) -> ImproveReport:
        try:
            stopped = await self._rounds()
        except BudgetError as error:
            stopped = f"the budget is used up: {error}"
        except BaseException as error:
            # Ctrl-C or a defect: what was done stays done, and the job says where to go on.
            reason = "interrupted" if isinstance(error, asyncio.CancelledError | KeyboardInterrupt) else str(error)
            await asyncio.shield(self._close("cancelled", reason))
            raise
        await self._close("done", stopped)
        self._say("stopped", stopped)
        return ImproveReport(
            job_id=self.job.id,
            promotions=tuple(self.promotions),
            pass_rates=self.state.pass_rates,
            stopped=stopped,
            spent=self.budget.spent,
        )

    async def _rounds(self) -> str:
        for promotion_id in self.state.promotions:
            self.promotions.append(await self.memory.get(Promotion, promotion_id))
        async with self.agent:
            while self.state.round < self.config.rounds:
                if self.state.quiet >= self.config.patience:
                    return f"{self.state.quiet} rounds in a row brought no promotion"
                await self._round()
        return f"{self.config.rounds} rounds are done"

    async def _round(self) -> None:
        number = self.state.round
        learner = self.learners[number % len(self.learners)]
        self._say("round", f"round {number + 1}: learner {learner.name}")
        rate = await self._run_train(number)
        promoted = False
        view = TrainMemory(self.memory, self.agent, self.train, held_back=self.held_back)
        async for proposal in learner.propose(view, await incumbent_arm(self.memory), self.budget):
            promoted |= await self._consider(proposal)
        await update_trust(self.memory)
        await self._save(
            round=number + 1, pass_rates=(*self.state.pass_rates, rate), quiet=0 if promoted else self.state.quiet + 1
        )

    async def _run_train(self, number: int) -> float:
        """Runs this round's training tasks that an interruption left, as the agent stands; returns the pass rate."""
        batch = self._batch(number)
        seeds = [self.config.seed + number * self.config.repeats + i for i in range(self.config.repeats)]
        done = await self._done(batch, seeds)
        total, count = len(batch) * len(seeds), len(done)

        def ran(result: RunResult) -> None:
            nonlocal count
            count += 1
            self._say("run", "training tasks", done=count, total=total)

        for seed in seeds:
            left = [task for task in batch if (task.id, seed) not in done]
            results = await run_tasks(
                self.agent, left, seeds=(seed,), concurrency=self.config.concurrency, budget=self.budget, progress=ran
            )
            if cancelled := [result.run for result in results if result.run.status == "cancelled"]:
                raise BudgetError(cancelled[0].error or "the budget ended a run")
        return await self._pass_rate(batch, seeds)

    async def _pass_rate(self, batch: Sequence[Task], seeds: Sequence[int]) -> float:
        done = set((await self._done(batch, seeds)).values())
        judged = [item for item in await TrainMemory(self.memory).judged() if item.run.id in done]
        return sum(item.passed for item in judged) / len(judged) if judged else 0.0

    def _batch(self, number: int) -> list[Task]:
        size = min(self.config.tasks_per_round or len(self.train), len(self.train))
        start = number * size
        return [self.train[(start + i) % len(self.train)] for i in range(size)]

    async def _done(self, batch: Sequence[Task], seeds: Sequence[int]) -> dict[tuple[str, int], str]:
        """Returns the training runs that this job finished, by task and seed."""
        where = {"task_id": [task.id for task in batch], "purpose": "train", "status": "done", "agent": self.agent.name}
        runs = await self.memory.find(Run, where=where, since=self.job.started_at)
        return {(run.task_id, run.seed): run.id for run in runs if run.seed in seeds}

    async def _consider(self, proposal: Proposal) -> bool:
        """Takes a proposal in, tries it on training tasks, lets the gate decide; returns whether it was promoted."""
        incumbent = await incumbent_arm(self.memory)
        proposal = await take_in(self.memory, proposal)
        arm, summary = proposal.arm(incumbent), proposal.candidate.summary
        name = digest(encode([arm.policy.digest, [*arm.lessons], incumbent.policy.digest]))
        if arm == incumbent or name in self.state.decided:
            return False
        self._say("proposal", summary)
        if proposal.candidate.trust == "tainted":
            self._say("waiting", f"{summary}: rests on what strangers wrote, waits for a person")
            return False
        promoted = False
        if objection := await first_objection(self.stages, proposal, incumbent, self.budget):
            await self._carry_out(proposal, objection)
        elif await self._hopeless(arm, incumbent):
            self._say("pruned", f"{summary}: no gain on {self.config.probe} training tasks")
        else:
            promoted = await self._decide(proposal, arm, incumbent)
        await self._save(decided=(*self.state.decided, name))
        return promoted

    async def _decide(self, proposal: Proposal, arm: Arm, incumbent: Arm) -> bool:
        # Before the held-out set is used: a judge that is not heard ends the loop, and costs no use.
        judges = {judge for task in (*self.heldout, *self.probes) for judge in judges_of(task)}
        await refuse_unheard(self.memory, judges, self.gate.config.min_trust)
        promotion = await self.gate.decide(
            arm,
            incumbent,
            self.heldout,
            self.evaluate,
            budget=self.budget,
            ledger=StoredLedger(self.memory),
            candidate_id=proposal.candidate.id,
            probes=self.probes,
            on_progress=self._gate_progress,
        )
        return await self._carry_out(proposal, promotion)

    async def _carry_out(self, proposal: Proposal, promotion: Promotion) -> bool:
        """Logs a decision and does what it says; returns whether it is a promotion that took effect."""
        try:
            await adopt(self.memory, proposal, promotion)
        except ConflictError as error:
            self._say("decision", f"the policy changed meanwhile, nothing was promoted: {error}")
            return False
        self.promotions.append(promotion)
        await self._save(promotions=(*self.state.promotions, promotion.id))
        self._say("decision", f"{promotion.decision}: {promotion.reason}", promotion=promotion)
        return promotion.decision == "promoted"

    async def _hopeless(self, arm: Arm, incumbent: Arm) -> bool:
        """Whether a proposal gains nothing on a few training tasks: then it is not worth a use of the held-out set."""
        tasks = self._batch(self.state.round)[: self.config.probe]
        if not tasks:
            return False
        mine, theirs = await self._scores(arm, tasks), await self._scores(incumbent, tasks)
        pairs = [(mine[task.id], theirs[task.id]) for task in tasks]
        return sum(a - b for a, b in pairs if a is not None and b is not None) <= 0

    async def _scores(self, arm: Arm, tasks: Sequence[Task]) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        concurrency, seed = self.config.concurrency, self.config.seed

        def heard(task: Task, score: Score) -> None:
            found[task.id] = score.value

        await measure(self.evaluate, arm, tasks, seed=seed, concurrency=concurrency, on_score=heard)
        return found

    def _gate_progress(self, progress: GateProgress) -> None:
        said = f"gain {progress.mean:+.2f}, p {progress.p:.2g}" if progress.of == "tasks" else "probes"
        self._say("gate", said, done=progress.n, total=progress.total)

    def _say(
        self, kind: EventKind, text: str, *, done: int = 0, total: int = 0, promotion: Promotion | None = None
    ) -> None:
        self.tell(Event(kind=kind, text=text, round=self.state.round + 1, done=done, total=total, promotion=promotion))

    async def _save(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, spent=self.budget.spent, **changes)
        self.job = msgspec.structs.replace(self.job, state=_json(self.state))
        await self.memory.put(self.job, actor=KIND)

    async def _close(self, status: Literal["done", "cancelled"], reason: str) -> None:
        spent = self.budget.spent
        self.state = msgspec.structs.replace(self.state, spent=spent)
        self.job = msgspec.structs.replace(
            self.job,
            status=status,
            state=_json(self.state),
            error=reason,
            outputs=self.state.promotions,
            usage=Usage(output_tokens=spent.tokens, calls=spent.calls, micro_dollars=spent.micro_dollars),
            ended_at=now_ms(),
        )
        await self.memory.put(self.job, actor=KIND, reason=reason)


def _settings(
    agent: Agent,
    tasks: TaskSet,
    learners: Sequence[Learner],
    options: Sequence[str],
    gate: Gate,
    config: ImproveConfig,
    probes: Sequence[Task],
    stages: Sequence[Stage],
) -> dict[str, Json]:
    names: list[Json] = [learner.name for learner in learners]
    return {
        "agent": agent.name,
        "model": agent.model.name,
        "tasks": tasks.name,
        "version": tasks.version,
        "learners": names,
        "options": [*sorted(options)] or None,
        "gate": _json(gate.config),
        "loop": _json(config),
        "probes": heldout_digest(probes) if probes else None,
        "stages": [*(stage.name for stage in stages)],
    }


async def _begin(memory: Memory, settings: dict[str, Json], resume: str | None) -> Job:
    """Returns the job of the loop, new or taken up again."""
    if resume is None:
        job = Job(kind=KIND, config=settings, state=_json(State()))
    else:
        job = await memory.get(Job, resume)
        if job.kind != KIND:
            raise UserError(f"job {job.id!r} is a {job.kind}, not an improvement loop")
        if different := [key for key in settings if settings[key] != job.config.get(key)]:
            raise UserError(f"job {job.id!r} was begun with another {', '.join(different)}; resume it with the same")
        job = msgspec.structs.replace(job, status="running", error=None, ended_at=None)
        await reconcile(memory)
    await memory.put(job, actor=KIND)
    return job


def _json(value: object) -> dict[str, Json]:
    return decode(encode(value), dict[str, Json])
