"""Verifiers that read the answer: exact, regex, numeric, JSON Schema."""

import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core import Task, Verdict, VerifierError, VerifierSpec
from whet.feedback import check_spec, load_verifier
from whet.feedback.conformance import Example, verifier_breaches
from whet.feedback.verifiers.text import parse_number

Judge = Callable[..., Awaitable[Verdict]]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("params", "answer", "passes"),
    [
        ({"expected": "Paris"}, " Paris\n", True),
        ({"expected": "Paris"}, "paris", False),
        ({"expected": "Paris", "case": False}, "PARIS", True),
        ({"expected": "Paris", "strip": False}, "Paris ", False),
        ({"expected": ["a b", "c"]}, "c", True),
        ({"expected": "a b"}, "a \n b", False),
        ({"expected": "a b", "spaces": False}, "a \n b", True),
        ({"expected": "caf\u00e9"}, "cafe\u0301", True),
        ({}, "the reference", True),
    ],
)
async def test_exact(judge: Judge, params: dict[str, str], answer: str, passes: bool) -> None:
    verdict = await judge("exact", answer, **params)
    assert (verdict.outcome, verdict.kind) == ("pass" if passes else "fail", "rule")
    assert verdict.checks[0].got == repr(answer)


@pytest.mark.asyncio
async def test_exact_without_anything_to_compare_with_does_not_judge() -> None:
    from whet.core import Run

    verifier = load_verifier(VerifierSpec(kind="exact"))
    verdict = await verifier.verify(Task(id="t", messages=()), Run(task_id="t", agent="a", status="done", answer="x"))
    assert verdict.outcome == "infra_error"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("params", "answer", "passes"),
    [
        ({"pattern": r"\b42\b"}, "it is 42.", True),
        ({"pattern": r"\b42\b"}, "it is 421", False),
        ({"pattern": r"\d+", "full": True}, " 42 ", True),
        ({"pattern": r"\d+", "full": True}, "42.", False),
        ({"pattern": "yes", "ignore_case": True}, "YES", True),
        ({"pattern": "^b$"}, "a\nb", False),
        ({"pattern": "^b$", "multiline": True}, "a\nb", True),
    ],
)
async def test_regex(judge: Judge, params: dict[str, str], answer: str, passes: bool) -> None:
    assert (await judge("regex", answer, **params)).outcome == ("pass" if passes else "fail")


@pytest.mark.asyncio
async def test_a_pattern_that_never_ends_is_a_timeout(judge: Judge) -> None:
    started = time.monotonic()
    verdict = await judge("regex", "a" * 40 + "!", pattern="(a+)+$", seconds=0.5)
    assert verdict.outcome == "timeout"
    assert time.monotonic() - started < 5


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("params", "answer", "passes"),
    [
        ({"expected": 42}, "The answer is 42.", True),
        ({"expected": 42}, "41 and then 42", True),
        ({"expected": 42, "take": "first"}, "41 and then 42", False),
        ({"expected": 42, "take": "only"}, "42", True),
        ({"expected": 42, "take": "only"}, "42 km", False),
        ({"expected": 1234.5}, "1,234.5", True),
        ({"expected": 0.001}, "1e-3", True),
        ({"expected": 0.75}, "3/4", True),
        ({"expected": 0.5}, "50%", True),
        ({"expected": -2}, "x = -2", True),
        ({"expected": 3.14, "abs_tol": 0.01}, "3.1415", True),
        ({"expected": 3.14}, "3.1415", False),
        ({"expected": 1}, "1/0", False),
        ({"expected": 1}, "none at all", False),
    ],
)
async def test_numeric(judge: Judge, params: dict[str, float], answer: str, passes: bool) -> None:
    verdict = await judge("numeric", answer, **params)
    assert verdict.outcome == ("pass" if passes else "fail"), verdict.checks


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["first", "last", "only"]))
def test_every_number_that_python_writes_is_read(value: float, take: str) -> None:
    assert parse_number(repr(value), take) == value


@given(st.text())
def test_no_text_breaks_the_reading_of_numbers(text: str) -> None:
    value = parse_number(text, "last")
    assert value is None or isinstance(value, float)


SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ('{"name": "Ana", "age": 3}', []),
        ('Sure:\n```json\n{"name": "Ana", "age": 3}\n```', []),
        ('{"name": 1, "age": -1}', ["schema $.age", "schema $.name"]),
        ('{"name": "Ana"}', ["schema $"]),
        ('{"name": "Ana", "age": NaN}', ["json"]),
        ("name: Ana", ["json"]),
    ],
)
async def test_json_schema_tells_every_error_with_its_path(judge: Judge, answer: str, names: list[str]) -> None:
    verdict = await judge("json_schema", answer, schema=SCHEMA)
    assert verdict.outcome == ("fail" if names else "pass")
    assert [check.name for check in verdict.checks if not check.passed] == names


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("exact", {"expect": "x"}),
        ("regex", {"pattern": "("}),
        ("regex", {}),
        ("numeric", {"expected": "many"}),
        ("numeric", {"expected": 1, "take": "middle"}),
        ("json_schema", {"schema": {"type": "thing"}}),
        ("json_schema", {"schema": {}, "strict": True}),
        ("nothing", {}),
        ("no.such.module:Verifier", {}),
        ("whet.feedback.verifiers.text:Nothing", {}),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(kind: str, params: dict[str, object]) -> None:
    with pytest.raises(VerifierError) as caught:
        check_spec(VerifierSpec(kind=kind, params=params))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert kind in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("kind", "params", "right", "wrong"),
    [
        ("exact", {"expected": "42"}, "42", "41"),
        ("regex", {"pattern": "^4[2]$"}, "42", "41"),
        ("numeric", {"expected": 42}, "42", "41"),
        ("json_schema", {"schema": {"const": 42}}, "42", "41"),
        ("whet.feedback.verifiers.text:Exact", {"expected": "42"}, "42", "41"),
    ],
)
async def test_they_conform(kind: str, params: dict[str, object], right: str, wrong: str) -> None:
    spec = VerifierSpec(kind=kind, params=params)  # type: ignore[arg-type]
    example = Example(task=Task(id="t", messages=(), verifiers=(spec,)), right=right, wrong=wrong)
    assert await verifier_breaches(lambda boxes: load_verifier(spec, boxes), example) == []
