"""The gate in figures: false promotions, power, and what it makes of a population search over noise.

    python -m benchmarks.gate                 # four tables; --json FILE also writes them as JSON

The agents are coins of known true score, so every error can be counted. Beside the gate stand what people use without
one: "the candidate scored higher on the same tasks", a t-test looked at after every pair, and a genetic search that
reports the best score it observed.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks._json import add_json, printed
from whet.core.policy import Policy
from whet.core.records import Message, Promotion, Task
from whet.learners.gate import Arm, Evaluate, Gate, GateConfig, Score

Row: TypeAlias = dict[str, float | int | str]
Chance: TypeAlias = Callable[[str], float]

SEED_SCORE = 0.60


def tasks(n: int) -> list[Task]:
    """Returns ``n`` held-out tasks without content."""
    return [Task(id=f"t{i}", messages=(Message(role="user", content=""),), split="heldout") for i in range(n)]


def arm(name: str) -> Arm:
    """Returns an arm that says its name."""
    return Arm(policy=Policy.of({"prompts/system.md": name}))


def coin(chance: Chance, nonce: str, shared: float = 0.5) -> Evaluate:
    """Returns an agent that solves a task with the probability of its arm.

    With probability ``shared`` the difficulty is that of the task, the same for both arms; else it is chance.
    """

    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        name = arm.policy.text("prompts/system.md")
        both, own = random.Random(f"{nonce}/{task.id}/{seed}"), random.Random(f"{nonce}/{task.id}/{seed}/{name}")
        draw = both.random() if both.random() < shared else own.random()
        return Score(value=float(draw < chance(name)))

    return evaluate


async def decide(chance: Chance, nonce: str, n: int, **rules: float) -> Promotion:
    """Returns the gate's decision on ``candidate`` against ``incumbent`` on ``n`` held-out tasks."""
    gate = Gate(GateConfig(concurrency=1, **rules))  # type: ignore[arg-type]
    return await gate.decide(arm("candidate"), arm("incumbent"), tasks(n), coin(chance, nonce))


def draws(first: float, second: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Returns ``n`` paired differences of two coins, half of the pairs with a shared difficulty."""
    common, own, other = rng.random((3, n))
    shared = rng.random(n) < 0.5
    return (np.where(shared, common, own) < second).astype(float) - (np.where(shared, common, other) < first)


def peeking_t_test(differences: np.ndarray) -> bool:
    """Whether a one-sided t-test at 5 %, looked at after every pair from the tenth on, ever says "better"."""
    n = np.arange(1, len(differences) + 1)
    mean = np.cumsum(differences) / n
    variance = np.maximum(np.cumsum(differences**2) / n - mean**2, 1e-9) * n / np.maximum(n - 1, 1)
    p = stats.t.sf(mean / np.sqrt(variance / n), np.maximum(n - 1, 1))
    return bool((p[9:] < 0.05).any())


async def false_promotions(trials: int) -> list[Row]:
    """Candidates that are exactly as good as the incumbent: how many does each rule let through?"""
    rows: list[Row] = []
    rng = np.random.default_rng(0)
    for score in (0.1, 0.6, 0.9):
        found = [await decide(lambda name, s=score: s, f"aa{score}/{i}", 100, min_effect=0.0) for i in range(trials)]
        pairs = [draws(score, score, 100, rng) for _ in range(trials)]
        rows.append(
            {
                "true score of both": score,
                "scored higher": share(sum(d.mean() > 0 for d in pairs), trials),
                "t-test, peeking": share(sum(peeking_t_test(d) for d in pairs), trials),
                "gate, peeking": share(sum(p.decision == "promoted" for p in found), trials),
                "comparisons": trials,
            }
        )
    return rows


async def power(trials: int) -> list[Row]:
    """Candidates that are better: how many are promoted, and after how many pairs?"""
    rows: list[Row] = []
    for n in (50, 100, 200, 400):
        for effect in (0.05, 0.1, 0.2, 0.3, 0.5):
            chance = {"incumbent": 0.4, "candidate": 0.4 + effect}.__getitem__
            found = [await decide(chance, f"power{n}/{effect}/{i}", n) for i in range(trials)]
            promoted = [p.n for p in found if p.decision == "promoted"]
            rows.append(
                {
                    "held-out tasks": n,
                    "gain": effect,
                    "promoted": share(len(promoted), trials),
                    "pairs until promoted": round(float(np.mean(promoted)), 1) if promoted else "-",
                    "pairs on average": round(float(np.mean([p.n for p in found])), 1),
                }
            )
    return rows


def elsewhere(before: float, after: float, nonce: str) -> Evaluate:
    """Returns agents of which the candidate gains .80 on the tasks, while on probes they have these scores."""
    own = coin({"incumbent": 0.1, "candidate": 0.9}.__getitem__, f"own/{nonce}")
    other = coin({"incumbent": before, "candidate": after}.__getitem__, f"probes/{nonce}")

    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        return await (other if task.id.startswith("probe") else own)(arm, task, seed)

    return evaluate


async def general_ability(trials: int) -> list[Row]:
    """Candidates that gained on their tasks and are as good, or worse, on probes: how many are refused for it?"""
    rows: list[Row] = []
    for before, after in ((0.5, 0.5), (0.8, 0.8), (0.95, 0.95), (0.9, 0.7), (0.9, 0.5), (0.9, 0.2), (1.0, 0.6)):
        row: Row = {"incumbent on probes": before, "candidate": after}
        for n in (10, 20, 40, 80):
            probes = [msgspec.structs.replace(task, id=f"probe-{task.id}") for task in tasks(n)]
            refused = 0
            for i in range(trials):
                evaluate, gate = elsewhere(before, after, f"{n}/{before}/{after}/{i}"), Gate(GateConfig(concurrency=1))
                found = await gate.decide(arm("candidate"), arm("incumbent"), tasks(60), evaluate, probes=probes)
                refused += found.decision == "rejected"
            row[f"refused with {n} probes"] = share(refused, trials)
        rows.append(row)
    return rows


def search(
    hurt: float, rng: np.random.Generator, size: int = 10, generations: int = 10, n: int = 150
) -> tuple[float, float]:
    """Returns the observed and the true score of what a genetic search picks when mutation never helps.

    Each generation the better half survives and is joined by mutants, each worse by up to ``hurt``; what is reported
    is the best observed score of the last generation, measured on the same ``n`` tasks that selected it.
    """
    true = np.full(size, SEED_SCORE)
    observed = rng.binomial(n, true) / n
    for _ in range(generations):
        parents = np.argsort(observed)[-size // 2 :]
        mutants = true[parents] - hurt * rng.random(len(parents))
        true = np.concatenate([true[parents], np.clip(mutants, 0, 1)])
        observed = np.concatenate([observed[parents], rng.binomial(n, true[len(parents) :]) / n])
    best = int(np.argmax(observed))
    return float(observed[best]), float(true[best])


def churn(
    hurt: float, rng: np.random.Generator, size: int = 10, generations: int = 10, n: int = 150
) -> tuple[float, float]:
    """Returns the same for a search in which every generation replaces the last one (no survivors)."""
    true = np.full(size, SEED_SCORE)
    observed = rng.binomial(n, true) / n
    for _ in range(generations):
        parents = np.argsort(observed)[-size // 2 :]
        true = np.clip(np.repeat(true[parents], 2) - hurt * rng.random(size), 0, 1)
        observed = rng.binomial(n, true) / n
    best = int(np.argmax(observed))
    return float(observed[best]), float(true[best])


async def population(trials: int, heldout: int = 400) -> list[Row]:
    """A genetic search over mutations that do nothing, and over mutations that only hurt; then the gate on its pick."""
    cases = {
        "do nothing": (search, 0.0),
        "only hurt, survivors kept": (search, 0.05),
        "only hurt, none kept": (churn, 0.05),
    }
    rows: list[Row] = []
    for name, (method, hurt) in cases.items():
        rng = np.random.default_rng(1)
        picks = [method(hurt, rng) for _ in range(trials)]
        decisions: Counter[str] = Counter()
        for i, (_, true) in enumerate(picks):
            chance = {"incumbent": SEED_SCORE, "candidate": true}.__getitem__
            decisions[(await decide(chance, f"{name}/{i}", heldout, min_effect=0.0)).decision] += 1
        rows.append(
            {
                "mutations": name,
                "best observed": round(float(np.mean([observed for observed, _ in picks])), 3),
                "its true score": round(float(np.mean([true for _, true in picks])), 3),
                "seed": SEED_SCORE,
                "worse than seed": share(sum(true < SEED_SCORE for _, true in picks), trials),
                "gate: promoted": share(decisions["promoted"], trials),
                "rejected": share(decisions["rejected"], trials),
                "not enough evidence": share(decisions["insufficient_evidence"], trials),
            }
        )
    return rows


def share(count: int, of: int) -> str:
    """Returns a percentage."""
    return f"{100 * count / of:.1f} %"


def show(title: str, rows: list[Row], console: Console) -> None:
    """Prints rows as a table."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


async def measure(trials: int) -> dict[str, list[Row]]:
    """Returns all tables by their titles."""
    return {
        "False promotions (100 held-out tasks, first use of the set)": await false_promotions(trials),
        "Power (incumbent .40, minimum effect .02, first use of the set)": await power(max(50, trials // 5)),
        "A population search over noise, then the gate on 400 held-out tasks": await population(max(50, trials // 5)),
        "General ability (gain .80 on the own tasks, shown in all cases)": await general_ability(max(50, trials // 5)),
    }


def main(argv: list[str] | None = None) -> int:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="comparisons per cell of the first table")
    add_json(parser)
    options = parser.parse_args(argv)
    started = time.monotonic()
    tables = asyncio.run(measure(options.trials))
    console = Console()
    if not printed(options.json, tables):
        for title, rows in tables.items():
            show(title, rows, console)
    print(f"{options.trials} comparisons per cell, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
