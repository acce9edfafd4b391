"""Programs taken apart without running them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.learners.programs import Helper, dissect, rename

CHAIN = """import math
LIMIT = 3

def zorp(x): return x[::-1]

def blick(x):
    \"\"\"Sorts.\"\"\"
    return sorted( x )

def deep(x): return math.floor(blick(x)[0])

def unused(x): return x

def bound(x): return x[:LIMIT]

def solve(x):
    return zorp([deep(x)] + bound(x))
"""


def test_helpers_reached_from_the_entry_point_are_found_as_written() -> None:
    parts = dissect(CHAIN, "solve")
    assert parts is not None
    assert {name: helper.source for name, helper in parts.helpers.items()} == {
        "zorp": "def zorp(x): return x[::-1]",
        "blick": "def blick(x): return sorted( x )",
        "deep": "def deep(x): return math.floor(blick(x)[0])",
    }
    assert parts.helpers["deep"].needs == ("blick", "math")
    assert parts.entry.needs == ("bound", "deep", "zorp")
    assert parts.imports == ("import math",)
    assert parts.alone is None


@pytest.mark.parametrize(
    ("entry", "alone"),
    [
        ("def solve(x): return zorp(x)", "zorp"),
        ("def solve(x, y): return zorp(y, x)", None),
        ("def solve(x): return zorp(zorp(x))", None),
        ("def solve(x): return zorp(x)[0]", None),
        ("def solve(x): return sorted(x)", None),
        ("def solve(x):\n    x = x[1:]\n    return zorp(x)", None),
        ("def solve(x): return zorp(x, k=1)", None),
    ],
)
def test_an_entry_point_that_only_passes_on_is_recognised(entry: str, alone: str | None) -> None:
    parts = dissect(f"def zorp(x, k=0): return x\n{entry}", "solve")
    assert parts is not None
    assert parts.alone == alone


def test_longer_functions_keep_their_lines_and_decorated_ones_are_left_out() -> None:
    long = "def f(x):\n    y = [v for v in x]\n    return y"
    source = f"{long}\n\n@cache\ndef g(x): return x\n\ndef solve(x): return g(f(x))\n"
    parts = dissect(source, "solve")
    assert parts is not None
    assert {name: helper.source for name, helper in parts.helpers.items()} == {"f": long}


@pytest.mark.parametrize(
    "source", ["def solve(x) return x", "x = 1", "", "\x00", "def other(x): return x", "def solve(x): return gone(x)"]
)
def test_what_cannot_be_taken_apart_is_none(source: str) -> None:
    assert dissect(source, "solve") is None


@given(st.text(max_size=200))
def test_any_text_is_taken_apart_or_refused(source: str) -> None:
    dissect(source, "solve")


def test_renaming_keeps_the_body() -> None:
    helper = Helper(name="zorp", source="def zorp(x): return x[::-1]")
    assert rename(helper, "blick").source == "def blick(x): return x[::-1]"
    assert rename(helper, "blick").body == helper.body
