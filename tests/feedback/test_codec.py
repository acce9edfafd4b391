"""Values cross between processes as data: what comes back is equal and of the same type, or nothing crosses."""

import collections
import datetime
import decimal
import enum
import fractions
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.feedback.verifiers.box.codec import MAX_TEXT, NotDataError, decode, encode, short_repr

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.timedeltas()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner),
    max_leaves=5,
)
values = st.recursive(
    hashable,
    lambda inner: st.lists(inner) | st.dictionaries(hashable, inner) | st.lists(inner).map(collections.deque),
    max_leaves=15,
)


@given(values)
def test_data_comes_back_equal_and_of_its_type(value: object) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [range(0, 10, 3), bytearray(b"x"), collections.Counter("aab"), 1 << 20_000, -(2**60)],
    ids=["range", "bytearray", "counter", "huge", "large"],
)
def test_other_plain_types_come_back(value: object) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


def test_not_a_number_stays_one() -> None:
    assert math.isnan(decode(json.loads(json.dumps(encode(math.nan)))))  # type: ignore[arg-type]


def test_subclasses_cross_as_the_plain_type() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Level(enum.IntEnum):
        LOW = 1

    Point = collections.namedtuple("Point", "x y")
    assert encode(Liar(3)) == 3
    assert type(decode(encode(Level.LOW))) is int
    assert decode(encode(Point(1, 2))) == (1, 2)
    assert decode(encode(collections.defaultdict(int, {"a": 1}))) == {"a": 1}


def test_what_is_no_data_does_not_cross_unless_referred_to() -> None:
    with pytest.raises(NotDataError, match="function"):
        encode([len, lambda: 0])
    assert encode([print], lambda value: ["ref", 7, "print"]) == ["list", [["ref", 7, "print"]]]
    assert decode(["list", [["ref", 7, "print"]]], lambda index, text: (index, text)) == [(7, "print")]


@pytest.mark.parametrize(
    "data", [{}, [], ["ref", 0, ""], ["nothing", 1], ["list"], ["list", [], []], ["list", [{}]], ["bytes", "zz"]]
)
def test_malformed_data_is_refused(data: object) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_reprs_are_bounded_and_never_raise() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert short_repr(Broken()) == "<Broken whose repr raised RuntimeError>"
    assert len(short_repr("x" * 100_000)) < MAX_TEXT + 10
    assert short_repr(decimal.Decimal("1.5")) == "Decimal('1.5')"
    assert short_repr([fractions.Fraction(1, 2), datetime.date(2020, 1, 2)]).startswith("[Fraction(1, 2)")
