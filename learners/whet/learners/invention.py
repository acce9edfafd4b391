"""Tasks that nobody asked: known helpers alone, and in pairs that no answer has used together yet.

    invented = await invent(cases, known, sandboxes, limit=12)
    invented[0].task.prompt         # "Write solve(x): zorp, then blick."
    invented[0].checks              # (("solve([1, 2])", "[2, 1]"), …)

Top-down: each helper by itself. Bottom-up: unused pairs, the likeliest first, by Adamic and Adar's index (2003) on the
graph of helpers that verified programs use together. How a task is put into words, and how its program is put together,
is taken from one that was seen, with its helpers' names exchanged; what it expects is what the known helpers give.
"""

import ast
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set

from whet.core.ids import digest
from whet.core.records import Check, Message, Record, Task
from whet.core.wire import decode
from whet.feedback import FreshSandboxes
from whet.learners.definitions import Case
from whet.learners.programs import Helper
from whet.learners.repertoire import chain_name
from whet.learners.replay import recorded_checks
from whet.sandboxes.sandbox import SandboxSpec

__all__ = ["Invented", "invent", "unused_pairs"]

CHECKS = 4
SECONDS = 30.0

_GUEST = """
import contextlib, io, json, signal, sys

def late(*args):
    raise TimeoutError

def results(sources, calls):
    space = {}
    try:
        for source in sources:
            exec(source, space)
    except Exception:
        return [None for _ in calls]
    return [result(call, space) for call in calls]

def result(call, space):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        return repr(eval(call, space))
    except Exception:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

signal.signal(signal.SIGALRM, late)
programs = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    found = [results(*program) for program in programs]
print(json.dumps(found))
"""


class Invented(Record, frozen=True, kw_only=True):
    """A task with the helpers it is about and the checks (call, expected) that known helpers vouch for.

    The task itself has no verifiers: a run on it is never evidence for what it was made from.
    """

    helpers: tuple[str, ...]
    task: Task
    checks: tuple[tuple[str, str], ...]
    entry_point: str

    @property
    def name(self) -> str:
        """What a function that solves it is called."""
        return chain_name(self.helpers)


class _Form(Record, frozen=True, kw_only=True):
    """A task and its entry point, in which the names of ``slots`` stand for any helpers."""

    slots: tuple[str, ...]
    prompt: str
    entry: str

    def fill(self, helpers: Sequence[str]) -> tuple[str, str]:
        """Returns prompt and entry point with these helpers in the slots."""
        names = dict(zip(self.slots, helpers, strict=True))
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, self.slots))})\b")
        prompt, entry = (pattern.sub(lambda match: names[match[1]], text) for text in (self.prompt, self.entry))
        return prompt, entry


async def invent(
    cases: Sequence[Case],
    known: Mapping[str, Helper],
    sandboxes: FreshSandboxes,
    *,
    tried: Set[tuple[str, ...]] = frozenset(),
    limit: int = 12,
    imports: Sequence[str] = (),
) -> list[Invented]:
    """Returns up to ``limit`` new tasks on single helpers and as many on pairs; none where no task was seen to copy.

    ``tried`` are helpers that need no more tasks. What cannot be computed, or is the same for every input, is left out.

    Raises:
        SandboxError: no sandbox could be had.
    """
    entry_point, forms = _forms(cases)
    wanted: list[tuple[str, ...]] = []
    if 1 in forms:
        wanted += [(name,) for name in known if (name,) not in tried][:limit]
    if 2 in forms:
        wanted += [pair for pair in unused_pairs(cases, known) if pair not in tried][:limit]
    filled = [(helpers, *forms[len(helpers)].fill(helpers)) for helpers in wanted]
    calls = _calls(cases, entry_point)
    programs = [([*imports, *(known[name].source for name in helpers), entry], calls) for helpers, _, entry in filled]
    expected = await _results(sandboxes, programs) if filled and calls else []
    return [
        Invented(helpers=helpers, task=_task(prompt), checks=checks, entry_point=entry_point)
        for (helpers, prompt, _), values in zip(filled, expected, strict=False)
        if (checks := _checks(calls, values))
    ]


def unused_pairs(cases: Iterable[Case], known: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the pairs of known helpers that no program which passed uses together, the likeliest first.

    Adamic and Adar's index: the sum over common neighbours w of 1 / log(degree of w). Equal ones: the most used first.
    """
    names = sorted(known)
    near: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.passed:
            for one, other in itertools.permutations(sorted(set(case.parts.helpers) & set(names)), 2):
                near[one].add(other)

    def rank(pair: tuple[str, str]) -> tuple[float, int, tuple[str, str]]:
        common = near[pair[0]] & near[pair[1]]
        index = sum(1 / math.log(max(len(near[each]), 2)) for each in common)
        return -index, -len(near[pair[0]]) * len(near[pair[1]]), pair

    return sorted((pair for pair in itertools.combinations(names, 2) if pair[1] not in near[pair[0]]), key=rank)


def _forms(cases: Sequence[Case]) -> tuple[str, dict[int, _Form]]:
    """Returns the entry point that most cases have, and the shortest task seen with one slot and with two."""
    points = [case.entry_point for case in cases]
    entry_point = max(set(points), key=points.count, default="")
    forms: dict[int, _Form] = {}
    for case in sorted(cases, key=lambda case: (len(case.prompt), case.task_id)):
        if case.entry_point == entry_point and (form := _form(case)) is not None:
            forms.setdefault(len(form.slots), form)
    if 1 in forms and 2 not in forms:
        forms[2] = _one_after_other(forms[1])
    return entry_point, forms


def _form(case: Case) -> _Form | None:
    """Returns what a case's task and program look like, where its text names one helper or two, and all of them."""
    names = sorted(case.parts.helpers, key=case.prompt.find)
    called = set(names) == set(case.parts.entry.needs)
    plain = case.parts.alone is not None if len(names) == 1 else case.passed
    if len(names) > 2 or not names or not plain or not called or not all(case.mentions(name) for name in names):
        return None
    return _Form(slots=tuple(names), prompt=case.prompt, entry=case.parts.entry.source)


def _one_after_other(form: _Form) -> _Form:
    """Returns the form for two helpers, made from the form for one: ``zorp`` becomes ``zorp, then zorp2``."""
    (first,) = form.slots
    second = f"{first}2"
    node = ast.parse(form.entry).body[0]
    assert isinstance(node, ast.FunctionDef), "an entry point is a function"
    given = ", ".join(each.arg for each in node.args.args)
    return _Form(
        slots=(first, second),
        prompt=re.sub(rf"\b{re.escape(first)}\b", f"{first}, then {second}", form.prompt),
        entry=f"def {node.name}({ast.unparse(node.args)}): return {second}({first}({given}))",
    )


def _calls(cases: Sequence[Case], entry_point: str) -> list[str]:
    """Returns calls that were checked, each of another task, so that they differ."""
    found = (case.checks[0][0] for case in cases if case.checks and case.entry_point == entry_point)
    return list(itertools.islice(dict.fromkeys(found), CHECKS))


def _checks(calls: Sequence[str], values: Sequence[str | None]) -> tuple[tuple[str, str], ...]:
    """Returns calls and results that can be written down; none where all results are the same."""
    found = [
        Check(name="", passed=True, call=call, expected=value or "") for call, value in zip(calls, values, strict=True)
    ]
    checks = recorded_checks(found)
    return checks if len({value for _, value in checks}) > 1 else ()


def _task(prompt: str) -> Task:
    messages = (Message(role="user", content=prompt),)
    return Task(id=f"invented/{digest(prompt)[:16]}", messages=messages, tags=("invented",), task_set="invented")


async def _results(
    sandboxes: FreshSandboxes, programs: Sequence[tuple[list[str], list[str]]]
) -> list[list[str | None]]:
    """Returns the results of each program's calls as source text, ``None`` for what failed or was late.

    Nothing is returned where they end the sandbox.
    """
    async with sandboxes.fresh(SandboxSpec(isolation="fresh")) as box:
        found = await box.run_python(_GUEST, stdin=json.dumps(programs).encode(), timeout=SECONDS)
    return decode(found.stdout, list[list[str | None]]) if found.ok else []
