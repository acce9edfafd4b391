"""On-policy learning with an agent: rounds of real runs under the newest adapter, recorded like any other runs.

Every round: the agent practises under a policy with the adapter as it stands, what was sampled (token ids and logprobs)
becomes data, the trainer takes its steps, and the adapter is stored and loaded again. Tasks of a share of their own are
never practised and only measured: they tell drift, and which round was best.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from whet.agents import RunResult
from whet.core.adapters import pack
from whet.core.errors import BudgetError, UserError
from whet.core.ids import new_id
from whet.core.models.model import Sleeping
from whet.core.models.wrappers import unwrapped
from whet.core.policy import Policy
from whet.core.records import Task
from whet.learners.weights.card import make_card
from whet.learners.weights.collect import collect
from whet.learners.weights.dataset import Dataset, build_dataset, options_of
from whet.learners.weights.datum import Datum
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Rollouts
from whet.learners.weights.reports import TrainReport
from whet.learners.weights.rounds import Rate, RoundReport, learn_in_rounds
from whet.learners.weights.templates import Report
from whet.learners.weights.trainer import Trainer
from whet.learners.weights.where import parse_where

if TYPE_CHECKING:
    from whet.learners.weights.learner import Trained, _Session

PROBE = 0.2
"""Share of the training tasks that are not practised."""


async def practise(session: "_Session") -> "Trained | None":
    """Returns the adapter of the best round; ``None`` where no round gave anything to learn from.

    Raises:
        UserError: there are too few training tasks.
        BudgetError: the budget was used up before the first round was done.
    """
    trainer = await _trainer(session)
    session.scorer = trainer
    loop = _OnPolicy(session, trainer)
    await loop.divide()
    try:
        await learn_in_rounds(
            loop.trainer,
            loop.rollout,
            loop.prepare,
            loop.plan,
            probe=loop.probe if loop.probed else None,
            trained=loop.store,
            on_step=session.told,
            turn=loop.turn,
            on_round=loop.heard,
        )
    except BudgetError as error:
        if not loop.versions:
            raise
        loop.ended = str(error)
    return await loop.best()


async def _trainer(session: "_Session") -> Trainer:
    config = msgspec.structs.replace(session.config, schedule="constant", warmup=0.0, steps=None)
    return await asyncio.to_thread(Trainer, session.base.base, config, session.learner.objectives, init=session.init)


class _Version(NamedTuple):
    """An adapter after a round: its digest in the store, and its folder."""

    digest: str
    folder: Path


class _OnPolicy:
    """The rounds of one proposal: what is practised, what was learned from it, and the versions so far."""

    def __init__(self, session: "_Session", trainer: Trainer) -> None:
        assert session.learner.plan is not None, "asked for by the caller"
        self.session, self.trainer = session, trainer
        self.plan: Rollouts = session.learner.plan
        self.name, self.began = new_id(), time.monotonic()
        self.versions: list[_Version] = []
        self.reports: list[RoundReport] = []
        self.ended = ""
        self.datasets: list[Dataset] = []
        self.experiences: list[Experience] = []
        self.policy = self._at_temperature(session.incumbent.policy)
        self.tasks: list[Task] = []
        self.probed: list[Task] = []

    def _at_temperature(self, policy: Policy) -> Policy:
        """Returns the policy under which rollouts are sampled: its recorded logprobs are those it was sampled with."""
        if "temperature" not in self.session.view.knobs:
            return policy
        return policy.with_settings(temperature=self.plan.temperature)

    async def divide(self) -> None:
        """Divides the training tasks into those that are practised and those that are only measured.

        Raises:
            UserError: there are none.
        """
        found = sorted(await self.session.view.tasks(), key=lambda task: task.id)
        random.Random(f"probe/{self.session.config.seed}").shuffle(found)
        count = int(PROBE * len(found))
        self.probed, self.tasks = found[:count], found[count:]
        if not self.tasks:
            raise UserError(f"{self.session.method.info.name} practises on training tasks, and there are none")

    async def rollout(self, number: int) -> Experience:
        """Runs the agent on this round's tasks under the policy as it stands; returns what the memory holds of it."""
        size = min(self.plan.tasks, len(self.tasks))
        drawn = random.Random(f"{self.session.config.seed}/{number}").sample(self.tasks, size)
        return await self._run(drawn, f"round:{self.name}/{number}", self.plan.samples, number)

    async def _run(self, tasks: Sequence[Task], tag: str, samples: int, number: int) -> Experience:
        session = self.session
        seeds = [session.config.seed * 1_000_003 + number * 1_009 + i for i in range(samples)]
        results = await session.view.practise(
            tasks,
            policy=self.policy,
            seeds=seeds,
            budget=session.budget,
            concurrency=session.learner._concurrency,
            tags=(tag,),
        )
        _refuse_ended(results)
        return await collect(session.view, parse_where(f"tag={tag}"))

    async def prepare(self, number: int, experience: Experience) -> Sequence[Datum]:
        """Returns the data of a round."""
        session = self.session
        session.kit.round = number
        dataset = await build_dataset(
            session.method,
            experience,
            session.kit,
            session.template,
            held_back=await session.view.held_back(),
            replay=session.replay,
        )
        self.experiences.append(experience)
        self.datasets.append(dataset)
        return dataset.data

    async def store(self, number: int) -> None:
        """Stores the adapter as it is after a round; from now on the agent practises with it.

        A version is a candidate of its own in the memory, so that forgetting finds it.
        """
        session, merged = self.session, self.merged()
        folder = session.folder / f"round-{number}"
        await asyncio.to_thread(self.trainer.tuned.save, folder)
        data = await asyncio.to_thread(pack, folder, session.card(merged, self.totals()))
        digest = await session.view.keep(data)
        self.policy = self._at_temperature(session.incumbent.policy).edit({"adapter": digest})
        self.versions.append(_Version(digest, folder))
        session.kit.model = await session.base.adapted(folder)
        await session.view.note(session.candidate(self.policy, digest, merged, self.totals()))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Lets the server sleep while the trainer has the GPU, where they share one.

        Raises:
            UserError: the model's server cannot sleep.
        """
        if not self.session.learner.by_turns:
            yield
            return
        server = unwrapped(self.session.model)
        if not isinstance(server, Sleeping):
            raise UserError(f"by_turns needs a server that can sleep, and {self.session.model.name!r} has none")
        await server.sleep()
        try:
            yield
        finally:
            await server.wake()

    async def probe(self, number: int) -> Rate:
        """Measures the newest version on the training tasks that are not practised, one run each."""
        experience = await self._run(self.probed, f"probe:{self.name}/{number}", 1, number)
        passed = [bool(episode.passed) for episode in experience.episodes if episode.passed is not None]
        return Rate(mean=sum(passed) / len(passed) if passed else 0.0, n=len(passed))

    def heard(self, report: RoundReport) -> None:
        """Keeps a round's report and passes it on."""
        self.reports.append(report)
        self.session.tracker.round(report)
        if self.session.learner.on_round is not None:
            self.session.learner.on_round(report)

    def merged(self) -> Dataset:
        """Returns the data of all rounds as one set, with one card."""
        session = self.session
        session.experience = Experience(
            episodes=tuple(episode for each in self.experiences for episode in each.episodes),
            tasks=tuple(self.tasks),
        )
        rows = tuple(row for dataset in self.datasets for row in dataset.rows)
        data = tuple(datum for dataset in self.datasets for datum in dataset.data)
        remarks = [f"{len(self.datasets)} rounds of practice"]
        shown = session.experience
        if session.replay is not None:
            remarks.append(session.replay.remark(rows))
            shown = session.replay.beside(shown)
        card = make_card(
            session.method.info.name,
            rows,
            shown,
            options=options_of(session.method),
            tokens=sum(len(datum.tokens) for datum in data),
            remarks=remarks,
        )
        return Dataset(rows=rows, data=data, report=Report(rows=len(rows), data=len(data)), card=card)

    def totals(self) -> TrainReport:
        """Returns what training came to so far; ``seconds`` include the practice."""
        seconds = time.monotonic() - self.began
        data = [datum for dataset in self.datasets for datum in dataset.data]
        tokens = sum(len(datum.tokens) for datum in data) * self.plan.epochs
        return TrainReport(
            steps=self.trainer.done,
            losses=tuple(report.loss for report in self.reports if report.loss is not None),
            tokens=tokens,
            counted=sum(datum.counted for datum in data) * self.plan.epochs,
            seconds=seconds,
            tokens_per_second=tokens / max(seconds, 1e-9),
            peak_bytes=0,
            parameters=sum(p.numel() for p in self.trainer.tuned.trainable()),
            stopped=next((report.alarm for report in self.reports if report.alarm), self.ended),
        )

    async def best(self) -> "Trained | None":
        """Returns the version of the round that did best on the probe, the latest of equals; the last without probe."""
        from whet.learners.weights.learner import Trained

        merged = self.merged()
        if not self.versions or not merged.data:
            return None
        rates = [(report.probe.mean, report.round) for report in self.reports if report.probe is not None]
        chosen = self.versions[max(rates)[1] if rates else -1]
        return Trained(folder=chosen.folder, digest=chosen.digest, dataset=merged, report=self.totals())


def _refuse_ended(results: Sequence[RunResult]) -> None:
    for result in results:
        if result.run.status == "cancelled":
            raise BudgetError(f"run {result.run.id!r} was ended: {result.run.error}")
