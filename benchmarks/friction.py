"""Feedback friction of the embedded model: how often good feedback does not change the answer, and what helps.

    python -m benchmarks.friction             # a table; --quick for few tasks, --json FILE also writes it as JSON

The model gets tasks of a world whose verbs it does not know, and is told after each answer which checks failed, what
came and what was expected: feedback that names the error exactly. The ways to give it another try have as many calls as
``best_of_n``, which hears nothing; a lazy user says only that the answer is wrong. Answers are judged by the world's
grammar, so that nothing but the model counts.
"""

import argparse
import asyncio
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from whet.agents import Agent, run_tasks
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core import Critique, Policy, Run, Task, Verdict
from whet.core.models import Model, load_model
from whet.core.models.tiny.world import World
from whet.learners.friction import recorded_friction
from whet.memory import Memory

Row: TypeAlias = dict[str, float | int | str]

CALLS = 5
WAYS: dict[str, tuple[str, dict[str, float]]] = {
    "refine": ("refine", {"rounds": CALLS - 1}),
    "refine, heat 0.2": ("refine", {"rounds": CALLS - 1, "heat": 0.2}),
    "refine, forbid": ("refine", {"rounds": CALLS - 1, "forbid": 1}),
    "refine, heat 0.2 and forbid": ("refine", {"rounds": CALLS - 1, "heat": 0.2, "forbid": 1}),
    "refine, lazy user": ("refine", {"rounds": CALLS - 1}),
    "best_of_n (no feedback)": ("best_of_n", {"n": CALLS}),
}


def judge(task: Task, run: Run) -> Sequence[Verdict]:
    """Judges by the world's grammar, which executes nothing."""
    return [msgspec.structs.replace(each, run_id=run.id) for each in judge_answer(task, run.answer or "")]


def lazy(task: Task, run: Run, verdicts: Sequence[Verdict]) -> Sequence[Critique]:
    """Says that the answer is wrong, and no more."""
    ids = tuple(verdict.id for verdict in verdicts)
    return [Critique(run_id=run.id, text="It is wrong.", source="lazy", verdict_ids=ids)]


async def way(name: str, model: Model, tasks: Sequence[Task], folder: Path) -> Row:
    """Returns what became of the tasks under one pattern and its settings."""
    graph, knobs = WAYS[name]
    policy = Policy().with_settings(temperature=0.5, **knobs)
    critique = lazy if "lazy" in name else None
    async with (
        await Memory.open(folder) as memory,
        Agent(graph, model, memory=memory, verify=judge, critique=critique) as agent,
    ):
        results = await run_tasks(agent, tasks, concurrency=1, policy=policy, progress=lambda result: None)
        rows = await recorded_friction(memory, limit=len(tasks))
    solved = sum(result.passed for result in results) / len(results)
    calls = sum(result.run.usage.calls for result in results) / len(results)
    row: Row = {
        "way": name,
        "tasks": len(tasks),
        "solved": solved,
        "error": math.sqrt(solved * (1 - solved) / len(tasks)),
    }
    row["calls"] = calls
    for kind in ("corrections", "repeated", "changed", "worse", "fixed"):
        row[kind] = sum(getattr(each.friction, kind) for each in rows)
    return row


async def measure(n: int) -> list[Row]:
    """Returns a row for each way, on the same tasks of chains of one and two verbs."""
    world = World(11, verbs=24)
    tasks = [world_task(task, world) for task in world.tasks(n, lengths=(1, 2))]
    tasks = [msgspec.structs.replace(task, split="train") for task in tasks]
    model = load_model("tiny")
    with tempfile.TemporaryDirectory() as folder:
        return [await way(name, model, tasks, Path(folder) / str(i)) for i, name in enumerate(WAYS)]


def show(rows: Sequence[Row]) -> None:
    """Prints the rows."""
    table = Table("way", "solved", "calls", "corrections", "repeated", "changed", "worse", "fixed")
    for row in rows:
        given = float(row["corrections"]) or math.nan
        shares = [f"{100 * float(row[kind]) / given:.0f} %" for kind in ("repeated", "changed", "worse", "fixed")]
        solved = f"{float(row['solved']):.2f} ± {float(row['error']):.2f}"
        shown = shares if row["corrections"] else ["–"] * len(shares)
        table.add_row(str(row["way"]), solved, f"{float(row['calls']):.1f}", str(row["corrections"]), *shown)
    Console(width=120).print(table)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100, help="tasks for each way")
    parser.add_argument("--quick", action="store_true", help="20 tasks")
    add_json(parser)
    options = parser.parse_args()
    rows = asyncio.run(measure(20 if options.quick else options.tasks))
    if not printed(options.json, rows):
        show(rows)


if __name__ == "__main__":
    main()
