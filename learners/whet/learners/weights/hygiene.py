"""Hygiene of rows: no duplicates, nothing that is held back, no more tokens than allowed. Pure functions, no torch.

    rows, dropped = deduplicate(rows)
    rows, dropped = decontaminate(rows, await view.held_back())
    rows, dropped = budget(rows, 1_000_000, count=lambda row: len(tokenizer.encode(…)))
    dropped                                     # {"over the budget of 1,000,000 tokens": 12}

What belongs together (the sides of a pair, the rollouts of a group) stays or goes together. Every row that goes is
counted under a reason.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import ceil
from typing import NamedTuple

import msgspec
import numpy as np

from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.records import Message
from whet.core.wire import encode
from whet.learners.weights.heldback import Hashes, HeldBack, Look, look, tokens
from whet.learners.weights.rows import Row

__all__ = ["Sifted", "budget", "count_words", "decontaminate", "deduplicate"]

NEAR = 0.9
"""The Jaccard index of n-grams from which two rows say the same."""
FEWEST = 40
"""Rows with fewer n-grams of their own are duplicates only when they are equal: few words make a difference there."""
HALF = 0.5
"""N-grams of more than this share of the rows are phrasing, by which rows are not compared."""
TENTH = 0.1
"""N-grams of this share of the training tasks, and of three at least, are phrasing that gives no other task away."""


class Sifted(NamedTuple):
    """The rows that are kept, in order, and how many others were dropped, by reason."""

    rows: tuple[Row, ...]
    dropped: dict[str, int]


def deduplicate(rows: Iterable[Row]) -> Sifted:
    """Returns the rows without those that say what an earlier one says; the earlier one gets the sources of its equals.

    Equal are rows whose messages differ in white space only and that count in the same way. Nearly equal are rows that
    share nine tenths of their n-grams, phrasing that most rows share aside; rollouts of a group are samples, which may
    be alike.
    """
    found = list(rows)
    first: dict[bytes, list[int]] = {}
    dropped: Counter[str] = Counter()
    for unit in _units(found):
        name = encode(sorted(_name(found[number]) for number in unit))
        if name in first:
            _add_sources(found, first[name], unit)
            dropped["duplicate"] += len(unit)
        else:
            first[name] = unit
    kept = list(first.values())
    again = _near_duplicates([_features([found[number] for number in unit]) for unit in kept])
    dropped["near-duplicate"] += sum(len(kept[number]) for number in again)
    return _sifted(found, [unit for number, unit in enumerate(kept) if number not in again], dropped)


def decontaminate(rows: Iterable[Row], held_back: HeldBack) -> Sifted:
    """Returns the rows in which no message comes from a held-out or sealed task.

    N-grams that many training tasks share are no sign of a held-back one.
    """
    found = list(rows)
    looks = {text: look(text) for row in found for text in _texts(row)}
    index = held_back.without(_phrasing(found, looks))
    reasons = {text: index.match(seen) for text, seen in looks.items()}
    dropped: Counter[str] = Counter()
    kept = []
    for unit in _units(found):
        reason = next((reasons[text] for number in unit for text in _texts(found[number]) if reasons[text]), "")
        if reason:
            dropped[reason] += len(unit)
        else:
            kept.append(unit)
    return _sifted(found, kept, dropped)


def count_words(row: Row) -> int:
    """Returns how many words and signs a row has: a guess at its tokens where there is no tokenizer."""
    return sum(len(tokens(text)) for text in _texts(row))


def budget(rows: Iterable[Row], most: int, *, count: Callable[[Row], int] = count_words, seed: int = 0) -> Sifted:
    """Returns rows of at most so many tokens together, about equally many of each task, drawn with this seed.

    ``count`` says how many tokens a row has. It is always the turn of the task with the fewest tokens; what does not
    fit any more is dropped.

    Raises:
        UserError: the budget is not above 0.
    """
    if most <= 0:
        raise UserError(f"a budget of {most!r} tokens keeps nothing; give more than 0, or none to keep all")
    found = list(rows)
    units = _units(found)
    sizes = [sum(count(found[number]) for number in unit) for unit in units]
    kept, spent = [], 0
    for place in _in_turn([found[unit[0]].task_id for unit in units], sizes, random.Random(seed)):
        if spent + sizes[place] <= most:
            kept.append(units[place])
            spent += sizes[place]
    over = len(found) - sum(map(len, kept))
    return _sifted(found, kept, Counter({f"over the budget of {most:,} tokens": over}))


def _in_turn(task_ids: Sequence[str], sizes: Sequence[int], rng: random.Random) -> Iterator[int]:
    """Yields the places of units: each time a random one of the task of which the least was yielded."""
    of_task: dict[str, list[int]] = defaultdict(list)
    for place, task_id in enumerate(task_ids):
        of_task[task_id].append(place)
    for places in of_task.values():
        rng.shuffle(places)
    heap = [(0, rng.random(), places) for places in of_task.values()]
    heapify(heap)
    while heap:
        size, turn, places = heappop(heap)
        place = places.pop()
        yield place
        if places:
            heappush(heap, (size + sizes[place], turn, places))


def _units(rows: Sequence[Row]) -> list[list[int]]:
    """Returns the numbers of rows that stay together: the sides of a pair, the rollouts of a group, or one row."""
    found: dict[tuple[str, str | int], list[int]] = {}
    for number, row in enumerate(rows):
        key = ("pair", row.pair) if row.pair else ("group", row.group) if row.group else ("row", number)
        found.setdefault(key, []).append(number)
    return list(found.values())


def _sifted(rows: Sequence[Row], kept: Iterable[Sequence[int]], dropped: Mapping[str, int]) -> Sifted:
    numbers = sorted(number for unit in kept for number in unit)
    return Sifted(tuple(rows[number] for number in numbers), {why: count for why, count in dropped.items() if count})


def _texts(row: Row) -> Iterator[str]:
    """Yields every text of a row: messages, what tools are called with, and what only a teacher sees."""
    for message in (*row.messages, *(row.teacher or ())):
        yield from (text for text in (message.content, *(call.arguments for call in message.tool_calls)) if text)


# --- duplicates -------------------------------------------------------------------------------------------------------


def _name(row: Row) -> bytes:
    """Returns what two rows have in common that are duplicates: everything but white space and where they come from."""
    same = msgspec.structs.replace(
        row,
        messages=tuple(map(_squeezed, row.messages)),
        teacher=None if row.teacher is None else tuple(map(_squeezed, row.teacher)),
        sampled=(),
        pair="",
        group="",
        task_id="",
        sources=(),
        trust="trusted",
    )
    return encode(same)


def _squeezed(message: Message) -> Message:
    return msgspec.structs.replace(message, content=" ".join(message.content.split()))


def _add_sources(rows: list[Row], kept: Sequence[int], equal: Sequence[int]) -> None:
    """Adds to kept rows the sources of their equals: what is learned rests on all of them."""
    others = {_name(rows[number]): rows[number].sources for number in equal}
    for number in kept:
        sources = dict.fromkeys((*rows[number].sources, *others[_name(rows[number])]))
        rows[number] = msgspec.structs.replace(rows[number], sources=tuple(sources))


def _features(unit: Sequence[Row]) -> Hashes:
    """Returns the n-grams of what was said in a unit, none for a group; system messages are the same for many rows.

    Rows that count in different ways have none in common.
    """
    found = [np.empty(0, dtype=np.uint64)]
    for row in unit if unit[0].pair or not unit[0].group else ():
        way = encode([row.term, row.side, row.label, [piece.message for piece in row.pieces]])
        salt = np.uint64(int(digest(way)[:16], 16))
        found += [look(message.content).short ^ salt for message in row.messages if message.role != "system"]
    return np.unique(np.concatenate(found))


def _near_duplicates(features: Sequence[Hashes]) -> set[int]:
    """Returns the numbers of the sets that have a Jaccard index of ``NEAR`` with an earlier one that stays.

    Two such sets share one of their rarest members, if so many are looked at that fewer than ``NEAR`` are left
    (prefix filtering: Bayardo et al. 2007). So all are found, and few pairs are compared.
    """
    if not features:
        return set()
    known, spread = np.unique(np.concatenate(features), return_counts=True)
    most = max(2.0, HALF * len(features))
    own: list[Hashes] = []
    seen: dict[int, list[int]] = defaultdict(list)
    again: set[int] = set()
    for number, grams in enumerate(features):
        counts = spread[np.searchsorted(known, grams)]
        own.append(grams[counts <= most])
        size = len(own[number])
        if size < FEWEST:
            continue
        order = np.argsort(counts[counts <= most], kind="stable")
        rarest = own[number][order[: size - ceil(NEAR * size) + 1]].tolist()
        if any(_jaccard(own[number], own[other]) >= NEAR for other in {each for gram in rarest for each in seen[gram]}):
            again.add(number)
        else:
            for gram in rarest:
                seen[gram].append(number)
    return again


def _jaccard(a: Hashes, b: Hashes) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _phrasing(rows: Sequence[Row], looks: Mapping[str, Look]) -> set[int]:
    """Returns the n-grams that many training tasks have in common."""
    of_task: dict[str, set[str]] = defaultdict(set)
    for number, row in enumerate(rows):
        of_task[row.task_id or f"#{number}"].update(_texts(row))
    found = [np.unique(np.concatenate([looks[text].grams for text in texts])) for texts in of_task.values() if texts]
    if not found:
        return set()
    grams, counts = np.unique(np.concatenate(found), return_counts=True)
    return set(grams[counts >= max(3, ceil(TENTH * len(of_task)))].tolist())
