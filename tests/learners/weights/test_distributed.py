"""Several processes learn what one learns; they share the work, write once, resume as fewer, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
import torch
from safetensors.torch import load_file

from whet.core.errors import ModelError, UserError
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.tokenizer import ChatTokenizer
from whet.core.models.tiny.world import World as Verbs
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum, units
from whet.learners.weights.distributed import ALONE, World, _world, is_lost
from whet.learners.weights.job import Job, run_job, write_job
from whet.learners.weights.objectives import (
    NLL,
    Distillation,
    Objective,
    PolicyGradient,
    Preference,
    Regression,
    Unpaired,
)
from whet.learners.weights.reports import TrainReport
from whet.learners.weights.trainer import Trainer

CONFIG = TrainConfig(rank=3, alpha=8, lr=1e-3, batch=7, steps=4, device="cpu", threads=1, micro_tokens=64, clip=0.5)


def answers(count: int = 20) -> list[Datum]:
    """Right answers to tasks of a world whose verbs the embedded model does not know."""
    tokenizer, data = ChatTokenizer(), []
    for task in Verbs(7, verbs=12).tasks(count, lengths=(1, 2, 3)):
        prompt = tokenizer.prompt([("user", task.prompt)])
        answer = [*tokenizer.encode(task.reference), tokenizer.end]
        mask = (*(False,) * len(prompt), *(True,) * len(answer))
        data.append(Datum(tokens=(*prompt, *answer), mask=mask, id=f"d{len(data)}"))
    return data


def cases() -> dict[str, tuple[Objective, list[Datum]]]:
    """A loss of every kind, with data for it."""
    data = answers()
    pairs = [
        msgspec.structs.replace(datum, pair=f"p{n // 2}", side=("chosen", "rejected")[n % 2])
        for n, datum in enumerate(data)
    ]
    rewarded = [
        msgspec.structs.replace(
            datum,
            weights=tuple(float(on) * (-1) ** n for on in datum.mask),
            logprobs=tuple(-1.0 * on for on in datum.mask),
        )
        for n, datum in enumerate(data)
    ]
    labelled = [msgspec.structs.replace(datum, label=float(n % 2)) for n, datum in enumerate(data)]
    sides = ("desirable", "undesirable", "kl")
    unpaired = [msgspec.structs.replace(datum, side=sides[n % 3]) for n, datum in enumerate(data)]
    taught = [msgspec.structs.replace(datum, teacher=datum.tokens[: datum.start - 1]) for datum in data]
    return {
        "nll": (NLL(kl=0.1), data),
        "preference": (Preference(), pairs),
        "policy gradient": (PolicyGradient(kl=0.05, aggregate="sequence"), rewarded),
        "head": (Regression(form="logistic"), labelled),
        "unpaired": (Unpaired(), unpaired),
        "distillation": (Distillation(top_k=20, cap=None), taught),
    }


def learn(world: World, folder: Path) -> dict[str, TrainReport]:
    """Trains every case, and writes what was learned and what the model then makes of some data."""
    reports = {}
    for name, (objective, data) in cases().items():
        trainer = Trainer(WEIGHTS, CONFIG, {"": objective}, world=world)
        reports[name] = trainer.fit(data)
        trainer.tuned.save(folder / name)
        scores = [float(logp_n.sum()) for logp_n in trainer.score(data[:5])]
        if world.leads:
            (folder / name / "scores.json").write_text(json.dumps(scores))
    return reports


SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import msgspec, test_distributed
from whet.learners.weights.distributed import joined
with joined() as world:
    reports = test_distributed.learn(world, Path(sys.argv[1]))
    if world.leads:
        (Path(sys.argv[1]) / "reports.json").write_bytes(msgspec.json.encode(reports))
"""


def torchrun(processes: int, *arguments: str) -> list[str]:
    found = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*found, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def alike(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Two adapters (and heads) have the same names and, within the tolerance, the same numbers."""
    for file in ("adapter_model.safetensors", "head.safetensors"):
        if not (one / file).is_file():
            assert not (other / file).is_file()
            continue
        mine, theirs = load_file(one / file), load_file(other / file)
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.allclose(tensor, theirs[name], atol=tolerance, rtol=0), name
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (one, other)]
    assert configs[0] == configs[1]


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    one, two, script = tmp_path / "one", tmp_path / "two", tmp_path / "learn.py"
    one.mkdir()
    two.mkdir()
    script.write_text(SCRIPT)
    alone = learn(ALONE, one)
    command = torchrun(2, str(script), str(two))
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    together = msgspec.json.decode((two / "reports.json").read_bytes(), type=dict[str, TrainReport])
    for name, report in alone.items():
        assert together[name].losses == pytest.approx(report.losses, abs=1e-5), name
        assert together[name].measures == pytest.approx(report.measures, abs=1e-4), name
        assert (together[name].tokens, together[name].parameters) == (report.tokens, report.parameters)
        alike(one / name, two / name)
        scores = [json.loads((folder / name / "scores.json").read_text()) for folder in (one, two)]
        assert scores[1] == pytest.approx(scores[0], abs=1e-3)
        assert report.losses[0] != pytest.approx(report.losses[-1], abs=1e-4), "something was learned"


def a_job(folder: Path, data: list[Datum], **changes: object) -> Path:
    config = msgspec.structs.replace(CONFIG, **changes)
    return write_job(folder, Job(base=str(WEIGHTS), method="rft", config=config, objectives={"": NLL()}), data)


def test_a_job_that_lost_a_process_goes_on_as_one(tmp_path: Path) -> None:
    whole, cut = (a_job(tmp_path / name, answers(), steps=40, save_every=1) for name in ("whole", "cut"))
    run_job(whole)
    command = torchrun(2, "-m", "whet.learners.weights.job", str(cut))
    running = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not (cut / "checkpoint.pt").is_file() and running.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        workers = [one for one in psutil.Process(running.pid).children() if "job" in " ".join(one.cmdline())]
        workers[-1].send_signal(signal.SIGKILL)
        _, said = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode != 0
    assert "learners/weights" not in said, "torchrun has its own way to say so; what is left of the job says a line"
    assert not (cut / "report.json").is_file()
    told = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert told == list(range(1, len(told) + 1)), "one process writes"
    report = run_job(cut)
    assert report.steps == 40
    alike(whole / "adapter", cut / "adapter", 1e-4)


def test_a_job_in_two_processes_writes_what_one_writes(tmp_path: Path) -> None:
    one, two = (a_job(tmp_path / name, answers()) for name in ("one", "two"))
    report = run_job(one)
    done = subprocess.run(
        torchrun(2, "-m", "whet.learners.weights.job", str(two)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4], "one process tells"
    assert [line["loss"] for line in lines] == pytest.approx(report.losses, abs=1e-5)
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    alike(one / "adapter", two / "adapter")


def test_what_is_wrong_with_data_is_said_in_one_line(tmp_path: Path) -> None:
    data = answers()
    data[3] = msgspec.structs.replace(data[3], scale=1e39)
    folder = a_job(tmp_path / "job", data, batch=20)
    done = subprocess.run(
        torchrun(2, "-m", "whet.learners.weights.job", str(folder)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("whet: ") and "is gone" not in line]
    assert len(said) == 1, done.stderr
    assert "is not finite" in said[0]
    assert "d3" in said[0]
    assert " of 2: " in said[0]
    assert not (folder / "adapter").exists()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_process_has_as_much_to_do_and_nothing_is_done_twice(size: int) -> None:
    data = units([*cases()["preference"][1], *answers(7)[:3]])
    for tokens in (64, 4096):
        works = [World(rank, size).work(data, tokens) for rank in range(size)]
        assert len({len(work) for work in works}) == 1, "or one would wait for ever"
        done = [id(datum) for work in works for one in work if one.counts for datum in one.data]
        assert sorted(done) == sorted(id(datum) for unit in data for datum in unit)
        places = {
            id(datum): (rank, n)
            for rank, work in enumerate(works)
            for n, one in enumerate(work)
            if one.counts
            for datum in one.data
        }
        assert all(len({places[id(datum)] for datum in unit}) == 1 for unit in data), "pairs stay together"
    few = [World(rank, size).work(data[:1], 64) for rank in range(size)]
    assert [work[0].counts for work in few] == [True] + [False] * (size - 1)


def test_variables_that_say_nothing_are_refused() -> None:
    assert _world({}) == ALONE
    assert _world({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == World(1, 2, 1)
    with pytest.raises(UserError, match="unset WORLD_SIZE"):
        _world({"WORLD_SIZE": "two"})
    assert is_lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    assert not is_lost(RuntimeError("shape mismatch"))
    assert not is_lost(ModelError("gloo", failure="other"))
