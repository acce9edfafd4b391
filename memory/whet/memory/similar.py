"""How alike two texts are, by the words they share. For duplicates; recall has finer means."""

import re
from itertools import pairwise

from whet.memory.embedders import words

__all__ = ["resemblance"]

_CODE = re.compile(r"[\[\]{}=<>]|\bdef \w+\(")
_OTHER_CODE = 0.5


def resemblance(left: str, right: str) -> float:
    """Returns the Jaccard index of the words and word pairs of two texts (Broder 1997), 0 to 1; 1 for equal texts.

    Words do not tell ``x[1:]`` from ``x[:-1]``, so texts that hold different code are at most half alike.
    """
    a, b = _shingles(left), _shingles(right)
    alike = len(a & b) / len(a | b) if a | b else 1.0
    return alike if _code(left) == _code(right) else min(alike, _OTHER_CODE)


def _shingles(text: str) -> set[str]:
    found = words(text)
    return {*found, *(f"{a} {b}" for a, b in pairwise(found))}


def _code(text: str) -> str:
    """Returns the text without spaces where it looks like code, else nothing."""
    return "".join(text.split()) if _CODE.search(text) else ""
