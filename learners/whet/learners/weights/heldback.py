"""``HeldBack``: tells whether a text comes from a held-out or sealed task, and cannot say what is in it.

    index = await TrainMemory(memory).held_back()        # hashes and vectors; learners never see the tasks
    index.match(look("Write solve(x): zorp."))           # "is a held-back text", or "" where nothing is known of it

A text is found as a whole; in parts, where it shares most of the n-grams that only one held-back task has (Brown et al.
2020, appendix C, look for 13-grams); or with other words, by the cosine of hashed n-grams. Phrasing that several tasks
share gives none of them away, so tasks made from one template are told apart by what varies.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from whet.core.records import Task
from whet.memory.embedders import HashedNgrams, Vectors

__all__ = ["Hashes", "HeldBack", "Look", "Passage", "look", "tokens"]

SHORT = 8
WIDE = 13
"""Tokens of an n-gram in texts below ``LONG`` tokens, and in longer ones."""
LONG = 200
PARTLY = 40
"""Texts with fewer tokens are found as a whole only: in so few words, tasks of one kind are much alike."""
OWN_WORDS = 16
"""References and files with fewer tokens are what anybody would write."""
SHARE = 0.7
"""The share of a text's own n-grams from which a part gives it away; it needs ``FEWEST`` of them."""
FEWEST = 20
COSINE = 0.9
"""The least cosine of two texts that say the same."""

_TOKEN = re.compile(r"\w+|[^\w\s]")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_EMBEDDER = HashedNgrams()

Hashes = NDArray[np.uint64]


def tokens(text: str) -> list[str]:
    """Returns the words and signs of a text, in lower case."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class Look:
    """A text, and its tokens as hashes."""

    text: str
    hashes: Hashes

    @cached_property
    def short(self) -> Hashes:
        """The hashes of its n-grams of ``SHORT`` tokens, in order."""
        return _grams(self.hashes, SHORT)

    @cached_property
    def wide(self) -> Hashes:
        """The hashes of its n-grams of ``WIDE`` tokens, in order."""
        return _grams(self.hashes, WIDE)

    @property
    def grams(self) -> Hashes:
        """The hashes of all of its n-grams, each once."""
        return np.unique(np.concatenate([self.short, self.wide]))

    @property
    def vector(self) -> Vectors | None:
        """The vector of a text that is long enough to have one."""
        return _EMBEDDER.vectors([self.text])[0] if len(self.hashes) >= PARTLY else None


def look(text: str) -> Look:
    """Returns a text with its tokens as hashes."""
    return Look(text, np.array([_hash(token) for token in tokens(text)], dtype=np.uint64))


@lru_cache(maxsize=200_000)
def _hash(token: str) -> int:
    return int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "little")


def _grams(hashes: Hashes, n: int) -> Hashes:
    """Returns a hash of every run of ``n`` tokens: a polynomial in an odd base, modulo 2**64."""
    if not 0 < n <= len(hashes):
        return np.empty(0, dtype=np.uint64)
    powers = np.cumprod(np.full(n, _BASE, dtype=np.uint64))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(hashes, n) @ powers, dtype=np.uint64)


def _whole(hashes: Hashes) -> int:
    return int(_grams(hashes, len(hashes))[0]) if len(hashes) else 0


@dataclass(frozen=True)
class Passage:
    """A held-back text as hashes. ``own`` are the n-grams by which it is told from the texts of other tasks."""

    task: int
    length: int
    whole: int
    first: int | None
    own: frozenset[int]
    vector: Vectors | None

    @property
    def partly(self) -> bool:
        """Whether a part of it can give it away."""
        return self.length >= PARTLY and len(self.own) >= FEWEST


@dataclass(frozen=True)
class HeldBack:
    """Hashes and vectors of the texts of tasks that nobody may learn from; ``tasks`` is how many there are."""

    tasks: int = 0
    passages: tuple[Passage, ...] = ()

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> "HeldBack":
        """Returns the index of the prompts, references and files of tasks."""
        count, passages = 0, []
        for task in tasks:
            passages += [_passage(count, look(text), asked) for text, asked in _texts(task)]
            count += 1
        of_task: dict[int, set[int]] = defaultdict(set)
        for passage in passages:
            of_task[passage.task] |= passage.own
        spread = Counter(gram for own in of_task.values() for gram in own)
        return cls(count, tuple(passages)).without({gram for gram, number in spread.items() if number > 1})

    def without(self, common: Collection[int]) -> "HeldBack":
        """Returns the index for which these n-grams are common phrasing that gives no task away."""
        return HeldBack(self.tasks, tuple(replace(each, own=each.own.difference(common)) for each in self.passages))

    def match(self, seen: Look) -> str:
        """Returns why a text may not be learned from; the empty text where nothing speaks against it."""
        if self._holds(seen):
            return "holds a held-back text"
        if self._shares(seen):
            return "shares most of a held-back text"
        return "resembles a held-back text" if self._resembles(seen) else ""

    def _holds(self, seen: Look) -> bool:
        if _whole(seen.hashes) in self._wholes:
            return True
        return any(
            _whole(seen.hashes[start : start + passage.length]) == passage.whole
            for start, gram in enumerate(seen.short.tolist())
            for passage in self._firsts.get(gram, ())
        )

    def _shares(self, seen: Look) -> bool:
        shared = Counter(number for gram in seen.grams.tolist() for number in self._carriers.get(gram, ()))
        return any(count >= SHARE * len(self.passages[number].own) for number, count in shared.items())

    def _resembles(self, seen: Look) -> bool:
        vectors, floors = self._vectors
        vector = seen.vector if len(floors) else None
        return vector is not None and bool((np.vecdot(vectors, vector) >= floors).any())

    @cached_property
    def _wholes(self) -> frozenset[int]:
        return frozenset(passage.whole for passage in self.passages)

    @cached_property
    def _firsts(self) -> dict[int, list[Passage]]:
        found: dict[int, list[Passage]] = defaultdict(list)
        for passage in self.passages:
            if passage.first is not None:
                found[passage.first].append(passage)
        return dict(found)

    @cached_property
    def _carriers(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for number, passage in enumerate(self.passages):
            for gram in passage.own if passage.partly else ():
                found[gram].append(number)
        return dict(found)

    @cached_property
    def _vectors(self) -> tuple[Vectors, Vectors]:
        """The vectors, (texts, dims), and the cosine from which each is resembled: the greater ``COSINE`` and the half
        way from the most alike text of another held-back task to the text itself.

        Texts that another held-back task resembles are made from a template, and not told apart by their words.
        """
        held = [passage for passage in self.passages if passage.vector is not None]
        vectors = np.array([passage.vector for passage in held], dtype=np.float32).reshape(-1, _EMBEDDER.dims)
        numbers = np.array([passage.task for passage in held])
        others = np.where(numbers[:, None] == numbers[None, :], -1.0, vectors @ vectors.T)
        nearest = others.max(axis=1, initial=-1.0)
        floors = np.where(nearest < COSINE, np.maximum(COSINE, (1 + nearest) / 2), np.inf)
        return vectors, floors.astype(np.float32)


def _texts(task: Task) -> Iterator[tuple[str, bool]]:
    """Yields the texts by which a task is known, and whether they ask: messages; long enough references and files."""
    yield from ((message.content, True) for message in task.messages if message.content.strip())
    for text in (task.reference or "", *task.files.values()):
        if len(tokens(text)) >= OWN_WORDS:
            yield text, False


def _passage(task: int, seen: Look, asked: bool) -> Passage:
    """Returns a text as a passage. Only what asks has a vector: to the embedder, programs of one kind are alike."""
    length = len(seen.hashes)
    own = frozenset((seen.short if length < LONG else seen.wide).tolist())
    first = int(seen.short[0]) if len(seen.short) else None
    return Passage(task, length, _whole(seen.hashes), first, own, seen.vector if asked else None)
