"""A ``Row``: a conversation, what of it the policy wrote and how much that counts, and where it comes from.

    Row(messages=(*prompt, answer), pieces=(Piece(message=len(prompt)),), task_id=task.id, sources=(run.id,))

Builders make rows from memory; a chat template turns rows into data (``whet.learners.weights.templates``). A row is
text, so that it can be read, exported and checked; where the policy's own tokens were recorded it carries these, and
training uses exactly what was sampled.
"""

from typing import Literal, TypeAlias

from whet.core.records import Completion, Message, Record, ToolSpec, Trust

__all__ = ["Piece", "Row", "Sampled", "Side", "answer_row"]

Side: TypeAlias = Literal["", "chosen", "rejected", "desirable", "undesirable", "kl"]


class Piece(Record, frozen=True, kw_only=True):
    """Characters ``start`` to ``end`` of a message that the policy wrote, and their weight (or advantage).

    ``end=None``: to the end of the message, the token that ends the turn and the message's tool calls included.
    """

    message: int
    start: int = 0
    end: int | None = None
    weight: float = 1.0


class Sampled(Record, frozen=True, kw_only=True):
    """How message number ``message`` was sampled: with token ids and logprobs, after exactly the messages before it."""

    message: int
    completion: Completion


class Row(Record, frozen=True, kw_only=True):
    """One conversation to learn from.

    ``pieces`` is what counts, everything else is context. ``teacher``: messages that a teacher sees in place of those
    before the first piece (with feedback in them, say). ``pair``: id of the comparison it is a ``side`` of, and
    ``label`` the probability that the side called chosen is the better one; without a pair ``label`` is the target of a
    head. ``scale`` weighs the whole row, ``margin`` is asked of a pair. ``group``: rollouts of one prompt, with their
    ``reward``. ``term`` names the objective it goes to where a method has several. ``off_policy``: written by somebody
    else (or under another prompt) than the policy under training. ``sources`` are ids of records in the memory.
    """

    messages: tuple[Message, ...]
    pieces: tuple[Piece, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampled: tuple[Sampled, ...] = ()
    teacher: tuple[Message, ...] | None = None
    pair: str = ""
    side: Side = ""
    label: float = 1.0
    scale: float = 1.0
    margin: float = 0.0
    group: str = ""
    reward: float | None = None
    term: str = ""
    off_policy: bool = False
    task_id: str = ""
    sources: tuple[str, ...] = ()
    trust: Trust = "trusted"


def answer_row(prompt: tuple[Message, ...], answer: str | Completion, *, weight: float = 1.0, **fields: object) -> Row:
    """Returns the row in which one answer to a prompt counts.

    A completion brings its tokens along; it must have been sampled after exactly this prompt. ``fields`` are further
    fields of the row.
    """
    text = answer if isinstance(answer, str) else answer.text
    calls = () if isinstance(answer, str) else answer.tool_calls
    said = Message(role="assistant", content=text, tool_calls=calls)
    sampled = () if isinstance(answer, str) else (Sampled(message=len(prompt), completion=answer),)
    pieces = (Piece(message=len(prompt), weight=weight),)
    return Row(messages=(*prompt, said), pieces=pieces, sampled=sampled, **fields)  # type: ignore[arg-type]
