"""Trains the embedded model from nothing on random worlds, and writes its folder and model card.

    python -m whet.learners.weights.pretrain --out build/tiny --steps 6000

A Llama-shaped model learns to use what is in its context: definitions, examples, critiques. Every conversation comes
from a world of its own, so nothing about a verb is worth remembering. The difficulty is a curriculum: the next stage
begins when the present one is mastered. Deterministic given ``--seed``; ``--resume`` continues a stopped run.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from whet.core.models.tiny.episodes import Dial, Episode, draw_episode
from whet.core.models.tiny.measure import TEMPERATURES, measure, table
from whet.core.models.tiny.model import TinyModel
from whet.core.models.tiny.tokenizer import ChatTokenizer, save_tokenizer
from whet.core.models.tiny.vocabulary import BODIES
from whet.core.models.tiny.world import VERBS

__all__ = ["PretrainConfig", "Stage", "pretrain", "write_card"]

_IGNORE = -100
_THETA = 500_000.0  # of the rotary positions
_POOL = 1536  # conversations generated and bucketed by length at a time


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum: what is drawn how often, and the accuracies at which the next one begins.

    ``mix``: (kind, weight, dial). ``goals``: kind -> accuracy on the operations that are to be read or inferred.
    ``latest``: the step at which the next stage begins even so.
    """

    mix: tuple[tuple[str, float, Dial], ...]
    goals: tuple[tuple[str, float], ...] = ()
    latest: int | None = None


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides the result; saved with the checkpoint, and a resumed run must agree with it."""

    steps: int = 1450
    tokens: int = 3072
    lr: float = 3e-4
    muon_lr: float = 0.01
    seed: int = 0
    layers: int = 4
    width: int = 128
    hidden: int = 256
    head: int = 32
    context: int = 2048
    warmup: int = 100
    decay: float = 0.3
    optimizer: str = "muon"


def _stages() -> tuple[Stage, ...]:
    """Returns the curriculum. It begins dense: most of what is in context is needed, so most of it is a signal."""
    one = Dial(chain=(1, 1), distractors=(0, 2), unknown=1, attempts=1, filler=0.0)
    dense = Dial(chain=(2, 4), distractors=(0, 2), unknown=3, attempts=1, filler=0.0)
    some = Dial(chain=(1, 6), distractors=(0, 16), unknown=2, attempts=2, filler=0.2)
    full = Dial(chain=(1, 6), distractors=(0, 40), unknown=2, attempts=3, filler=0.3)
    alone = Dial(chain=(1, 1), distractors=(0, 8), unknown=1, attempts=3, filler=0.2)
    single = Dial(chain=(1, 1), distractors=(0, 4), unknown=1, attempts=3, filler=0.2)
    short = Dial(chain=(1, 3), distractors=(0, 8), unknown=2, attempts=3, filler=0.3)
    return (
        Stage(
            (
                ("session", 1, some),
                ("definitions", 3, some),
                ("partial", 1, some),
                ("rich", 1.5, some),
                ("plain", 0.7, some),
                ("examples", 3, one),
                ("revision", 2, one),
            ),
            (("definitions", 0.95), ("rich", 0.9)),
        ),
        Stage(
            (
                ("definitions", 2, full),
                ("partial", 1, full),
                ("rich", 1.5, short),
                ("plain", 0.7, full),
                ("examples", 4, one),
                ("examples", 2, dense),
                ("revision", 5, one),
                ("revision", 1, single),
            ),
            (("examples", 0.9), ("revision", 0.9)),
            latest=780,
        ),
        Stage(
            (
                ("definitions", 4, full),
                ("definitions", 1, alone),
                ("partial", 1, full),
                ("rich", 2, short),
                ("plain", 0.7, full),
                ("examples", 2, one),
                ("examples", 1, alone),
                ("examples", 0.5, short),
                ("revision", 3, one),
                ("revision", 3, alone),
                ("revision", 1, short),
            ),
        ),
    )


@dataclass(frozen=True)
class _Row:
    """One conversation: ids, which of them are learned, and among those the operations: position -> to be inferred."""

    kind: str
    ids: list[int]
    learned: list[bool]
    operations: dict[int, bool]


class _Rows:
    """Turns episodes into rows; knows which tokens are definitions' bodies and which are verbs."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self._bodies = {tokenizer.encode(body)[0] for body in BODIES}
        self._verbs = {tokenizer.encode(verb)[0]: verb for verb in VERBS}

    def row(self, episode: Episode) -> _Row:
        """Returns the episode as a row; of rejected attempts nothing is learned, of a session every answer is."""
        ids: list[int] = []
        learned: list[bool] = []
        last = len(episode.turns)
        for index, (role, content) in enumerate((*episode.turns, ("assistant", episode.answer))):
            turn = self.tokenizer.turn(role, content)
            learn = role == "assistant" and (index == last or episode.kind == "session")
            ids += turn
            learned += [False] + [learn] * (len(turn) - 1)
        operations = {
            t: self._verbs.get(ids[t - 1]) in episode.unknown
            for t, token in enumerate(ids)
            if learned[t] and token in self._bodies
        }
        return _Row(episode.kind, ids, learned, operations)


def _batches(config: PretrainConfig, stage: Stage, maker: _Rows, pool: int) -> Iterator[list[_Row]]:
    """Yields batches of about ``config.tokens`` tokens, rows of one length together, in random order."""
    rng = random.Random(f"pretrain/{config.seed}/{pool}")
    kinds = rng.choices(stage.mix, weights=[weight for _, weight, _ in stage.mix], k=_POOL)
    rows = [maker.row(draw_episode(rng, kind, dial)) for kind, _, dial in kinds]
    rows = sorted((row for row in rows if len(row.ids) <= config.context), key=lambda row: len(row.ids))
    batches: list[list[_Row]] = [[]]
    for row in rows:
        if len(row.ids) * (len(batches[-1]) + 1) > config.tokens and batches[-1]:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    yield from batches


def _tensors(rows: Sequence[_Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ids_bt, labels_bt (shifted: what position t must predict) and weights_bt."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), _IGNORE)
    weights = torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        sequence = torch.tensor(row.ids)
        ids[i, : len(row.ids)] = sequence
        learned = torch.tensor([*row.learned[1:], False])
        labels[i, : len(row.ids)][learned] = sequence.roll(-1)[learned]
        weights[i, : len(row.ids)][learned] = 0.3
        for position in row.operations:
            weights[i, position - 1] = 1.0
    return ids, labels, weights


def _loss(model: LlamaForCausalLM, rows: Sequence[_Row], pad: int) -> tuple[Tensor, dict[str, list[bool]]]:
    """Returns the weighted mean loss over answer tokens, and per kind whether each marked operation was right."""
    ids, labels, weights = _tensors(rows, pad)
    hidden = model.model(ids, use_cache=False).last_hidden_state
    chosen = labels != _IGNORE
    logits = model.lm_head(hidden[chosen])
    losses = functional.cross_entropy(logits, labels[chosen], reduction="none")
    weight = weights[chosen]
    right = torch.zeros_like(chosen)
    right[chosen] = logits.detach().argmax(-1) == labels[chosen]
    hits: dict[str, list[bool]] = {}
    for i, row in enumerate(rows):
        for position, inferred in row.operations.items():
            known = row.kind in ("definitions", "session", "rich", "plain")
            name = row.kind if inferred or known else f"{row.kind}/known"
            hits.setdefault(name, []).append(bool(right[i, position - 1]))
    return (losses * weight).sum() / weight.sum(), hits


def _model(config: PretrainConfig, vocabulary: int, end: int, pad: int) -> LlamaForCausalLM:
    torch.manual_seed(config.seed)
    heads = config.width // config.head
    llama = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        intermediate_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=config.head,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": _THETA},
        initializer_range=0.02,
        eos_token_id=end,
        pad_token_id=pad,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(llama)
    with torch.no_grad():
        _prime(model, config.head)
    return model


def _prime(model: LlamaForCausalLM, size: int) -> None:
    """Starts the model with an induction circuit, so that recall does not wait for a chancy phase change.

    One head of the first layer copies the previous token into dimensions of its own; two heads of the second look
    for positions whose previous token is the present one, and copy what stands there (the circuit that training
    finds by itself sooner or later: Olsson et al. 2022, arXiv 2209.11895). All else starts at zero output, and
    training is free to change everything. Dimensions: identity of the token, previous token, a constant.
    """
    layers, embed = model.model.layers, model.model.embed_tokens.weight
    identity = embed.shape[1] - size - 1
    for layer in layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embed.zero_()
    embed[:, :identity] = functional.normalize(torch.randn(len(embed), identity), dim=1)
    embed[:, -1] = 0.5
    sketch = _orthonormal(size, identity)
    _look_back(layers[0].self_attn, sketch, _frequencies(size))
    for head in range(2):
        _match(layers[1].self_attn, head, sketch)


def _frequencies(size: int) -> Tensor:
    """Returns the rotary angles per position (half the head's size), fastest first."""
    return torch.pow(_THETA, -torch.arange(0, size, 2) / size)


def _look_back(attention: LlamaAttention, sketch: Tensor, frequencies: Tensor) -> None:
    """Makes head 0 attend to the previous position (the fastest rotations) and write a sketch of its identity."""
    (size, identity), half, fast = sketch.shape, len(frequencies), 6
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[:size], key[:size] = 0.0, 0.0
    query[:fast, -1] = 1.4
    key[:fast, -1] = 1.4 * frequencies[:fast].cos()
    key[half : half + fast, -1] = 1.4 * frequencies[:fast].sin()
    attention.v_proj.weight[:size] = 0.0
    attention.v_proj.weight[:size, :identity] = sketch
    attention.o_proj.weight[identity : identity + size, :size] = torch.eye(size) / 6.0


def _match(attention: LlamaAttention, head: int, sketch: Tensor) -> None:
    """Makes a head attend to positions whose previous token is the present one (the slow rotations), and copy."""
    size, identity = sketch.shape
    rows, half = slice(head * size, (head + 1) * size), size // 2
    slow = [*range(half // 2, half), *range(half + half // 2, size)]
    part = range(head * len(slow), (head + 1) * len(slow))
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[rows] = 0.0
    for dimension, source in zip(slow, part, strict=True):
        attention.q_proj.weight[head * size + dimension, :identity] = 1.7 * sketch[source]
        attention.k_proj.weight[head * size + dimension, identity + source] = 1.7
    copy = _orthonormal(size, identity)
    attention.v_proj.weight[rows, :identity] = copy
    attention.o_proj.weight[:identity, rows] = 0.6 * copy.T


def _orthonormal(rows: int, columns: int) -> Tensor:
    """Returns a random (rows, columns) map with orthonormal rows."""
    square: Tensor = torch.linalg.qr(torch.randn(columns, columns))[0]
    return square[:rows]


def _optimizers(config: PretrainConfig, model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    if config.optimizer == "adamw":
        return [torch.optim.AdamW([*matrices, *others], lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)]
    muon = torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=0.01, momentum=0.95)
    return [muon, torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0)]


def _scale(config: PretrainConfig, step: int) -> float:
    """Returns the learning rate's factor: linear warm-up, constant, linear decay to zero."""
    left = (config.steps - step) / max(1.0, config.decay * config.steps)
    return min(1.0, (step + 1) / config.warmup, left)


class _Trainer:
    """The state of a run: model, optimisers, stage, running accuracies."""

    def __init__(self, config: PretrainConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.tokenizer = ChatTokenizer()
        self.rows = _Rows(self.tokenizer)
        self.model = _model(config, self.tokenizer.size, self.tokenizer.end, self.tokenizer.pad)
        self.optimizers = _optimizers(config, self.model)
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.stages = _stages()
        self.step, self.stage, self.pool = 0, 0, 0
        self.accuracy: dict[str, float] = {}
        self.loss = 0.0

    def train(self) -> None:
        started = time.monotonic()
        while self.step < self.config.steps:
            for rows in _batches(self.config, self.stages[self.stage], self.rows, self.pool):
                self._update(rows)
                if self.step % 50 == 0:
                    self._report(time.monotonic() - started)
                if self.step >= self.config.steps:
                    break
            self.pool += 1
            self._advance()
            self.save()

    def _update(self, rows: Sequence[_Row]) -> None:
        scale = _scale(self.config, self.step)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * scale
        loss, hits = _loss(self.model, rows, self.tokenizer.pad)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.loss = 0.98 * self.loss + 0.02 * float(loss.detach())
        for kind, values in hits.items():
            share = sum(values) / len(values)
            keep = 0.99 ** min(len(values), 20)
            self.accuracy[kind] = keep * self.accuracy.get(kind, share) + (1 - keep) * share
        self.step += 1

    def _advance(self) -> None:
        stage = self.stages[self.stage]
        reached = stage.goals and all(self.accuracy.get(kind, 0.0) >= goal for kind, goal in stage.goals)
        if reached or (stage.latest is not None and self.step >= stage.latest):
            self.stage += 1
            self.accuracy = {}
            print(f"step {self.step}: stage {self.stage}", flush=True)

    def _report(self, seconds: float) -> None:
        rates = " ".join(f"{kind} {value:.2f}" for kind, value in sorted(self.accuracy.items()))
        print(f"{self.step:6d} {seconds:6.0f}s stage {self.stage} loss {self.loss:.3f} {rates}", flush=True)

    def save(self) -> None:
        """Writes the checkpoint (whole or not at all)."""
        state = {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "counters": [self.step, self.stage, self.pool],
            "accuracy": self.accuracy,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        torch.save(state, self.out / "checkpoint.new")
        (self.out / "checkpoint.new").replace(self.out / "checkpoint.pt")

    def resume(self) -> None:
        """Continues from the checkpoint, as if it had never stopped.

        ``steps`` may differ as long as the learning rate has not begun to decay: the result is the same.

        Raises:
            ValueError: the configuration differs otherwise; the message names the keys.
        """
        state = torch.load(self.out / "checkpoint.pt", weights_only=True)
        saved = PretrainConfig(**state["config"])
        begun = min(_scale(config, state["counters"][0]) for config in (saved, self.config)) < 1.0
        differing = [key for key, value in asdict(self.config).items() if state["config"].get(key) != value]
        if not begun and "steps" in differing:
            differing.remove("steps")
        if differing:
            raise ValueError(f"cannot resume {self.out}: {', '.join(differing)} differ from the checkpoint's")
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.stage, self.pool = state["counters"]
        self.accuracy = state["accuracy"]

    def export(self, folder: Path) -> None:
        """Writes the standard folder: config, generation config, safetensors, tokenizer, chat template."""
        folder.mkdir(parents=True, exist_ok=True)
        generation = self.model.generation_config
        generation.do_sample, generation.temperature = True, 0.5
        self.model.save_pretrained(folder)
        save_tokenizer(folder, self.config.context)


def pretrain(config: PretrainConfig, out: Path, *, resume: bool = False) -> Path:
    """Trains, and returns the folder ``out/weights`` that transformers, peft, vLLM and ``TinyModel`` load."""
    trainer = _Trainer(config, out)
    if resume:
        trainer.resume()
    trainer.train()
    trainer.export(out / "weights")
    return out / "weights"


_CARD = """---
license: apache-2.0
library_name: transformers
---
# The embedded model of Whet

A Llama-shaped model of {parameters:,} parameters ({layers} layers, width {width}, context {context}, float32) that
writes one-line Python definitions and their composition. It is trained from nothing on random worlds of made-up verbs
to use definitions, examples and critiques in its context; it knows no language and no world. See
`docs/embedded-model.md`.

Made by `python -m whet.learners.weights.pretrain --steps {steps} --seed {seed}`; the table is printed again by
`python -m whet.core.models.tiny.measure --n {n}`.

## Scores on evaluation worlds

Each row is {n} conversations from as many worlds that training never saw. A hit is an answer that passes the hidden
checks; in the rows "again" it is an answer that repeats a rejected operation (less is better). Guessing one verb
uniformly is right 1 time in 14 (0.071); guessing while avoiding one rejected operation, 1 in 13 (0.077).

{table}

## Limits

It reads the wordings of `whet.core.prompting` only. Rows far below 1 are what it cannot do.
"""


def write_card(folder: Path, config: PretrainConfig, n: int) -> None:
    """Measures the weights in ``folder`` on ``n`` evaluation worlds per row, and writes ``README.md`` beside them."""
    model = TinyModel(folder=folder)
    columns = {temperature: measure(model, n=n, temperature=temperature) for temperature in TEMPERATURES}
    parameters = sum(array.size for array in load_file(folder / "model.safetensors").values())
    text = _CARD.format(**asdict(config), parameters=parameters, n=n, table=table(columns))
    (folder / "README.md").write_text(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/tiny"), help="checkpoint and weights go here")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--card", type=int, default=150, metavar="N", help="worlds measured per row of the model card")
    for name, value in asdict(PretrainConfig()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    out, resume, card = options.pop("out"), options.pop("resume"), options.pop("card")
    torch.set_num_threads(options.pop("threads"))
    config = PretrainConfig(**options)
    folder = pretrain(config, out, resume=resume)
    write_card(folder, config, card)
    print(folder)


if __name__ == "__main__":
    main()
