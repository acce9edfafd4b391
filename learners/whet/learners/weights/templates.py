"""Rows to data by a chat template: exact masks, recorded tokens where there are any, and a report of what was dropped.

    template = load_template("./model")                   # the folder's tokenizer and template; no torch, no weights
    encoded = encode_rows(rows, template, max_tokens=4096)
    print("\\n".join(encoded.report.lines()))
    datum = encode_row(rows[0], template)                 # raises Dropped, which says why

A row is never cut short: one that is too long, or in which the template does not allow an exact mask, is dropped.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.ids import digest
from whet.core.models.chat_template import ChatTemplate, load_template
from whet.core.records import Record
from whet.core.wire import encode
from whet.learners.weights.datum import Datum, check
from whet.learners.weights.masks import Dropped, Reason, Turn, join_turns, read_turns, weigh
from whet.learners.weights.rows import Row

__all__ = [
    "ChatTemplate",
    "Drop",
    "Dropped",
    "Encoded",
    "Lengths",
    "Report",
    "dry_run",
    "encode_row",
    "encode_rows",
    "load_template",
    "split_calls",
]


class Drop(Record, frozen=True, kw_only=True):
    """Row number ``row`` was dropped: the reason in a word, and the line that says it all."""

    row: int
    reason: Reason
    line: str


class Lengths(Record, frozen=True, kw_only=True):
    """Tokens per datum."""

    shortest: int = 0
    median: float = 0.0
    p95: int = 0
    longest: int = 0


class Report(Record, frozen=True, kw_only=True):
    """What became of rows.

    ``counted`` of ``tokens`` count. ``recorded``: answers whose recorded tokens were taken; of these, those whose
    prompt (``other_prompts``) or own tokens (``other_answers``) are not what the template makes of the same messages.
    ``split``: rows of which each call became a datum. ``spelled``: rows in which somebody's text spells out a special
    token that becomes one.
    """

    rows: int = 0
    data: int = 0
    drops: tuple[Drop, ...] = ()
    lengths: Lengths = Lengths()
    tokens: int = 0
    counted: int = 0
    recorded: int = 0
    other_prompts: int = 0
    other_answers: int = 0
    split: int = 0
    spelled: int = 0

    @property
    def dropped(self) -> dict[str, int]:
        """How many rows were dropped for each reason, most first."""
        return dict(Counter(drop.reason for drop in self.drops).most_common())

    def lines(self) -> list[str]:
        """Returns the report for people: a few lines, with the first dropped row of each reason."""
        long = self.lengths
        found = [
            f"{self.rows} rows -> {self.data} data; {self.counted} of {self.tokens} tokens count",
            f"tokens per datum: {long.shortest} to {long.longest}, median {long.median:g}, 95 % up to {long.p95}",
        ]
        if self.recorded:
            found.append(
                f"{self.recorded} answers as recorded; the template has {self.other_prompts} of their prompts and"
                f" {self.other_answers} of themselves in other tokens"
            )
        if self.split:
            found.append(f"{self.split} rows split into their calls")
        if self.spelled:
            found.append(f"{self.spelled} rows hold text that spells out special tokens")
        first = {drop.reason: drop for drop in reversed(self.drops)}
        for reason, count in self.dropped.items():
            drop = first[reason]  # type: ignore[index]
            found.append(f"dropped {count} ({reason}), the first is row {drop.row}: {drop.line}")
        return found


class Encoded(Record, frozen=True, kw_only=True):
    """Data in the order of their rows, and the report."""

    data: tuple[Datum, ...]
    report: Report


def encode_row(row: Row, template: ChatTemplate, *, max_tokens: int | None = None) -> Datum:
    """Returns the datum of a row, up to its last token that counts; ``id`` is a digest of its content.

    ``max_tokens`` bounds the datum, and its counted part after the teacher's context, besides the model's own context.
    Logprobs are there where every counted answer was recorded with them.

    Raises:
        Dropped: it cannot be learned from; a ``UserError`` whose one line says why.
        UserError: the row contradicts itself.
    """
    return _datum(row, read_turns(row, template), template, max_tokens)


def encode_rows(
    rows: Iterable[Row], template: ChatTemplate, *, max_tokens: int | None = None, split: bool = False
) -> Encoded:
    """Returns the data of the rows that can be learned from, with unique ids, and a report.

    A pair loses both sides when one is dropped. ``split``: where the calls of a row do not make one sequence, each
    becomes a datum; the calls of one side of a pair cannot be told apart, so such a row is dropped all the same.

    Raises:
        UserError: a row contradicts itself.
    """
    rows = list(rows)
    reader = _Reader(template, max_tokens, split)
    results = _keep_pairs(rows, [reader.read(number, row) for number, row in enumerate(rows)])
    data = _name(datum for result in results if not isinstance(result, Drop) for datum in result)
    drops = tuple(result for result in results if isinstance(result, Drop))
    report = Report(
        rows=len(rows),
        data=len(data),
        drops=drops,
        lengths=_lengths([len(datum.tokens) for datum in data]),
        tokens=sum(len(datum.tokens) for datum in data),
        counted=sum(datum.counted for datum in data),
        **reader.counts,
    )
    return Encoded(data=data, report=report)


def dry_run(
    rows: Iterable[Row], template: ChatTemplate, *, max_tokens: int | None = None, split: bool = False
) -> Report:
    """Returns what ``encode_rows`` would report; it needs the tokenizer only."""
    return encode_rows(rows, template, max_tokens=max_tokens, split=split).report


def split_calls(row: Row) -> list[Row]:
    """Returns a row for each counted message of a row, with what stands before it as context.

    A teacher sees its own messages in place of those before the first call, then what followed in the row.

    Raises:
        UserError: the row is one side of a pair and has several calls.
    """
    numbers = sorted({piece.message for piece in row.pieces})
    if row.pair and len(numbers) > 1:
        raise UserError(
            f"a side of pair {row.pair!r} has {len(numbers)} calls, which cannot be split; pair single calls instead"
        )
    return [
        msgspec.structs.replace(
            row,
            messages=row.messages[: number + 1],
            pieces=tuple(piece for piece in row.pieces if piece.message == number),
            sampled=tuple(each for each in row.sampled if each.message == number),
            teacher=None if row.teacher is None else (*row.teacher, *row.messages[numbers[0] : number]),
        )
        for number in numbers
    ]


class _Reader:
    """Reads rows one after the other and counts what the report tells."""

    def __init__(self, template: ChatTemplate, max_tokens: int | None, split: bool) -> None:
        self._template, self._max_tokens, self._split = template, max_tokens, split
        self.counts = dict.fromkeys(("recorded", "other_prompts", "other_answers", "split", "spelled"), 0)

    def read(self, number: int, row: Row) -> list[Datum] | Drop:
        """Returns the data of a row, or why there are none."""
        self.counts["spelled"] += any(self._template.spells(message.content) for message in row.messages)
        try:
            return self._read(row)
        except Dropped as drop:
            if not (self._split and drop.splits and not row.pair):
                return Drop(row=number, reason=drop.reason, line=str(drop))
        try:
            data = [datum for call in split_calls(row) for datum in self._read(call)]
        except Dropped as drop:
            return Drop(row=number, reason=drop.reason, line=str(drop))
        self.counts["split"] += 1
        return data

    def _read(self, row: Row) -> list[Datum]:
        turns = read_turns(row, self._template)
        datum = _datum(row, turns, self._template, self._max_tokens)
        for turn in turns:
            self.counts["recorded"] += turn.recorded
            self.counts["other_prompts"] += turn.told is None or turn.prompt != turn.told.prompt
            self.counts["other_answers"] += not turn.as_told
        return [datum]


def _datum(row: Row, turns: Sequence[Turn], template: ChatTemplate, max_tokens: int | None) -> Datum:
    tokens, starts = join_turns(turns, template)
    weights: list[float | None] = [None] * len(tokens)
    logprobs = [0.0] * len(tokens)
    for turn, start in zip(turns, starts, strict=True):
        weights[start : start + len(turn.answer)] = weigh(turn, row, template)
        logprobs[start : start + len(turn.answer)] = turn.logprobs or [0.0] * len(turn.answer)
    counted = [at for at, weight in enumerate(weights) if weight is not None]
    if not counted:
        raise Dropped("nothing counts", "no token has a character of the row's pieces")
    length = counted[-1] + 1
    mask = tuple(weight is not None for weight in weights[:length])
    datum = Datum(
        tokens=tuple(tokens[:length]),
        mask=mask,
        weights=_weights(weights[:length]),
        logprobs=_masked(logprobs, mask) if all(turn.logprobs is not None for turn in turns) else (),
        teacher=_teacher(row, tokens[starts[0] : counted[0]], template),
        **{field: getattr(row, field) for field in _COPIED},
    )
    _check(datum, template, max_tokens)
    return msgspec.structs.replace(datum, id=digest(encode(datum))[:16])


_COPIED = ("pair", "side", "label", "scale", "margin", "group", "reward", "term", "off_policy", "sources")


def _weights(weights: Sequence[float | None]) -> tuple[float, ...]:
    """Returns a weight for each token, or nothing where all that count weigh 1."""
    if all(weight is None or weight == 1 for weight in weights):
        return ()
    return tuple(weight or 0.0 for weight in weights)


def _masked(values: Sequence[float], mask: Sequence[bool]) -> tuple[float, ...]:
    return tuple(value if on else 0.0 for value, on in zip(values, mask, strict=False))


def _teacher(row: Row, begun: Sequence[int], template: ChatTemplate) -> tuple[int, ...]:
    """Returns the teacher's context: its prompt, and of the first answer what stands before the first counted token."""
    if row.teacher is None:
        return ()
    try:
        return (*template.prompt_ids(row.teacher, row.tools), *begun)
    except (ModelError, RefusedError, UserError) as error:
        raise Dropped("template", f"the teacher's messages: {error}") from error


def _check(datum: Datum, template: ChatTemplate, max_tokens: int | None) -> None:
    limits = [limit for limit in (max_tokens, template.context) if limit is not None]
    taught = len(datum.teacher) + len(datum.tokens) - datum.start
    for length, where in ((len(datum.tokens), ""), (taught, " after the teacher's context")):
        if limits and length > min(limits):
            raise Dropped("too long", f"it has {length} tokens{where}; at most {min(limits)} are allowed")
    if wrong := check([datum], template.size):
        raise Dropped("template", wrong[0])


def _keep_pairs(rows: Sequence[Row], results: Sequence[list[Datum] | Drop]) -> list[list[Datum] | Drop]:
    """Returns the results without the pairs that lost a side, or never had both."""
    pairs: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row.pair:
            pairs.setdefault(row.pair, []).append(number)
    kept = list(results)
    for pair, numbers in pairs.items():
        if line := _broken(pair, numbers, rows, results):
            for number in numbers:
                if not isinstance(kept[number], Drop):
                    kept[number] = Drop(row=number, reason="pair", line=line)
    return kept


def _broken(pair: str, numbers: Sequence[int], rows: Sequence[Row], results: Sequence[list[Datum] | Drop]) -> str:
    """Returns why a pair cannot be compared, or nothing."""
    lost = [result for number in numbers if isinstance(result := results[number], Drop)]
    if lost:
        return f"row {lost[0].row} of pair {pair!r} was dropped ({lost[0].reason})"
    sides = [rows[number].side for number in numbers]
    if sorted(sides) != ["chosen", "rejected"]:
        return f"pair {pair!r} has the sides {', '.join(map(repr, sides))}; it needs one chosen and one rejected"
    return ""


def _name(data: Iterable[Datum]) -> tuple[Datum, ...]:
    """Returns the data with unique ids: equal data are numbered."""
    seen: Counter[str] = Counter()
    named = []
    for datum in data:
        seen[datum.id] += 1
        again = seen[datum.id]
        named.append(datum if again == 1 else msgspec.structs.replace(datum, id=f"{datum.id}-{again}"))
    return tuple(named)


def _lengths(lengths: Sequence[int]) -> Lengths:
    if not lengths:
        return Lengths()
    ordered = sorted(lengths)
    return Lengths(
        shortest=ordered[0],
        median=statistics.median(ordered),
        p95=ordered[math.ceil(0.95 * len(ordered)) - 1],
        longest=ordered[-1],
    )
