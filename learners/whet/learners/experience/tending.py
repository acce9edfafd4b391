"""Tending: what was let in is looked after, and what does not hold any more is taken out of use.

for each in await tend(memory):
    print(each.status, each.lesson.text, each.reason)
"""

from whet.core.records import Lesson, Record
from whet.learners.experience.errors import ErrorMemory
from whet.learners.experience.propositions import weigh
from whet.learners.experience.reformulation import review
from whet.learners.view import current_lessons
from whet.learners.watch import retire_harmful
from whet.memory import Memory

__all__ = ["Tended", "tend"]


class Tended(Record, frozen=True, kw_only=True):
    """A lesson whose status changed, and why."""

    lesson: Lesson
    reason: str

    @property
    def status(self) -> str:
        """The status it has now."""
        return self.lesson.status


async def tend(memory: Memory, *, errors: bool = False) -> list[Tended]:
    """Returns the lessons whose status changed: rewrites that lost, beliefs about people that faded, what does harm.

    With ``errors``, what went wrong in the newest runs is told to the next ones at once (``ErrorMemory``), and errors
    that no longer stand are retired.
    """
    before = {lesson.id: lesson.status for lesson in await current_lessons(memory)}
    if errors:
        await ErrorMemory(memory).refresh()
    await review(memory)
    await weigh(memory)
    await retire_harmful(memory)
    changed = [each for each in await current_lessons(memory) if before.get(each.id) != each.status]
    return [Tended(lesson=lesson, reason=lesson.reason) for lesson in changed]
