"""A stand-in for a large model in the benchmark of search: its programs are mutated reference solutions.

It is no model, and says nothing about one. What it can do is fixed here, so that the patterns are compared on their own
search: a program is right with probability ``RIGHT``, else it is a mutant, the first ones more often than the rest
(common mistakes). A program that it is shown it does not write again with probability ``HEEDS``. A thought stands for
one program, which it writes when told to follow the thought; the thoughts of one list differ. Its judgement is right
with probability ``JUDGES``, and a test it writes is right with probability ``TESTS``; else the test asks for what a
common mistake does.
"""

import ast
import functools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from whet.agents.graphs import PATTERNS, find_graph
from whet.agents.tasksets.humaneval import completion_message
from whet.core import (
    Check,
    Completion,
    Json,
    Message,
    Outcome,
    Run,
    Sampling,
    Task,
    ToolSpec,
    Usage,
    Verdict,
    VerifierSpec,
    encode,
)
from whet.feedback import FreshSandboxes

__all__ = ["PROBLEMS", "Colleague", "InProcess", "Problem", "shown", "task_of"]

RIGHT, HEEDS, JUDGES, TESTS = 0.12, 0.8, 0.8, 0.6

SOURCES = (
    (
        "def first_gap(x):\n    for a, b in zip(sorted(x), sorted(x)[1:]):\n        if b - a > 1:\n"
        "            return a + 1\n    return -1",
        "[1, 2, 4]|[3, 1, 2]|[5]|[9, 7, 1, 2]|[2, 2, 4]|[]",
    ),
    (
        "def count_peaks(x):\n    return sum(1 for i in range(1, len(x) - 1) if x[i - 1] < x[i] > x[i + 1])",
        "[1, 3, 2]|[1, 2, 3]|[1, 3, 1, 3, 1]|[3, 3, 3]|[5, 1, 5, 1]|[]",
    ),
    (
        "def longest_run(x):\n    best = run = 0\n    for i in range(len(x)):\n"
        "        run = run + 1 if i > 0 and x[i] == x[i - 1] else 1\n        best = max(best, run)\n    return best",
        "[1, 1, 2]|[1, 2, 3]|[2, 2, 2]|[]|[1, 2, 2, 1, 1, 1]|[7]",
    ),
    (
        "def clamp_sum(x, low, high):\n    return sum(v for v in x if low <= v < high) % 100",
        "[1, 5, 9], 1, 9|[100, 50, 60], 0, 101|[-1, 0, 1], 0, 1|[99, 99], 0, 100|[3, 4], 4, 4|[7], 7, 8",
    ),
    (
        "def vowel_weight(x):\n    return sum(i + 1 for i, c in enumerate(x) if c in 'aeiou') - 2 * x.count('y')",
        "'banana'|'xyz'|''|'eye'|'yay'|'rhythm'",
    ),
    (
        "def rotate_odd(x, k):\n    k = k % 3 if len(x) > 3 else 1\n    return x[k:] + x[:k]",
        "[1, 2, 3, 4], 2|[1, 2], 5|[1, 2, 3], 2|[], 4|[5, 6, 7, 8], 3|[1, 2, 3, 4, 5], 7",
    ),
    (
        "def parity_steps(x):\n    steps = 0\n    for _ in range(50):\n        if x <= 1:\n            return steps\n"
        "        x = x // 2 if x % 2 == 0 else x * 3 + 1\n        steps += 1\n    return -1",
        "6|1|0|7|16|27",
    ),
    (
        "def fair_split(x):\n    total = sum(x)\n    for i in range(1, len(x)):\n        if 2 * sum(x[:i]) >= total:\n"
        "            return i\n    return 0",
        "[1, 1]|[5, 1, 1]|[1, 2, 3]|[]|[4]|[1, 1, 1, 1]",
    ),
)

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.FloorDiv,
    ast.FloorDiv: ast.Mod,
}


@dataclass(frozen=True)
class Problem:
    """A function to write: its programs (the right one and the wrong ones, shuffled), and inputs as argument lists."""

    name: str
    inputs: tuple[str, ...]
    reference: str
    programs: tuple[str, ...]
    weights: tuple[float, ...]

    def value(self, program: str, arguments: str) -> str:
        """Returns what the program gives for the arguments, as a repr or ``raised …``."""
        names: dict[str, object] = {}
        try:
            exec(program, names)  # noqa: S102  # mutants of the programs above
            return repr(eval(f"{self.name}({arguments})", names))  # noqa: S307
        except Exception as error:
            return f"raised {type(error).__name__}"


def make_problem(source: str, inputs: str) -> Problem:
    """Returns the problem, with every mutant that differs from the right program on some input."""
    reference = ast.unparse(ast.parse(source))
    name, given = reference[4 : reference.index("(")], tuple(inputs.split("|"))
    bare = Problem(name, given, reference, (), ())
    right = [bare.value(reference, arguments) for arguments in given]
    wrong = [
        mutant
        for mutant in dict.fromkeys(mutants(reference))
        if [bare.value(mutant, arguments) for arguments in given] != right
    ]
    random.Random(name).shuffle(wrong)
    common = [1 / rank for rank in range(1, len(wrong) + 1)]
    weighed = [
        (reference, RIGHT),
        *((each, (1 - RIGHT) * w / sum(common)) for each, w in zip(wrong, common, strict=True)),
    ]
    random.Random(f"{name}/order").shuffle(weighed)
    return Problem(name, given, reference, tuple(each for each, _ in weighed), tuple(w for _, w in weighed))


def mutants(source: str) -> Iterator[str]:
    """Yields the source with one operator swapped or one number off by one, for each place where that can be."""
    places = len(list(ast.walk(ast.parse(source))))
    for place in range(places):
        for change in (1, -1):
            tree = ast.parse(source)
            if mutate(list(ast.walk(tree))[place], change):
                yield ast.unparse(tree)


def mutate(node: ast.AST, change: int) -> bool:
    """Changes a node in place; returns whether there was something to change."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        node.value += change
        return True
    if isinstance(node, ast.Compare) and (compared := _COMPARED.get(type(node.ops[0]))):
        node.ops[0] = compared()
        return True
    if isinstance(node, ast.BinOp) and (computed := _COMPUTED.get(type(node.op))):
        node.op = computed()
        return True
    return False


PROBLEMS = tuple(make_problem(source, inputs) for source, inputs in SOURCES)


def task_of(problem: Problem) -> Task:
    """Returns the problem as a held-out task: two of its inputs are public checks, all judge the answer."""
    cases: list[Json] = [[arguments, problem.value(problem.reference, arguments)] for arguments in problem.inputs]
    specs = (
        VerifierSpec(kind="benchmarks._colleague:shown", params={"cases": cases[:2]}, public=True),
        VerifierSpec(kind="python_tests", params={"form": "cases", "entry_point": problem.name, "cases": cases}),
    )
    head = problem.reference.splitlines()[0]
    return Task(id=problem.name, messages=(completion_message(head),), verifiers=specs, split="heldout")


@dataclass(frozen=True)
class InProcess:
    """A verifier by a function of task and answer, for checks that execute no stranger's code."""

    name: str
    judge: Callable[[Task, str], Sequence[Check]]

    async def verify(self, task: Task, run: Run) -> Verdict:
        """Returns the verdict."""
        checks = tuple(self.judge(task, run.answer or ""))
        score = sum(check.passed for check in checks) / len(checks)
        outcome: Outcome = "pass" if score == 1 else "fail"
        return Verdict(run_id=run.id, task_id=task.id, verifier=self.name, outcome=outcome, score=score, checks=checks)


def shown(params: dict[str, Any], sandboxes: FreshSandboxes | None) -> InProcess:
    """Returns the verifier of a problem's public checks: programs are the mutants above, and run in this process."""

    def judge(task: Task, answer: str) -> list[Check]:
        problem = next(each for each in PROBLEMS if each.name == task.id)
        found = [(f"{task.id}({case})", problem.value(answer, case), expected) for case, expected in params["cases"]]
        return [Check(name=c, passed=got == wanted, call=c, expected=wanted, got=got) for c, got, wanted in found]

    return InProcess("shown", judge)


class Colleague:
    """The stand-in as a model. The same question with the same seed gets the same answer."""

    name = "colleague"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns what the role asked for wants: thoughts, a program, a score, tests."""
        text = self.answer(messages, random.Random(encode([list(messages), sampling.seed])))
        words = sum(len(message.content.split()) for message in messages)
        usage = Usage(input_tokens=words, output_tokens=len(text.split()), calls=1)
        return Completion(text=text, model=self.name, usage=usage)

    def answer(self, messages: Sequence[Message], rng: random.Random) -> str:
        """Returns the answer to the role that the last message asks for."""
        said, last = "\n".join(message.content for message in messages), messages[-1].content
        problem = next(each for each in PROBLEMS if f"def {each.name}(" in said)
        asked = next((role for text, role in roles() if last.startswith(text)), "program")
        if asked in ("think", "strategies", "fixes"):
            return "\n".join(f"{number}. {each}" for number, each in enumerate(thoughts(problem, said, rng, 3), 1))
        if asked == "rethink":
            return f"That block is wrong.\nThought: {thoughts(problem, said, rng, 1)[0]}"
        if asked in ("critic", "appraise", "quality", "value"):
            return verdict(problem, said, asked, rng)
        if asked == "tests":
            return "\n".join(test(problem, rng) for _ in range(8))
        if asked == "inputs":
            return "\n".join(f"{problem.name}({arguments})" for arguments in rng.sample(problem.inputs, 4))
        if (followed := re.findall(r"Approach (\d+)", last)) and asked in ("write", "solver", "debugger"):
            return problem.programs[int(followed[-1])]
        return sample(problem, said, rng)


@functools.cache
def roles() -> tuple[tuple[str, str], ...]:
    """Returns the default texts of the patterns' prompts with the names of the roles."""
    return tuple((text, role) for name in PATTERNS for role, text in find_graph(name).prompts.items() if text)


def sample(problem: Problem, said: str, rng: random.Random) -> str:
    """Returns a program, seldom one that it was shown, or whose thought it was."""
    seen = [program in said or f"Approach {n}." in said for n, program in enumerate(problem.programs)]
    weights = [
        0.0 if shown and rng.random() < HEEDS else weight for shown, weight in zip(seen, problem.weights, strict=True)
    ]
    return rng.choices(problem.programs, weights if any(weights) else problem.weights)[0]


def thoughts(problem: Problem, said: str, rng: random.Random, count: int) -> list[str]:
    """Returns different thoughts, each of which stands for a program."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"Approach {problem.programs.index(sample(problem, said, rng))}."] = None
    return list(found)


def verdict(problem: Problem, said: str, role: str, rng: random.Random) -> str:
    """Returns a score, and a decision, of the answer shown last; right most of the time."""
    shown = max(problem.programs, key=said.rfind)
    good = (shown == problem.reference) == (rng.random() < JUDGES)
    score = (9 if good else 3) * (1 if role == "critic" else 10)
    return f"So it seems.\nScore: {score}\nDecision: {'accept' if good else 'refine'}"


def test(problem: Problem, rng: random.Random) -> str:
    """Returns an assert, right or as a common mistake would have it."""
    arguments = rng.choice(problem.inputs)
    wrong = [
        0.0 if program == problem.reference else w for program, w in zip(problem.programs, problem.weights, strict=True)
    ]
    believed = problem.reference if rng.random() < TESTS else rng.choices(problem.programs, wrong)[0]
    return f"assert {problem.name}({arguments}) == {problem.value(believed, arguments)}"
