"""The trainer: forward and backward as one call, the optimiser's step as another, and a loop over them that can resume.

    trainer = Trainer(base_folder, TrainConfig(steps=100), {"": NLL()})
    trainer.forward_backward(data); trainer.step()            # or, for all of it:
    report = trainer.fit(data, on_step=print)
    trainer.tuned.save(folder)

A batch is cut into micro-batches of alike lengths; every loss is divided by a normaliser of the whole batch, so the
gradient does not depend on the cut. Needs torch, transformers, peft and safetensors only.
"""

import io
import math
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from whet.core.errors import ModelError, UserError
from whet.core.ids import digest
from whet.core.records import Record
from whet.core.wire import encode
from whet.learners.weights.config import TrainConfig, lora_rate
from whet.learners.weights.datum import Datum, check, units
from whet.learners.weights.files import write_whole
from whet.learners.weights.logprobs import divergence, token_logprobs
from whet.learners.weights.lora import TunedModel, Weights
from whet.learners.weights.losses import Scores, loss_of, needs, normaliser, reference_point
from whet.learners.weights.objectives import Distillation, Objective, Unpaired
from whet.learners.weights.packing import micro_batches, pack

__all__ = ["StepReport", "TrainReport", "Trainer"]

_SMALLEST = 64
_BETAS = (0.9, 0.95)


class StepReport(Record, frozen=True, kw_only=True):
    """One optimiser step: loss, norm of the gradient before clipping, learning rate, tokens computed and counted.

    ``measures`` are means over the batch: ``entropy`` and ``logprob`` per counted token, and what each loss adds.
    """

    step: int
    total: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    counted: int
    seconds: float
    measures: dict[str, float] = msgspec.field(default_factory=dict)


class TrainReport(Record, frozen=True, kw_only=True):
    """A training run: steps, loss curve, tokens, seconds, tokens per second, peak memory in bytes."""

    steps: int
    losses: tuple[float, ...]
    tokens: int
    counted: int
    seconds: float
    tokens_per_second: float
    peak_bytes: int
    parameters: int
    stopped: str = ""
    measures: dict[str, float] = msgspec.field(default_factory=dict)


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
    ) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config, self.objectives = config, objectives
        wanted = frozenset[str]().union(*(needs(objective) for objective in objectives.values()))
        self.tuned = TunedModel(base, config, init=init, head="head" in wanted)
        self.lr = config.lr or lora_rate(self.tuned.width) * config.lr_scale
        self.optimizer = torch.optim.AdamW(
            self.tuned.trainable(), lr=self.lr, betas=_BETAS, eps=1e-8, weight_decay=config.weight_decay
        )
        self.micro_tokens = config.micro_tokens
        self.done = 0
        self.total = config.steps or 1
        self.old: dict[str, Tensor] = {}
        self._references: dict[str, Tensor] = {}
        if any(isinstance(each, Distillation) and each.teacher == "ema" for each in objectives.values()):
            self.tuned.keep_ema()

    # --- forward and backward ---------------------------------------------------------------------------------------

    def forward_backward(self, data: Sequence[Datum]) -> dict[str, float]:
        """Adds the gradient of the batch's loss, and returns ``loss`` and measures averaged over the batch.

        Where memory does not suffice the micro-batches are halved, for good, and the batch is computed again.

        Raises:
            UserError: data of a term that has no objective, or that do not fit the model.
            ModelError: the loss of some data is not finite (they are named), or memory does not suffice for one datum.
        """
        self._check(data)
        kept = [None if p.grad is None else p.grad.clone() for p in self.tuned.trainable()]
        while True:
            try:
                return self._batch(data)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(error)
                for parameter, grad in zip(self.tuned.trainable(), kept, strict=True):
                    parameter.grad = None if grad is None else grad.clone()

    def _halve(self, error: Exception) -> None:
        if self.micro_tokens <= _SMALLEST:
            raise ModelError(
                f"memory does not suffice for {self.micro_tokens} tokens at once ({error}); set checkpointing, "
                "a smaller chunk, or a limit on the length of rows",
                failure="other",
            ) from error
        self.micro_tokens //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"whet: out of memory; micro-batches are now {self.micro_tokens} tokens", file=sys.stderr)

    def _batch(self, data: Sequence[Datum]) -> dict[str, float]:
        means: dict[str, float] = {}
        counted = sum(datum.counted for datum in data)
        for term, part in _by_term(data).items():
            objective = self.objectives[term]
            divisor = normaliser(objective, part)
            point = self._point(objective, part)
            for micro in micro_batches(_graded(objective, part), self.micro_tokens):
                loss, sums, per_token = self._micro(objective, micro, point)
                (loss / divisor).backward()  # type: ignore[no-untyped-call]
                for found, by in (({"loss": float(loss.detach()), **sums}, divisor), (per_token, counted)):
                    for name, value in found.items():
                        means[name] = means.get(name, 0.0) + value / by
        return means

    def _micro(
        self, objective: Objective, data: Sequence[Datum], point: float
    ) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        scores = self._scores(objective, data, point)
        loss, sums = loss_of(objective, scores)
        if not bool(torch.isfinite(loss)):
            raise ModelError(self._blame(objective, data, point), failure="other")
        per_token = {"entropy": float(scores.entropy_n.sum()), "logprob": float(scores.logp_n.detach().sum())}
        return loss, sums, per_token

    @torch.no_grad()
    def _blame(self, objective: Objective, data: Sequence[Datum], point: float) -> str:
        """Returns which data have a loss that is not finite, each computed by itself."""
        found = []
        for unit in units(data):
            loss, _ = loss_of(objective, self._scores(objective, unit, point))
            if not bool(torch.isfinite(loss)):
                found.append(f"{unit[0].id or 'unnamed'} (from {', '.join(unit[0].sources[:3]) or 'no source'})")
        named = "; ".join(found[:5]) or "no datum by itself"
        return (
            f"the loss at step {self.done + 1} is not finite; it comes from {named}; nothing was changed by this step"
        )

    def _scores(self, objective: Objective, data: Sequence[Datum], point: float) -> Scores:
        """Returns everything the loss is given; whatever carries no gradient is computed first."""
        wanted = needs(objective)
        packed = pack(data, self.tuned.device)
        reference_n = self._reference(data) if "reference" in wanted else None
        teacher_nd = self._teacher(objective, data) if isinstance(objective, Distillation) else None
        head_vd, chunk = self.tuned.head_vd, self.config.chunk
        hidden_td = self.tuned.hidden(packed)
        predicting_nd = hidden_td[packed.at_n - 1]
        logp_n, entropy_n = token_logprobs(predicting_nd, head_vd, packed.targets_n, chunk=chunk)
        teacher_n = divergence_n = head_n = None
        if teacher_nd is not None and "teacher" in wanted:
            teacher_n, _ = token_logprobs(teacher_nd, head_vd, packed.targets_n, chunk=chunk)
        elif teacher_nd is not None and isinstance(objective, Distillation):
            divergence_n = divergence(
                predicting_nd, teacher_nd, head_vd, alpha=objective.alpha, top_k=objective.top_k, chunk=chunk
            )
        if "head" in wanted and self.tuned.head is not None:
            head_n = self.tuned.head(hidden_td[packed.at_n].float())[:, 0]
        return Scores(
            packed=packed,
            logp_n=logp_n,
            entropy_n=entropy_n,
            reference_n=reference_n,
            old_n=self._old(data) if "old" in wanted else None,
            teacher_n=teacher_n,
            divergence_n=divergence_n,
            head_n=head_n,
            point=point,
        )

    def _teacher(self, objective: Distillation, data: Sequence[Datum]) -> Tensor:
        """Returns the teacher's hidden states that predict the counted tokens, (N, d)."""
        packed = pack([datum.under_teacher() if datum.teacher else datum for datum in data], self.tuned.device)
        with torch.no_grad(), self.tuned.weights(objective.teacher):
            hidden_nd: Tensor = self.tuned.hidden(packed)[packed.at_n - 1]
        return hidden_nd

    def _reference(self, data: Sequence[Datum]) -> Tensor:
        """Returns logprobs under the factors at the start, (N,); they never change, so each datum is computed once."""
        known = self._references
        missing = [datum for datum in data if datum.id not in known]
        found = dict(zip(map(id, missing), self.score(missing, weights="initial"), strict=True))
        known |= {datum.id: found[id(datum)] for datum in missing if datum.id}
        return torch.cat([found[id(datum)] if id(datum) in found else known[datum.id] for datum in data])

    def _old(self, data: Sequence[Datum]) -> Tensor | None:
        if not all(datum.id in self.old for datum in data):
            return None
        return torch.cat([self.old[datum.id] for datum in data])

    def _point(self, objective: Objective, data: Sequence[Datum]) -> float:
        if not isinstance(objective, Unpaired):
            return 0.0
        wanted = [datum for datum in data if objective.form != "kto" or datum.side == "kl"]
        ratios = [
            float((mine_n - theirs_n).sum())
            for mine_n, theirs_n in zip(self.score(wanted), self.score(wanted, weights="initial"), strict=True)
        ]
        return reference_point(objective, wanted, ratios)

    @torch.no_grad()
    def score(self, data: Sequence[Datum], *, weights: Weights = "live", teacher: bool = False) -> list[Tensor]:
        """Returns the logprobs of each datum's counted tokens; with ``teacher``, after its teacher context."""
        seen = [datum.under_teacher() if teacher and datum.teacher else datum for datum in data]
        found: dict[int, Tensor] = {}
        with self.tuned.weights(weights):
            for micro in micro_batches([[datum] for datum in seen], self.micro_tokens):
                logp_n, _ = self.tuned.logprobs(pack(micro, self.tuned.device))
                parts = torch.split(logp_n, [datum.counted for datum in micro])
                found |= dict(zip(map(id, micro), parts, strict=True))
        return [found[id(datum)] for datum in seen]

    @torch.no_grad()
    def values(self, data: Sequence[Datum]) -> list[Tensor]:
        """Returns the scalar head on each datum's counted tokens.

        Raises:
            UserError: there is no head.
        """
        if self.tuned.head is None:
            raise UserError("this adapter has no scalar head; train one with a method of the reward family")
        found: dict[int, Tensor] = {}
        for micro in micro_batches([[datum] for datum in data], self.micro_tokens):
            packed = pack(micro, self.tuned.device)
            value_n = self.tuned.head(self.tuned.hidden(packed)[packed.at_n].float())[:, 0]
            found |= dict(zip(map(id, micro), torch.split(value_n, [datum.counted for datum in micro]), strict=True))
        return [found[id(datum)] for datum in data]

    def _check(self, data: Sequence[Datum]) -> None:
        if unknown := sorted({datum.term for datum in data} - set(self.objectives)):
            raise UserError(f"data of the terms {unknown!r} have no objective; there are {sorted(self.objectives)!r}")
        if wrong := check(data, self.tuned.vocabulary):
            raise UserError(wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))

    # --- the optimiser's step ---------------------------------------------------------------------------------------

    def step(self) -> float:
        """Takes the optimiser's step with what was added up, and returns the norm of the gradient before clipping.

        Raises:
            ModelError: the gradient is not finite; the weights stay as they were.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.tuned.trainable(), self.config.clip))
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise ModelError(f"the gradient at step {self.done + 1} is not finite; lower lr", failure="other")
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.done)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        for objective in self.objectives.values():
            if isinstance(objective, Distillation) and objective.teacher == "ema":
                self.tuned.update_ema(objective.ema_rate)
                break
        return norm

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step (from 0): linear warm-up, then the schedule down to 0."""
        warm = math.ceil(self.config.warmup * self.total)
        if step < warm:
            return self.lr * (step + 1) / warm
        left = (self.total - step) / max(1, self.total - warm)
        scales = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * min(1.0, left)))}
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
        it exactly as if it had not.

        Raises:
            UserError: there are no data, or the checkpoint is of another configuration or other data.
            ModelError: a loss or gradient is not finite, or memory does not suffice.
            StoreError: the checkpoint cannot be written; the previous one is untouched.
        """
        groups = units(data)
        if not groups:
            raise UserError("there is nothing to train on; the data set is empty")
        self.total = self.config.steps or max(1, math.ceil(len(groups) * self.config.epochs / self.config.batch))
        name = digest(encode([self.config, self.objectives, list(data)]))
        if checkpoint is not None and checkpoint.is_file():
            self._resume(checkpoint, name)
        save = None if checkpoint is None else lambda: self._save(checkpoint, name)
        return self.run(data, self.total - self.done, begin=self.done, on_step=on_step, save=save)

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
        groups, started, losses = units(data), time.monotonic(), list[float]()
        tokens = counted = 0
        means: dict[str, float] = {}
        if steps > 1 and begin == 0 and any("old" in needs(objective) for objective in self.objectives.values()):
            self.old = {datum.id: logp_n for datum, logp_n in zip(data, self.score(data), strict=True) if datum.id}
        for number in range(begin, begin + steps):
            batch = self._draw(groups, number)
            before = time.monotonic()
            means = self.forward_backward(batch)
            rate, norm = self.rate(self.done), self.step()
            report = StepReport(
                step=self.done,
                total=self.total,
                loss=means.get("loss", 0.0),
                grad_norm=norm,
                lr=rate,
                tokens=sum(len(datum.tokens) for datum in batch),
                counted=sum(datum.counted for datum in batch),
                seconds=time.monotonic() - before,
                measures={key: value for key, value in means.items() if key != "loss"},
            )
            tokens, counted = tokens + report.tokens, counted + report.counted
            losses.append(report.loss)
            if on_step is not None:
                on_step(report)
            if save is not None and self.config.save_every and self.done % self.config.save_every == 0:
                save()
        self.old = {}
        seconds = time.monotonic() - started
        return TrainReport(
            steps=len(losses),
            losses=tuple(losses),
            tokens=tokens,
            counted=counted,
            seconds=seconds,
            tokens_per_second=tokens / max(seconds, 1e-9),
            peak_bytes=_peak_bytes(self.tuned.device),
            parameters=sum(p.numel() for p in self.tuned.trainable()),
            measures={key: value for key, value in means.items() if key != "loss"},
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

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save(self, path: Path, name: str) -> None:
        """Writes weights, optimiser, averages, position and random state, whole or not at all."""
        state = {
            "name": name,
            "done": self.done,
            "micro_tokens": self.micro_tokens,
            "weights": [p.detach() for p in self.tuned.trainable()],
            "optimizer": self.optimizer.state_dict(),
            "ema": self.tuned.ema,
            "old": self.old,
            "random": torch.get_rng_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(path, buffer.getvalue())

    def _resume(self, path: Path, name: str) -> None:
        state = torch.load(path, weights_only=True, map_location=self.tuned.device)
        if state["name"] != name:
            raise UserError(f"{str(path)!r} is of another configuration or other data; begin in a new folder")
        with torch.no_grad():
            for parameter, kept in zip(self.tuned.trainable(), state["weights"], strict=True):
                parameter.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        self.tuned.ema, self.old = state["ema"], state["old"]
        self.done, self.micro_tokens = state["done"], state["micro_tokens"]
        torch.set_rng_state(state["random"].cpu())


def _by_term(data: Sequence[Datum]) -> dict[str, list[Datum]]:
    found: dict[str, list[Datum]] = {}
    for datum in data:
        found.setdefault(datum.term, []).append(datum)
    return found


def _graded(objective: Objective, data: Sequence[Datum]) -> list[list[Datum]]:
    """Returns the units that carry a gradient: mismatched answers only set the reference point."""
    return [unit for unit in units(data) if not (isinstance(objective, Unpaired) and unit[0].side == "kl")]


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error).lower()


def _peak_bytes(device: torch.device) -> int:
    """Returns the most memory in use so far: of the GPU, or resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
