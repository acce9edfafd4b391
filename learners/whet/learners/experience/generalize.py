"""Anti-unification: what several terms have in common, with a parameter where they differ.

    found = generalize([{"command": "sort a.txt > a.out"}, {"command": "sort b.txt > b.out"}])
    found.template                    # {"command": "sort {{value1}}.txt > {{value1}}.out"}
    found.values                      # {"value1": ("a", "b")}

The least general generalisation of Plotkin (1970): where terms differ in the same way twice, it is the same parameter.
Terms are JSON values; texts are compared word by word, and a text with no word in common is a parameter as a whole.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from whet.agents.shortcuts import PLACE
from whet.core.records import Json, Record

__all__ = ["General", "generalize"]

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_WORD = re.compile(r"\w\w")
_GAP = ""


class General(Record, frozen=True, kw_only=True):
    """A template with ``{{name}}`` where the terms differ, and the value of each name in each of the terms."""

    template: Json
    values: dict[str, tuple[Json, ...]]


def generalize(terms: Sequence[Json]) -> General | None:
    """Returns what the terms have in common; ``None`` where they are not of one form, or hold a ``{{name}}``."""
    parameters = _Parameters()
    try:
        template = _lgg(terms, parameters)
    except _Unlike:
        return None
    return General(template=template, values={name: values for values, name in parameters.names.items()})


class _Unlike(Exception):
    """Terms that are not of one form."""


class _Parameters:
    """Gives the same name to the same values."""

    def __init__(self) -> None:
        self.names: dict[tuple[Json, ...], str] = {}

    def place(self, values: Sequence[Json]) -> str:
        if not all(isinstance(value, str | int | float | bool | None) for value in values):
            raise _Unlike
        return f"{{{{{self.names.setdefault(tuple(values), f'value{len(self.names) + 1}')}}}}}"


def _lgg(terms: Sequence[Json], parameters: _Parameters) -> Json:
    first = terms[0]
    if isinstance(first, dict):
        dicts = [term for term in terms if isinstance(term, dict) and term.keys() == first.keys()]
        if len(dicts) < len(terms):
            raise _Unlike
        return {key: _lgg([term[key] for term in dicts], parameters) for key in first}
    if isinstance(first, list):
        lists = [term for term in terms if isinstance(term, list) and len(term) == len(first)]
        if len(lists) < len(terms):
            raise _Unlike
        return [_lgg(each, parameters) for each in zip(*lists, strict=True)]
    if any(isinstance(term, str) and PLACE.search(term) for term in terms):
        raise _Unlike
    if all(type(term) is type(first) and term == first for term in terms):
        return first
    texts = [term for term in terms if isinstance(term, str)]
    return _common(texts, parameters) if len(texts) == len(terms) else parameters.place(terms)


def _common(texts: Sequence[str], parameters: _Parameters) -> str:
    """Returns the words that all texts have in their order, with places between them."""
    kept = _TOKEN.findall(texts[0])
    for text in texts[1:]:
        kept = _merge(kept, _TOKEN.findall(text))
    if not any(_WORD.search(token) for token in kept):
        return parameters.place(texts)
    pattern = "".join("(.+?)" if token == _GAP else re.escape(token) for token in kept)
    matches = [re.fullmatch(pattern, text, re.DOTALL) for text in texts]
    found = [match.groups() for match in matches if match is not None]
    if len(found) < len(texts):
        return parameters.place(texts)
    places = iter([parameters.place(values) for values in zip(*found, strict=True)])
    return "".join(next(places) if token == _GAP else token for token in kept)


def _merge(kept: list[str], tokens: list[str]) -> list[str]:
    """Returns what two token lists share, with a gap wherever one of them has something else."""
    blocks = SequenceMatcher(None, kept, tokens, autojunk=False).get_matching_blocks()
    merged: list[str] = [_GAP] if blocks[0].a or blocks[0].b else []
    for block, after in pairwise(blocks):
        merged += kept[block.a : block.a + block.size]
        if block.a + block.size < after.a or block.b + block.size < after.b:
            merged.append(_GAP)
    return [token for token, before in zip(merged, [None, *merged], strict=False) if token != _GAP or before != _GAP]
