"""What a sandbox costs: warm, fresh and prewarmed, fresh and cold, beside a bare subprocess, in one interleaved run.

    python -m benchmarks.sandbox          # a table; --json prints JSON, --quick takes a quarter of the rounds

The variants take turns in random order, so that what else the machine does falls on all alike: trust the ratios.
"""

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from whet.sandboxes import Sandbox, SandboxPool, SandboxSpec, open_sandbox
from whet.sandboxes.interpreter import find_interpreter, sandbox_uid

Variant: TypeAlias = Callable[[], Awaitable[None]]
Row: TypeAlias = dict[str, float | int | str]

BASE = "subprocess: python -I -c pass"
FRESH = SandboxSpec(isolation="fresh")


async def subprocess(*argv: str) -> None:
    """Runs a program without any sandbox."""
    process = await asyncio.create_subprocess_exec(*argv)
    if await process.wait() != 0:
        raise SystemExit(f"{argv!r} failed")


async def python(box: Sandbox) -> None:
    """Runs the smallest program in a sandbox."""
    if not (await box.run_python("pass")).ok:
        raise SystemExit("the sandbox failed")


async def cold() -> None:
    """Makes a sandbox, runs the smallest program, and closes it."""
    async with await open_sandbox(FRESH) as box:
        await python(box)


async def measure(rounds: int) -> dict[str, list[float]]:
    """Returns milliseconds per variant, one per round. Preparing and closing a prewarmed sandbox is not counted."""
    interpreter = find_interpreter(sandbox_uid()).path
    times: dict[str, list[float]] = {}
    async with await open_sandbox() as warm, SandboxPool(1) as pool:

        async def warm_command() -> None:
            if not (await warm.exec(["true"])).ok:
                raise SystemExit("the sandbox failed")

        variants: dict[str, Variant] = {
            "subprocess: /bin/true": lambda: subprocess("/bin/true"),
            BASE: lambda: subprocess(interpreter, "-I", "-c", "pass"),
            "warm: run_python": lambda: python(warm),
            "warm: exec true": warm_command,
            "fresh, cold: open + run_python + close": cold,
        }
        for n in range(-2, rounds):  # the first two rounds only warm up
            for name in random.sample(sorted(variants), len(variants)):
                started = time.perf_counter()
                await variants[name]()
                keep(times, name, started, n)
            await pool.prepare(FRESH)
            started = time.perf_counter()
            async with pool.fresh(FRESH) as box:
                await python(box)
                keep(times, "fresh, prewarmed: take + run_python", started, n)
    return times


def keep(times: dict[str, list[float]], name: str, started: float, n: int) -> None:
    """Adds a time, unless it is of the warm-up."""
    took = (time.perf_counter() - started) * 1000
    if n >= 0:
        times.setdefault(name, []).append(took)


def summarise(times: dict[str, list[float]]) -> list[Row]:
    """Returns a row per variant, with its ratio to a bare Python process."""
    base = statistics.median(times[BASE])
    return [
        {
            "variant": name,
            "median_ms": round(statistics.median(values), 2),
            "min_ms": round(min(values), 2),
            "p95_ms": round(sorted(values)[int(0.95 * len(values))], 2),
            "ratio": round(statistics.median(values) / base, 2),
            "n": len(values),
        }
        for name, values in sorted(times.items(), key=lambda item: statistics.median(item[1]))
    ]


def show(rows: list[Row], load: tuple[float, float, float]) -> None:
    """Prints the table."""
    table = Table(title=f"Sandbox latency (load average {load[0]:.1f} on {os.cpu_count()} cores)")
    table.add_column("variant")
    for heading in ("median ms", "min ms", "p95 ms", "× bare Python"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("variant", "median_ms", "min_ms", "p95_ms", "ratio")))
    Console().print(table)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_json(parser)
    parser.add_argument("--quick", action="store_true", help="10 rounds instead of 40")
    options = parser.parse_args()
    load = os.getloadavg()
    rows = summarise(asyncio.run(measure(10 if options.quick else 40)))
    if not printed(options.json, {"load": load, "rows": rows}):
        show(rows, load)


if __name__ == "__main__":
    main()
