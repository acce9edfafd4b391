"""Pieces of a message as tokens: characters of its content, found again in what a chat template made of it.

    found = find_told(template, row.messages[:4], row.tools, opened, text)    # None where the text does not have it
    mark(pieces, spans, positions(found, message, template, text))            # a weight, or None, for each token

A template may put text before and after a content and trim white space off it; more than that is not the same content.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from whet.core.errors import ModelError
from whet.core.models.chat_template import ChatTemplate
from whet.core.records import Message, ToolSpec
from whet.learners.weights.rows import Piece

__all__ = ["Found", "decoded", "find_recorded", "find_told", "mark", "positions"]

_MARK = "\ufdd1"  # no character: Unicode keeps it for internal use


@dataclass(frozen=True)
class Found:
    """A content in a text, from character ``at`` on: as it stands there, with special tokens guarded.

    ``trimmed``: how many characters of white space were taken off its beginning.
    """

    text: str
    at: int
    trimmed: int = 0


def find_told(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[ToolSpec], opened: str, text: str
) -> Found | None:
    """Returns where the content of the last message stands in what a template tells of it after ``opened``.

    ``None``: the template drops or rewrites it, or one of its calls.
    """
    message = messages[-1]
    found = _find_marked(template, messages, tools, opened, text) if message.content.strip() else Found("", 0)
    if found is None:
        return None
    rest = text[: found.at] + text[found.at + len(found.text) :]
    return found if all(template.guard(call.name) in rest for call in message.tool_calls) else None


def _find_marked(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[ToolSpec], opened: str, text: str
) -> Found | None:
    """Has the message told once more with a mark at its content's end, so that nothing else is taken for it."""
    *before, message = messages
    marked = msgspec.structs.replace(message, content=message.content + _MARK)
    try:
        told, mark, _ = template.render([*before, marked], tools, answering=False).partition(_MARK)
    except ModelError:
        return None
    told = told.removeprefix(opened)
    for kept in (message.content, message.content.lstrip()) if mark else ():
        guarded = template.guard(kept)
        at, trimmed = len(told) - len(guarded), len(message.content) - len(kept)
        if told.endswith(guarded) and text.startswith(told):
            return Found(guarded, at, trimmed)
        if told.endswith(guarded) and text.startswith(told.rstrip()):
            return Found(guarded.rstrip(), at, trimmed)
    return None


def find_recorded(template: ChatTemplate, content: str, ids: Sequence[int], text: str) -> Found | None:
    """Returns where a content stands in the text of recorded tokens; ``None`` where that is not clear.

    A server may have taken white space, reasoning and calls out of what the tokens say.
    """
    alone = template.decode(ids).strip() == content.strip()
    for kept in (content, content.rstrip(), content.lstrip(), content.strip()):
        if kept in text and (alone or text.count(kept) == 1):
            trimmed = 0 if content.startswith(kept) else len(content) - len(content.lstrip())
            return Found(kept, text.find(kept), trimmed)
    return None


def positions(found: Found, message: Message, template: ChatTemplate, text: str) -> list[int]:
    """Returns, for each character of the text, the character of the content that stands there.

    Before the content that is −1, after it the content's length.
    """
    within, place = [], found.trimmed
    for character in found.text:
        within.append(place)
        place += not template.is_guard(character)
    after = len(text) - found.at - len(within)
    return [*[-1] * found.at, *within, *[len(message.content)] * after]


def mark(pieces: Sequence[Piece], spans: Sequence[tuple[int, int]], places: Sequence[int]) -> list[float | None]:
    """Returns the weight of the piece that each token belongs to, ``None`` for none.

    A token belongs to a piece with which it shares a character; one that two pieces share is the earlier one's.
    ``spans``: characters of the text for each token; ``places``: for each of these the character of the content.
    """
    marks: list[float | None] = []
    ordered = sorted(pieces, key=lambda piece: piece.start)
    for start, end in spans:
        # A tokenizer may give a token no character at all, or one before the text.
        first, last = (places[min(max(at, 0), len(places) - 1)] for at in (start, max(end - 1, start)))
        owners = (p.weight for p in ordered if last >= p.start and (p.end is None or first < p.end))
        marks.append(next(owners, None))
    return marks


def decoded(ids: Sequence[int], template: ChatTemplate) -> tuple[str, list[tuple[int, int]]]:
    """Returns the text of ids, special tokens included, and the characters of it that each one stands for."""
    text = template.decode(ids, special=True)
    spans, start = [], 0
    for count in range(1, len(ids) + 1):
        so_far = template.decode(ids[:count], special=True)
        # A token may hold a part of a character, which reads as U+FFFD until it is complete.
        end = len(so_far if text.startswith(so_far) else so_far.rstrip("\ufffd"))
        spans.append((start, min(max(end, start + 1), len(text))))
        start = min(max(start, end), len(text) - 1)
    return text, spans
