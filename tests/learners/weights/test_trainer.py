"""The trainer on the embedded model: what a step changes and what not, resuming, running out of memory and of disk."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import peft
import pytest
import torch
import transformers
from torch import Tensor

from whet.core.errors import ModelError, StoreError, UserError
from whet.core.models.tiny.llama import load_llama
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.tokenizer import ChatTokenizer
from whet.core.models.tiny.world import World
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum
from whet.learners.weights.losses import unfit
from whet.learners.weights.objectives import (
    NLL,
    BradleyTerry,
    Distillation,
    Objective,
    PolicyGradient,
    Preference,
    Regression,
)
from whet.learners.weights.packing import Packed
from whet.learners.weights.reports import StepReport
from whet.learners.weights.trainer import Trainer

CONFIG = TrainConfig(rank=4, alpha=8, lr=1e-2, batch=8, steps=6, device="cpu", threads=1)


@cache
def answers(count: int = 24) -> tuple[Datum, ...]:
    """Returns right answers to tasks of a world whose verbs the embedded model does not know."""
    tokenizer, world = ChatTokenizer(), World(7, verbs=12)
    data = []
    for task in world.tasks(count, lengths=(1, 2)):
        prompt = tokenizer.prompt([("user", task.prompt)])
        answer = [*tokenizer.encode(task.reference), tokenizer.end]
        mask = (*(False,) * len(prompt), *(True,) * len(answer))
        data.append(Datum(tokens=(*prompt, *answer), mask=mask, id=f"d{len(data)}", sources=(f"run{len(data)}",)))
    return tuple(data)


def changed(config: TrainConfig = CONFIG, **fields: object) -> TrainConfig:
    return msgspec.structs.replace(config, **fields)


def trainer(objectives: dict[str, Objective] | None = None, *, init: Path | None = None, **fields: object) -> Trainer:
    return Trainer(WEIGHTS, changed(**fields), objectives or {"": NLL()}, init=init)


def gradients(made: Trainer) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in made.tuned.trainable()]


def weights(made: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in made.tuned.trainable()]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# --- forward, backward, step ----------------------------------------------------------------------------------------


def test_forward_backward_adds_up_and_only_step_changes_the_weights() -> None:
    one, two, both = trainer(), trainer(), trainer()
    before = weights(both)
    one.forward_backward(answers()[:5])
    two.forward_backward(answers()[5:8])
    both.forward_backward(answers()[:5])
    both.forward_backward(answers()[5:8])
    for first, second, total in zip(gradients(one), gradients(two), gradients(both), strict=True):
        torch.testing.assert_close(total, first + second)
    assert same(weights(both), before)
    norm = math.sqrt(sum(float((grad**2).sum()) for grad in gradients(both)))
    assert both.step() == pytest.approx(norm, rel=1e-5)
    assert not same(weights(both), before)
    assert all(p.grad is None for p in both.tuned.trainable())


def test_the_base_model_stays_as_it_was() -> None:
    made = trainer()
    before = {name: p.clone() for name, p in made.tuned.model.named_parameters() if "lora_" not in name}
    made.fit(answers())
    after = dict(made.tuned.model.named_parameters())
    assert before
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_training_lowers_the_loss_and_says_what_it_did() -> None:
    seen: list[StepReport] = []
    made = trainer(steps=12)
    report = made.fit(answers(), on_step=seen.append)
    assert report.losses[-1] < 0.7 * report.losses[0]
    assert [step.step for step in seen] == list(range(1, 13))
    assert report.losses == tuple(step.loss for step in seen)
    assert report.tokens == sum(step.tokens for step in seen) == 4 * sum(len(each.tokens) for each in answers())
    assert report.counted == 4 * sum(each.counted for each in answers())
    assert report.parameters == sum(p.numel() for p in made.tuned.trainable())
    assert report.peak_bytes > 0
    assert set(seen[0].measures) == {"entropy", "logprob"}
    # The objective is the mean over the counted tokens, so the loss is the logprob's negative.
    assert seen[0].loss == pytest.approx(-seen[0].measures["logprob"], rel=1e-5)


def test_checkpointed_activations_give_the_same_gradients() -> None:
    plain, saving = trainer(), trainer(checkpointing=True)
    plain.forward_backward(answers())
    saving.forward_backward(answers())
    for one, other in zip(gradients(plain), gradients(saving), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


class Saved:
    """Counts the bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor


def test_checkpointed_activations_are_not_kept() -> None:
    kept = {}
    for checkpointing in (False, True):
        made, saved = trainer(checkpointing=checkpointing), Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            made.tuned.hidden(made_row(made)).sum()
        kept[checkpointing] = saved.bytes
    assert kept[True] < 0.2 * kept[False]


def made_row(made: Trainer) -> Packed:
    from whet.learners.weights.packing import pack

    return pack(answers(), made.tuned.device)


def test_the_reference_is_the_same_model_with_the_adapter_off() -> None:
    fresh = trainer().score(answers())
    made = trainer()
    made.fit(answers())
    assert same(made.score(answers(), weights="initial"), fresh)
    assert not same(made.score(answers()), fresh)
    assert sum(p.numel() for p in made.tuned.model.parameters() if not p.requires_grad) == sum(
        p.numel() for p in transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS).parameters()
    )


def test_scores_are_per_datum_in_the_order_of_the_data() -> None:
    made = trainer(micro_tokens=64)
    data = answers()
    found = made.score([data[3], data[0], data[3]])
    assert [len(logp_n) for logp_n in found] == [data[3].counted, data[0].counted, data[3].counted]
    for each, logp_n in zip((data[3], data[0]), found, strict=False):
        torch.testing.assert_close(logp_n, made.score([each])[0], rtol=1e-5, atol=1e-6)


def test_a_teacher_sees_its_own_context() -> None:
    made, (first, second) = trainer(), answers()[:2]
    told = msgspec.structs.replace(first, teacher=second.tokens[: second.start])
    as_if = Datum(tokens=told.teacher + first.tokens[first.start :], mask=told.under_teacher().mask)
    (found,), (expected,) = made.score([told], teacher=True), made.score([as_if])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, made.score([told])[0])


# --- the optimiser --------------------------------------------------------------------------------------------------


def test_learning_rates_warm_up_and_fall() -> None:
    def rates(**fields: object) -> list[float]:
        made = trainer(steps=10, lr=1.0, **fields)
        return [made.rate(step) for step in range(11)]

    assert rates(warmup=0.2, schedule="constant")[:4] == [0.5, 1.0, 1.0, 1.0]
    linear = rates(warmup=0.2, schedule="linear")
    assert linear[2] == 1.0
    assert linear[2:] == pytest.approx([1 - n / 8 for n in range(9)])
    cosine = rates(warmup=0.0, schedule="cosine")
    assert cosine == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 10)) for n in range(11)])
    # Beyond the last step nothing is learned, and no rate is negative.
    assert trainer(steps=10).rate(25) == 0
    assert trainer(steps=10, schedule="linear").rate(25) == 0


def test_the_rate_that_is_reported_is_the_one_that_is_used() -> None:
    made, seen = trainer(), list[StepReport]()
    made.fit(answers(), on_step=seen.append)
    assert [step.lr for step in seen] == [made.rate(number) for number in range(6)]
    assert made.optimizer.param_groups[0]["lr"] == seen[-1].lr


def test_without_a_rate_one_that_suits_the_width_is_taken() -> None:
    made = trainer(lr=None, lr_scale=0.5)
    assert made.lr == pytest.approx(0.5 * 5e-4 * math.sqrt(2000 / made.tuned.width))


def test_gradients_are_clipped_and_weights_decay() -> None:
    made = trainer(clip=1e-3, weight_decay=0.5, schedule="constant", warmup=0.0)
    before = weights(made)
    made.forward_backward(answers())
    grads = gradients(made)
    norm = made.step()
    assert norm > 1e-3
    for old, grad, new in zip(before, grads, weights(made), strict=True):
        clipped = grad * 1e-3 / norm
        # The first step of AdamW, whose averages are the gradient and its square.
        expected = old * (1 - 1e-2 * 0.5) - 1e-2 * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(new, expected, rtol=1e-3, atol=1e-5)


def test_a_moving_average_follows_the_factors() -> None:
    made = trainer({"": Distillation(ema_rate=0.25)})
    average = [p.detach().clone() for p in made.tuned.factors().values()]
    for _ in range(3):
        made.forward_backward(answers()[:4])
        made.step()
        average = [a + 0.25 * (p.detach() - a) for a, p in zip(average, made.tuned.factors().values(), strict=True)]
    assert made.tuned.ema is not None
    for found, expected in zip(made.tuned.ema.values(), average, strict=True):
        torch.testing.assert_close(found, expected)
    live, kept = weights(made), [each.clone() for each in made.tuned.ema.values()]
    with made.tuned.weights("ema"):
        assert same(weights(made), kept)
    assert same(weights(made), live)


def test_one_moving_average_has_one_rate() -> None:
    with pytest.raises(UserError, match=r"0\.05, 0\.1"):
        trainer({"a": Distillation(), "b": Distillation(ema_rate=0.1)})


# --- order and chance -----------------------------------------------------------------------------------------------


def drawn(made: Trainer, data: Sequence[Datum], batches: int) -> list[list[str]]:
    from whet.learners.weights.datum import units

    return [[each.id for each in made._draw(units(data), number)] for number in range(batches)]


def test_every_epoch_has_all_data_in_an_order_of_its_own() -> None:
    found = drawn(trainer(batch=5), answers()[:10], 4)
    first, second = found[0] + found[1], found[2] + found[3]
    assert sorted(first) == sorted(second) == sorted(each.id for each in answers()[:10])
    assert first != second
    assert drawn(trainer(batch=5, seed=1), answers()[:10], 4) != found


def test_epochs_are_counted_in_units() -> None:
    made = trainer(steps=None, epochs=2.0, batch=10)
    assert made.fit(answers()).steps == math.ceil(24 * 2 / 10)
    assert trainer(steps=None, epochs=0.01).fit(answers()).steps == 1


def test_a_batch_greater_than_the_data_is_the_data() -> None:
    seen: list[StepReport] = []
    trainer(batch=100, steps=2).fit(answers()[:3], on_step=seen.append)
    assert [step.tokens for step in seen] == [sum(len(each.tokens) for each in answers()[:3])] * 2


def test_a_seed_repeats_a_run_to_the_last_bit_and_leaves_chance_to_others_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    one, two, other = trainer(), trainer(), trainer(seed=1)
    for made in (one, two, other):
        made.fit(answers())
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))
    assert torch.equal(torch.rand(3), expected)


def test_threads_are_as_configured_while_computing_and_as_before_otherwise() -> None:
    before, seen = torch.get_num_threads(), list[int]()
    made = trainer(threads=before + 1)
    hidden = made.tuned.hidden

    def watched(packed: Packed) -> Tensor:
        seen.append(torch.get_num_threads())
        return hidden(packed)

    made.tuned.hidden = watched  # type: ignore[method-assign]
    made.forward_backward(answers()[:1])
    made.score(answers()[:1])
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter on the disk."""
    made = trainer()
    made.fit(answers())
    folder = tmp_path_factory.mktemp("adapters") / "first"
    made.tuned.save(folder, name="org/base")
    return folder


def test_an_adapter_is_a_standard_one_that_peft_and_the_embedded_model_compute_alike(adapter: Path) -> None:
    assert {path.name for path in adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, "org/base")
    base = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS)
    loaded = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
    tokens = answers()[0].tokens
    with torch.no_grad():
        theirs = loaded(input_ids=torch.tensor([tokens])).logits[0, -1].numpy()
    llama = load_llama(WEIGHTS, adapter)
    mine = llama.logits(tokens, llama.cache(len(tokens)))
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)
    going_on = trainer(init=adapter)
    expected = float(torch.log_softmax(torch.from_numpy(theirs), -1).max())
    likeliest = Datum(tokens=(*tokens, int(theirs.argmax())), mask=(*(False,) * len(tokens), True))
    assert float(going_on.score([likeliest])[0]) == pytest.approx(expected, abs=1e-4)


def test_going_on_from_an_adapter_begins_with_its_weights(adapter: Path) -> None:
    made = trainer(init=adapter)
    kept = peft.load_peft_weights(str(adapter))
    found = {name.replace(".default", ""): p for name, p in made.tuned.factors().items()}
    assert set(found) == set(kept)
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    before = made.score(answers())
    made.fit(answers())
    assert not same(made.score(answers()), before)
    # The reference is where this training began, not the bare base.
    for now, then in zip(made.score(answers(), weights="initial"), before, strict=True):
        torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-6)


def test_an_adapter_of_another_shape_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rank 4, not 8; set rank=4"):
        trainer(init=adapter, rank=8)
    with pytest.raises(UserError, match="alpha 8, not 16; set alpha=8"):
        trainer(init=adapter, alpha=16)
    with pytest.raises(UserError, match=r"not \['q_proj'\]"):
        trainer(init=adapter, targets=("q_proj",))
    with pytest.raises(UserError, match="no adapter"):
        trainer(init=tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS)
    other = peft.get_peft_model(
        base, peft.IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj"], feedforward_modules=[])
    )
    other.save_pretrained(str(tmp_path / "ia3"))
    with pytest.raises(UserError, match="IA3"):
        trainer(init=tmp_path / "ia3")


def test_targets_are_obeyed_and_refused_where_there_are_none() -> None:
    made = trainer(targets=("q_proj", "down_proj"))
    assert {name.split(".")[-4] for name in made.tuned.factors()} == {"q_proj", "down_proj"}
    assert not any("lm_head" in name for name in trainer().tuned.factors())
    with pytest.raises(UserError, match="nowhere") as caught:
        trainer(targets=("nowhere",))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="vocabulary head"):
        trainer(targets=("lm_head",))


def test_models_and_devices_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no transformers model"):
        Trainer(tmp_path, CONFIG, {"": NLL()})
    with pytest.raises(UserError, match="'abacus'"):
        trainer(device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA"):
            trainer(device="cuda")


def test_bf16_trains_fp32_factors_on_a_cpu() -> None:
    made = trainer(dtype="bfloat16", steps=10)
    assert made.tuned.head_vd.dtype == torch.bfloat16
    assert {p.dtype for p in made.tuned.trainable()} == {torch.float32}
    report = made.fit(answers())
    assert report.losses[-1] < 0.8 * report.losses[0]


# --- the scalar head ------------------------------------------------------------------------------------------------


def judged() -> list[Datum]:
    return [msgspec.structs.replace(each, label=float(number % 2)) for number, each in enumerate(answers())]


def test_a_head_is_trained_saved_and_gone_on_from(tmp_path: Path) -> None:
    made = trainer({"": Regression()}, steps=10)
    made.fit(judged())
    values = made.values(judged())
    assert [len(value_n) for value_n in values] == [each.counted for each in judged()]
    made.tuned.save(tmp_path / "reward")
    again = trainer({"": BradleyTerry()}, init=tmp_path / "reward")
    for one, other in zip(values, again.values(judged()), strict=True):
        torch.testing.assert_close(one, other)


def test_a_head_learns_labels() -> None:
    report = trainer({"": Regression()}, steps=15, lr=5e-4, batch=24).fit(judged())
    assert report.losses[-1] < 0.8 * report.losses[0]
    assert report.measures == {}


def test_without_a_head_there_are_no_values() -> None:
    with pytest.raises(UserError, match="no scalar head"):
        trainer().values(answers())


# --- data that cannot be trained on ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "empty"),
        ([Datum(tokens=(1, 2, 100_000), mask=(False, True, True), id="d9")], "d9: a token is not in the vocabulary"),
        ([Datum(tokens=(1, 2), mask=(False, True), teacher=(-1,), id="d9")], "d9: a token is not in the vocabulary"),
        ([Datum(tokens=(1, 2), mask=(False, False), id="d9")], "d9: nothing in it counts"),
        ([Datum(tokens=(1, 2), mask=(True, False), id="d9")], "d9: .*first token"),
        ([Datum(tokens=(1, 2), mask=(False,), id="d9")], "d9: mask, weights and logprobs"),
        ([Datum(tokens=(1, 2), mask=(False, True), weights=(1.0,), id="d9")], "d9: mask, weights and logprobs"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: list[Datum], said: str) -> None:
    made = trainer()
    for refused in (made.forward_backward, made.fit):
        with pytest.raises(UserError, match=said) as caught:
            refused(data)
        assert "\n" not in str(caught.value)


def test_half_a_pair_is_refused() -> None:
    half = [Datum(tokens=(1, 2), mask=(False, True), pair="p7", side="chosen")]
    assert unfit(Preference(), half)
    with pytest.raises(UserError, match="p7"):
        trainer({"": Preference()}).fit(half)


def test_a_loss_that_is_not_finite_names_the_datum_and_changes_nothing() -> None:
    data = list(answers())
    bad = msgspec.structs.replace(data[7], weights=(math.nan,) * len(data[7].tokens))
    made = trainer({"": PolicyGradient()}, micro_tokens=64)
    made.forward_backward(data[:4])
    before, grads = weights(made), gradients(made)
    with pytest.raises(ModelError, match=r"d7 \(from run7\)") as caught:
        made.forward_backward([*data[:7], bad, *data[8:]])
    assert "d6" not in str(caught.value)
    assert same(weights(made), before)
    assert same(gradients(made), grads)
    made.step()
    assert all(torch.isfinite(p).all() for p in made.tuned.trainable())


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    made = trainer()
    made.forward_backward(answers()[:4])
    made.tuned.trainable()[3].grad = torch.full_like(made.tuned.trainable()[3], math.inf)
    before = weights(made)
    with pytest.raises(ModelError, match="gradient at step 1"):
        made.step()
    assert same(weights(made), before)
    assert made.done == 0


# --- memory ---------------------------------------------------------------------------------------------------------


def small_memory(made: Trainer, tokens: int) -> None:
    """Makes the model run out of memory above so many tokens, as a GPU would."""
    hidden = made.tuned.hidden

    def limited(packed: Packed) -> Tensor:
        if packed.ids_1t.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return hidden(packed)

    made.tuned.hidden = limited  # type: ignore[method-assign]


def test_out_of_memory_halves_the_micro_batches_says_so_and_changes_no_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    limited, free = trainer(micro_tokens=1024), trainer(micro_tokens=128)
    small_memory(limited, 150)
    limited.forward_backward(answers())
    free.forward_backward(answers())
    assert limited.micro_tokens == 128
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert said.endswith("whet: out of memory; micro-batches are now 128 tokens\n")
    assert same(gradients(limited), gradients(free))


def test_scoring_out_of_memory_halves_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    limited, free = trainer(micro_tokens=1024), trainer(micro_tokens=128)
    small_memory(limited, 200)
    assert same(limited.score(answers()), free.score(answers()))
    assert "128 tokens" in capsys.readouterr().err


def test_memory_that_suffices_for_nothing_is_an_error_in_one_line() -> None:
    made = trainer()
    small_memory(made, 1)
    with pytest.raises(ModelError, match="set checkpointing") as caught:
        made.fit(answers())
    assert "\n" not in str(caught.value)
    assert not any(p.grad is not None for p in made.tuned.trainable())


SCARCE = """
import resource, sys
from test_trainer import answers, trainer
made = trainer(micro_tokens=1 << 14)
made.forward_backward(answers())
made.optimizer.zero_grad()
long = [type(each)(tokens=each.tokens * 8, mask=each.mask * 8, id=each.id) for each in answers(12)]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20),) * 2)
print(made.forward_backward(long)["loss"], made.micro_tokens)
"""


def test_a_real_limit_on_memory_is_lived_with() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCARCE], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loss, tokens = done.stdout.split()
    assert "whet: out of memory" in done.stderr
    assert int(tokens) < 1 << 14
    long = [Datum(tokens=each.tokens * 8, mask=each.mask * 8, id=each.id) for each in answers(12)]
    assert float(loss) == pytest.approx(trainer().forward_backward(long)["loss"], rel=1e-4)


def environment() -> dict[str, str]:
    """Returns the environment of a process that imports this file."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


# --- resuming -------------------------------------------------------------------------------------------------------


def mixture() -> tuple[dict[str, Objective], list[Datum]]:
    """Returns objectives whose runs depend on all that a checkpoint keeps, and data for them."""
    objectives: dict[str, Objective] = {
        "pg": PolicyGradient(kl=0.1),
        "sdpo": Distillation(top_k=10),
        "dpo": Preference(),
    }
    data = list(answers())
    terms = [
        *(
            msgspec.structs.replace(each, term="pg", weights=((-1.0) ** n,) * len(each.tokens))
            for n, each in enumerate(data[:8])
        ),
        *(msgspec.structs.replace(each, term="sdpo", teacher=data[0].tokens[: data[0].start]) for each in data[8:16]),
        *(
            msgspec.structs.replace(each, term="dpo", pair=f"p{n // 2}", side=("chosen", "rejected")[n % 2])
            for n, each in enumerate(data[16:])
        ),
    ]
    return objectives, terms


LONG = {"steps": 14, "save_every": 2, "batch": 6}

VICTIM = """
import os, sys
import torch
from pathlib import Path
from test_trainer import LONG, mixture, trainer
objectives, data = mixture()
made = trainer(objectives, **LONG)
path, dies = Path(sys.argv[1]), int(sys.argv[2])
if dies:
    real = os.fsync
    def fsync(number):
        global dies
        dies -= 1
        if not dies:
            os._exit(9)
        real(number)
    os.fsync = fsync
made.fit(data, checkpoint=path, on_step=lambda report: print(report.step, flush=True))
"""


def victim(path: Path, dies: int = 0) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(path), str(dies)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@cache
def uninterrupted() -> tuple[list[Tensor], tuple[float, ...]]:
    objectives, data = mixture()
    made = trainer(objectives, **LONG)
    report = made.fit(data)
    assert made.tuned.ema is not None
    return [*weights(made), *made.tuned.ema.values()], report.losses


def resumed(path: Path) -> tuple[list[Tensor], tuple[float, ...], int]:
    """Returns the weights, the losses of the whole run, and how many steps were left."""
    objectives, data = mixture()
    made, seen = trainer(objectives, **LONG), list[StepReport]()
    report = made.fit(data, checkpoint=path, on_step=seen.append)
    assert made.tuned.ema is not None
    return [*weights(made), *made.tuned.ema.values()], report.losses, len(seen)


@pytest.mark.parametrize("step", [5, 10])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(step: int, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with victim(path) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if int(line) == step)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    found, losses, redone = resumed(path)
    expected, all_losses = uninterrupted()
    # Wherever in the next steps it died, the last checkpoint is at most two steps old.
    assert 0 < redone <= 14 - step + 2
    assert losses == all_losses
    assert same(found, expected)


def test_a_checkpoint_cut_off_while_it_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    # Every checkpoint is one file and its folder: the fifth sync is in the midst of the third.
    process = victim(path, dies=5)
    process.communicate(timeout=120)
    assert process.returncode == 9
    found, losses, redone = resumed(path)
    assert redone == 14 - 4
    assert losses == uninterrupted()[1]
    assert same(found, uninterrupted()[0])


def stopped_at(path: Path, step: int, **fields: object) -> None:
    """Leaves a checkpoint of a run that was stopped."""

    class Stop(Exception):
        pass

    def stop(report: StepReport) -> None:
        if report.step > step:
            raise Stop

    with pytest.raises(Stop):
        trainer(save_every=1, **fields).fit(answers(), checkpoint=path, on_step=stop)


def test_a_run_that_is_done_does_nothing_more(tmp_path: Path) -> None:
    made = trainer(save_every=3)
    first = made.fit(answers(), checkpoint=tmp_path / "checkpoint.pt")
    again, seen = trainer(save_every=3), list[StepReport]()
    report = again.fit(answers(), checkpoint=tmp_path / "checkpoint.pt", on_step=seen.append)
    assert seen == []
    assert (report.steps, report.losses, report.measures) == (first.steps, first.losses, first.measures)
    assert same(weights(again), weights(made))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 1e-4}, r"lr was 0\.01, is 0\.0001"),
        ({"seed": 5}, "seed was 0, is 5; model was"),
        ({"rank": 8}, "rank was 4, is 8"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_and_the_keys_are_named(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    stopped_at(path, 2)
    with pytest.raises(UserError, match=named) as caught:
        trainer(save_every=1, **change).fit(answers(), checkpoint=path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_other_data_or_another_objective_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    stopped_at(path, 2)
    with pytest.raises(UserError, match=r"run: data was \w+, is \w+; undo"):
        trainer(save_every=1).fit(answers()[:-1], checkpoint=path)
    with pytest.raises(UserError, match=r"objective '' was .*nll.*, is .*policy_gradient"):
        trainer({"": PolicyGradient()}, save_every=1).fit(answers(), checkpoint=path)


def test_what_only_says_how_to_compute_may_change(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    stopped_at(path, 2)
    made = trainer(save_every=2, micro_tokens=128, chunk=64, checkpointing=True)
    assert made.fit(answers(), checkpoint=path).steps == 6
    whole = trainer()
    whole.fit(answers())
    for one, other in zip(weights(made), weights(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 damaged"])
def test_a_damaged_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no checkpoint"):
        trainer(save_every=1).fit(answers(), checkpoint=path)


# --- a full disk ----------------------------------------------------------------------------------------------------


@dataclass
class SmallFiles:
    """While it lasts no file may be longer: to a program it is a full disk."""

    limit: int

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self._before[1]))

    def __exit__(self, *exc: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    stopped_at(path, 2)
    before = path.read_bytes()
    with SmallFiles(len(before) // 2), pytest.raises(StoreError, match="nothing was changed") as caught:
        trainer(save_every=1).fit(answers(), checkpoint=path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_leaves_no_half_an_adapter(tmp_path: Path) -> None:
    made, folder = trainer(), tmp_path / "adapter"
    with SmallFiles(1000), pytest.raises(StoreError, match="cannot be written") as caught:
        made.tuned.save(folder)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    made.tuned.save(folder)
    before = (folder / "adapter_model.safetensors").read_bytes()
    made.fit(answers())
    with SmallFiles(1000), pytest.raises(StoreError):
        made.tuned.save(folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        trainer(save_every=1).fit(answers(), checkpoint=tmp_path / "file" / "checkpoint.pt")
    with pytest.raises(StoreError, match="cannot be written"):
        trainer().tuned.save(tmp_path / "file" / "adapter")
