"""Scorers: what the methods of the reward family share. Their result is an adapter that judges, and never a policy.

    class Mine(ScorerMethod, frozen=True, kw_only=True):
        async def build(self, experience, kit):
            return together([scored_row(one.prompt, one.text, "end", label=float(one.passed)) for one in answers])

An answer is read as the chat template tells it, at training and in use alike; recorded tokens play no part.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from whet.core.errors import UserError
from whet.core.records import Message, ToolSpec
from whet.learners.weights.calibration import Bar
from whet.learners.weights.method import Method
from whet.learners.weights.methods.hindsight import verify_prompt
from whet.learners.weights.objectives import NLL, Objective, Regression
from whet.learners.weights.recipe import Layout, Reading, Recipe
from whet.learners.weights.rows import Piece, Row

__all__ = ["AnswerScorer", "ScorerMethod", "at_end", "contrasted", "end_of", "scored_row", "together"]

_YES, _NO = "yes", "no"


class ScorerMethod(Method, frozen=True, kw_only=True):
    """Base of the methods that train a scorer.

    ``held``: the share of the tasks that is kept from training and that the scorer is measured on. To be a judge it has
    to be measured on at least ``least`` answers, and reach ``auc`` and ``ece`` (``whet.learners.weights.calibration``).
    """

    held: float = 0.25
    least: int = 50
    auc: float = 0.7
    ece: float = 0.1

    def recipe(self) -> Recipe:
        """Returns how the rows become a scorer."""
        raise NotImplementedError

    @property
    def bar(self) -> Bar:
        """What the scorer has to reach to judge."""
        return Bar(least=self.least, auc=self.auc, ece=self.ece)

    def made(self, reading: Reading, layout: Layout) -> Recipe:
        """Returns the recipe of a scorer without votes."""
        return Recipe(reading=reading, layout=layout, held=self.held, bar=self.bar)


class AnswerScorer(ScorerMethod, frozen=True, kw_only=True):
    """Base of the methods that learn from labels 1 and 0 how probably an answer is right, or liked.

    ``form``: a ``head`` where the answer ends (or, with ``reads="answer"``, on all of its tokens), or ``words``: the
    model is asked, and P(yes)/(P(yes) + P(no)) is its value.
    """

    form: Literal["head", "words"] = "head"
    reads: Literal["end", "answer"] = "end"

    @property
    def layout(self) -> Layout:
        """Where an answer's value is read."""
        return "question" if self.form == "words" else self.reads

    def objectives(self) -> dict[str, Objective]:
        """Returns the log loss of the head, or of the word."""
        return {"": NLL(per="sequence") if self.form == "words" else Regression(form="logistic")}

    def recipe(self) -> Recipe:
        """Returns a scorer that gives probabilities."""
        return self.made("words" if self.form == "words" else "probability", self.layout)


def scored_row(
    prompt: Sequence[Message],
    answer: str | Sequence[Message],
    layout: Layout,
    *,
    label: float = 1.0,
    tools: Sequence[ToolSpec] = (),
    **fields: object,
) -> Row:
    """Returns the row in which an answer (a text, or turns of which the last one answers) is read as a layout says.

    ``label``: what its value should be. ``fields`` are further fields of the row.

    Raises:
        UserError: the layout reads no whole answers.
    """
    said = (Message(role="assistant", content=answer),) if isinstance(answer, str) else tuple(answer)
    messages = (*prompt, *said)
    if layout == "question":
        asked = verify_prompt(messages[:-1], messages[-1].content)
        reply = Message(role="assistant", content=_YES if label >= 0.5 else _NO)
        messages, piece = (*asked, reply), Piece(message=len(asked), end=len(reply.content))
    elif layout == "answer":
        piece = Piece(message=len(messages) - 1)
    elif layout == "end":
        piece = end_of(messages, len(messages) - 1)
    else:
        raise UserError(
            f"this scorer reads {layout}, no single answers; give values() or steps() rows of its own method"
        )
    return Row(messages=messages, pieces=(piece,), tools=tuple(tools), label=label, **fields)  # type: ignore[arg-type]


def end_of(messages: Sequence[Message], place: int) -> Piece:
    """Returns the piece that ends a message: the token that closes the turn, and its tool calls where it has some."""
    return Piece(message=place, start=len(messages[place].content))


def at_end(row: Row) -> Row:
    """Returns the row with nothing but the end of its last message counting."""
    last = max(piece.message for piece in row.pieces)
    return msgspec.structs.replace(row, pieces=(end_of(row.messages, last),), sampled=(), off_policy=False)


def together(rows: Sequence[Row]) -> list[Row]:
    """Returns rows in pairs of a right and a wrong answer to one task, which share a batch; others stay alone.

    The rarer kind of a task is repeated until all of the other have a partner. What the answers to a task have in
    common then cancels in every step; without, a head learns much later that they differ (docs/methods/verifier.md).
    """
    by_group: dict[str, tuple[list[Row], list[Row]]] = {}
    for row in rows:
        by_group.setdefault(row.group, ([], []))[row.label < 0.5].append(row)
    made = list[Row]()
    for group, (right, wrong) in by_group.items():
        if not right or not wrong:
            made += [*right, *wrong]
        for number in range(max(len(right), len(wrong)) if right and wrong else 0):
            good, bad = right[number % len(right)], wrong[number % len(wrong)]
            made.append(msgspec.structs.replace(good, pair=f"{group}/{number}", side="chosen"))
            made.append(msgspec.structs.replace(bad, pair=f"{group}/{number}", side="rejected"))
    return made


def contrasted(rows: Sequence[Row]) -> list[Row]:
    """Returns rows in pairs of one task whose labels differ most, the highest with the lowest and so on inwards.

    The reason is that of ``together``; nothing is repeated.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    made = list[Row]()
    for group, found in groups.items():
        ranked = sorted(found, key=lambda row: -row.label)
        half = len(ranked) // 2
        for number, (high, low) in enumerate(zip(ranked[:half], reversed(ranked[len(ranked) - half :]), strict=True)):
            made.append(msgspec.structs.replace(high, pair=f"{group}/{number}", side="chosen"))
            made.append(msgspec.structs.replace(low, pair=f"{group}/{number}", side="rejected"))
        made += ranked[half : len(ranked) - half]
    return made
