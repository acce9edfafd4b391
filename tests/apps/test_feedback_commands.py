"""What ``whet feedback`` measures: trust in sources, and how often feedback changes the answer."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whet.agents import Agent
from whet.core import Message, Record, Task, Verdict, VerifierSpec
from whet.core.models import ScriptedModel
from whet.memory import Memory

Whet = Callable[..., Any]


def store(folder: Path, *records: Record) -> None:
    async def put() -> None:
        async with await Memory.open(folder / ".whet") as memory:
            await memory.put(*records)

    asyncio.run(put())


def test_trust_is_shown_once_something_was_executed(ran: Whet, tmp_path: Path) -> None:
    first, second = ran("run", "list", "-o", "id").out.split()
    for run, kind, source in ((first, "accept", "ana"), (second, "accept", "ana"), (second, "reject", "bob")):
        ran("feedback", "add", run, kind, "--source", source)
    assert "whet feedback add" in ran("feedback", "trust").err
    outcomes = {first: "pass", second: "fail"}
    store(
        tmp_path,
        *(
            Verdict(run_id=id, task_id="easy", verifier="python_tests@1", outcome=outcome)  # type: ignore[arg-type]
            for id, outcome in outcomes.items()
        ),
    )
    rows = ran("feedback", "trust", "--json").json["items"]
    assert [(row["id"], row["agreement"], row["observations"]) for row in rows[:2]] == [
        ("bob", 2 / 3, 1),
        ("ana", 0.5, 2),
    ]
    assert rows[1]["low"] < 0.5 < rows[1]["high"]


def test_friction_is_shown_for_runs_that_were_corrected(whet: Whet, tmp_path: Path) -> None:
    whet("init")
    spec = VerifierSpec(kind="exact", params={"expected": "42"})
    task = Task(id="t", messages=(Message(role="user", content="What is it?"),), verifiers=(spec,))

    async def run() -> None:
        async with ScriptedModel(["41", "41", "42"]) as model:
            await Agent("refine", model, memory=tmp_path / ".whet").arun(task)

    asyncio.run(run())
    (row,) = whet("feedback", "friction", "--json").json["items"]
    shown = [row[name] for name in ("agent", "runs", "first", "last", "corrections", "repeated", "fixed")]
    assert shown == ["refine", 1, 0, 1, 2, 1, 1]
    assert "repeated" in whet("feedback", "friction").out


def test_without_corrections_the_way_to_some_is_named(whet: Whet) -> None:
    whet("init")
    assert "--graph refine" in whet("feedback", "friction").err
