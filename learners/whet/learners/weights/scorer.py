"""A trained scorer: a base with an adapter and a scalar head (or its own yes and no) that says what answers are worth.

    credentials = train_scorer(base, data, method.objectives(), method.training(), method.recipe(), folder)
    scorer = TrainedScorer(base, folder, template=template)
    scorer.rate(prompt, ["def solve(x): return x", "def solve(x): return x[::-1]"])       # a value for each
    scorer.best(prompt, answers)                                                          # best of n

A scorer is no policy: its adapter never goes through the gate. As a judge it is taken only with credentials that say it
may judge (``judge``). Needs torch.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from whet.core.calibration import Calibration, calibrate
from whet.core.errors import UserError, VerifierError
from whet.core.ids import digest
from whet.core.records import Json, Message, Run, Task, Verdict
from whet.core.wire import decode, encode
from whet.learners.weights.calibration import (
    Fit,
    Platt,
    best_of_n,
    cross_fitted,
    fit_platt,
    fit_temperature,
    fitted,
    refusal,
)
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum, units
from whet.learners.weights.files import write_whole
from whet.learners.weights.lora import TunedModel
from whet.learners.weights.methods.scorers import scored_row
from whet.learners.weights.objectives import Objective
from whet.learners.weights.recipe import CREDENTIALS, Credentials, Reading, Recipe, read_credentials
from whet.learners.weights.reports import StepReport
from whet.learners.weights.room import Room
from whet.learners.weights.scoring import Scorer
from whet.learners.weights.templates import ChatTemplate, encode_row, load_template
from whet.learners.weights.trainer import Trainer
from whet.learners.weights.voting import Ballot, clean, count_votes, halves, uncertain

__all__ = ["ScorerJudge", "TrainedScorer", "judge", "split_held", "train_scorer", "vote"]


class TrainedScorer:
    """A scorer from the folder it was written to, on its base model.

    ``template``: that of the base, unless given. Values are in the scorer's own unit (see ``credentials.reading``).

    Raises:
        UserError: the folder holds no scorer, or the base is another model.
    """

    def __init__(
        self,
        base: str | Path,
        folder: str | Path,
        *,
        template: ChatTemplate | None = None,
        device: str = "auto",
        micro_tokens: int = 4096,
    ) -> None:
        self.credentials = read_credentials(Path(folder))
        self.template = template or load_template(base)
        config = msgspec.structs.replace(_shape(Path(folder)), device=device)
        self._tuned = TunedModel(base, config, init=Path(folder), head=self.credentials.reading != "words")
        self._reader = _Reader(
            Scorer(self._tuned, chunk=config.chunk, room=Room(micro_tokens)),
            self.credentials.reading,
            (self.credentials.yes, self.credentials.no),
        )

    def values(self, data: Sequence[Datum]) -> list[float]:
        """Returns the value of each datum; data are laid out as those the scorer was trained on."""
        return self._reader.values(data)

    def steps(self, data: Sequence[Datum]) -> list[list[float]]:
        """Returns, for each datum, the value of every stretch of it that counts, in order.

        Raises:
            UserError: the scorer answers in words, and has one value for the whole.
        """
        return self._reader.steps(data)

    def probabilities(self, data: Sequence[Datum]) -> list[float]:
        """Returns the calibrated probability that each answer is right.

        Raises:
            UserError: its values are no probabilities: it compares answers, or estimates numbers.
        """
        self.check_probable()
        return self.credentials.platt.of(self.values(data))

    def rate(self, prompt: Sequence[Message], answers: Sequence[str]) -> list[float]:
        """Returns the value of each answer to a prompt.

        Raises:
            UserError: the scorer reads turns or stretches, not whole answers.
        """
        rows = [scored_row(tuple(prompt), answer, self.credentials.layout) for answer in answers]
        return self.values([encode_row(row, self.template) for row in rows])

    def chances(self, prompt: Sequence[Message], answers: Sequence[str]) -> list[float]:
        """Returns the calibrated probability that each answer to a prompt is right; raises as ``probabilities``."""
        self.check_probable()
        return self.credentials.platt.of(self.rate(prompt, answers))

    def best(self, prompt: Sequence[Message], answers: Sequence[str]) -> int:
        """Returns the index of the answer with the highest value, the first of equal ones."""
        found = self.rate(prompt, answers)
        return max(range(len(found)), key=lambda place: (found[place], -place))

    def check_probable(self) -> None:
        """Raises UserError where values are no probabilities: the scorer compares answers, or estimates numbers."""
        if self.credentials.reading not in ("probability", "words"):
            raise UserError(
                f"the values of this scorer are no probabilities but a {self.credentials.reading}; rank answers by "
                "rate(), or train one with the method verifier"
            )


class _Reader:
    """Reads values off a model, by what they are."""

    def __init__(self, scorer: Scorer, reading: Reading, words: tuple[int | None, int | None]) -> None:
        self._scorer, self._reading, self._words = scorer, reading, words

    def values(self, data: Sequence[Datum]) -> list[float]:
        if self._reading == "words":
            return self._in_words(data)
        found = self._scorer.values(data)
        last = self._reading == "comparison"
        return [float(value_n[-1] if last else value_n.sum()) for value_n in found]

    def steps(self, data: Sequence[Datum]) -> list[list[float]]:
        if self._reading == "words":
            raise UserError("this scorer answers in words, and has one value for a whole answer")
        made = []
        for datum, value_n in zip(data, self._scorer.values(data), strict=True):
            stretches = _stretches(datum)
            parts = torch.split(value_n, [len(stretch) for stretch in stretches])
            made.append([float(part.sum()) for part in parts])
        return made

    def _in_words(self, data: Sequence[Datum]) -> list[float]:
        """Returns log π(yes) − log π(no) in the place of the word."""
        words = [word for word in self._words if word is not None]
        assert len(words) == 2, "the credentials of a scorer in words name both"
        asked = [_saying(datum, word) for datum in data for word in words]
        found = [float(logp_n[-1]) for logp_n in self._scorer.score(asked)]
        return [one - other for one, other in zip(found[::2], found[1::2], strict=True)]


def _stretches(datum: Datum) -> list[list[int]]:
    """Returns the positions that count, in stretches without a gap."""
    found: list[list[int]] = []
    for place, counts in enumerate(datum.mask):
        if counts and place and datum.mask[place - 1] and found:
            found[-1].append(place)
        elif counts:
            found.append([place])
    return found


def _saying(datum: Datum, word: int) -> Datum:
    return msgspec.structs.replace(datum, tokens=(*datum.tokens[:-1], word))


def _shape(folder: Path) -> TrainConfig:
    """Returns the configuration of the adapter in a folder."""
    path = folder / "adapter_config.json"
    try:
        found = decode(path.read_bytes(), dict)
        return TrainConfig(rank=int(found["r"]), alpha=int(found["lora_alpha"]))
    except (OSError, KeyError, TypeError) as error:
        raise UserError(f"{str(folder)!r} holds no adapter: {path.name} is missing or no LoRA's") from error


# --- training --------------------------------------------------------------------------------------------------------


def train_scorer(
    base: str | Path,
    data: Sequence[Datum],
    objectives: Mapping[str, Objective],
    config: TrainConfig,
    recipe: Recipe,
    folder: Path,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> Credentials:
    """Returns the credentials of a scorer, after training it and writing it into a folder.

    Some of the tasks are kept from training. On those it is measured; each half of them is turned into probabilities by
    a curve that was fitted to the other. It is written whether it may judge or not: to rank answers it may do.

    Raises:
        UserError: the data are of one task only, or do not fit the model or the recipe.
        ModelError: a loss or gradient is not finite, or memory does not suffice.
        StoreError: the folder cannot be written.
    """
    learned, held = split_held(data, recipe.held, config.seed)
    ballot = vote(base, learned, objectives, config, recipe)
    cleaned = learned
    if ballot is not None:
        cleaned = clean(learned, ballot, flip=recipe.flip, soft=recipe.soft, margin=recipe.margin)
    trainer = Trainer(base, config, dict(objectives))
    trainer.fit(cleaned, on_step=on_step)
    credentials = _measure(trainer.scorer, held, recipe, _words(data, recipe.reading))
    credentials = msgspec.structs.replace(
        credentials,
        epsilon=None if ballot is None else ballot.epsilon,
        flipped=sum(one.side == "chosen" != other.side for one, other in zip(learned, cleaned, strict=True)),
        trained_on=len(learned),
    )
    trainer.tuned.save(folder)
    write_whole(folder / CREDENTIALS, encode(credentials))
    return credentials


def split_held(data: Sequence[Datum], share: float, seed: int) -> tuple[list[Datum], list[Datum]]:
    """Returns the data to learn from, and those of about that share of the groups, which are kept to measure on.

    Raises:
        UserError: there is one group only.
    """
    names = [unit[0].group or unit[0].pair or f"#{number}" for number, unit in enumerate(units(data))]
    groups = list(dict.fromkeys(names))
    if len(groups) < 2:
        raise UserError(f"the data are of {len(groups)} task; a scorer is measured on tasks it was not trained on")
    drawn = random.Random(f"held/{seed}").sample(groups, len(groups))
    kept = set(drawn[: min(len(groups) - 1, max(1, round(share * len(groups))))])
    learned, held = list[Datum](), list[Datum]()
    for name, unit in zip(names, units(data), strict=True):
        (held if name in kept else learned).extend(unit)
    return learned, held


def vote(
    base: str | Path,
    data: Sequence[Datum],
    objectives: Mapping[str, Objective],
    config: TrainConfig,
    recipe: Recipe,
) -> Ballot | None:
    """Returns the voters' ballot on pairs whose label is not certain; ``None`` where nobody has to vote.

    Each voter is trained on half of these pairs, and all that are certain, and judges the other half.
    """
    doubted = uncertain(data)
    if not recipe.voters or not doubted:
        return None
    strengths: dict[str, list[float]] = {datum.pair: [] for datum in doubted}
    for number, (one, other) in enumerate(halves(list(strengths), recipe.voters // 2, config.seed)):
        for trained, judged in ((one, other), (other, one)):
            learned = [datum for datum in data if datum.pair in trained or datum.pair not in strengths]
            voter = Trainer(base, msgspec.structs.replace(config, seed=config.seed + number + 1), dict(objectives))
            voter.fit(learned)
            reader = _Reader(voter.scorer, recipe.reading, (None, None))
            for pair, margin in _margins(reader, [datum for datum in doubted if datum.pair in judged]):
                strengths[pair].append(margin)
    return count_votes(strengths)


def _margins(reader: _Reader, data: Sequence[Datum]) -> Iterator[tuple[str, float]]:
    """Yields each pair with the value of its chosen side less that of the rejected."""
    found: dict[str, dict[str, float]] = {}
    for datum, value in zip(data, reader.values(data), strict=True):
        found.setdefault(datum.pair, {})[datum.side] = value
    for pair, sides in found.items():
        yield pair, sides["chosen"] - sides["rejected"]


def _words(data: Sequence[Datum], reading: Reading) -> tuple[int | None, int | None]:
    """Returns the tokens that data with the labels 1 and 0 end with.

    Raises:
        UserError: they are not one token each, and different ones.
    """
    if reading != "words":
        return None, None
    said = [{datum.tokens[-1] for datum in data if (datum.label >= 0.5) == right} for right in (True, False)]
    if [len(tokens) for tokens in said] != [1, 1] or said[0] == said[1]:
        raise UserError(
            "the words for right and wrong have to be one token each, and different ones, with answers of both kinds; "
            "choose other words, or form='head'"
        )
    return said[0].pop(), said[1].pop()


# --- measuring -------------------------------------------------------------------------------------------------------


def _measure(
    scorer: Scorer, held: Sequence[Datum], recipe: Recipe, words: tuple[int | None, int | None]
) -> Credentials:
    """Returns the credentials that a trained model earns on data it was not trained on."""
    reader = _Reader(scorer, recipe.reading, words)
    if recipe.reading != "comparison":  # an answer that was repeated for training is measured once
        held = list({(datum.tokens, datum.mask, datum.label): datum for datum in held}.values())
    made = Credentials(
        reading=recipe.reading, layout=recipe.layout, report=Fit(n=0, error=0.0, variance=0.0, correlation=0.0)
    )
    if recipe.reading == "number":
        report: Calibration | Fit = fitted(reader.values(held), [datum.label for datum in held])
        return msgspec.structs.replace(made, report=report, refused=refusal(report, recipe.bar))
    report, platt, curve = _compared(reader, held) if recipe.reading == "comparison" else _judged(reader, held)
    return msgspec.structs.replace(
        made,
        report=report,
        platt=platt,
        yes=words[0],
        no=words[1],
        refused=refusal(report, recipe.bar),
        best_of=curve,
    )


def _compared(reader: _Reader, held: Sequence[Datum]) -> tuple[Calibration, Platt, tuple[float, ...]]:
    """Returns how well the differences of pairs say which side is better; every other pair is read backwards."""
    margins = [margin for _, margin in _margins(reader, held)]
    signs = np.where(np.arange(len(margins)) % 2 == 0, 1.0, -1.0)
    values, labels = [float(value) for value in signs * margins], [float(sign > 0) for sign in signs]
    report = calibrate(cross_fitted(values, labels, centred=True), labels)
    return report, fit_temperature(values, labels), ()


def _judged(reader: _Reader, held: Sequence[Datum]) -> tuple[Calibration, Platt, tuple[float, ...]]:
    values, labels = reader.values(held), [datum.label for datum in held]
    groups = [datum.group or f"#{number}" for number, datum in enumerate(held)]
    report = calibrate(cross_fitted(values, labels, groups), labels)
    by_group: dict[str, tuple[list[float], list[float]]] = {}
    for group, value, label in zip(groups, values, labels, strict=True):
        found = by_group.setdefault(group, ([], []))
        found[0].append(value)
        found[1].append(label)
    curve = best_of_n([found for found in by_group.values() if len(found[0]) > 1])
    return report, fit_platt(values, labels), tuple(curve)


# --- as a judge ------------------------------------------------------------------------------------------------------


class ScorerJudge:
    """A scorer as a verifier of the kind ``model``: it passes answers that are right with at least ``threshold``.

    Raises:
        UserError: the scorer's credentials say that it may not judge, or its values are no probabilities.
    """

    def __init__(self, scorer: TrainedScorer, *, threshold: float = 0.5) -> None:
        if scorer.credentials.refused:
            raise UserError(f"this scorer may not judge: {scorer.credentials.refused}; train it on more verdicts")
        scorer.check_probable()
        self._scorer, self._threshold = scorer, threshold
        self.name = f"scorer@{digest(encode(scorer.credentials))[:4]}"

    async def verify(self, task: Task, run: Run) -> Verdict:
        """Returns the verdict on ``run.answer``; a run without an answer is not judged."""
        if run.answer is None:
            return Verdict(
                run_id=run.id, task_id=task.id, verifier=self.name, outcome="abstain", kind="model", detail="no answer"
            )
        (chance,) = await asyncio.to_thread(self._scorer.chances, task.messages, [run.answer])
        return Verdict(
            run_id=run.id,
            task_id=task.id,
            verifier=self.name,
            outcome="pass" if chance >= self._threshold else "fail",
            score=chance,
            kind="model",
            detail=f"right with probability {chance:.2f}",
        )


def judge(params: dict[str, Json], sandboxes: object = None) -> ScorerJudge:
    """Returns the judge that a task's verifier names: kind ``whet.learners.weights.scorer:judge``, with the folders
    ``base`` and ``adapter`` and, where wanted, a ``threshold``.

    Raises:
        VerifierError: a parameter is missing, unknown or of the wrong type.
        UserError: there is no such scorer, or it may not judge.
    """
    known = {"base": str, "adapter": str, "threshold": float | int}
    wrong = [name for name, value in params.items() if name not in known or not isinstance(value, known[name])]
    if wrong or "base" not in params or "adapter" not in params:
        raise VerifierError(f"a scorer takes base, adapter (folders) and threshold (a number), not {params!r}")
    scorer = TrainedScorer(str(params["base"]), str(params["adapter"]))
    return ScorerJudge(scorer, threshold=float(params.get("threshold", 0.5)))  # type: ignore[arg-type]
