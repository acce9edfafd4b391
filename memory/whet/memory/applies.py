"""When a lesson applies: what its ``not_when`` rules out, and whose it is.

    lesson = Lesson(text="Answer in German.", applies_when="person: ana; letters", not_when="legal notice; invoice")
    applies(lesson, "Write a letter to my landlord.", person="ana")        # True
    applies(lesson, "Write a letter about a legal notice.", person="ana")  # False: an exception holds
    applies(lesson, "Write a letter to my landlord.")                      # False: it is about ana

Feedback is wider in words than in meaning: told everywhere, it does harm where nobody meant it (C3PO, Stephan et al.
2024, arXiv 2402.10893). ``applies_when`` is for ranking; ``not_when`` is kept strictly. It holds exceptions, divided by
semicolons or lines; one holds for a text that has all its words, in any order. Words that say little do not count.
"""

import re

from whet.core import Lesson
from whet.memory.embedders import is_common, words

__all__ = ["about_person", "applies", "exceptions", "for_person", "telling_words"]

_PERSON = re.compile(r"(?:^|[;\n])\s*person:\s*([^;\n]+)")
_FILLING = frozenset({"ask", "asked", "asks", "mention", "mentioned", "mentions", "task", "tasks", "such", "text"})


def applies(lesson: Lesson, query: str, *, person: str | None = None) -> bool:
    """Returns whether the lesson may be told for a task: it is about nobody else, and no exception of it holds."""
    about = about_person(lesson)
    if about is not None and about != person:
        return False
    said = frozenset(words(query))
    return not any(exception <= said for exception in exceptions(lesson.not_when))


def exceptions(not_when: str) -> list[frozenset[str]]:
    """Returns the words of each exception; one that has none but common words is left out."""
    found = [telling_words(each) for each in re.split(r"[;\n]", not_when)]
    return [each for each in found if each]


def telling_words(text: str) -> frozenset[str]:
    """Returns the words of a text that say what it is about, in lower case."""
    return frozenset(word for word in words(text) if word not in _FILLING and not is_common(word))


def for_person(person: str, applies_when: str = "") -> str:
    """Returns an ``applies_when`` that keeps a lesson to the tasks of one person."""
    return "; ".join(part for part in (f"person: {person}", applies_when.strip()) if part)


def about_person(lesson: Lesson) -> str | None:
    """Returns the person whose tasks the lesson is for; ``None`` where it is for everybody's."""
    match = _PERSON.search(lesson.applies_when)
    return match[1].strip() if match else None
