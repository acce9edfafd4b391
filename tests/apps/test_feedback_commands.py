"""What ``whet feedback`` measures: trust in sources, and how often feedback changes the answer."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whet.core import Record, Verdict
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
