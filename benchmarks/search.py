"""Search at inference time at equal budget, and choosing among programs without trusted tests.

    python -m benchmarks.search               # four tables; --quick in a minute or two, --json FILE writes them as JSON
    python -m benchmarks.search --seeds 5 --calls 16      # other seeds and budgets

Every run may ask its model at most ``--calls`` times (8), by a hard budget. Patterns hear the public checks of a task
(two of its cases); all its cases judge the answer. Beside them stand one answer without search, best of n and refine.

- *embedded model*: tasks of a world whose verbs it does not know. It can sample and correct, but plays no role.
- *stand-in*: functions to write, with programs mutated from reference solutions in place of a model's samples and fixed
  rates at which it heeds, judges and tests (``benchmarks/_colleague.py``). It compares searches, and no models.
- *matrices*: programs × tests drawn at controlled rates; how often each rule chooses a right program. Wrong programs
  fail independently, or share a few mistakes with the wrong tests.
- *questions*: the same, after a person said of some tests whether they are right.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks._colleague import PROBLEMS, Colleague, InProcess, task_of
from benchmarks._json import add_json, printed
from whet.agents import Agent, RunResult
from whet.agents.choosing import RULES, agree, b4, choose, codet, next_question
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core import Budget, Check, Json, Policy, Task, VerifierSpec
from whet.core.models import Model, load_model
from whet.core.models.tiny.world import World
from whet.feedback import FreshSandboxes
from whet.sandboxes import SandboxPool

Row: TypeAlias = dict[str, float | int | str]
Matrix: TypeAlias = npt.NDArray[np.bool_]
Question: TypeAlias = Callable[[Matrix, Mapping[int, bool]], int | None]


def patterns(calls: int, roles: bool) -> dict[str, dict[str, float]]:
    """Returns the patterns with settings that come to so many calls; without ``roles`` those that need none."""
    bare: dict[str, dict[str, float]] = {
        "react": {"max_turns": 1},
        "best_of_n": {"n": calls},
        "refine": {"rounds": calls - 1},
        "iad": {"n": calls},
        "self_consistency": {"n": calls},
        "map_elites": {"tries": calls, "calls": calls},
    }
    more: dict[str, dict[str, float]] = {
        "self_consistency": {"n": calls, "inputs": 4, "calls": calls},
        "code_test": {"n": calls, "calls": calls},
        "code_tree": {"width": 3, "calls": calls},
        "rethink": {"tries": calls, "calls": calls},
        "swe_search": {"calls": calls, "expansions": calls, "width": calls, "finished": calls, "debaters": 0},
    }
    return {**bare, **more} if roles else bare


# --- patterns ---------------------------------------------------------------------------------------------------------


def world_tasks(n: int, seed: int) -> list[Task]:
    """Returns held-out tasks of one or two verbs; two of the four cases are public. The world's grammar judges."""
    world = World(200 + seed, verbs=12)
    tasks = []
    for task in (world_task(each, world) for each in world.tasks(n, lengths=(1, 2))):
        cases = task.verifiers[0].params["cases"]
        assert isinstance(cases, list)
        kind = "benchmarks.search:by_grammar"
        public = VerifierSpec(kind=kind, params={"cases": cases[:2]}, public=True)
        specs = (public, VerifierSpec(kind=kind, params={"cases": cases}))
        tasks.append(msgspec.structs.replace(task, verifiers=specs, split="heldout"))
    return tasks


def by_grammar(params: dict[str, Json], sandboxes: FreshSandboxes | None) -> InProcess:
    """Returns the verifier of some cases of a world's task, which executes nothing."""
    spec = VerifierSpec(kind="", params=params)

    def judge(task: Task, answer: str) -> Sequence[Check]:
        return judge_answer(msgspec.structs.replace(task, verifiers=(spec,)), answer)[0].checks

    return InProcess("by_grammar", judge)


Tasks: TypeAlias = Callable[[int], Sequence[Task]]


async def run(agent: Agent, tasks: Sequence[Task], seed: int, calls: int) -> list[RunResult]:
    """Returns the results of an agent on all tasks, each under a budget of its own."""
    return [await agent.arun(task, seed=seed, budget=Budget(calls=calls), purpose="gate") for task in tasks]


async def compare(model: Model, roles: bool, tasks: Tasks, seeds: int, calls: int) -> list[Row]:
    """Returns a row for each pattern: share of tasks solved (mean over seeds, its error), calls and tokens a task."""
    rows = []
    async with SandboxPool(size=2) as pool:
        for graph, knobs in patterns(calls, roles).items():
            policy = Policy().with_settings(temperature=0.8, **knobs)
            async with Agent(graph, model, policy=policy, sandbox=pool) as agent:
                results = [await run(agent, tasks(seed), seed, calls) for seed in range(seeds)]
            rows.append(summary(graph, results))
    return rows


def summary(graph: str, results: Sequence[Sequence[RunResult]]) -> Row:
    """Returns one row; the error is the standard error of the mean over the seeds."""
    every = [result for seed in results for result in seed]
    assert all(result.run.status == "done" for result in every), [result.run.error for result in every]
    solved = [statistics.fmean(result.passed for result in seed) for seed in results]
    error = statistics.stdev(solved) / len(solved) ** 0.5 if len(solved) > 1 else 0.0
    usage = [result.run.usage for result in every]
    return {
        "pattern": graph,
        "solved": round(statistics.fmean(solved), 3),
        "±": round(error, 3),
        "calls": round(statistics.fmean(each.calls for each in usage), 2),
        "tokens": round(statistics.fmean(each.input_tokens + each.output_tokens for each in usage)),
    }


# --- choosing ---------------------------------------------------------------------------------------------------------

REGIMES: dict[str, dict[str, float]] = {
    "many right programs": {"right": 0.3, "good": 0.5, "luck": 0.3, "wrong": 0.1},
    "few right programs": {"right": 0.1, "good": 0.5, "luck": 0.5, "wrong": 0.1},
    "and few right tests": {"right": 0.05, "good": 0.3, "luck": 0.5, "wrong": 0.1},
    "and wrong tests often passed": {"right": 0.03, "good": 0.5, "luck": 0.6, "wrong": 0.3},
    "nearly all tests wrong": {"right": 0.02, "good": 0.3, "luck": 0.4, "wrong": 0.3},
    "10 shared mistakes": {"right": 0.05, "good": 0.5, "luck": 0.5, "wrong": 0.05, "mistakes": 10},
    "3 shared mistakes": {"right": 0.1, "good": 0.5, "luck": 0.5, "wrong": 0.05, "mistakes": 3},
}
"""Share of right programs and of right tests; how often a wrong program passes a right test, and a wrong one; and among
how many mistakes wrong programs and wrong tests choose (none: each cell of a wrong program is drawn by itself)."""

FRESH = 1_000  # The rule for questions was chosen on matrices of lower seeds.
SIZE = 50


def draw(
    seed: int, right: float, good: float, luck: float, wrong: float, mistakes: float = 0
) -> tuple[Matrix, Matrix, Matrix]:
    """Returns which program passes which test, which programs are right (at least one) and which tests are."""
    rng = np.random.default_rng(seed)
    programs, tests = rng.random(SIZE) < right, rng.random(SIZE) < good
    programs[rng.integers(SIZE)] = True
    kinds, count = np.arange(SIZE), SIZE
    asked = np.full(SIZE, -1)
    if mistakes:
        count, share = int(mistakes), 1 / np.arange(1, int(mistakes) + 1)
        kinds, asked = rng.choice(count, (2, SIZE), p=share / share.sum())
    on_right, on_wrong = rng.random((count, SIZE)) < luck, rng.random((count, SIZE)) < wrong
    on_wrong |= np.arange(count)[:, None] == asked[None, :]
    passes = np.where(tests, on_right[kinds], on_wrong[kinds])
    passes[programs] = tests
    return passes, programs, tests


def rules(trials: int) -> list[Row]:
    """Returns, for each regime, how often each rule chooses a right program."""
    rows: list[Row] = []
    for name, regime in REGIMES.items():
        drawn = [draw(seed, **regime) for seed in range(FRESH, FRESH + trials)]
        found = {
            rule.__name__: statistics.fmean(bool(right[choose(rule(passes))]) for passes, right, _ in drawn)
            for rule in RULES
        }
        rows.append({"matrices": name, **{rule: round(share, 2) for rule, share in found.items()}})
    return rows


def most_consistent(passes: Matrix, answers: Mapping[int, bool]) -> int | None:
    """Returns the test that most of what is left passes, weighed by ``codet``, but not all of it."""
    programs, tests = agree(passes, answers)
    left = passes[programs]
    share = codet(left[:, tests]) @ left
    divided = [test for test in tests if test not in answers and left[:, test].any() and not left[:, test].all()]
    return max(divided, key=lambda test: float(share[test])) if divided else None


def at_random(passes: Matrix, answers: Mapping[int, bool]) -> int | None:
    """Returns a test that divides what is left, drawn evenly."""
    programs, tests = agree(passes, answers)
    left = passes[programs]
    divided = [test for test in tests if test not in answers and left[:, test].any() and not left[:, test].all()]
    return divided[int(np.random.default_rng(len(answers)).integers(len(divided)))] if divided else None


QUESTIONS: dict[str, Question] = {
    "most evenly divided": next_question,
    "most consistent": most_consistent,
    "at random": at_random,
}


def questions(trials: int, rounds: int = 4) -> list[Row]:
    """Returns how often B4 is right after 0 to ``rounds`` answers, for three ways to choose the question."""
    rows: list[Row] = []
    for name in ("and few right tests", "10 shared mistakes", "3 shared mistakes"):
        drawn = [draw(seed, **REGIMES[name]) for seed in range(FRESH, FRESH + trials)]
        for way, question in QUESTIONS.items():
            hits = [asked(passes, right, good, question, rounds) for passes, right, good in drawn]
            shares = {
                f"after {count}": round(statistics.fmean(each), 2) for count, each in enumerate(zip(*hits, strict=True))
            }
            rows.append({"matrices": name, "question": way, **shares})
    return rows


def asked(passes: Matrix, right: Matrix, good: Matrix, question: Question, rounds: int) -> list[bool]:
    """Returns whether the choice is right before the first answer and after each."""
    answers: dict[int, bool] = {}
    hits = []
    for _ in range(rounds + 1):
        programs, tests = agree(passes, answers)
        hits.append(bool(right[programs[choose(b4(passes[:, tests])[programs])]]))
        if (test := question(passes, answers)) is not None:
            answers[test] = bool(good[test])
    return hits


# --- all of it --------------------------------------------------------------------------------------------------------


async def measure(quick: bool, seeds: int, calls: int) -> dict[str, list[Row]]:
    """Returns all tables by their titles."""
    n, trials = (20, 100) if quick else (50, 500)
    problems = [task_of(problem) for problem in PROBLEMS]
    worlds = [world_tasks(n, seed) for seed in range(seeds)]
    embedded = await compare(load_model("tiny"), False, worlds.__getitem__, seeds, calls)
    stand_in = await compare(Colleague(), True, lambda seed: problems, seeds, calls)
    return {
        f"Embedded model, {n} tasks of a world, at most {calls} calls": embedded,
        f"Stand-in of mutated programs, {len(problems)} functions, at most {calls} calls": stand_in,
        f"Right choices among {SIZE} programs and {SIZE} tests, {trials} matrices": rules(trials),
        "Right choices by B4 after a person's answers": questions(trials),
    }


def show(title: str, rows: Sequence[Row], console: Console) -> None:
    """Prints rows as a table."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


def main() -> None:
    """Measures, prints, and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer tasks, matrices and seeds")
    parser.add_argument("--seeds", type=int, help="seeds of each comparison (20, with --quick 5)")
    parser.add_argument("--calls", type=int, default=8, choices=range(1, 21), metavar="N", help="model calls of a run")
    add_json(parser)
    options = parser.parse_args()
    started, seeds = time.monotonic(), options.seeds or (5 if options.quick else 20)
    tables = asyncio.run(measure(options.quick, seeds, options.calls))
    if not printed(options.json, tables):
        for title, rows in tables.items():
            show(title, rows, Console(width=120))
    print(f"{seeds} seeds, {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
