"""The trainer: forward and backward as one call, the optimiser's step as another, and a loop over them that can resume.

    trainer = Trainer(base_folder, TrainConfig(steps=100), {"": NLL()})
    trainer.forward_backward(data); trainer.step()            # or, for all of it:
    report = trainer.fit(data, on_step=print)
    trainer.tuned.save(folder)

A batch is cut into micro-batches of alike lengths; every loss is divided by a normaliser of the whole batch, so the
gradient does not depend on the cut. Needs torch, transformers, peft and safetensors only.
"""

import math
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whet.core.errors import ModelError, UserError
from whet.core.wire import decode, encode
from whet.learners.weights import checkpoint as checkpoints
from whet.learners.weights.config import TrainConfig, lora_rate
from whet.learners.weights.datum import Datum, check, units
from whet.learners.weights.distributed import ALONE, World, like, whole
from whet.learners.weights.lora import TunedModel, Weights
from whet.learners.weights.losses import loss_of, needs, normaliser, unfit
from whet.learners.weights.objectives import Distillation, Objective, Unpaired
from whet.learners.weights.reports import StepReport, TrainReport
from whet.learners.weights.room import Room
from whet.learners.weights.scoring import Scorer

__all__ = ["StepReport", "TrainReport", "Trainer"]

_BETAS = (0.9, 0.95)


class Trainer:
    """A tuned model, its optimiser, and the objectives by the term of the data.

    Raises:
        UserError: the model or the adapter cannot be used.
    """

    def __init__(
        self,
        base: str | Path,
        config: TrainConfig,
        objectives: dict[str, Objective],
        *,
        init: Path | None = None,
        world: World = ALONE,
    ) -> None:
        self.config, self.objectives, self.world = config, objectives, world
        self.ema_rate = _ema_rate(objectives)
        wanted = frozenset[str]().union(*(needs(objective) for objective in objectives.values()))
        self.tuned = TunedModel(base, config, init=init, head="head" in wanted, world=world)
        self.lr = config.lr or lora_rate(self.tuned.width) * config.lr_scale
        self.optimizer = torch.optim.AdamW(
            self.tuned.groups(), lr=self.lr, betas=_BETAS, eps=1e-8, weight_decay=config.weight_decay
        )
        self.room = Room(config.micro_tokens, retries=world.alone)
        self.scorer = Scorer(self.tuned, chunk=config.chunk, room=self.room)
        self.done = 0
        self.reports: list[StepReport] = []
        self.total = config.steps or 1
        if self.ema_rate is not None:
            self.tuned.keep_ema()

    @property
    def micro_tokens(self) -> int:
        """How many tokens are computed at once; fewer than configured after memory ran out."""
        return self.room.tokens

    # --- forward and backward ---------------------------------------------------------------------------------------

    def forward_backward(self, data: Sequence[Datum]) -> dict[str, float]:
        """Adds the gradient of the batch's loss, and returns ``loss`` and measures averaged over the batch.

        Where memory does not suffice the micro-batches are halved, for good, and the batch is computed again. Whatever
        is raised, the gradient is what it was before.

        Raises:
            UserError: there are no data, or data of a term that has no objective, or that do not fit the model.
            ModelError: the loss of some data is not finite (they are named), or memory does not suffice for one datum.
        """
        self._check(data)
        kept = [None if p.grad is None else p.grad.clone() for p in self.tuned.trainable()]

        def attempt(tokens: int) -> dict[str, float]:
            with self._undone_on_error(kept):
                return self._batch(data, tokens)

        with _threads(self.config.threads):
            return self.room.attempt(attempt)

    @contextmanager
    def _undone_on_error(self, grads: Sequence[Tensor | None]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for parameter, grad in zip(self.tuned.trainable(), grads, strict=True):
                parameter.grad = None if grad is None else grad.clone()
            raise

    def _batch(self, data: Sequence[Datum], tokens: int) -> dict[str, float]:
        means: dict[str, float] = {}
        graded = {term: _graded(self.objectives[term], part) for term, part in _by_term(data).items()}
        counted = sum(datum.counted for groups in graded.values() for unit in groups for datum in unit)
        for term, part in _by_term(data).items():
            objective = self.objectives[term]
            divisor = normaliser(objective, part)
            point = self.scorer.point(objective, part)
            self.scorer.prepare(objective, part)
            for work in self.world.work(graded[term], tokens) if graded[term] else ():
                loss, sums, per_token = self._micro(objective, work.data, point)
                # Processes average their gradients, and those of one batch add up.
                share = self.world.size * work.counts
                (loss * (share / divisor)).backward()  # type: ignore[no-untyped-call]
                for found, by in (({"loss": float(loss.detach()), **sums}, divisor), (per_token, counted)):
                    for name, value in found.items():
                        means[name] = means.get(name, 0.0) + work.counts * value / by
        return self.world.sums(means)

    def _micro(
        self, objective: Objective, data: Sequence[Datum], point: float
    ) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        scores = self.scorer.scores(objective, data, point)
        loss, sums = loss_of(objective, scores)
        if not bool(torch.isfinite(loss)):
            raise ModelError(self._blame(objective, data, point), failure="other")
        if scores.entropy_n is None:
            return loss, sums, {}
        return loss, sums, {"entropy": float(scores.entropy_n.sum()), "logprob": float(scores.logp_n.detach().sum())}

    @torch.no_grad()
    def _blame(self, objective: Objective, data: Sequence[Datum], point: float) -> str:
        """Returns which data have a loss that is not finite, each computed by itself."""
        found = []
        for unit in units(data) if self.world.alone else ():
            loss, _ = loss_of(objective, self.scorer.scores(objective, unit, point))
            if not bool(torch.isfinite(loss)):
                found.append(f"{unit[0].id or 'unnamed'} (from {', '.join(unit[0].sources[:3]) or 'no source'})")
        several = ", ".join(datum.id or "unnamed" for datum in data[:5])
        named = "; ".join(found[:5]) or ("no datum by itself" if self.world.alone else f"one of {several}")
        return (
            f"the loss at step {self.done + 1} is not finite; it comes from {named}; nothing was changed by this step"
        )

    def score(self, data: Sequence[Datum], *, weights: Weights = "live", teacher: bool = False) -> list[Tensor]:
        """Returns the logprobs of each datum's counted tokens; with ``teacher``, after its teacher context."""
        with _threads(self.config.threads):
            return self.scorer.score(data, weights=weights, teacher=teacher)

    def values(self, data: Sequence[Datum]) -> list[Tensor]:
        """Returns the scalar head on each datum's counted tokens.

        Raises:
            UserError: there is no head.
        """
        with _threads(self.config.threads):
            return self.scorer.values(data)

    def _check(self, data: Sequence[Datum]) -> None:
        if not data:
            raise UserError("there is nothing to train on; the data set is empty")
        if unknown := sorted({datum.term for datum in data} - set(self.objectives)):
            raise UserError(f"data of the terms {unknown!r} have no objective; there are {sorted(self.objectives)!r}")
        unsuited = [line for term, part in _by_term(data).items() for line in unfit(self.objectives[term], part)]
        if wrong := check(data, self.tuned.vocabulary) + unsuited:
            raise UserError(wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))

    # --- the optimiser's step ---------------------------------------------------------------------------------------

    def step(self) -> float:
        """Takes the optimiser's step with what was added up, and returns the norm of the gradient before clipping.

        Raises:
            ModelError: the gradient is not finite; the weights stay as they were.
        """
        norm = self.world.clip(self.tuned.trainable(), self.config.clip)
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise ModelError(f"the gradient at step {self.done + 1} is not finite; lower lr", failure="other")
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.done)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        if self.ema_rate is not None:
            self.tuned.update_ema(self.ema_rate)
        return norm

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step (from 0): linear warm-up, then the schedule down to 0."""
        warm = math.ceil(self.config.warmup * self.total)
        if step < warm:
            return self.lr * (step + 1) / warm
        left = min(1.0, max(0.0, (self.total - step) / max(1, self.total - warm)))
        scales = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
        return self.lr * scales[self.config.schedule]

    # --- the loop ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Sequence[Datum],
        *,
        on_step: Callable[[StepReport], None] | None = None,
        checkpoint: Path | None = None,
    ) -> TrainReport:
        """Trains to the end of the configuration's steps or epochs, and returns what happened.

        With ``checkpoint`` the state is written there every ``save_every`` steps, and a run that stopped goes on from
        it exactly as if it had not (on a GPU but for the order of sums); the report is of the whole run.

        Raises:
            UserError: there are no data, or the checkpoint is of another configuration or other data.
            ModelError: a loss or gradient is not finite, or memory does not suffice.
            StoreError: the checkpoint cannot be written; the previous one is untouched.
        """
        self._check(data)
        groups = units(data)
        self.total = self.config.steps or max(1, math.ceil(len(groups) * self.config.epochs / self.config.batch))
        if checkpoint is None:
            return self.run(data, self.total, on_step=on_step)
        identity = checkpoints.identity_of(self.tuned, self.config, self.objectives, data)
        if checkpoint.is_file():
            self._resume(checkpoints.load(checkpoint, identity, self.tuned.device), data)
        return self.run(
            data,
            self.total - self.done,
            begin=self.done,
            on_step=on_step,
            save=lambda: self._save(checkpoint, identity, data),
        )

    def run(
        self,
        data: Sequence[Datum],
        steps: int,
        *,
        begin: int = 0,
        on_step: Callable[[StepReport], None] | None = None,
        save: Callable[[], None] | None = None,
    ) -> TrainReport:
        """Takes ``steps`` optimiser steps over the data, from the ``begin``-th batch on; the schedule goes on.

        The policy at the start of this call is the old one of policy gradients.
        """
        groups, started = units(data), time.monotonic()
        if begin == 0:
            self.scorer.forget()
            self.reports = []
            if steps > 1 and any("old" in needs(objective) for objective in self.objectives.values()):
                with _threads(self.config.threads):
                    self.scorer.remember(data)
        before = sum(report.seconds for report in self.reports)
        for number in range(begin, begin + steps):
            self.reports.append(self._step_on(self._draw(groups, number)))
            if on_step is not None:
                on_step(self.reports[-1])
            if save is not None and self.config.save_every and self.done % self.config.save_every == 0:
                save()
        self.scorer.forget()
        return self._report(before + time.monotonic() - started)

    def _step_on(self, batch: Sequence[Datum]) -> StepReport:
        """Takes one optimiser step on a batch."""
        before = time.monotonic()
        means = self.forward_backward(batch)
        rate, norm = self.rate(self.done), self.step()
        return StepReport(
            step=self.done,
            total=self.total,
            loss=means.pop("loss", 0.0),
            grad_norm=norm,
            lr=rate,
            tokens=sum(len(datum.tokens) for datum in batch),
            counted=sum(datum.counted for datum in batch),
            seconds=time.monotonic() - before,
            measures=means,
        )

    def _report(self, seconds: float) -> TrainReport:
        reports = self.reports
        tokens = sum(report.tokens for report in reports)
        return TrainReport(
            steps=len(reports),
            losses=tuple(report.loss for report in reports),
            tokens=tokens,
            counted=sum(report.counted for report in reports),
            seconds=seconds,
            tokens_per_second=tokens / max(seconds, 1e-9),
            peak_bytes=_peak_bytes(self.tuned.device),
            parameters=sum(p.numel() for p in self.tuned.trainable()),
            measures=reports[-1].measures if reports else {},
        )

    def _draw(self, groups: Sequence[Sequence[Datum]], number: int) -> list[Datum]:
        """Returns batch ``number``: each epoch has an order of its own, given by the seed alone."""
        size = min(self.config.batch, len(groups))
        places = range(number * size, (number + 1) * size)
        epochs = {place // len(groups) for place in places}
        orders = {
            epoch: random.Random(f"{self.config.seed}/{epoch}").sample(range(len(groups)), len(groups))
            for epoch in epochs
        }
        return [datum for place in places for datum in groups[orders[place // len(groups)][place % len(groups)]]]

    # --- resuming ---------------------------------------------------------------------------------------------------

    def _save(self, path: Path, identity: checkpoints.Identity, data: Sequence[Datum]) -> None:
        """Writes a checkpoint; of several processes, which all give their share, the first one writes."""
        state = self._state(data)
        if self.world.leads:
            checkpoints.save(path, identity, state)

    def _state(self, data: Sequence[Datum]) -> dict[str, object]:
        """Returns weights, optimiser, averages and position: all that the rest of the run depends on."""
        return {
            "done": self.done,
            "micro_tokens": self.room.tokens,
            "weights": [whole(p.detach()) for p in self.tuned.trainable()],
            "optimizer": checkpoints.whole_state(self.optimizer),
            "ema": None if self.tuned.ema is None else {name: whole(part) for name, part in self.tuned.ema.items()},
            "known": self.scorer.known(data),
            "reports": encode(self.reports),
        }

    def _resume(self, state: dict[str, Any], data: Sequence[Datum]) -> None:
        with torch.no_grad():
            for parameter, kept in zip(self.tuned.trainable(), state["weights"], strict=True):
                parameter.copy_(like(parameter, kept))
        checkpoints.restore(self.optimizer, state["optimizer"])
        if state["ema"] is not None:
            factors = self.tuned.factors()
            self.tuned.ema = {name: like(factors[name], part) for name, part in state["ema"].items()}
        self.done, self.room.tokens = state["done"], min(self.room.tokens, state["micro_tokens"])
        self.scorer.recall(data, state["known"])
        self.reports = decode(state["reports"], list[StepReport])


def _ema_rate(objectives: dict[str, Objective]) -> float | None:
    """Returns the rate of the moving average that the objectives' teachers are, where they are one."""
    rates = {each.ema_rate for each in objectives.values() if isinstance(each, Distillation) and each.teacher == "ema"}
    if len(rates) > 1:
        raise UserError(f"the objectives name several rates {sorted(rates)!r} of one moving average; set one ema_rate")
    return next(iter(rates), None)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Computes with so many threads while the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_term(data: Sequence[Datum]) -> dict[str, list[Datum]]:
    found: dict[str, list[Datum]] = {}
    for datum in data:
        found.setdefault(datum.term, []).append(datum)
    return found


def _graded(objective: Objective, data: Sequence[Datum]) -> list[list[Datum]]:
    """Returns the units that carry a gradient: mismatched answers only set the reference point."""
    return units(datum for datum in data if not (isinstance(objective, Unpaired) and datum.side == "kl"))


def _peak_bytes(device: torch.device) -> int:
    """Returns the most memory in use so far: of the GPU, or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
