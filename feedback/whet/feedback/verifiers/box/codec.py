"""Values as tagged JSON, so that answers, tests and host exchange data and nothing else. Standard library only."""

import collections
import datetime
import decimal
import fractions
from collections.abc import Callable
from typing import TypeAlias

Data: TypeAlias = object  # JSON: None, bool, int, float, str, list or dict

MAX_TEXT = 600

_LISTS: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
_DICTS: dict[str, type] = {"dict": dict, "OrderedDict": collections.OrderedDict, "Counter": collections.Counter}
_TEXTS: dict[str, Callable[[str], object]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": complex,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
}


class NotDataError(Exception):
    """A value is no plain data and cannot cross as such."""


def _scalar(value: object) -> Data:
    """Returns a value that is no container as tagged JSON."""
    if value is None or isinstance(value, (bool, float)):
        return value if value is None or isinstance(value, bool) else float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int(value)
        return number if abs(number) < 1 << 53 else ["int", hex(number)]
    if isinstance(value, (bytes, bytearray)):
        return [type(value).__name__, bytes(value).hex()]
    if isinstance(value, (datetime.date, datetime.time)):
        return [type(value).__name__, value.isoformat()]
    if isinstance(value, (complex, decimal.Decimal, fractions.Fraction)):
        return [type(value).__name__, str(value)]
    if isinstance(value, datetime.timedelta):
        return ["timedelta", value.days, value.seconds, value.microseconds]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    raise NotDataError(f"a {type(value).__name__} is no plain data")


def encode(value: object, refer: Callable[[object], Data] | None = None) -> Data:
    """Returns a value as tagged JSON. Sub-classes of plain types cross as the plain type.

    ``refer`` makes a reference to anything else; without it such a value raises ``NotDataError``.
    """
    for name, kind in _LISTS.items():
        if isinstance(value, kind):
            return [name, [encode(item, refer) for item in value]]  # type: ignore[attr-defined]
    if isinstance(value, dict):
        name = type(value).__name__ if type(value).__name__ in _DICTS else "dict"
        return [name, [[encode(key, refer), encode(item, refer)] for key, item in dict.items(value)]]
    try:
        return _scalar(value)
    except NotDataError:
        if refer is None:
            raise
        return refer(value)


def decode(data: Data, resolve: Callable[[int, str], object] | None = None) -> object:
    """Returns the value of tagged JSON; ``resolve(id, repr)`` turns a reference into an object.

    Raises:
        ValueError: the data is malformed, or a reference where none is allowed.
    """
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise ValueError("untagged object")
        return data
    if not data:
        raise ValueError("no tag")
    name, *parts = data
    if name == "ref" and resolve is not None and len(parts) == 2 and isinstance(parts[0], int):
        return resolve(parts[0], str(parts[1]))
    if name == "range":
        return range(*parts)
    if name == "timedelta":
        return datetime.timedelta(*parts)
    if len(parts) != 1:
        raise ValueError(f"malformed {name!r}")
    if name in _LISTS:
        return _LISTS[name]([decode(item, resolve) for item in parts[0]])
    if name in _DICTS:
        return _DICTS[name]({decode(key, resolve): decode(item, resolve) for key, item in parts[0]})
    if name in _TEXTS:
        return _TEXTS[name](parts[0])
    raise ValueError(f"unknown tag {name!r}")


def short_repr(value: object) -> str:
    """Returns a value's repr, cut in the middle where it is long, whatever its ``__repr__`` does."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return cut(text)


def cut(text: str) -> str:
    """Returns the text, cut in the middle where it is longer than ``MAX_TEXT`` characters."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]} … {text[-MAX_TEXT // 2 :]}"
