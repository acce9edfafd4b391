"""The recorder in figures: durable steps per second, against raw SQLite and what the disk can do at all.

    python -m benchmarks.recorder             # a table; --json FILE also writes it as JSON, --steps N

Durable means on the disk (WAL, ``synchronous=FULL``): every commit waits for the disk. Raw SQLite writes the same JSON
into one table with a key and nothing else: no columns to filter by, no index, no change log, no hashes.
"""

import argparse
import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from whet.core import Completion, Message, ModelCall, Step, encode
from whet.memory import Memory

Row: TypeAlias = dict[str, float | int | str]

BATCH = 500
RUNS = 64


def make_steps(count: int, run_id: str) -> list[Step]:
    """Returns steps of a little over a kilobyte of JSON each: a model asked with two messages, and its answer."""
    words = "the quick brown fox jumps over the lazy dog " * 5
    messages = (Message(role="system", content=words), Message(role="user", content=words))
    call = ModelCall(messages=messages, completion=Completion(text="def solve(items):\n    return items\n" * 4))
    return [Step(run_id=run_id, seq=seq, node="answer", body=call) for seq in range(count)]


async def one_stream(folder: Path, count: int) -> float:
    """Returns the seconds until all steps of one run, recorded without waiting, are durable."""
    async with await Memory.open(folder) as memory:
        steps = make_steps(count, "run")
        start = time.perf_counter()
        for step in steps:
            memory.recorder.record(step)
        await memory.recorder.flush()
        return time.perf_counter() - start


async def many_waiting(folder: Path, count: int) -> float:
    """Returns the seconds when 64 runs record at once, each waiting for every step before the next."""
    async with await Memory.open(folder) as memory:

        async def run(steps: list[Step]) -> None:
            for step in steps:
                await memory.recorder.record(step)

        runs = [make_steps(count // RUNS, f"run{number}") for number in range(RUNS)]
        start = time.perf_counter()
        await asyncio.gather(*(run(steps) for steps in runs))
        return (time.perf_counter() - start) * count / (count // RUNS * RUNS)


async def one_waiting(folder: Path, count: int) -> float:
    """Returns the seconds when one run waits for every step before the next, scaled from a fiftieth of the steps."""
    async with await Memory.open(folder) as memory:
        steps = make_steps(count // 50, "run")
        start = time.perf_counter()
        for step in steps:
            await memory.recorder.record(step)
        return (time.perf_counter() - start) * 50


async def raw_batches(folder: Path, count: int) -> float:
    """Returns the seconds of ``sqlite3.executemany``, committed every 500 rows."""
    return raw(folder, count, BATCH)


async def raw_single(folder: Path, count: int) -> float:
    """Returns the seconds of ``sqlite3`` with a commit for every row, scaled from a fiftieth of the steps."""
    return raw(folder, count // 50, 1) * 50


def raw(folder: Path, count: int, batch: int) -> float:
    """Returns the seconds of raw SQLite with a commit every ``batch`` rows, the encoding included."""
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE steps (id TEXT PRIMARY KEY, body TEXT NOT NULL)")
    steps = make_steps(count, "run")
    start = time.perf_counter()
    for first in range(0, count, batch):
        connection.execute("BEGIN IMMEDIATE")
        rows = [(step.id, encode(step).decode()) for step in steps[first : first + batch]]
        connection.executemany("INSERT INTO steps VALUES (?, ?)", rows)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


async def disk(folder: Path, count: int) -> float:
    """Returns the seconds of one ``fsync`` of 4 KB a step, scaled from a hundredth of the steps: the disk's limit."""
    with (folder / "file").open("wb") as file:
        start = time.perf_counter()
        for _ in range(count // 100):
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - start) * 100


Measure: TypeAlias = Callable[[Path, int], Awaitable[float]]

CASES: tuple[tuple[str, Measure], ...] = (
    ("whet, one run, acknowledged at the end", one_stream),
    ("whet, 64 runs, each waits for every step", many_waiting),
    ("whet, one run, waits for every step", one_waiting),
    ("sqlite3 executemany, commit every 500", raw_batches),
    ("sqlite3, commit every row", raw_single),
    ("the disk: one fsync a step", disk),
)


async def measure(count: int, repeats: int) -> list[Row]:
    """Returns a row for each case: the best of some repeats, taken in turn, so that all see the same machine."""
    best = dict.fromkeys((name for name, _ in CASES), float("inf"))
    for _ in range(repeats):
        for name, case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                best[name] = min(best[name], await case(Path(folder), count))
    rate = {name: count / seconds for name, seconds in best.items()}
    raw_rate, disk_rate = rate[CASES[3][0]], rate[CASES[5][0]]
    return [
        {"what": name, "steps_per_second": round(value), "to_raw": value / raw_rate, "to_fsync": value / disk_rate}
        for name, value in rate.items()
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    add_json(parser)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.steps, options.repeats))
    if printed(options.json, rows):
        return
    table = Table("durable steps", "steps/s", "× raw executemany", "× one fsync a step")
    for row in rows:
        table.add_row(
            str(row["what"]), f"{row['steps_per_second']:,}", f"{row['to_raw']:.2f}", f"{row['to_fsync']:.1f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
