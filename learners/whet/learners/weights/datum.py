"""A ``Datum``: one row as tokens, ready for a loss. Nothing in it depends on torch, so a job's data is a JSONL file.

Datum(tokens=(5, 6, 7, 8), mask=(False, False, True, True))       # the policy wrote the last two
"""

from collections.abc import Iterable, Sequence

from whet.core.records import Record
from whet.learners.weights.rows import Side

__all__ = ["Datum", "units"]


class Datum(Record, frozen=True, kw_only=True):
    """Tokens, which of them count, and what a loss needs to know of them.

    ``mask``: one flag per token: the policy wrote it and it counts. ``weights``: one per token, a weight or an
    advantage; empty for 1 everywhere. ``logprobs``: one per token, natural log, of the policy that sampled it (0 where
    the mask is off); empty where unknown. ``teacher``: tokens that a teacher sees in place of those before the first
    masked one. The other fields are those of the ``Row``; ``id`` is unique within a data set.
    """

    tokens: tuple[int, ...]
    mask: tuple[bool, ...]
    weights: tuple[float, ...] = ()
    logprobs: tuple[float, ...] = ()
    teacher: tuple[int, ...] = ()
    pair: str = ""
    side: Side = ""
    label: float = 1.0
    scale: float = 1.0
    margin: float = 0.0
    group: str = ""
    reward: float | None = None
    term: str = ""
    off_policy: bool = False
    id: str = ""
    sources: tuple[str, ...] = ()

    @property
    def start(self) -> int:
        """The position of the first token that counts."""
        return self.mask.index(True)

    @property
    def counted(self) -> int:
        """How many tokens count."""
        return sum(self.mask)

    def under_teacher(self) -> "Datum":
        """Returns the datum as the teacher sees it: the same counted tokens after the teacher's context."""
        start, context = self.start, len(self.teacher)
        return Datum(
            tokens=(*self.teacher, *self.tokens[start:]), mask=(*(False,) * context, *self.mask[start:]), id=self.id
        )


def units(data: Iterable[Datum]) -> list[list[Datum]]:
    """Returns what must stay together in a batch: the data of one pair, or a datum by itself, in order."""
    found: dict[str, list[Datum]] = {}
    for number, datum in enumerate(data):
        found.setdefault(f"pair/{datum.pair}" if datum.pair else f"#{number}", []).append(datum)
    return list(found.values())


def check(data: Sequence[Datum], vocabulary: int) -> list[str]:
    """Returns what is wrong with data, one line each: lengths that differ, nothing that counts, foreign tokens."""
    wrong = []
    for datum in data:
        name, length = datum.id or "a datum", len(datum.tokens)
        if len(datum.mask) != length or any(len(part) not in (0, length) for part in (datum.weights, datum.logprobs)):
            wrong.append(f"{name}: mask, weights and logprobs need one entry for each of its {length} tokens")
        elif not datum.counted or datum.mask[0]:
            wrong.append(f"{name}: nothing in it counts, or its first token does, which nothing can predict")
        elif not all(0 <= token < vocabulary for token in (*datum.tokens, *datum.teacher)):
            wrong.append(f"{name}: a token is not in the vocabulary of {vocabulary}; it is of another tokenizer")
    return wrong
