"""Which tokens the policy wrote: each counted message as a prompt and an answer, held against the chat template.

    turns = read_turns(row, template)               # one for each message with a piece
    tokens, starts = join_turns(turns, template)    # the conversation, and where in it each answer starts
    weights = weigh(turns[0], row, template)        # one per token of the answer, None where it does not count

A mask is exact where three things hold at every counted message, and each is checked: what the policy was asked with
is the beginning of the conversation with its answer in it; the answer is told as it was written and closed by a token
that ends a turn; and every later prompt begins with all of that, token by token. Tokens that were recorded when an
answer was sampled are taken as they are.
"""

import itertools
import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.models.chat_template import ChatTemplate
from whet.core.records import Completion, Message
from whet.learners.weights.rows import Row
from whet.learners.weights.spans import Found, decoded, find_recorded, find_told, mark, positions

__all__ = ["Dropped", "Reason", "Told", "Turn", "join_turns", "read_turns", "weigh"]

Reason: TypeAlias = Literal[
    "too long", "nothing counts", "empty answer", "template", "special token", "recorded", "pair"
]

_SPLIT = "train on each call as a row of its own (split_calls)"


class Dropped(UserError):
    """A row that cannot be learned from; ``reason`` in a word, ``splits`` where its calls one by one can be."""

    def __init__(self, reason: Reason, message: str, *, splits: bool = False) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.splits = splits


@dataclass(frozen=True)
class Told:
    """A message as the chat template tells it.

    ``opened`` is the text before the answer and ``text`` the answer up to the end of the turn, with the message's
    ``content`` in it; ``prompt`` and ``answer`` are their tokens, and ``spans`` the characters of ``text`` that each
    token of the answer stands for.
    """

    opened: str
    text: str
    content: Found
    prompt: list[int]
    answer: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class Turn:
    """A counted message: the tokens it was asked with and those the policy answered, with logprobs where known.

    ``told`` is how the chat template has it; ``None`` where the template refuses what was recorded.
    """

    message: int
    prompt: list[int]
    answer: list[int]
    told: Told | None
    logprobs: tuple[float, ...] | None = None
    recorded: bool = False

    @property
    def as_told(self) -> bool:
        """Whether the answer has the tokens that the template makes of its text, up to where it was cut off."""
        return self.told is not None and self.answer == self.told.answer[: len(self.answer)]


def read_turns(row: Row, template: ChatTemplate) -> list[Turn]:
    """Returns the counted messages of a row, in order.

    Raises:
        Dropped: nothing counts, an answer is empty, or the template or the record does not allow an exact mask.
        UserError: a piece lies outside its message, on another one, or on a message that is not the assistant's.
    """
    _check_pieces(row)
    if not row.pieces:
        raise Dropped("nothing counts", "the row has no pieces, so nothing in it counts")
    return [_turn(row, number, template) for number in sorted({piece.message for piece in row.pieces})]


def _check_pieces(row: Row) -> None:
    for piece in row.pieces:
        if not 0 <= piece.message < len(row.messages):
            raise UserError(f"a piece names message {piece.message} of a row that has {len(row.messages)}")
        message = row.messages[piece.message]
        if message.role != "assistant":
            raise UserError(f"a piece names message {piece.message}, the {message.role}'s; only an assistant's counts")
        length = len(message.content)
        if not 0 <= piece.start <= length or (piece.end is not None and not piece.start < piece.end <= length):
            raise UserError(
                f"a piece names characters {piece.start} to {piece.end} of message {piece.message}, which has {length}"
            )
    ordered = sorted(row.pieces, key=lambda piece: (piece.message, piece.start))
    for one, other in itertools.pairwise(ordered):
        if one.message == other.message and (one.end is None or one.end > other.start):
            raise UserError(f"two pieces of message {one.message} overlap at character {other.start}")


def _turn(row: Row, number: int, template: ChatTemplate) -> Turn:
    completion = next((each.completion for each in row.sampled if each.message == number), None)
    if completion is None or completion.prompt_token_ids is None or completion.token_ids is None:
        told = _told(row, number, template)
        cut = completion is not None and completion.finish_reason == "length"  # the policy did not end its turn
        return Turn(number, told.prompt, told.answer[:-1] if cut else told.answer, told)
    prompt, answer = list(completion.prompt_token_ids), list(completion.token_ids)
    _check_recorded(row.messages[number], number, prompt, answer, template)
    try:
        view = _told(row, number, template)
    except Dropped:
        view = None
    return Turn(number, prompt, answer, view, _logprobs(completion), recorded=True)


def _logprobs(completion: Completion) -> tuple[float, ...] | None:
    known = completion.logprobs is not None and len(completion.logprobs) == len(completion.token_ids or ())
    return completion.logprobs if known else None


def _check_recorded(
    message: Message, number: int, prompt: Sequence[int], answer: Sequence[int], template: ChatTemplate
) -> None:
    """Refuses tokens that are not this message's: of another tokenizer, or of another text."""
    if not answer:
        raise Dropped("empty answer", f"message {number} was recorded without a token")
    known = all(0 <= token < template.size for token in (*prompt, *answer))
    read = _squeezed(template.decode(answer)) if known else None
    # Where there are calls the text is what a server left when it took them out.
    wanted = [call.name for call in message.tool_calls] or [message.content]
    if read is None or not all(_squeezed(part) in read for part in wanted):
        raise Dropped(
            "recorded",
            f"the tokens recorded for message {number} do not read as its text with the tokenizer of {template.name!r};"
            " take the folder of the model that wrote it, or leave the record out",
        )


def _squeezed(text: str) -> str:
    return "".join(text.split()).replace("\ufffd", "")


def _told(row: Row, number: int, template: ChatTemplate) -> Told:
    """Returns a message as the template tells it, after the checks that concern this message alone."""
    message, name = row.messages[number], f"the chat template of {template.name!r}"
    if not message.content.strip() and not message.tool_calls:
        raise Dropped("empty answer", f"message {number} is empty")
    for text in (message.content, *(call.arguments for call in message.tool_calls)):
        if spelled := template.spells(text):
            line = f"message {number} spells out {spelled!r}, which the policy would learn to write as that token"
            raise Dropped("special token", line)
    try:
        opened = template.render(row.messages[:number], row.tools, answering=True)
        text = template.render(row.messages[: number + 1], row.tools, answering=False)
    except (ModelError, RefusedError, UserError) as error:
        raise Dropped("template", f"message {number}: {error}") from error
    if not text.startswith(opened):
        same = len(os.path.commonprefix([opened, text]))  # noqa: RUF071  # of characters, not of folders
        asked, has = opened[same:][:40], text[same:][:40]
        _refuse(f"{name} asks for message {number} with {asked!r}, where the conversation with the answer has {has!r}")
    return _closed(opened, text, row, number, template)


def _refuse(what: str) -> NoReturn:
    raise Dropped("template", f"{what}; learn from answers recorded with their tokens, or take another template")


def _closed(opened: str, text: str, row: Row, number: int, template: ChatTemplate) -> Told:
    """Returns the told message up to the token that ends its turn; what a template writes after it is context."""
    prompt, whole = template.tokens(opened).ids, template.tokens(text)
    start = len(opened)
    answer, spans = whole.ids[len(prompt) :], [(a - start, b - start) for a, b in whole.spans[len(prompt) :]]
    if whole.ids[: len(prompt)] != prompt:
        # A token reaches over the border. The policy cannot have written that: its first token is one of its own.
        answer, spans = template.tokens(text[start:])
        if template.decode([*prompt, *answer], special=True) != template.decode(whole.ids, special=True):
            _refuse(f"the tokenizer of {template.name!r} does not split text where message {number} begins")
    end = next((at for at, token in enumerate(answer) if token in template.ends), None)
    if end is None:
        _refuse(
            f"the chat template of {template.name!r} closes message {number} with none of the tokens that end a turn"
            " (eos_token of the tokenizer, eos_token_id in generation_config.json)"
        )
    told = text[start : start + spans[end][1]]
    content = find_told(template, row.messages[: number + 1], row.tools, opened, told)
    if content is None:
        _refuse(
            f"the chat template of {template.name!r} does not tell message {number} as it was written (it drops or"
            " rewrites a part)"
        )
    return Told(opened, told, content, prompt, answer[: end + 1], spans[: end + 1])


def join_turns(turns: Sequence[Turn], template: ChatTemplate) -> tuple[list[int], list[int]]:
    """Returns the tokens up to the end of the last turn, and the position where the answer of each turn starts.

    Raises:
        Dropped: a later prompt does not begin with what was asked and answered before.
    """
    tokens, starts = [*turns[0].prompt, *turns[0].answer], [len(turns[0].prompt)]
    for last, turn in itertools.pairwise(turns):
        prompt = turn.prompt
        if prompt[: len(tokens)] != tokens:
            prompt = [*tokens, *_between(last, turn, tokens[-1] in template.ends, template)]
        starts.append(len(prompt))
        tokens = [*prompt, *turn.answer]
    return tokens, starts


def _between(last: Turn, turn: Turn, ended: bool, template: ChatTemplate) -> list[int]:
    """Returns the context between two turns whose tokens do not follow each other: recorded ones stand before it."""
    if turn.recorded:
        line = (
            f"the prompt recorded for message {turn.message} does not begin with the tokens of message {last.message}"
        )
        raise Dropped("recorded", f"{line}; {_SPLIT}", splits=True)
    name = f"the chat template of {template.name!r}"
    if last.told is None or turn.told is None:
        line = f"{name} does not tell message {last.message} as it was recorded"
        raise Dropped("template", f"{line}; {_SPLIT}", splits=True)
    before = [*last.told.prompt, *last.told.answer]
    if turn.told.prompt[: len(before)] == before:
        return turn.told.prompt[len(before) - (not ended) :]
    kept = turn.told.opened.startswith(last.told.opened + last.told.text)
    what = "other tokens" if kept else "another text"
    line = f"{name} rewrites history: message {last.message} has {what} by the time message {turn.message} is asked for"
    raise Dropped("template", f"{line}; {_SPLIT}", splits=True)


def weigh(turn: Turn, row: Row, template: ChatTemplate) -> list[float | None]:
    """Returns the weight of each token of a turn's answer, ``None`` where it does not count.

    Raises:
        Dropped: the characters of a piece cannot be found in what was recorded.
    """
    pieces = [piece for piece in row.pieces if piece.message == turn.message]
    if pieces[0].start == 0 and pieces[0].end is None:
        return [pieces[0].weight] * len(turn.answer)
    message, told = row.messages[turn.message], turn.told
    if told is not None and turn.as_told:
        places = positions(told.content, message, template, told.text)
        return mark(pieces, told.spans[: len(turn.answer)], places)
    text, spans = decoded(turn.answer, template)
    found = find_recorded(template, message.content, turn.answer, text)
    if found is None:
        raise Dropped("recorded", f"the tokens recorded for message {turn.message} do not tell where its text begins")
    return mark(pieces, spans, positions(found, message, template, text))
