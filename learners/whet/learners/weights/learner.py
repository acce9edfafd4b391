"""``WeightLearner``: proposes a LoRA adapter, by any method, from what the memory holds or from practice of its own.

    learner = WeightLearner("rft")
    async for proposal in learner.propose(TrainMemory(memory, agent, tasks), incumbent, Budget(calls=2000)):
        print(proposal.policy.text("adapter"), proposal.candidate.summary)

A method that learns on-policy practises in rounds where the view has an agent; otherwise it learns once from whatever
is in the memory. The adapter goes on from the one in force, and passes the same gate as everything else.
"""

import asyncio
import functools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from whet.core.adapters import AdapterCard, base_digest, check_fit, describe, pack, unpack
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.loading import load_object
from whet.core.models import Model, as_model
from whet.core.models.model import Adaptable
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.wrappers import need_adaptable
from whet.core.policy import Policy
from whet.core.records import Candidate, Json, Record
from whet.core.wire import decode, encode
from whet.feedback import FreshSandboxes
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.replay import lent_or_own
from whet.learners.view import TrainMemory
from whet.learners.weights.collect import collect
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.dataset import Dataset, build_dataset, options_of
from whet.learners.weights.experience import Experience
from whet.learners.weights.files import whole_folder
from whet.learners.weights.job import Job, write_job
from whet.learners.weights.keeping import Replay, kept_objectives
from whet.learners.weights.kit import AgentKit
from whet.learners.weights.method import Method, load_method
from whet.learners.weights.reports import StepReport, TrainReport
from whet.learners.weights.rows import Row
from whet.learners.weights.templates import ChatTemplate, encode_row, load_template
from whet.learners.weights.trackers import Tracker, check_tracker, track
from whet.learners.weights.training import stoppable, train
from whet.learners.weights.where import EVERYTHING, Where, parse_where

if TYPE_CHECKING:
    from whet.learners.weights.recipe import Credentials
    from whet.learners.weights.rounds import RoundReport
    from whet.learners.weights.trainer import Trainer

__all__ = ["Trained", "WeightLearner", "base_template"]

T = TypeVar("T", bound=Record)
_SCRATCH = "whet-"


class Trained(Record, frozen=True, kw_only=True):
    """An adapter that was trained: its folder and digest, what it was trained on, and how that went."""

    folder: Path
    digest: str
    dataset: Dataset
    report: TrainReport


class WeightLearner:
    """Proposes the policy with an adapter that a method trained.

    Args:
        method: a method, its short name, or the dotted path of its class.
        model: what is trained; the model of the view's agent unless given. Its base weights have to be in a folder.
        where: which runs to learn from, as ``parse_where`` reads it; all of them unless given.
        training: fields of ``TrainConfig`` that differ from the method's own.
        rollouts: fields of ``Rollouts`` that differ from the method's own.
        practise: whether a method that can practise does so; without it, it learns once from the memory.
        tokens: at most so many tokens of data. ``longest``: rows of more tokens are dropped.
        fresh: begin a new adapter where one is in force, rather than going on from it.
        replay: how many earlier verified answers are learned again for each new row, so that they are kept (0: none).
        kl: weight of the divergence from the adapter in force (else the base), where the method's losses take one.
        by_turns: the server and the trainer share one GPU: the server sleeps while a round is trained.
        tracker: ``mlflow`` or ``wandb``, where steps and rounds go as well; they have to be installed.
        python: interpreter of an environment that has torch, where this one has not.
        on_step: hears of every optimiser step, ``on_round`` of every round of practice.

    Raises:
        UserError: no such method, model or option.
    """

    def __init__(
        self,
        method: Method | str,
        *,
        model: Model | str | None = None,
        where: Where | str = EVERYTHING,
        training: Mapping[str, object] | None = None,
        rollouts: Mapping[str, object] | None = None,
        practise: bool = True,
        tokens: int | None = None,
        longest: int | None = None,
        fresh: bool = False,
        replay: float = 0.0,
        kl: float | None = None,
        by_turns: bool = False,
        tracker: str = "",
        python: str = "",
        concurrency: int = 4,
        sandboxes: FreshSandboxes | None = None,
        on_step: Callable[[StepReport], None] | None = None,
        on_round: "Callable[[RoundReport], None] | None" = None,
    ) -> None:
        self.method = load_method(method) if isinstance(method, str) else method
        self.where = parse_where(where) if isinstance(where, str) else where
        self.config = _changed(self.method.training(), training or {}, "train")
        plan = self.method.rollouts
        if rollouts and (plan is None or not practise):
            way = "it learns from the memory" if plan is None else "give it tasks to practise on: --tasks"
            raise UserError(f"{self.name} does not practise here, so rollouts cannot be set; {way}")
        for name, number in (("tokens", tokens), ("longest", longest), ("concurrency", concurrency)):
            if number is not None and number < 1:
                raise UserError(f"{name} is {number!r}; it must be at least 1")
        self.plan = _changed(plan, rollouts or {}, "rollouts") if plan is not None and practise else None
        check_tracker(tracker)
        self.objectives = kept_objectives(self.method, replay=replay, kl=kl)
        self.replay, self.kl, self.by_turns, self.tracker = replay, kl, by_turns, tracker
        if by_turns and (self.plan is None or self.plan.staleness):
            raise UserError("by_turns is for practice in rounds with rollouts.staleness=0; leave it out")
        self.on_step, self.on_round = on_step, on_round
        self._model = None if model is None else as_model(model)
        self._tokens, self._longest, self._fresh, self._python = tokens, longest, fresh, python
        self._concurrency, self._sandboxes = concurrency, sandboxes

    @property
    def name(self) -> str:
        """The method's short name."""
        return self.method.info.name

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields one proposal: the incumbent's policy with a new adapter.

        Raises:
            UserError: the memory lacks what the method needs, or the method trains no policy.
            ModelError: training broke down.
            BudgetError: the budget does not allow what the method asks for.
        """
        if self.method.info.family == "reward":
            raise UserError(
                f"{self.name} trains a scorer, not a policy; write it with: whet learn {self.name} --out DIR"
            )
        on_policy = self.plan is not None and view.can_practise
        if on_policy and self._python:
            raise UserError("rounds of practice train in this process; leave python out, or practise=false")
        self._need_trainer()
        async with self._session(view, incumbent, budget) as session:
            with session.tracked():
                trained = await (session.practise() if on_policy else session.learn())
            if trained is not None:
                yield await session.proposal(trained)

    async def dataset(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> Dataset:
        """Returns the data that would be trained on; nothing is trained, and torch is not needed for most methods."""
        async with self._session(view, incumbent, budget) as session:
            return await session.dataset()

    async def train(self, view: TrainMemory, incumbent: Arm, budget: Budget, folder: Path) -> Trained:
        """Returns what was trained once from the memory, in a new folder that keeps the job.

        Raises:
            UserError: there is something in the folder, or as ``propose``.
        """
        self._need_trainer()
        with whole_folder(folder) as beside:
            async with self._session(view, incumbent, budget, folder=beside) as session:
                with session.tracked():
                    trained = await session.learn()
        return msgspec.structs.replace(trained, folder=folder / trained.folder.relative_to(beside))

    async def train_scorer(
        self, view: TrainMemory, incumbent: Arm, budget: Budget, folder: Path
    ) -> "tuple[Dataset, Credentials]":
        """Returns the data of a scorer and what it was found to be worth, after writing it into a folder.

        Raises:
            UserError: the method trains a policy, or the memory lacks what it needs.
            ModelError: training broke down.
        """
        from whet.learners.weights.methods.scorers import ScorerMethod

        if not isinstance(self.method, ScorerMethod):
            raise UserError(f"{self.name} trains a policy, not a scorer; let it propose: whet learn {self.name}")
        if self._python:
            raise UserError("a scorer is trained in this process; leave python out")
        self._need_trainer()
        from whet.learners.weights.scorer import train_scorer

        with whole_folder(folder) as beside:
            async with self._session(view, incumbent, budget) as session:
                dataset = await session.dataset()
                if not dataset.data:
                    raise UserError(f"nothing is left to learn from: {'; '.join(dataset.lines())}")
                base, objectives, recipe = session.base.base, self.objectives, self.method.recipe()
                work = functools.partial(train_scorer, base, dataset.data, objectives, session.config, recipe, beside)
                with session.tracked():
                    credentials = await stoppable(lambda told: work(on_step=told), session.told)
        return dataset, credentials

    def _need_trainer(self, *, here: bool = False) -> None:
        """Says what to install before anything is collected or asked; ``here``: another environment does not help."""
        if here or not self._python:
            load_object("whet.learners.weights.trainer:Trainer", what=f"training by {self.name}")

    def _session(self, view: TrainMemory, incumbent: Arm, budget: Budget, *, folder: Path | None = None) -> "_Opening":
        model = self._model or view.model
        if model is None:
            raise UserError(f"{self.name} does not know which model to train; give model=, or a view with an agent")
        return _Opening(self, view, incumbent, budget, model, need_adaptable(model), folder)


@dataclass
class _Opening:
    """Opens a session: a folder to work in, sandboxes, the model as the incumbent has it."""

    learner: WeightLearner
    view: TrainMemory
    incumbent: Arm
    budget: Budget
    model: Model
    base: Adaptable
    folder: Path | None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> "_Session":
        try:
            return await self._open()
        except BaseException:
            await self.stack.aclose()
            raise

    async def __aexit__(self, *exc: object) -> None:
        await self.stack.aclose()

    async def _open(self) -> "_Session":
        folder = self.folder or self._scratch()
        init, config = None, self.learner.config
        if (name := self.incumbent.policy.text("adapter").strip()) and not self.learner._fresh:
            data = await self.view.blob(name)
            init = unpack(data, folder / "incumbent")
            config = msgspec.structs.replace(config, rank=describe(data).rank)
            _check_incumbent(init, name, self.base.base)
        sandboxes = await self.stack.enter_async_context(lent_or_own(self.learner._sandboxes))
        session = _Session(self, folder, init, config, sandboxes)
        if init is not None:
            session.kit.model = await self.base.adapted(init)
        return session

    def _scratch(self) -> Path:
        """Returns a folder that is gone with the session: what was trained on is in the memory, and only there."""
        root = Path(tempfile.gettempdir()) if self.view.folder is None else self.view.folder / "training"
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=root))
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


class _Session:
    """One proposal under way."""

    def __init__(
        self, opening: _Opening, folder: Path, init: Path | None, config: TrainConfig, sandboxes: FreshSandboxes
    ) -> None:
        self.learner, self.view, self.budget = opening.learner, opening.view, opening.budget
        self.incumbent, self.model, self.base = opening.incumbent, opening.model, opening.base
        self.folder, self.init, self.config = folder, init, config
        self.method = self.learner.method
        self.kit = AgentKit(opening.model, self.budget, sandboxes, score=self._score, seed=config.seed)
        self.scorer: Trainer | None = None
        self.tracker = Tracker()
        self.spent = self.budget.spent
        self.template = base_template(self.base.base)
        self.experience = Experience()
        share = self.learner.replay
        self.replay = Replay(self.view, self.kit, self.template, share, seed=config.seed) if share else None

    # --- once, from the memory --------------------------------------------------------------------------------------

    async def dataset(self) -> Dataset:
        self.experience = await collect(self.view, self.learner.where)
        return await build_dataset(
            self.method,
            self.experience,
            self.kit,
            self.template,
            held_back=await self.view.held_back(),
            where=self.learner.where,
            replay=self.replay,
            tokens=self.learner._tokens,
            longest=self.learner._longest,
        )

    async def learn(self) -> Trained:
        dataset = await self.dataset()
        self.scorer = None  # The weights are loaded once more to train, and memory may not hold both.
        if not dataset.data:
            raise UserError(f"nothing is left to learn from: {'; '.join(dataset.lines())}")
        job = Job(
            base=self.base.base,
            method=self.method.info.name,
            config=self.config,
            objectives=self.learner.objectives,
            base_digest=base_digest(self.base.base),
        )
        folder = write_job(self.folder / "job", job, dataset.data, init=self.init)
        report = await train(folder, on_step=self.told, python=self.learner._python)
        return await self._keep(folder / "adapter", dataset, report)

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """While it lasts, steps and rounds go to the tracker that was asked for."""
        config = {
            f"{group}.{name}": value for group, fields in self.settings().items() for name, value in fields.items()
        }
        with track(self.learner.tracker, self.method.info.name, config) as self.tracker:
            yield

    def settings(self) -> dict[str, dict[str, Json]]:
        """Returns all that was chosen for this training."""
        train = decode(encode(self.config), dict[str, Json])
        keeping: dict[str, Json] = {"replay": self.learner.replay, "kl": self.learner.kl}
        return {"options": options_of(self.method), "train": train, "keeping": keeping}

    def told(self, report: StepReport) -> None:
        self.budget.reserve().release()
        self.tracker.step(report)
        if self.learner.on_step is not None:
            self.learner.on_step(report)

    async def _keep(self, folder: Path, dataset: Dataset, report: TrainReport) -> Trained:
        data = await asyncio.to_thread(pack, folder, self.card(dataset, report))
        return Trained(folder=folder, digest=await self.view.keep(data), dataset=dataset, report=report)

    def card(self, dataset: Dataset, report: TrainReport) -> AdapterCard:
        return AdapterCard(
            method=self.method.info.name,
            base=self.model.name,
            base_digest=base_digest(self.base.base),
            parent=self.incumbent.policy.text("adapter").strip() if self.init else "",
            sources=dataset.sources,
            data_digest=dataset.card.digest,
            rows=len(dataset.data),
            tokens=report.counted,
            steps=report.steps,
            usage=self.kit.usage,
            seconds=report.seconds,
            config={**self.settings()},
        )

    # --- in rounds, on-policy ---------------------------------------------------------------------------------------

    async def practise(self) -> Trained | None:
        from whet.learners.weights.onpolicy import practise

        return await practise(self)

    # --- what the kit asks for --------------------------------------------------------------------------------------

    async def _score(self, rows: Sequence[Row], teacher: bool) -> list[list[float]]:
        self.learner._need_trainer(here=True)
        from whet.learners.weights.objectives import NLL
        from whet.learners.weights.trainer import Trainer

        if self.scorer is None:
            self.scorer = await asyncio.to_thread(Trainer, self.base.base, self.config, {"": NLL()}, init=self.init)
        data = [encode_row(row, self.template) for row in rows]
        found = await asyncio.to_thread(self.scorer.score, data, teacher=teacher)
        return [logp_n.tolist() for logp_n in found]

    async def proposal(self, trained: Trained) -> Proposal:
        edits: dict[str, str | bytes | None] = {"adapter": trained.digest}
        edits |= self.method.serving(self.incumbent.policy, self.experience)
        policy = self.incumbent.policy.edit(edits)
        candidate = self.candidate(policy, trained.digest, trained.dataset, trained.report)
        return Proposal(candidate=candidate, policy=policy)

    def candidate(self, policy: Policy, adapter: str, dataset: Dataset, report: TrainReport) -> Candidate:
        """Returns the record of a policy with an adapter: by which method, from which data, at which cost."""
        counts = f"{len(dataset.data)} rows of {len(dataset.card.tasks)} tasks, {report.steps} steps"
        counts += f", stopped: {report.stopped}" if report.stopped else ""
        return Candidate(
            policy=policy.digest,
            parent=self.incumbent.policy.digest,
            learner=self.learner.name,
            config={
                "method": self.method.info.name,
                "options": options_of(self.method),
                "adapter": adapter,
                "where": str(self.learner.where),
                "replay": self.learner.replay,
                "kl": self.learner.kl,
                "data": dataset.card.digest,
                "rows": len(dataset.data),
                "steps": report.steps,
                "seconds": report.seconds,
                "stopped": report.stopped,
            },
            summary=f"adapter {adapter[:12]} by {self.learner.name}: {counts}",
            evidence=dataset.sources,
            usage=self.kit.usage,
            trust="tainted" if dataset.tainted else "trusted",
        )


def _check_incumbent(folder: Path, name: str, base: str) -> None:
    """Refuses to go on from an adapter of another base."""
    try:
        check_fit(folder, base)
    except UserError as error:
        why = str(error).replace(repr(str(folder)), repr(name[:12]))
        raise UserError(f"the adapter in force cannot be trained further: {why}; or begin anew: fresh=true") from error


def sweep(root: Path) -> None:
    """Removes what trainings left that were killed: it holds data that nobody could forget there."""
    for folder in root.glob(f"{_SCRATCH}*-*"):
        owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def base_template(folder: str) -> ChatTemplate:
    """Returns the chat template of base weights, read as what serves them reads it.

    The embedded model takes special tokens that somebody spells out as text, transformers and vLLM take them as tokens.
    """
    return load_template(folder, spelled="text" if Path(folder) == WEIGHTS else "token")


def _changed(made: T, changes: Mapping[str, object], what: str) -> T:
    """Returns a record with some fields changed; texts are read as what the field is.

    Raises:
        UserError: there is no such field, or a value that it cannot have.
    """
    known = made.__struct_fields__
    if unknown := [key for key in changes if key not in known]:
        raise UserError(f"there is no {what}.{unknown[0]}; there are {', '.join(f'{what}.{name}' for name in known)}")
    try:
        return msgspec.convert({**msgspec.to_builtins(made), **changes}, type(made), strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{what}: {error}") from error
