"""The trainer beside TRL with peft: tokens per second and peak memory of LoRA on the same model, data and hardware.

    python -m benchmarks.trainer                  # SFT, DPO and the GRPO step on the CPU; --quick for a smaller model
    python -m benchmarks.trainer --device cuda --all --markdown table.md     # everything on one GPU, in bf16

The model has random weights; the data are random tokens of ragged lengths, as prompts and answers have them:
log-normal, so that a few are long. The same 16 sequences make an optimiser step in both. Each figure comes from a
process of its own, in which the first step is not counted; of ``--repeats`` the best counts, since others use the
machine, too. TRL pads what it computes at once to the longest, so on a CPU it is measured with its default of 8
sequences at once and with 2; ours with its default of 4,096 tokens at once and with 512. The ratios are to the better
of TRL's figures.

``tokens/s`` counts the tokens there are, without padding. ``tokens/cpu s`` divides by the time of the processor in the
place of the clock's: a busy machine changes it less. ``peak MB``: of memory resident in the process while it trains (on
a GPU: allocated); ``above``: without what was there when training began, the model above all.

SFT and DPO are TRL's own training loops. GRPO is the step alone, on rollouts that are there already: groups of 8 for
each prompt, with old logprobs that are the policy's own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed

if TYPE_CHECKING:
    from whet.learners.weights.datum import Datum

Row: TypeAlias = dict[str, float | int | str]

VOCABULARY = 32_000
SHAPES: dict[str, dict[str, int]] = {
    "12m": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "heads": 4, "kv": 2},
    "50m": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "heads": 8, "kv": 4},
    "300m": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 20, "heads": 16, "kv": 4},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 20, "heads": 32, "kv": 8},
}
TASKS = ("sft", "dpo", "grpo")
SYSTEMS = {"cpu": (("TRL", 8), ("TRL", 2), ("Whet", 4096), ("Whet", 512)), "cuda": (("TRL", 8), ("Whet", 4096))}
BATCH, RANK, GROUP = 16, 16, 8


@dataclass(frozen=True)
class Case:
    """What is measured: whose trainer, how many sequences at once, at what, on which model, where, for how long."""

    system: str
    micro: int
    task: str
    size: str
    device: str
    steps: int
    longer: float = 1.0


# --- model and data -------------------------------------------------------------------------------------------------


def make_model(size: str, folder: Path, device: str) -> None:
    """Writes a model with random weights, and a tokenizer of three words that TRL wants to see."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    shape = dict(SHAPES[size])
    heads, kv = shape.pop("heads"), shape.pop("kv")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        **shape,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config)
    model.to(torch.float32 if device == "cpu" else torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "x": 2}, unk_token="x"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    fast.save_pretrained(folder)


def make_data(case: Case) -> list["Datum"]:
    """Returns the sequences of all steps, the uncounted one included."""
    from whet.learners.weights.datum import Datum

    rng = random.Random(0)
    answers = {"sft": 1, "dpo": 2, "grpo": GROUP}[case.task]
    data = []
    for number in range(BATCH * (case.steps + 1) // answers):
        prompt = _tokens(rng, 4.6, case.longer)
        for place in range(answers):
            answer = _tokens(rng, 4.3, case.longer)
            mask = (*(False,) * len(prompt), *(True,) * len(answer))
            pair = {"pair": str(number), "side": ("chosen", "rejected")[place]} if case.task == "dpo" else {}
            group = {"group": str(number), "weights": (rng.gauss(0, 1),) * len(mask)} if case.task == "grpo" else {}
            data.append(Datum(tokens=prompt + answer, mask=mask, id=f"{number}/{place}", **pair, **group))  # type: ignore[arg-type]
    return data


def _tokens(rng: random.Random, log_mean: float, longer: float) -> tuple[int, ...]:
    """Returns random tokens, 4 to 500 times ``longer`` of them."""
    length = min(500, max(4, int(rng.lognormvariate(log_mean, 0.7)))) * longer
    return tuple(rng.randrange(3, VOCABULARY) for _ in range(int(length)))


# --- one figure -----------------------------------------------------------------------------------------------------


class Meter:
    """Measures from the end of the first step to the end of the last: clock, processor and memory."""

    def __init__(self, device: str) -> None:
        self.device, self.base = device, 0
        self.marks: list[tuple[float, float]] = []

    def begin(self) -> None:
        """Is called when everything is loaded."""
        self.base = self._resident("VmRSS")
        if self.device == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        else:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def step(self) -> None:
        """Is called after every step."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), time.process_time()))

    def figures(self, tokens: int, loss: float) -> Row:
        """Returns all figures; ``tokens`` are those of the steps after the first."""
        (wall, cpu), (wall_end, cpu_end) = self.marks[0], self.marks[-1]
        peak = self._resident("VmHWM")
        return {
            "tokens/s": tokens / (wall_end - wall),
            "tokens/cpu s": tokens / (cpu_end - cpu),
            "peak MB": peak / 2**20,
            "above": (peak - self.base) / 2**20,
            "loss": loss,
        }

    def _resident(self, name: str) -> int:
        if self.device != "cpu":
            import torch

            return torch.cuda.max_memory_allocated() if name == "VmHWM" else torch.cuda.memory_allocated()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def run_whet(case: Case, folder: Path, data: list["Datum"]) -> Row:
    """Returns the figures of Whet's trainer."""
    from whet.learners.weights.config import TrainConfig
    from whet.learners.weights.objectives import NLL, Objective, PolicyGradient, Preference
    from whet.learners.weights.trainer import Trainer

    objectives: dict[str, Objective] = {"sft": NLL(), "dpo": Preference(), "grpo": PolicyGradient(aggregate="sequence")}
    units = BATCH // 2 if case.task == "dpo" else BATCH
    config = TrainConfig(
        rank=RANK, steps=case.steps + 1, batch=units, device=case.device, lr=1e-4, micro_tokens=case.micro
    )
    trainer = Trainer(folder, config, {"": objectives[case.task]})
    meter, losses = Meter(case.device), list[float]()
    meter.begin()
    for start in range(0, len(data), BATCH):
        losses.append(trainer.forward_backward(data[start : start + BATCH])["loss"])
        trainer.step()
        meter.step()
    return meter.figures(sum(len(each.tokens) for each in data[BATCH:]), losses[0])


def run_trl(case: Case, folder: Path, data: list["Datum"]) -> Row:
    """Returns the figures of TRL's trainer."""
    import datasets

    datasets.disable_progress_bars()
    meter = Meter(case.device)
    tokens = sum(len(each.tokens) for each in data[BATCH:])
    if case.task == "grpo":
        return meter.figures(tokens, _grpo_steps(case, folder, data, meter))
    made = _trl(case, folder, {"SFT": _sft_columns, "DPO": _dpo_columns}[case.task.upper()](data), _watcher(meter))
    made.get_train_dataloader = _in_order(made)
    meter.begin()
    made.train()
    return meter.figures(tokens, float(next(log["loss"] for log in made.state.log_history if "loss" in log)))


def _sft_columns(data: Sequence["Datum"]) -> dict[str, list[Any]]:
    labels = [[t if counts else -100 for t, counts in zip(d.tokens, d.mask, strict=True)] for d in data]
    return {"input_ids": [list(each.tokens) for each in data], "labels": labels}


def _dpo_columns(data: Sequence["Datum"]) -> dict[str, list[Any]]:
    chosen, rejected = data[::2], data[1::2]
    return {
        "prompt_ids": [list(each.tokens[: each.start]) for each in chosen],
        "chosen_ids": [list(each.tokens[each.start :]) for each in chosen],
        "rejected_ids": [list(each.tokens[each.start :]) for each in rejected],
    }


def _trl(case: Case, folder: Path, columns: dict[str, list[Any]], callbacks: list[Any]) -> Any:
    """Returns a trainer of TRL's with its defaults, and the data as they are."""
    import peft
    import transformers
    import trl
    from datasets import Dataset

    kind = case.task.upper()
    options: dict[str, Any] = {
        "output_dir": str(folder / "trl"),
        "max_steps": case.steps + 1,
        "per_device_train_batch_size": case.micro // 2 if case.task == "dpo" else case.micro,
        "gradient_accumulation_steps": BATCH // case.micro,
        "learning_rate": 1e-4,
        "use_cpu": case.device == "cpu",
        "bf16": case.device != "cpu",
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    if case.device != "cpu":
        options |= {"model_init_kwargs": {"dtype": "bfloat16"}}
    if case.task == "grpo":
        options |= {"num_generations": 2, "loss_type": "grpo", "temperature": 1.0}
    else:
        options |= {"max_length": None}
    words = {"SFT": {"input_ids": [[2, 2]]}, "DPO": {"prompt": ["x"], "chosen": ["x"], "rejected": ["x"]}}
    made = getattr(trl, f"{kind}Trainer")(
        str(folder),
        args=getattr(trl, f"{kind}Config")(**options),
        train_dataset=Dataset.from_dict(words.get(kind, {"prompt": ["x"] * GROUP})),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
        peft_config=peft.LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=callbacks,
        **({"reward_funcs": [lambda completions, **_: [0.0] * len(completions)]} if case.task == "grpo" else {}),
    )
    if columns:
        made.train_dataset = Dataset.from_dict(columns)
    return made


def _watcher(meter: Meter) -> list[Any]:
    import transformers

    class Watcher(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: object, **__: object) -> None:
            meter.step()

    return [Watcher()]


def _in_order(made: Any) -> Callable[[], Any]:
    """Returns what makes the data loader, without shuffling: both trainers see the same steps."""
    from torch.utils.data import DataLoader

    size = made.args.per_device_train_batch_size
    return lambda: made.accelerator.prepare(
        DataLoader(made.train_dataset, batch_size=size, collate_fn=made.data_collator)
    )


def _grpo_steps(case: Case, folder: Path, data: Sequence["Datum"], meter: Meter) -> float:
    """Takes the steps on rollouts that are there, with TRL's loss, and returns the loss of the first."""
    import torch

    made = _trl(case, folder, {}, [])
    made.current_gradient_accumulation_steps = BATCH // case.micro
    model = made.model.train()
    factors = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(factors, lr=1e-4)
    losses = []
    meter.begin()
    for start in range(0, len(data), BATCH):
        total = 0.0
        for first in range(start, start + BATCH, case.micro):
            rollouts = _rollouts(data[first : first + case.micro])
            batch = {name: value.to(case.device) for name, value in rollouts.items()}
            with made.compute_loss_context_manager():
                loss = made.compute_loss(model, batch)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        meter.step()
    return losses[0]


def _rollouts(data: Sequence["Datum"]) -> dict[str, Any]:
    import torch

    prompts, answers = [each.tokens[: each.start] for each in data], [each.tokens[each.start :] for each in data]
    before, after = max(map(len, prompts)), max(map(len, answers))
    return {
        "prompt_ids": torch.tensor([[*(0,) * (before - len(row)), *row] for row in prompts]),
        "prompt_mask": torch.tensor([[*(0,) * (before - len(row)), *(1,) * len(row)] for row in prompts]),
        "completion_ids": torch.tensor([[*row, *(0,) * (after - len(row))] for row in answers]),
        "completion_mask": torch.tensor([[*(1,) * len(row), *(0,) * (after - len(row))] for row in answers]),
        "advantages": torch.tensor([each.weights[-1] for each in data]),
    }


def run(case: Case, folder: Path) -> Row:
    """Returns the figures of one case, measured in this process."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    data = make_data(case)
    return run_whet(case, folder, data) if case.system == "Whet" else run_trl(case, folder, data)


# --- all figures ----------------------------------------------------------------------------------------------------


def alone(arguments: Sequence[str], threads: int) -> str:
    """Returns what this program prints in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    env |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.trainer", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks.trainer {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


def measure(cases: Sequence[Case], folder: Path, repeats: int, threads: int) -> list[Row]:
    """Returns a row for each case, the best of several measurements, and how it stands to TRL."""
    for size, device in {(case.size, case.device) for case in cases}:
        alone(["--model", json.dumps([size, str(folder / size), device])], threads)
    rows: list[Row] = []
    for case in cases:
        found = [json.loads(alone(["--one", json.dumps([asdict(case), str(folder)])], threads)) for _ in range(repeats)]
        best: Row = {name: max(each[name] for each in found) for name in ("tokens/s", "tokens/cpu s")}
        best |= {name: min(each[name] for each in found) for name in ("peak MB", "above")} | {"loss": found[0]["loss"]}
        trainer = f"{case.system}, {case.micro:,} at once"
        rows.append({"task": case.task, "model": case.size, "length": case.longer, "trainer": trainer} | best)
        print(f"{trainer} {case.task} {case.size}: {best['tokens/s']:.0f} tokens/s", file=sys.stderr)
    return [row | _ratios(row, rows) for row in rows]


def _ratios(row: Row, rows: Sequence[Row]) -> Row:
    alike = [other for other in rows if all(other[key] == row[key] for key in ("task", "model", "length"))]
    theirs = [other for other in alike if str(other["trainer"]).startswith("TRL")]
    best = {"tokens/s": ("× tokens/s", max), "tokens/cpu s": ("× cpu", max)}
    best |= {"peak MB": ("× peak", min), "above": ("× above", min)}
    return {
        name: round(float(row[key]) / choose(float(other[key]) for other in theirs), 2)
        for key, (name, choose) in best.items()
    }


COLUMNS = (
    *("task", "model", "trainer", "tokens/s", "× tokens/s", "tokens/cpu s", "× cpu"),
    *("peak MB", "× peak", "above", "× above", "loss"),
)


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    whole = ("tokens/s", "tokens/cpu s", "peak MB", "above")
    found = {name: f"{value:,.0f}" if name in whole else f"{value}" for name, value in row.items()}
    found |= {"loss": f"{float(row['loss']):.4f}", "model": f"{row['model']} × {row['length']:g}"}
    return [found[name] for name in columns]


def table(rows: Sequence[Row]) -> Table:
    """Returns the figures as a table."""
    made = Table(title="LoRA training, Whet beside TRL with peft", title_justify="left")
    for name in COLUMNS:
        made.add_column(name, justify="left" if name in ("task", "model", "trainer") else "right")
    for row in rows:
        made.add_row(*_cells(row, COLUMNS))
    return made


def markdown(rows: Sequence[Row]) -> str:
    """Returns the figures as a table of Markdown."""
    sides = ["---" if name in ("task", "model", "trainer") else "--:" for name in COLUMNS]
    lines = [COLUMNS, sides, *(_cells(row, COLUMNS) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Returns what is to be measured; TRL's before ours, which is compared with it."""
    if options.all:
        chosen = [("300m", 1.0), ("1b", 1.0), ("1b", 4.0)]
    else:
        chosen = [("12m" if options.quick else "50m" if options.device == "cpu" else "300m", 1.0)]
    steps = 2 if options.device == "cpu" else 10
    return [
        Case(system=system, micro=micro, task=task, size=size, device=options.device, steps=steps, longer=longer)
        for size, longer in chosen
        for task in options.tasks.split(",")
        for system, micro in SYSTEMS[options.device]
    ]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--all", action="store_true", help="two models, the greater at two lengths, for a GPU")
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of sft,dpo,grpo")
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many measurements counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    add_json(parser)
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        size, place, device = json.loads(options.model)
        return make_model(size, Path(place), device)
    if options.one:
        fields, place = json.loads(options.one)
        case = Case(**fields)
        print(json.dumps(run(case, Path(place) / case.size)))
        return None
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(cases_of(options), Path(folder), options.repeats, options.threads)
    if not printed(options.json, rows):
        Console(width=160).print(table(rows))
    if options.markdown:
        Path(options.markdown).write_text(markdown(rows))
    return None


if __name__ == "__main__":
    main()
