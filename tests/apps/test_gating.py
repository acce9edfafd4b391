"""Probes from the command line: task sets that must not get worse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Whet = Callable[..., Any]


def test_probes_without_held_out_tasks_are_refused(whet: Whet, tmp_path: Path) -> None:
    exact = [{"kind": "exact", "params": {"expected": "42"}}]
    tasks = [
        {"id": f"t{n}", "prompt": "What is the answer?", "split": split, "verifiers": exact}
        for n, split in enumerate(["train", *["heldout"] * 20])
    ]
    (tmp_path / "split.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (tmp_path / "train.jsonl").write_text(json.dumps(tasks[0]))
    whet("init")
    for command in (("improve", "jsonl:split.jsonl"), ("gate", "decide", "x", "jsonl:split.jsonl")):
        result = whet(*command, "--probes", "jsonl:train.jsonl", code=2)
        assert result.err.count("\n") == 1
        assert "--probes 'jsonl:train.jsonl' has no held-out tasks" in result.err


def test_stages_that_lack_something_are_refused(whet: Whet, tmp_path: Path) -> None:
    (tmp_path / "criteria.md").write_text("At most 200 words.")
    whet("init")
    for given, said in (
        (("--stages", "lnt"), "no stage 'lnt' (did you mean 'lint'?)"),
        (("--judge", "tiny"), "none of the stages asks a model"),
        (("--criteria", "criteria.md"), "--criteria are for the stage hacking"),
        (("--stages", "hacking"), "--criteria FILE"),
    ):
        for command in (("improve", "world:7"), ("gate", "decide", "x", "world:7")):
            result = whet(*command, *given, code=2)
            assert result.err.count("\n") == 1, result.err
            assert said in result.err


def test_options_of_learners_are_told_by_their_names(whet: Whet) -> None:
    whet("init")
    for given, said in (
        ("lesons.hints=false", "--set 'lesons.hints=false' is for none of lessons, rft; write LEARNER.name=value"),
        ("hints=false", "--set 'hints=false' is for none of lessons, rft"),
        ("lessons.hint=false", "learner 'lessons' takes no hint"),
        ("lessons.hints=maybe", "hints='maybe' cannot be read"),
        ("lessons.sandboxes=one", "sandboxes='one' cannot be read: sandboxes is no text or number; give it in Python"),
        ("lessons.train.lr=1", "lessons trains no weights"),
        ("rft.train.foo=1", "there is no train.foo"),
        ("rft.per_task=none", "per_task"),
    ):
        result = whet("improve", "world:7", "--learners", "lessons,rft", "--set", given, code=2)
        assert result.err.count("\n") == 1, result.err
        assert said in result.err


def test_what_is_asked_of_judges_reaches_the_gate(whet: Whet) -> None:
    whet("init")
    for command in (("improve", "world:7"), ("gate", "decide", "x", "world:7")):
        result = whet(*command, "--min-trust", "1.2", code=2)
        assert result.err.count("\n") == 1, result.err
        assert "--min-trust" in result.err
    whet("improve", "world:7", "--min-trust", "0.9", "--calls", "0")
    (job,) = whet("query", "SELECT body FROM jobs", "--json").json["items"]
    assert '"min_trust":0.9' in job["body"]
