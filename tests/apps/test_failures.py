"""What the machine does to the command line: locks, full disks, missing parts, Ctrl-C, readers who leave."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

Whet = Callable[..., Any]
COMMAND = (sys.executable, "-m", "whet.apps.cli.main")


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("whet: ")


@contextmanager
def started(folder: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A real ``whet`` process in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "WHET_MODEL": "models:Hangs", **variables}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[str], when: Path) -> str:
    """Sends Ctrl-C once a file is there, and returns what the process said."""
    deadline = time.monotonic() + 60
    while not when.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    return said


def test_ctrl_c_keeps_what_was_recorded_and_resume_does_the_rest(whet: Whet, tmp_path: Path) -> None:
    whet("init")
    with started(tmp_path, "run", "jsonl:tasks.jsonl", "--concurrency", "1") as process:
        said = interrupt(process, tmp_path / "asked")
    assert "--resume" in said
    assert said.splitlines()[-1] == "whet: interrupted"
    before = {row["task_id"]: row for row in whet("run", "list", "--json").json["items"]}
    assert {name: row["status"] for name, row in before.items()} == {"easy": "done", "hard": "cancelled"}
    (tmp_path / "released").touch()
    rows = whet("run", "jsonl:tasks.jsonl", "--resume", "--json", WHET_MODEL="models:Hangs").json["runs"]
    assert [row["status"] for row in rows] == ["done", "done"]
    assert rows[0]["id"] == before["easy"]["id"]
    assert rows[1]["id"] != before["hard"]["id"]


def test_ctrl_c_in_improve_names_the_command_that_goes_on(whet: Whet, tmp_path: Path) -> None:
    tasks = [{"id": f"t{n}", "prompt": "What is the answer?", "split": "heldout", "verifiers": []} for n in range(3)]
    tasks += [{"id": "train", "prompt": "What is the question?", "split": "train", "verifiers": []}]
    (tmp_path / "split.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    whet("init")
    with started(tmp_path, "improve", "jsonl:split.jsonl", "--rounds", "1") as process:
        said = interrupt(process, tmp_path / "asked")
    hint = next(line for line in said.splitlines() if "--resume" in line)
    job = hint.split()[-1]
    assert whet("show", job, "--json").json["status"] == "cancelled"
    (tmp_path / "released").touch()
    arguments = ("improve", "jsonl:split.jsonl", "--rounds", "1", "--resume", job)
    report = whet(*arguments, "--json", WHET_MODEL="models:Hangs").json
    assert report["job_id"] == job
    assert whet("show", job, "--json").json["status"] == "done"


def test_a_reader_who_leaves_is_no_error(ran: Whet, tmp_path: Path) -> None:
    first = ran("run", "list", "-o", "id", "--limit", "1").out.strip()
    for _ in range(3):
        ran("feedback", "add", first, "comment", "x" * 50_000)
    with started(tmp_path, "feedback", "list", "-o", "jsonl") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_a_locked_database_is_a_conflict_and_reading_goes_on(ran: Whet, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/.whet/whet.db"
    with closing(sqlite3.connect(tmp_path / ".whet" / "whet.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        result = ran("policy", "tag", "mine", code=5, WHET_STORE=f"{store}?timeout=0.2")
        assert len(ran("run", "list", "-o", "id", WHET_STORE=store).out.split()) == 2
        ran("memory", "search", "anything", WHET_STORE=f"{store}?timeout=0.2")
    assert one_line(result.err)
    assert "locked" in result.err
    ran("policy", "tag", "mine")


def test_a_store_of_a_later_version_is_refused(ran: Whet, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / ".whet" / "whet.db", isolation_level=None)) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (("run", "list"), ("policy", "tag", "mine")):
        result = ran(*command, code=6)
        assert one_line(result.err)
        assert "later version" in result.err


def test_a_file_in_place_of_the_memory_is_named(whet: Whet, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert one_line(whet("init", code=2, WHET_HOME="file").err)
    assert one_line(whet("init", code=6, WHET_HOME="file/below").err)
    assert (tmp_path / "file").read_bytes() == b""


def test_a_settings_file_that_cannot_be_written_is_named(whet: Whet, tmp_path: Path) -> None:
    (tmp_path / "whet.toml").symlink_to(tmp_path / "missing" / "whet.toml")
    result = whet("init", code=1)
    assert one_line(result.err)
    assert "whet.toml" in result.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 700 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=700k", "tmpfs", place]).returncode:
        pytest.skip("mounting a small disk takes root")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_loses_nothing(ran: Whet, tmp_path: Path, small_disk: Path) -> None:
    first = ran("run", "list", "-o", "id", "--limit", "1").out.strip()
    ran("feedback", "add", first, "comment", "-", stdin=" ".join(map(str, range(200_000))))
    ran("export", "all.jsonl")
    home = str(small_disk / "home")
    ran("init", WHET_HOME=home)
    result = ran("import", "all.jsonl", "--format", "store", code=1, WHET_HOME=home)
    assert one_line(result.err)
    assert "full" in result.err
    assert ran("status", "--json", WHET_HOME=home).json["records"]["run"] == 0
    shutil.copy(tmp_path / "all.jsonl", tmp_path / "copy.jsonl")
    assert one_line(ran("export", str(small_disk / "all.jsonl"), code=2).err)


@pytest.mark.parametrize("name", ["hf:missing", "models:Nobody", "nobody", "tiny?x=1"])
def test_a_missing_model_is_named_before_anything_runs(unchanged: Whet, name: str) -> None:
    before = unchanged("status", "--json").out
    result = unchanged("run", "jsonl:tasks.jsonl", code=2, WHET_MODEL=name)
    assert one_line(result.err)
    assert name.partition(":")[2].partition("?")[0] in result.err
    assert unchanged("status", "--json").out == before


def test_weights_that_are_gone_are_named(whet: Whet, tmp_path: Path) -> None:
    whet("init")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text('{"model_type": "llama"}')
    result = whet("run", "jsonl:tasks.jsonl", code=2, WHET_MODEL="hf:weights")
    assert one_line(result.err)
    assert "weights" in result.err


def test_a_dead_sandbox_judges_nothing_and_says_what_to_install(whet: Whet, tmp_path: Path) -> None:
    verifier = {"kind": "python_tests", "params": {"form": "asserts", "test": "assert True"}}
    (tmp_path / "code.jsonl").write_text(json.dumps({"id": "code", "prompt": "Write x.", "verifiers": [verifier]}))
    whet("init")
    assert one_line(whet("run", "jsonl:code.jsonl", code=2, WHET_SANDBOX="cardboard").err)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = whet("run", "jsonl:code.jsonl", code=4, WHET_SANDBOX="bubblewrap", PATH=str(empty))
    assert "apt install bubblewrap" in result.err.splitlines()[-1]
    assert [row["outcome"] for row in whet("run", "list", "--json").json["items"]] == ["infra_error"]


def test_a_model_that_cannot_be_reached_leaves_a_failed_run(whet: Whet) -> None:
    whet("init")
    unreachable = {"WHET_MODEL": "openai:x", "OPENAI_API_KEY": "x", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    result = whet("run", "jsonl:tasks.jsonl", "--limit", "1", code=1, **unreachable)
    assert "check that the server runs" in result.err.splitlines()[-1]
    assert [row["status"] for row in whet("run", "list", "--json").json["items"]] == ["failed"]
