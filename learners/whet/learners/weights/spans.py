"""Pieces of a message as tokens: characters of its content, found again in what a chat template made of it.

    found = find_content(template, message, text)     # None where the text does not have it
    positions(found, message, text)[7]                # which character of the content stands at character 7 of the text

A template may put text before and after a content and trim white space off it; more than that is not the same content.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from whet.core.models.chat_template import ChatTemplate
from whet.core.records import Message
from whet.learners.weights.rows import Piece

__all__ = ["Found", "decoded", "find_content", "mark", "positions"]


@dataclass(frozen=True)
class Found:
    """A content in a text: as it stands there (special tokens guarded), and from which character on.

    ``at`` is ``None`` where it stands there more than once. ``trimmed``: characters taken off its beginning.
    """

    text: str
    at: int | None
    trimmed: int = 0


def find_content(template: ChatTemplate, message: Message, text: str) -> Found | None:
    """Returns where a text has a message's content; ``None`` where it lacks it, or the name of one of its calls."""
    if not all(template.guard(call.name) in text for call in message.tool_calls):
        return None
    content = message.content
    for kept in (content, content.rstrip(), content.lstrip(), content.strip()):
        guarded = template.guard(kept)
        if guarded in text:
            clear = text.startswith(guarded) or text.count(guarded) == 1
            trimmed = 0 if content.startswith(kept) else len(content) - len(content.lstrip())
            return Found(guarded, text.find(guarded) if clear else None, trimmed)
    return None


def positions(found: Found, message: Message, template: ChatTemplate, text: str) -> list[int]:
    """Returns, for each character of the text, the character of the content that stands there.

    Before the content that is −1, after it the content's length.
    """
    start, within, place = found.at or 0, [], found.trimmed
    for character in found.text:
        within.append(place)
        place += not template.is_guard(character)
    after = len(text) - start - len(within)
    return [*[-1] * start, *within, *[len(message.content)] * after]


def mark(pieces: Sequence[Piece], spans: Sequence[tuple[int, int]], places: Sequence[int]) -> list[float | None]:
    """Returns the weight of the piece that each token belongs to, ``None`` for none.

    A token belongs to a piece with which it shares a character; one that two pieces share is the earlier one's.
    ``spans``: characters of the text for each token; ``places``: for each of these the character of the content.
    """
    marks: list[float | None] = []
    ordered = sorted(pieces, key=lambda piece: piece.start)
    for start, end in spans:
        first, last = places[max(start, 0)], places[max(end - 1, start, 0)]
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
