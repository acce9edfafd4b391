"""Losses and gradients are those of TRL's own trainers on the same model and batch (docs/methods/conformance.md)."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import msgspec
import pytest
import torch
import transformers
from torch import Tensor

from whet.core.models.tiny.model import WEIGHTS
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum
from whet.learners.weights.objectives import NLL, Distillation, Objective, PolicyGradient, Preference, Unpaired
from whet.learners.weights.trainer import Trainer

peft = pytest.importorskip("peft")
datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")

# TRL's own calls of names that transformers is about to change.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

CONFIG = TrainConfig(rank=4, alpha=8, device="cpu", threads=1, lr=1e-3, micro_tokens=64)
Batch = dict[str, Tensor]


# --- the same model and batch ---------------------------------------------------------------------------------------


def ours(objective: Objective) -> Trainer:
    """Returns a trainer of ours whose factors have moved, so that no ratio is one and no gradient zero."""
    made = Trainer(WEIGHTS, CONFIG, {"": objective})
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor in made.tuned.factors().values():
            factor += 0.05 * torch.randn(factor.shape, generator=rng)
    return made


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Callable[..., object]]:
    """Builds a trainer of theirs on the same weights: base and, by name, factors."""
    datasets.disable_progress_bars()

    def make(kind: str, mine: Trainer, columns: dict[str, list[object]], **options: object) -> object:
        trainer_class, config_class = classes(kind)
        base = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS)
        lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        more = {} if kind not in ("GRPO", "SDPO") else {"reward_funcs": [no_reward]}
        common = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        args = config_class(output_dir=str(tmp_path), **common, **options)
        made = trainer_class(
            base,
            args=args,
            train_dataset=datasets.Dataset.from_dict(columns),
            processing_class=transformers.AutoTokenizer.from_pretrained(WEIGHTS),
            peft_config=lora,
            **more,
        )
        factors = dict(made.model.named_parameters())
        with torch.no_grad():
            for name, factor in mine.tuned.factors().items():
                factors[name].copy_(factor)
        made.current_gradient_accumulation_steps = 1
        return made

    yield make
    datasets.enable_progress_bars()


def classes(kind: str) -> tuple[type, type]:
    if kind != "SDPO":
        return getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # experimental, it says
        from trl.experimental.sdpo import SDPOConfig, SDPOTrainer
    return SDPOTrainer, SDPOConfig


def no_reward(completions: Sequence[object], **_: object) -> list[float]:
    return [0.0] * len(completions)


def gradients_of(made: object, loss: Tensor) -> dict[str, Tensor]:
    """Returns the gradient of each factor of a trainer of theirs."""
    made.model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}


def assert_alike(mine: Trainer, data: Sequence[Datum], loss: float, grads: dict[str, Tensor]) -> None:
    """Asserts that loss and gradients are theirs within 1e-5."""
    means = mine.forward_backward(data)
    assert means["loss"] == pytest.approx(loss, abs=1e-5)
    largest = max(float(grad.abs().max()) for grad in grads.values())
    assert largest > 1e-3
    for name, factor in mine.tuned.factors().items():
        assert factor.grad is not None
        torch.testing.assert_close(factor.grad, grads[name], rtol=1e-4, atol=1e-5)


@cache
def sequences() -> tuple[Datum, ...]:
    """Returns eight ragged sequences: four prompts with two answers each."""
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(5, 900) for _ in range(rng.randrange(3, 12))) for _ in range(4)]
    data = []
    for number, prompt in enumerate(prompts):
        for _ in range(2):
            answer = tuple(rng.randrange(5, 900) for _ in range(rng.randrange(2, 14)))
            mask = (*(False,) * len(prompt), *(True,) * len(answer))
            data.append(Datum(tokens=prompt + answer, mask=mask, group=str(number), id=str(len(data))))
    return tuple(data)


def padded(rows: Sequence[Sequence[float]], *, left: bool = False, value: float = 0) -> Tensor:
    longest = max(map(len, rows))
    fill = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([[*f, *row] if left else [*row, *f] for row, f in zip(rows, fill, strict=True)])


def whole(data: Sequence[Datum]) -> Batch:
    """Returns prompts and answers in one row each, padded on the right."""
    return {
        "input_ids": padded([each.tokens for each in data]),
        "attention_mask": padded([[1] * len(each.tokens) for each in data]),
        "completion_mask": padded([[int(counts) for counts in each.mask] for each in data]),
    }


def halves(data: Sequence[Datum]) -> Batch:
    """Returns prompts padded on the left, and answers padded on the right."""
    prompts, answers = [each.tokens[: each.start] for each in data], [each.tokens[each.start :] for each in data]
    return {
        "prompt_ids": padded(prompts, left=True),
        "prompt_mask": padded([[1] * len(row) for row in prompts], left=True),
        "completion_ids": padded(answers),
        "completion_mask": padded([[1] * len(row) for row in answers]),
    }


def changed(data: Sequence[Datum], **columns: Sequence[object]) -> list[Datum]:
    """Returns the data with fields replaced, one value of each column for each datum."""
    return [
        msgspec.structs.replace(each, **{name: values[number] for name, values in columns.items()})
        for number, each in enumerate(data)
    ]


# --- SFT ------------------------------------------------------------------------------------------------------------


def test_sft(theirs: Callable[..., object]) -> None:
    mine, data = ours(NLL()), sequences()
    made = theirs("SFT", mine, {"input_ids": [[1, 2, 3]]})
    batch = whole(data)
    mask = batch.pop("completion_mask")
    batch["labels"] = batch["input_ids"].masked_fill(mask == 0, -100)
    loss = made.compute_loss(made.model, batch)
    assert_alike(mine, data, float(loss.detach()), gradients_of(made, loss))


# --- preferences ----------------------------------------------------------------------------------------------------

TEXTS: dict[str, list[object]] = {"prompt": ["x"], "chosen": ["y"], "rejected": ["z"]}


def pairs() -> list[Datum]:
    sides = ["chosen", "rejected"] * 4
    return changed(sequences(), side=sides, pair=[each.group for each in sequences()])


def compared(data: Sequence[Datum], first: str = "chosen") -> Batch:
    """Returns a batch of pairs as TRL takes it: all sides ``first``, then all others."""
    return whole([*(d for d in data if d.side == first), *(d for d in data if d.side != first)])


@pytest.mark.parametrize(
    ("spec", "loss_type", "smoothing"),
    [
        (Preference(beta=0.3), "sigmoid", 0.0),
        (Preference(beta=0.3, form="robust", flip=0.1), "robust", 0.1),
        (Preference(beta=0.3, form="robust", flip=0.4), "robust", 0.4),
    ],
)
def test_dpo(theirs: Callable[..., object], spec: Preference, loss_type: str, smoothing: float) -> None:
    mine, data = ours(spec), pairs()
    made = theirs("DPO", mine, TEXTS, beta=0.3, loss_type=[loss_type], label_smoothing=smoothing)
    loss = made.compute_loss(made.model, compared(data))
    assert_alike(mine, data, float(loss.detach()), gradients_of(made, loss))


def test_conservative_dpo_is_a_mixture_of_theirs_on_the_labels_and_on_flipped_ones(
    theirs: Callable[..., object],
) -> None:
    mine, data = ours(Preference(beta=0.3, form="conservative", flip=0.2)), pairs()
    made = theirs("DPO", mine, TEXTS, beta=0.3)
    loss = 0.8 * made.compute_loss(made.model, compared(data))
    loss = loss + 0.2 * made.compute_loss(made.model, compared(data, "rejected"))
    assert_alike(mine, data, float(loss.detach()), gradients_of(made, loss))


def test_kto(theirs: Callable[..., object]) -> None:
    mine = ours(Unpaired(beta=0.3, desirable=1.3, undesirable=0.7))
    given = changed(sequences(), side=["desirable", "undesirable", "undesirable", "desirable"] * 2)
    # Each answer once more, after the next prompt.
    data = sequences()
    mixed = [
        Datum(
            tokens=one.tokens[: one.start] + other.tokens[other.start :],
            mask=(*(False,) * one.start, *(True,) * other.counted),
            side="kl",
        )
        for one, other in zip(data, [*data[2:], *data[:2]], strict=True)
    ]
    columns: dict[str, list[object]] = {"prompt": ["x", "v"], "completion": ["y", "z"], "label": [True, False]}
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.7}
    made = theirs("KTO", mine, columns, beta=0.3, per_device_train_batch_size=2, **weights)
    batch = whole(given) | {f"KL_{name}": value for name, value in whole(mixed).items()}
    batch["label"] = torch.tensor([each.side == "desirable" for each in given])
    loss = made.compute_loss(made.model, batch)
    assert_alike(mine, [*given, *mixed], float(loss.detach()), gradients_of(made, loss))


def test_bco_without_its_shift(theirs: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    mine, data = ours(Unpaired(form="bco", beta=0.3)), pairs()
    made = theirs("DPO", mine, TEXTS, beta=0.3, loss_type=["bco_pair"])
    # Theirs is a sum over a pair's two sides, and knows no δ.
    loss = made.compute_loss(made.model, compared(data)) / 2
    monkeypatch.setattr(mine.scorer, "point", lambda *_: 0.0)
    single = changed(data, side=["desirable", "undesirable"] * 4, pair=[""] * 8)
    assert_alike(mine, single, float(loss.detach()), gradients_of(made, loss))


# --- policy gradients -----------------------------------------------------------------------------------------------

ADVANTAGES = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.7, -0.3)


def rollouts(mine: Trainer, *, shift: float) -> tuple[list[Datum], list[Tensor], list[Tensor]]:
    """Returns data with advantages, and logprobs under an old policy and a sampler that differ by chance."""
    rng = torch.Generator().manual_seed(2)
    own = mine.score(sequences())
    old = [logp_n + shift * torch.randn(len(logp_n), generator=rng) for logp_n in own]
    sampler = [logp_n + 0.5 * torch.randn(len(logp_n), generator=rng) for logp_n in old]
    weights = [(a,) * len(each.tokens) for a, each in zip(ADVANTAGES, sequences(), strict=True)]
    return changed(sequences(), weights=weights), old, sampler


def spread(data: Sequence[Datum], values: Sequence[Tensor]) -> list[tuple[float, ...]]:
    return [(*(0.0,) * each.start, *logp_n.tolist()) for each, logp_n in zip(data, values, strict=True)]


GROUPED = {
    "grpo": (PolicyGradient(clip_low=0.2, clip_high=0.2, aggregate="sequence"), {"loss_type": "grpo"}),
    "dapo": (PolicyGradient(clip_low=0.2, clip_high=0.28), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": (
        PolicyGradient(clip_low=0.2, clip_high=0.2, aggregate="constant", length=64),
        {"loss_type": "dr_grpo", "max_completion_length": 64},
    ),
    "gspo": (
        PolicyGradient(level="sequence", aggregate="sequence", clip_low=0.1, clip_high=0.1),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.1},
    ),
}
# Their penalty is weighed by the sequence's ratio where this is what is clipped, ours by the token's.
PER_TOKEN = ("grpo", "dapo", "dr_grpo")


@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize(("name", "beta"), [*((name, 0.0) for name in GROUPED), *((name, 0.2) for name in PER_TOKEN)])
def test_grpo_and_its_family(theirs: Callable[..., object], name: str, beta: float, shift: float) -> None:
    spec, options = GROUPED[name]
    spec = msgspec.structs.replace(spec, kl=beta, correction="")
    mine = ours(spec)
    data, old, _ = rollouts(mine, shift=shift)
    columns: dict[str, list[object]] = {"prompt": ["x"] * 2}
    chosen = {"num_generations": 2, "per_device_train_batch_size": 2, "beta": beta, "temperature": 1.0}
    chosen |= options
    made = theirs("GRPO", mine, columns, **chosen)
    batch = halves(data) | {
        "advantages": torch.tensor(ADVANTAGES),
        "num_items_in_batch": torch.tensor(float(sum(each.counted for each in data))),
        "old_per_token_logps": padded([logp_n.tolist() for logp_n in old]),
        "ref_per_token_logps": padded([logp_n.tolist() for logp_n in mine.score(data, weights="initial")]),
    }
    loss = made.compute_loss(made.model, batch)
    grads = gradients_of(made, loss)
    mine.scorer.old = {(each.tokens, each.mask): logp_n for each, logp_n in zip(data, old, strict=True)}
    assert_alike(mine, data, float(loss.detach()), grads)


@pytest.mark.parametrize(
    ("level", "correction"),
    [("token", "truncate"), ("token", "mask"), ("sequence", "truncate"), ("sequence", "mask")],
)
def test_the_correction_for_the_sampler_is_that_for_vllm(
    theirs: Callable[..., object], level: str, correction: str
) -> None:
    clips = {"clip_low": 0.2, "clip_high": 0.2, "cap": 1.5}
    spec = PolicyGradient(aggregate="sequence", level=level, correction=correction, **clips)  # type: ignore[arg-type]
    mine = ours(spec)
    data, old, sampler = rollouts(mine, shift=0.1)
    data = changed(data, logprobs=spread(data, sampler))
    columns: dict[str, list[object]] = {"prompt": ["x"] * 2}
    chosen = {"num_generations": 2, "per_device_train_batch_size": 2, "loss_type": "grpo", "temperature": 1.0}
    made = theirs("GRPO", mine, columns, importance_sampling_level=level, **chosen)
    # The ratio is made while sampling with vLLM, which is left out: it is theirs by its definition.
    made.use_vllm = made.vllm_importance_sampling_correction = True
    log_ratio = padded([(o - s).tolist() for o, s in zip(old, sampler, strict=True)])
    ratio = log_ratio.exp() if level == "token" else log_ratio.sum(-1, keepdim=True).exp()
    ratio = ratio.clamp(max=1.5) if correction == "truncate" else ratio.masked_fill(ratio > 1.5, 0.0)
    batch = halves(data) | {
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": padded([logp_n.tolist() for logp_n in old]),
        "importance_sampling_ratio": ratio,
    }
    loss = made.compute_loss(made.model, batch)
    grads = gradients_of(made, loss)
    mine.scorer.old = {(each.tokens, each.mask): logp_n for each, logp_n in zip(data, old, strict=True)}
    assert_alike(mine, data, float(loss.detach()), grads)


# --- distillation ---------------------------------------------------------------------------------------------------

SDPO = {
    "jsd, top 20": (Distillation(alpha=0.5, top_k=20), "topk_logits"),
    "between, top 20": (Distillation(alpha=0.3, top_k=20), "topk_logits"),
    "forward, all": (Distillation(alpha=0.0, top_k=None), "full_logits"),
    "reverse, all": (Distillation(alpha=1.0, top_k=None), "full_logits"),
    "jsd, all": (Distillation(alpha=0.5, top_k=None), "full_logits"),
    "sampled": (Distillation(alpha=1.0, token=True), "sampled_token"),
}


@pytest.mark.parametrize("name", SDPO)
def test_sdpo(theirs: Callable[..., object], name: str) -> None:
    spec, mode = SDPO[name]
    spec = msgspec.structs.replace(spec, teacher="live", cap=1.2)
    mine = ours(spec)
    data, _, sampler = rollouts(mine, shift=0.1)
    contexts = [(7, 8, *each.tokens[: each.start], 9) for each in data]
    columns: dict[str, list[object]] = {"prompt": ["x"] * 2}
    made = theirs(
        "SDPO",
        mine,
        columns,
        num_generations=2,
        per_device_train_batch_size=2,
        temperature=1.0,
        teacher_model_kind="live",
        distillation_mode=mode,
        distillation_topk=20 if mode == "topk_logits" else None,
        distillation_alpha=spec.alpha,
        distillation_add_tail=True,
        distillation_is_clip=1.2,
        distillation_weight=1.0,
    )
    answers = [each.tokens[each.start :] for each in data]
    longest = max(map(len, answers))
    # The answers end in the same column for teacher and student: contexts are padded on the left.
    context = padded(contexts, left=True)
    batch = halves(data) | {
        "teacher_input_ids": torch.cat([context, padded(answers)], 1),
        "teacher_attention_mask": torch.cat(
            [padded([[1] * len(c) for c in contexts], left=True), padded([[1] * len(a) for a in answers])], 1
        ),
        "old_per_token_logps": padded([logp_n.tolist() for logp_n in sampler]),
    }
    assert batch["completion_ids"].shape[1] == longest
    loss = made.compute_loss(made.model, batch)
    grads = gradients_of(made, loss)
    # Theirs is a mean over sequences of means over tokens; ours one over tokens, and scales make it theirs.
    total = sum(each.counted for each in data)
    taught = changed(
        data,
        weights=[()] * 8,
        teacher=contexts,
        logprobs=spread(data, sampler),
        scale=[total / (len(data) * each.counted) for each in data],
    )
    assert_alike(mine, taught, float(loss.detach()), grads)


def test_the_data_are_ragged() -> None:
    lengths = [(each.start, each.counted) for each in sequences()]
    assert len(set(lengths)) > 5
