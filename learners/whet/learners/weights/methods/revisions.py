"""Revisions: an answer that was wrong, what was said of it, and one that is right.

for revision in await revisions(experience, kit, samples=4, temperature=1.0):
    print(revision.wrong.text, revision.said, revision.right.text)
"""

from collections.abc import AsyncIterator

import msgspec

from whet.core.prompting import render_retry
from whet.core.records import Message, Record, Sampling, Trust
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Kit
from whet.learners.weights.methods.selection import assess, corrections, until_spent
from whet.learners.weights.methods.solutions import Solution, solutions_of

__all__ = ["Revision", "final", "recorded", "retry", "revisions"]


class Revision(Record, frozen=True, kw_only=True):
    """A wrong answer, what was said against it (perhaps nothing), and a right one to the same prompt."""

    wrong: Solution
    right: Solution

    @property
    def said(self) -> tuple[str, ...]:
        """What was said against the wrong answer."""
        return self.wrong.said

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the records of both answers."""
        return tuple(dict.fromkeys((*self.wrong.sources, *self.right.sources)))

    @property
    def trust(self) -> Trust:
        """Tainted where one of the answers, or what was said, is."""
        return "tainted" if "tainted" in (self.wrong.trust, self.right.trust) else "trusted"


def final(episode: Episode) -> Solution | None:
    """Returns the answer of a run as a solution; ``None`` where it gave none."""
    found = solutions_of(episode)
    same = [solution for solution in found if solution.text == episode.answer] or found
    return same[-1] if same else None


def recorded(experience: Experience) -> list[Revision]:
    """Returns what agents revised: each right answer with the last wrong one before it in the same dialogue."""
    made = []
    for episode in experience.episodes:
        found = solutions_of(episode)
        for place, right in enumerate(found):
            wrong = [w for w in found[:place] if w.passed is False and w.dialogue == right.dialogue]
            if right.passed and wrong:
                made.append(Revision(wrong=wrong[-1], right=right))
    return made


def retry(solution: Solution) -> tuple[Message, ...]:
    """Returns the conversation that asks for a corrected answer, in the words in which agents are asked."""
    return (*solution.prompt, *solution.turns, Message(role="user", content=render_retry(solution.said)))


async def revisions(experience: Experience, kit: Kit, *, samples: int, temperature: float) -> list[Revision]:
    """Returns revisions by agents and by people; for a task without any, by the policy, ``samples`` for each answer.

    People's corrections have to pass the task's verifiers, and so have those of the policy, where the best of each
    answer is taken.

    Raises:
        BudgetError: asking was needed, and the budget did not allow it once.
        UserError: asking was needed, and there is no model to ask.
    """
    found = recorded(experience)
    finals = {episode.run.id: final(episode) for episode in experience.episodes}
    for right in await corrections(experience, kit):
        wrong = finals.get(right.run_id)
        if right.passed and wrong is not None and not wrong.passed and wrong.key != right.key:
            found.append(Revision(wrong=wrong, right=right.under(wrong.prompt)))
    known = {revision.right.task.id for revision in found}
    open_ = [wrong for wrong in finals.values() if wrong and wrong.passed is False and wrong.task.id not in known]
    if samples:
        found += await until_spent(_asked(open_, kit, samples, temperature))
    return found


async def _asked(wrong: list[Solution], kit: Kit, samples: int, temperature: float) -> AsyncIterator[Revision]:
    sampling = Sampling(temperature=temperature)
    for solution in wrong:
        if not solution.said or not solution.task.verifiers:
            continue
        answers = await kit.ask(retry(solution), n=samples, sampling=sampling)
        judged = [await assess(kit, solution.task, solution.prompt, answer.text) for answer in answers]
        right = [one for one in judged if one.passed]
        if right:
            best = max(right, key=lambda one: one.score or 0.0)
            yield Revision(wrong=solution, right=msgspec.structs.replace(best, sources=solution.sources))
