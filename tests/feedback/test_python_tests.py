"""Python tests in fresh sandboxes: every form, per-assert detail, partial credit, and who is to blame."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from whet.core import Run, Task, Verdict, VerifierError, VerifierSpec
from whet.feedback import check_spec, load_verifier
from whet.feedback.conformance import Example, LostSandboxes, verifier_breaches
from whet.sandboxes import Sandbox, SandboxPool, SandboxSpec

Judge = Callable[..., Awaitable[Verdict]]

ADD = """
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(5, 5) == 10, "ten"
    assert candidate([1], [2]) == [1, 2]
"""


@pytest.mark.asyncio
async def test_a_right_answer_passes_and_every_assert_is_told(judge: Judge) -> None:
    verdict = await judge("python_tests", "def add(a, b): return a + b", form="check", entry_point="add", test=ADD)
    assert (verdict.outcome, verdict.score, verdict.kind) == ("pass", 1.0, "execution")
    assert [(check.name, check.call, check.got) for check in verdict.checks] == [
        ("assert 1", "add(1, 2)", "3"),
        ("assert 2", "add(5, 5)", "10"),
        ("assert 3", "add([1], [2])", "[1, 2]"),
    ]
    assert "Python 3" in verdict.environment


@pytest.mark.asyncio
async def test_partial_credit_with_call_expected_got_and_line(judge: Judge) -> None:
    answer = "Look:\n```python\ndef add(a, b):\n    if a == 5:\n        raise ValueError('five')\n    return 3\n```"
    verdict = await judge("python_tests", answer, form="check", entry_point="add", test=ADD)
    assert (verdict.outcome, round(verdict.score, 3)) == ("fail", 0.333)
    _, raised, wrong = verdict.checks
    assert (raised.call, raised.got, raised.expected, raised.line) == ("add(5, 5)", "raised ValueError: five", "10", 5)
    assert (wrong.call, wrong.got, wrong.expected, wrong.line) == ("add([1], [2])", "3", "[1, 2]", None)


@pytest.mark.asyncio
async def test_humaneval_form_takes_bodies_and_programs_and_keeps_the_tasks_helpers(judge: Judge) -> None:
    prompt = "from typing import List\n\ndef shift(s: str):\n    return s[1:] + s[:1]\n\ndef unshift(s: str):\n"
    test = """
def check(candidate):
    from random import choice
    for _ in range(20):
        text = "".join(choice("abc") for _ in range(9))
        assert candidate(shift(text)) == text
    assert True, "says nothing"
"""
    params = {"form": "humaneval", "prompt": prompt, "entry_point": "unshift", "test": test}
    body = "    return s[-1:] + s[:-1]"
    whole = "def unshift(s: List[str]):\n    return s[-1:] + s[:-1]"
    cheat = "def shift(s): return s\ndef unshift(s): return s"
    for answer, outcome in [(body, "pass"), (whole, "pass"), ("    pass", "fail"), (cheat, "fail")]:
        verdict = await judge("python_tests", answer, **params)
        assert (verdict.outcome, len(verdict.checks)) == (outcome, 1), answer
        assert "shift(text)" not in verdict.checks[0].call, "a call is told with its values, not with names"


@pytest.mark.asyncio
async def test_asserts_use_every_name_of_the_answer(judge: Judge) -> None:
    answer = """
LIMIT = 3
class Point:
    def __init__(self, x, y): self.x, self.y = x, y
    def __len__(self): return 2
    def __str__(self): return f"<{self.x}, {self.y}>"
    def moved(self, by): return Point(self.x + by, self.y + by)
def norm(point): return abs(point.x) + abs(point.y)
def evens(n):
    yield from range(0, n, 2)
def sort(items): items.sort()
def fail(): raise KeyError("gone")
"""
    test = """
import pytest
p = Point(1, -2)
assert LIMIT == 3
assert norm(p) == 3 and norm(p.moved(2)) == 3
assert (p.x, len(p), str(p)) == (1, 2, "<1, -2>")
assert list(evens(5)) == [0, 2, 4]
items = [3, 1, 2]
sort(items)
assert items == [1, 2, 3]
assert norm(p) > 2
assert not norm(Point(0, 0))
assert norm(Point(0.1, 0.2)) == pytest.approx(0.3)
with pytest.raises(KeyError):
    fail()
try:
    fail()
    assert False
except KeyError:
    pass
"""
    verdict = await judge("python_tests", answer, form="asserts", test=test, packages=["pytest"])
    assert verdict.outcome == "pass", [check for check in verdict.checks if not check.passed]
    assert len(verdict.checks) == 8, "the assert that a raising call skips is no check"


@pytest.mark.asyncio
async def test_functions_of_the_tests_can_be_called_by_the_answer(judge: Judge) -> None:
    answer = """
def fold(function, items, start=None):
    for item in items:
        start = item if start is None else function(start, item)
    return start
def typed(kind, text): return kind(text) if isinstance(kind, type) else kind
def guarded(function):
    try:
        return function()
    except ZeroDivisionError as error:
        return str(error)
"""
    test = """
seen = []
def note(a, b):
    seen.append((a, b))
    return max(a, b)
assert fold(lambda a, b: a + b, [1, 2, 3]) == 6
assert fold(note, [1, 3, 2]) == 3
assert seen == [(1, 3), (3, 2)]
assert typed(int, "7") == 7
assert guarded(lambda: 1 / 0) == "division by zero"
assert guarded(lambda: fold(max, [fold(min, [4, 5]), 1])) == 4, "the answer, the tests, and the answer again"
assert fold(lambda a, b: a / b, [1, 0]) == 0
"""
    verdict = await judge("python_tests", answer, form="asserts", test=test)
    assert [check.passed for check in verdict.checks] == [True] * 6 + [False]
    assert verdict.checks[-1].got == "raised ZeroDivisionError: division by zero"


@pytest.mark.asyncio
async def test_cases_are_compared_on_the_host(judge: Judge) -> None:
    cases = [["[3, 1]", "[1, 3]"], ["[]", "[]"], ["'ba', reverse=True", "['b', 'a']"]]
    with pytest.raises(VerifierError, match="no pair of literals"):
        await judge("python_tests", "", form="cases", entry_point="f", cases=cases)
    answer = "def f(x):\n    return sorted(x) if x else None"
    verdict = await judge("python_tests", answer, form="cases", entry_point="f", cases=cases[:2])
    assert (verdict.outcome, verdict.score) == ("fail", 0.5)
    assert [(check.call, check.got, check.expected) for check in verdict.checks] == [
        ("f([3, 1])", "[1, 3]", "[1, 3]"),
        ("f([])", "None", "[]"),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "got", "line"),
    [
        ("def add(a, b)\n    return a", "raised SyntaxError: expected ':'", 1),
        ("import nowhere_to_be_found", "raised ModuleNotFoundError: No module named 'nowhere_to_be_found'", 1),
        ("x = 1\ny = x / 0", "raised ZeroDivisionError: division by zero", 2),
        ("def plus(a, b): return a + b", "raised NameError: add is not defined", None),
    ],
)
async def test_an_answer_that_cannot_be_loaded_says_where(
    judge: Judge, answer: str, got: str, line: int | None
) -> None:
    verdict = await judge("python_tests", answer, form="check", entry_point="add", test=ADD)
    assert (verdict.outcome, verdict.score) == ("fail", 0.0)
    assert (verdict.checks[0].name, verdict.checks[0].got, verdict.checks[0].line) == ("load", got, line)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("import nowhere_to_be_found\n" + ADD, "nowhere_to_be_found"),
        ("def check(candidate):\n    import nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("def check(candidate):\n    assert candidate(type('T', (), {})(), 2) == 2\n", "only data and functions"),
        ("def verify(candidate): pass", "no check"),
        ("def check(candidate)", "no valid Python"),
        ("from math import nothing_of_that_name\n" + ADD, "nothing_of_that_name"),
    ],
)
async def test_tests_that_cannot_run_are_nobodys_failure(judge: Judge, test: str, why: str) -> None:
    verdict = await judge("python_tests", "def add(a, b): return a + b", form="check", entry_point="add", test=test)
    assert verdict.outcome == "infra_error"
    assert why in verdict.detail


@pytest.mark.asyncio
async def test_a_module_that_the_task_declares_is_not_the_answers_to_miss(judge: Judge) -> None:
    test = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    params = {"form": "humaneval", "prompt": "import nowhere_at_all\ndef add(a, b):\n", "entry_point": "add"}
    verdict = await judge("python_tests", "    return a + b", test=test, **params)
    assert (verdict.outcome, "nowhere_at_all" in verdict.detail) == ("infra_error", True)


@pytest.mark.asyncio
async def test_a_prompt_that_is_no_head_of_a_program_is_nobodys_failure(judge: Judge) -> None:
    params = {"form": "humaneval", "prompt": "Please write add.", "entry_point": "add", "test": ADD}
    verdict = await judge("python_tests", "def add(a, b): return a + b", **params)
    assert (verdict.outcome, "prompt" in verdict.detail) == ("infra_error", True)


@pytest.mark.asyncio
async def test_many_asserts_and_large_results_fit_into_a_report(judge: Judge) -> None:
    test = "def check(candidate):\n" + "    assert candidate('x' * 999) == 'x' * 999\n" * 1500
    verdict = await judge("python_tests", "def f(x): return x", form="check", entry_point="f", test=test)
    assert (verdict.outcome, len(verdict.checks)) == ("pass", 1500)
    cases = [["1", "1"], ["3000000", "1"], ["6000000", "1"], ["2", "2"]]
    answer = "def f(n): return n if n < 9 else 'x' * n"
    verdict = await judge("python_tests", answer, form="cases", entry_point="f", cases=cases)
    assert (verdict.outcome, verdict.score) == ("fail", 0.5)
    assert verdict.checks[2].got == "raised OverflowError: the result is too large"


@pytest.mark.asyncio
async def test_packages_that_do_not_exist_are_infra_error(judge: Judge) -> None:
    params = {"form": "check", "entry_point": "add", "test": ADD, "packages": ["no-such-package-anywhere==0.0.1"]}
    verdict = await judge("python_tests", "def add(a, b): return a + b", **params)
    assert (verdict.outcome, verdict.score) == ("infra_error", 0.0)


@pytest.mark.asyncio
async def test_a_loop_without_end_is_a_timeout_that_keeps_what_passed(judge: Judge) -> None:
    answer = "def add(a, b):\n    while a == 5: pass\n    return a + b"
    started = time.monotonic()
    verdict = await judge("python_tests", answer, form="check", entry_point="add", test=ADD, seconds=1.0)
    assert time.monotonic() - started < 6
    assert (verdict.outcome, round(verdict.score, 3)) == ("timeout", 0.333)
    assert verdict.detail == "add(5, 5): the answer did not return in time"


@pytest.mark.asyncio
async def test_an_abort_outside_an_assert_leaves_the_rest_unreached(judge: Judge) -> None:
    test = "def check(candidate):\n    first = candidate(1)[0]\n    assert first == 1\n"
    verdict = await judge("python_tests", "def f(x): return None", form="check", entry_point="f", test=test)
    assert (verdict.outcome, verdict.score) == ("fail", 0.0)
    assert verdict.checks[0].message == "not reached"
    assert verdict.checks[1].got.startswith("raised TypeError")


@pytest.mark.asyncio
async def test_the_score_counts_asserts_not_repetitions(judge: Judge) -> None:
    loop = "    for x in range(99):\n        assert candidate(x) == x\n"
    test = f"def check(candidate):\n{loop}    assert candidate(-1) == 1\n"
    verdict = await judge("python_tests", "def f(x): return x", form="check", entry_point="f", test=test)
    assert (verdict.score, len(verdict.checks)) == (0.5, 2)


@pytest.mark.parametrize(
    "params",
    [
        {"form": "check"},
        {"form": "check", "test": "x", "entry_point": "f", "cases": [["1", "1"]]},
        {"form": "cases", "entry_point": "f", "cases": []},
        {"form": "cases", "entry_point": "f", "cases": [["1", "open('x')"]]},
        {"form": "doctest", "test": "x"},
        {"form": "asserts", "test": "x", "seconds": 0},
        {"form": "asserts", "test": "x", "secnods": 3},
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(VerifierError, match="python_tests"):
        check_spec(VerifierSpec(kind="python_tests", params=params))  # type: ignore[arg-type]


class Unlucky:
    """Lends sandboxes of a pool, the first ones lost."""

    def __init__(self, pool: SandboxPool, losses: int) -> None:
        self._pool, self._losses = pool, losses

    def fresh(self, spec: SandboxSpec) -> AbstractAsyncContextManager[Sandbox]:
        self._losses -= 1
        return LostSandboxes().fresh(spec) if self._losses >= 0 else self._pool.fresh(spec)


@pytest.mark.asyncio
@pytest.mark.parametrize(("losses", "outcome"), [(2, "pass"), (3, "infra_error")])
async def test_a_lost_sandbox_is_replaced(pool: SandboxPool, losses: int, outcome: str) -> None:
    spec = VerifierSpec(kind="python_tests", params={"form": "check", "entry_point": "add", "test": ADD})
    run = Run(task_id="t", agent="a", status="done", answer="def add(a, b): return a + b")
    verdict = await load_verifier(spec, Unlucky(pool, losses)).verify(Task(id="t", messages=()), run)
    assert verdict.outcome == outcome


@pytest.mark.asyncio
async def test_it_conforms(pool: SandboxPool) -> None:
    spec = VerifierSpec(kind="python_tests", params={"form": "check", "entry_point": "add", "test": ADD, "seconds": 5})
    example = Example(
        task=Task(id="add", messages=(), verifiers=(spec,)),
        right="def add(a, b): return a + b",
        wrong="def add(a, b): return a - b",
        executes=True,
    )
    assert await verifier_breaches(lambda boxes: load_verifier(spec, boxes), example, pool) == []
