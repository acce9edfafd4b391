"""``whet learn`` given what it cannot work with: one clear line, nothing half-written, nothing left of the data."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from whet.core.adapters import AdapterCard, pack
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS
from whet.memory import Memory

Whet = Callable[..., Any]
COMMAND = (sys.executable, "-m", "whet.apps.cli.main")
TINY = ("--model", "tiny", "--set", "train.steps=1", "--set", "train.threads=1")
ENDLESS = ("learn", "rft", "--model", "tiny", "--set", "train.steps=1000000", "--set", "train.threads=1")

REFUSED = [
    (("learn",), "which learner? see: whet learn --list"),
    (("learn", ""), "which learner? see: whet learn --list"),
    (("learn", "rftt"), "no learner 'rftt' (did you mean 'rft'?)"),
    (("learn", "no.module:Class"), "No module named 'no'"),
    (("learn", "rft"), "model 'knows' takes no adapters; load its weights as hf:FOLDER"),
    (("learn", "rft", "--model", "openai:x"), "model 'openai:x' takes no adapters"),
    (("learn", "rft", *TINY, "--where", "agent="), "agent needs a value"),
    (("learn", "rft", *TINY, "--where", "colour=red"), "no key 'colour'"),
    (("learn", "rft", *TINY, "--where", "agent=nobody"), "of 2 on training tasks there are after agent=nobody: 0"),
    (("learn", "rft", *TINY, "--where", "verdict=fail"), "rft needs answers that passed"),
    (("learn", "rft", *TINY, "--set", "longest=3"), "too long"),
    (("learn", "rft", *TINY, "--set", "nonsense=1"), "rft takes no nonsense; it takes per_task"),
    (("learn", "rft", *TINY, "--set", "per_task=many"), "rft: Expected `int`"),
    (("learn", "rft", *TINY, "--set", "train.foo=1"), "no train.foo; there are train.rank"),
    (("learn", "rft", *TINY, "--set", "train.lr=fast"), "train: Expected `float | null`"),
    (("learn", "rft", *TINY, "--set", "train.rank=0"), "rank is 0; it must be above 0"),
    (("learn", "rft", *TINY, "--set", "train.targets=nowhere"), "nowhere"),
    (("learn", "rft", *TINY, "--set", "rollouts.rounds=1"), "rft does not practise here"),
    (("learn", "grpo", *TINY, "--set", "rollouts.rounds=1"), "give it tasks to practise on: --tasks"),
    (("learn", "grpo", *TINY, "--tasks", "jsonl:tasks.jsonl", "--set", "rollouts.foo=1"), "no rollouts.foo"),
    (("learn", "rft", *TINY, "--set", "beta"), "--set 'beta' cannot be read; write name=value"),
    (("learn", "rft", *TINY, "--set", "where=agent=a"), "--set cannot set where; there are --where"),
    (("learn", "rft", *TINY, "--set", "on_step=print"), "--set cannot set on_step"),
    (("learn", "rft", *TINY, "--set", "tokens=0"), "tokens is 0; it must be at least 1"),
    (("learn", "rft", *TINY, "--set", "tokens=few"), "tokens='few' cannot be read"),
    (("learn", "rft", *TINY, "--set", "concurrency=0"), "concurrency is 0"),
    (("learn", "rft", *TINY, "--set", "replay=-1"), "replay is -1"),
    (("learn", "dpo", *TINY, "--set", "kl=0.1"), "dpo has no loss that takes kl"),
    (("learn", "rft", *TINY, "--set", "tracker=abacus"), "tracker is 'abacus'; it is one of mlflow, wandb"),
    (("learn", "rft", *TINY, "--set", "python=/no/such/python"), "'/no/such/python' cannot be started"),
    (("learn", "grpo", *TINY, "--tasks", "jsonl:tasks.jsonl", "--set", "python=python3"), "leave python out"),
    (("learn", "rft", *TINY, "--tasks", "jsonl:tasks.jsonl"), "rft does not practise; leave --tasks out"),
    (("learn", "grpo", *TINY, "--tasks", "nowhere"), "no task set 'nowhere'"),
    (("learn", "grpo", *TINY, "--tasks", "jsonl:tasks.jsonl", "--dry-run"), "--tasks is for practice"),
    (("learn", "rm", *TINY), "rm trains a scorer, not a policy; write it with: whet learn rm --out DIR"),
    (("learn", "rm", *TINY, "--out", "scorer"), "rm needs better and worse answers to one task"),
    (("learn", "rft", *TINY, "--out", "."), "'.' is not an empty folder; name a new one"),
    (("learn", "rft", *TINY, "--out", "tasks.jsonl"), "'tasks.jsonl' is not an empty folder"),
    (("learn", "rft", *TINY, "--export", "."), "'.' exists; name another folder, or overwrite it with --overwrite"),
    (("learn", "rft", *TINY, "--overwrite"), "--overwrite is for --export"),
    (("learn", "rft", *TINY, "--out", "a", "--export", "b"), "--out trains, --export does not"),
    (("learn", "rft", *TINY, "--out", "a", "--dry-run"), "--out trains, --dry-run does not"),
    (("learn", "lessons", "--out", "a"), "lessons trains no weights; leave --out out"),
    (("learn", "lessons", "--export", "a"), "lessons trains no weights; leave --export out"),
    (("learn", "lessons", "--set", "train.lr=1"), "lessons trains no weights"),
]


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("whet: ")


def left_of_training(folder: Path) -> list[str]:
    """Returns what is in the folder where trainings work."""
    return [path.name for path in (folder / ".whet" / "training").glob("*")]


def candidates(whet: Whet) -> int:
    """Returns how many candidates the store has."""
    return int(whet("status", "--json").json["records"]["candidate"])


@pytest.mark.parametrize(("command", "said"), REFUSED, ids=[" ".join(command[1:]) or "-" for command, _ in REFUSED])
def test_it_is_refused_in_one_line(unchanged: Whet, command: tuple[str, ...], said: str) -> None:
    before = unchanged("status", "--json").out
    result = unchanged(*command, code=2, OPENAI_API_KEY="x")
    assert one_line(result.err), result.err
    assert said in result.err
    assert result.out == ""
    assert unchanged("status", "--json").out == before


def test_nothing_is_written_by_what_is_refused(ran: Whet, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    for more in ((), ("--out", "a"), ("--export", "b")):
        ran("learn", "rft", *TINY, "--where", "verdict=fail", *more, code=2)
    after = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    assert after - before == {tmp_path / ".whet" / "training"}


# --- models and adapters ----------------------------------------------------------------------------------------------


def test_a_base_without_a_chat_template_is_named_before_anything_is_trained(ran: Whet, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    for more in ((), ("--dry-run",)):
        result = ran("learn", "rft", "--model", "hf:base", *more, code=2)
        assert one_line(result.err)
        assert "'base' has no chat template; add chat_template.jinja to the folder" in result.err
    assert left_of_training(tmp_path) == []


def test_weights_that_were_cut_off_are_named(ran: Whet, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = ran("learn", "rft", "--model", "hf:base", code=2)
    assert one_line(result.err)
    assert "'base' is no transformers model" in result.err
    assert left_of_training(tmp_path) == []


def test_an_adapter_of_another_base_is_not_trained_further(ran: Whet, tmp_path: Path) -> None:
    async def put() -> None:
        async with await Memory.open(tmp_path / ".whet") as memory:
            card = AdapterCard(method="rft", base="other", base_digest="f" * 64)
            data = pack(random_adapter(WEIGHTS, tmp_path / "lora"), card)
            head = await memory.policies.head()
            adapter = await memory.put_blob(data)
            await memory.policies.commit(head.edit({"adapter": adapter}), reason="by hand", actor="test")

    asyncio.run(put())
    for more in ((), ("--out", "kept")):
        result = ran("learn", "rft", *TINY, *more, code=2)
        assert one_line(result.err)
        assert "was trained on 'other' (ffffffffffff)" in result.err
        assert result.err.endswith("or begin anew: fresh=true\n")
        assert ".whet/training" not in result.err
    assert not list(tmp_path.glob("*kept*"))
    assert candidates(ran) == 0
    ran("learn", "rft", *TINY, "--set", "fresh=true")
    assert candidates(ran) == 1


def test_without_torch_data_can_be_looked_at_and_training_says_what_to_install(
    ran: Whet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "whet.learners.weights.trainer", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "1 rows -> 1 data" in ran("learn", "rft", *TINY, "--dry-run").out
    for command in (("rft",), ("rft", "--out", "kept"), ("grpo", "--tasks", "jsonl:tasks.jsonl"), ("rm", "--out", "x")):
        result = ran("learn", *command, *TINY, code=2)
        assert one_line(result.err)
        assert "needs 'torch', which is not installed; run: pip install 'whet[weights]'" in result.err
    assert not {"kept", "x"} & {path.name for path in tmp_path.iterdir()}
    assert left_of_training(tmp_path) == []


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_a_budget_that_ends_in_practice_leaves_what_was_learned_or_nothing(ran: Whet, tmp_path: Path) -> None:
    verifier = {"kind": "regex", "params": {"pattern": r"return x\["}}
    verbs = ("zorp", "blick", "mip", "drun", "flom")
    tasks = [
        {"id": verb, "prompt": f"Write solve(x): {verb}.", "split": "train", "verifiers": [verifier]} for verb in verbs
    ]
    (tmp_path / "practice.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    sizes = [word for each in ("rounds=2", "samples=4", "tasks=4") for word in ("--set", f"rollouts.{each}")]
    command = ("learn", "grpo", *TINY, "--tasks", "jsonl:practice.jsonl", *sizes)
    result = ran(*command, "--calls", "5", code=1)
    assert one_line(result.err)
    assert "the budget of 5 calls" in result.err
    assert candidates(ran) == 0
    result = ran(*command, "--calls", "40", "--graph", "refine")
    assert "stopped: " in result.out
    assert "the budget of 40 calls" in result.out
    assert "round 1" in result.err
    assert "round 2" not in result.err
    assert left_of_training(tmp_path) == []
    result = ran("learn", "rft", *TINY, "--seconds", "0", code=1)
    assert one_line(result.err)
    assert left_of_training(tmp_path) == []


# --- the machine ------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of eight megabytes."""
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", place]).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill(disk: Path, *, but: int) -> None:
    """Leaves so many kilobytes free."""
    room = os.statvfs(disk)
    (disk / "filling").write_bytes(bytes(room.f_bavail * room.f_frsize - 1024 * but))


@pytest.mark.parametrize("kilobytes", [150, 600])
def test_a_full_disk_leaves_no_adapter_and_no_data(whet: Whet, tmp_path: Path, kilobytes: int) -> None:
    with small_disk(tmp_path / "disk") as disk:
        home = {"WHET_HOME": str(disk / "home")}
        whet("init", **home)
        whet("run", "jsonl:tasks.jsonl", **home)
        fill(disk, but=kilobytes)
        result = whet("learn", "rft", *TINY, code=1, **home)
        assert "Traceback" not in result.err
        assert result.err.splitlines()[-1].startswith("whet: ")
        assert "No space left" in result.err or "full" in result.err
        assert list((disk / "home" / "training").iterdir()) == []
        assert whet("status", "--json", **home).json["records"]["candidate"] == 0
        kept = whet("learn", "rft", *TINY, "--out", str(disk / "kept"), code=1, **home)
        assert kept.err.splitlines()[-1].startswith("whet: ")
        assert sorted(path.name for path in disk.iterdir()) == ["filling", "home"]


@contextmanager
def training(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A ``whet learn`` without end, once it has taken its first steps."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *ENDLESS, *more], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not any(path.stat().st_size for path in folder.glob("**/metrics.jsonl")):
                assert time.monotonic() < deadline
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def test_a_killed_training_leaves_no_adapter_and_the_next_one_sweeps_up_its_data(ran: Whet, tmp_path: Path) -> None:
    with training(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert len(left_of_training(tmp_path)) == 1
    assert not list(tmp_path.glob(".whet/**/*.safetensors"))
    assert candidates(ran) == 0
    ran("learn", "rft", *TINY)
    assert left_of_training(tmp_path) == []
    assert candidates(ran) == 1


@pytest.mark.parametrize("more", [(), ("--out", "kept")], ids=["proposing", "into a folder"])
def test_ctrl_c_leaves_nothing_half_written(ran: Whet, tmp_path: Path, more: tuple[str, ...]) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_dir()}
    with training(tmp_path, *more) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (out, err.splitlines()[-1]) == ("", "whet: interrupted")
    assert "Traceback" not in err
    made = {path.name for path in tmp_path.rglob("*") if path.is_dir()} - {path.name for path in before}
    assert made <= {"training", "__pycache__"}
    assert left_of_training(tmp_path) == []
    assert candidates(ran) == 0
