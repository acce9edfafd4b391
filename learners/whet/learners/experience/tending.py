"""Tending: what was let in is looked after, and what does not hold any more is taken out of use.

for each in await tend(memory):
    print(each.status, each.lesson.text, each.reason)
"""

from whet.core.records import Lesson
from whet.learners.experience.errors import ErrorMemory
from whet.learners.experience.propositions import weigh
from whet.learners.experience.reformulation import review
from whet.learners.view import current_lessons
from whet.learners.watch import retire_harmful
from whet.memory import Memory

__all__ = ["tend"]


async def tend(memory: Memory, *, errors: bool = False) -> list[Lesson]:
    """Returns the lessons whose status changed: rewrites that lost, faded beliefs about people, what does harm.

    Each says why in its ``reason``.

    With ``errors``, what went wrong in the newest runs is told to the next ones at once (``ErrorMemory``), and errors
    that no longer stand are retired.
    """
    before = {lesson.id: lesson.status for lesson in await current_lessons(memory)}
    if errors:
        await ErrorMemory(memory).refresh()
    await review(memory)
    await weigh(memory)
    await retire_harmful(memory)
    return [lesson for lesson in await current_lessons(memory) if before.get(lesson.id) != lesson.status]
