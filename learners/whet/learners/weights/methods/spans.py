"""Spans: a reward for each line (or sentence) of an answer, from where critics and failing checks point.

    rows = await SpanReward().build(experience, kit)             # a policy: every line has its own advantage
    rows = await SpanEstimator().build(experience, kit)          # a scorer: what a line is worth, without a critic

The second is named ``whet.learners.weights.methods.spans:SpanEstimator``.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from whet.core.records import Message, Record
from whet.learners.weights.advantages import per_step_index
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, Turn, by_task, need
from whet.learners.weights.methods.groups import Clipped
from whet.learners.weights.methods.scorers import ScorerMethod
from whet.learners.weights.objectives import Objective, Regression
from whet.learners.weights.recipe import Recipe
from whet.learners.weights.rows import Piece, Row
from whet.learners.weights.templates import encode_row

if TYPE_CHECKING:
    from whet.learners.weights.scorer import TrainedScorer

__all__ = ["Rates", "Segment", "SpanEstimator", "SpanReward", "Unit", "estimated", "rewards_of", "segments"]

Unit: TypeAlias = Literal["line", "sentence"]

_UNITS: dict[Unit, "re.Pattern[str]"] = {
    "line": re.compile(r"[^\n]*\S[^\n]*\n?"),
    "sentence": re.compile(r"\S.*?(?:[.!?](?=\s)|\n|$)\s*", re.DOTALL | re.MULTILINE),
}
_HOW = "give critiques with spans, or verifiers that name the failing line (--graph refine asks a critic)"


class Segment(Record, frozen=True, kw_only=True):
    """Characters ``start`` to ``end`` of an answer, white space after them included."""

    start: int
    end: int

    def meets(self, start: int, end: int) -> bool:
        """Whether it shares a character with a stretch."""
        return self.start < end and start < self.end


class Rates(Record, frozen=True, kw_only=True):
    """What a segment earns: ``wrong`` where somebody points at it, ``right`` where a critic looked and did not;
    ``outcome`` more or less for the verdict on the whole (Wu et al. 2023, arXiv 2306.01693, use ±0.5 and 0.3).
    """

    wrong: float = -0.5
    right: float = 0.5
    outcome: float = 0.3


class SpanReward(Clipped, frozen=True, kw_only=True):
    """Learns from a reward on every segment, where others spread one over the whole answer (arXiv 2306.01693).

    ``unit``: what a segment is. The rates are those of ``Rates``. A segment's advantage is what it earned among
    the same segments (the first, the second, …) of the task's other answers: those of the lines that every answer has
    then cancel. Segments of an answer that failed and at which nobody pointed earn what the outcome is worth.
    """

    info = Info(
        name="spans",
        family="policy-gradient",
        title="Fine-grained rewards: every line for itself",
        paper="arXiv 2306.01693",
        needs=("critiques with spans, or verdicts that name failing lines",),
    )
    rollouts = Rollouts()
    unit: Unit = "line"
    wrong: float = -0.5
    right: float = 0.5
    outcome: float = 0.3

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each conversation with a piece for each segment; none for tasks in which nothing differs.

        Raises:
            UserError: nobody points at any part of an answer.
        """
        rates = Rates(wrong=self.wrong, right=self.right, outcome=self.outcome)
        if kit.round == 0:  # later there may be nothing left to point at
            need(_pointed(experience), "spans", "critiques that point at a part of an answer", _HOW)
        rows = []
        for task_id, group in by_task(experience.episodes).items():
            turns = [turn for one in group for turn in one.turns]
            compared = per_step_index([rewards_of(turn, rates, self.unit) for turn in turns], self.advantage)
            left = iter(compared)
            for one in group:
                rows += self._row(one, [next(left) for _ in one.turns], task_id)
        return rows

    def _row(self, one: Conversation, weights: Sequence[Sequence[float | None]], group: str) -> list[Row]:
        """Returns the conversation's row, or nothing where none of its segments says anything."""
        pieces: dict[int, list[Piece]] = {}
        for index, (turn, found) in enumerate(zip(one.turns, weights, strict=True)):
            place, text = len(turn.attempt.messages), turn.attempt.text
            if counted := _pieces(place, segments(text, self.unit), found):
                pieces[index] = counted
        if not pieces:
            return []
        row = one.row([1.0 if index in pieces else None for index in range(len(one.turns))], group=group)
        return [msgspec.structs.replace(row, pieces=tuple(piece for found in pieces.values() for piece in found))]


class SpanEstimator(ScorerMethod, frozen=True, kw_only=True):
    """Learns what a segment of an answer earns, so that answers can be rewarded line by line without a critic.

    The options are those of ``SpanReward``. Its estimate stands on the last token of each segment.
    """

    info = Info(
        name="span-estimator",
        family="reward",
        title="What a line of an answer is worth",
        paper="arXiv 2306.01693",
        needs=("critiques with spans, or verdicts that name failing lines",),
    )
    unit: Unit = "line"
    wrong: float = -0.5
    right: float = 0.5
    outcome: float = 0.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each segment of each answer, labelled with what it earned.

        Raises:
            UserError: nobody points at any part of an answer.
        """
        rates = Rates(wrong=self.wrong, right=self.right, outcome=self.outcome)
        need(_pointed(experience), "spans", "critiques that point at a part of an answer", _HOW)
        rows = []
        for group in by_task(experience.episodes).values():
            for one in group:
                for turn in one.turns:
                    for segment, reward in zip(
                        segments(turn.attempt.text, self.unit), rewards_of(turn, rates, self.unit), strict=False
                    ):
                        rows.append(_segment_row(one, turn, segment, reward))
        return rows

    def objectives(self) -> dict[str, Objective]:
        """Returns the squared error."""
        return {"": Regression()}

    def recipe(self) -> Recipe:
        """Returns a scorer that estimates numbers, stretch by stretch."""
        return self.made("number", "span")


def segments(text: str, unit: Unit) -> list[Segment]:
    """Returns the segments of a text, one after the other; blank lines belong to the one before."""
    starts = [found.start() for found in _UNITS[unit].finditer(text)]
    if not starts:
        return []
    starts[0] = 0
    return [Segment(start=start, end=end) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def rewards_of(turn: Turn, rates: Rates, unit: Unit) -> list[float]:
    """Returns what each segment of an answer earned; nothing where nobody judged the answer or pointed at it.

    Where a critic pointed at some, or the answer passed, the others are right. Where only a failing check named a line,
    nothing is known of the others.
    """
    found = segments(turn.attempt.text, unit)
    bad, good = _pointed_at(turn, "negative"), _pointed_at(turn, "positive")
    lines = _failing_lines(turn)
    if turn.passed is None and not bad and not good and not lines:
        return []
    outcome = 0.0 if turn.passed is None else rates.outcome if turn.passed else -rates.outcome
    rest = rates.right if turn.passed or bad else 0.0
    made = []
    for segment in found:
        flagged = any(segment.meets(*stretch) for stretch in (*bad, *lines))
        praised = any(segment.meets(*stretch) for stretch in good)
        made.append(outcome + (rates.wrong if flagged else rates.right if praised else rest))
    return made


def estimated(scorer: "TrainedScorer", messages: Sequence[Message], unit: Unit = "line") -> list[Piece]:
    """Returns the segments of the last message as pieces, with the scorer's estimates as their weights."""
    place, text = len(messages) - 1, messages[-1].content
    found = segments(text, unit)
    rows = [Row(messages=tuple(messages), pieces=(_last_of(place, text, segment),)) for segment in found]
    values = scorer.values([encode_row(row, scorer.template) for row in rows])
    return _pieces(place, found, values)


def _pieces(place: int, found: Sequence[Segment], weights: Sequence[float | None]) -> list[Piece]:
    """Returns a piece for each segment with a weight; the last one has the token that ends the turn as well."""
    return [
        Piece(message=place, start=segment.start, end=None if segment is found[-1] else segment.end, weight=weight)
        for segment, weight in zip(found, weights, strict=False)
        if weight is not None
    ]


def _segment_row(one: Conversation, turn: Turn, segment: Segment, reward: float) -> Row:
    said = Message(role="assistant", content=turn.attempt.text, tool_calls=turn.attempt.completion.tool_calls)
    place = len(turn.attempt.messages)
    return Row(
        messages=(*turn.attempt.messages, said),
        pieces=(_last_of(place, said.content, segment),),
        tools=turn.attempt.tools,
        label=reward,
        group=one.task.id,
        task_id=one.task.id,
        sources=(one.episode.run.id, *turn.sources),
        trust=one.episode.run.trust,
    )


def _last_of(place: int, text: str, segment: Segment) -> Piece:
    """Returns the last character of a segment that is no white space."""
    end = segment.start + len(text[segment.start : segment.end].rstrip())
    return Piece(message=place, start=end - 1, end=end)


def _pointed(experience: Experience) -> bool:
    turns = [turn for group in by_task(experience.episodes).values() for one in group for turn in one.turns]
    return any(_pointed_at(turn, "negative") or _failing_lines(turn) for turn in turns)


def _pointed_at(turn: Turn, sign: str) -> list[tuple[int, int]]:
    spans = [critique.span for critique in turn.critiques if critique.sign == sign and critique.span is not None]
    return [(span.start, span.end) for span in spans]


def _failing_lines(turn: Turn) -> list[tuple[int, int]]:
    """Returns the characters of the lines that failing checks name."""
    wanted = {check.line for verdict in turn.verdicts for check in verdict.checks if not check.passed}
    found, start = [], 0
    for number, line in enumerate(turn.attempt.text.splitlines(keepends=True), 1):
        if number in wanted:
            found.append((start, start + len(line)))
        start += len(line)
    return found
