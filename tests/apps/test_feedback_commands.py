"""What ``whet feedback`` measures: trust in sources, and how often feedback changes the answer."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whet.agents import Agent
from whet.core import Message, Record, Run, Task, Verdict, VerifierSpec, now_ms
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


def test_signals_are_shown_and_recorded_when_told_to(whet: Whet, tmp_path: Path) -> None:
    whet("init")
    assert "no new signals" in whet("feedback", "signals").err
    first = Message(role="user", content="Sort it.")
    again = (first, Message(role="assistant", content="sorted(x)"), Message(role="user", content="No, descending."))
    runs = [
        Run(task_id=id, agent="a", status="done", answer=answer, purpose="live", started_at=now_ms() + at)
        for id, answer, at in (("t1", "sorted(x)", 0), ("t2", "sorted(x)[::-1]", 1000))
    ]
    store(tmp_path, Task(id="t1", messages=(first,)), Task(id="t2", messages=again), *runs)
    assert "--apply" in whet("feedback", "signals").err
    (row,) = whet("feedback", "signals", "--apply", "--json").json["items"]
    assert (row["source"], row["run_id"], row["text"]) == ("signal:correction", runs[0].id, "No, descending.")
    assert [item["id"] for item in whet("feedback", "list", "--json").json["items"]] == [row["id"]]
    assert whet("feedback", "signals", "--json").json["items"] == []
