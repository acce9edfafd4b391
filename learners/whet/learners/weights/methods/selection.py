"""Selection: what of the solutions is worth learning from, once each, balanced over tasks; and what people corrected.

good = distinct(found for found in solutions(experience) if found.passed)
rows = [found.row() for found in balanced(good, 4, kit.rng)]
"""

import random
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

import msgspec

from whet.core.errors import BudgetError
from whet.core.records import Completion, Feedback, Message, Task
from whet.learners.weights.experience import Attempt, Experience
from whet.learners.weights.method import Kit
from whet.learners.weights.methods.conversations import Turn
from whet.learners.weights.methods.solutions import Solution, judged_answer

__all__ = ["assess", "balanced", "corrections", "distinct", "grouped", "until_spent"]

T = TypeVar("T")


def distinct(found: Iterable[Solution]) -> list[Solution]:
    """Returns the answers without repetitions; of equal ones an on-policy one, then the newest."""
    best: dict[tuple[str, ...], Solution] = {}
    for solution in found:
        known = best.pop(solution.key, None)
        best[solution.key] = known if known is not None and solution.off_policy > known.off_policy else solution
    return list(best.values())


def grouped(found: Iterable[Solution]) -> dict[str, list[Solution]]:
    """Returns the answers by task."""
    groups: dict[str, list[Solution]] = {}
    for solution in found:
        groups.setdefault(solution.task.id, []).append(solution)
    return groups


def balanced(found: Iterable[Solution], per_task: int, rng: random.Random) -> list[Solution]:
    """Returns at most so many answers of each task, drawn without replacement, in their order."""
    chosen: list[Solution] = []
    for group in grouped(found).values():
        kept = sorted(rng.sample(range(len(group)), min(per_task, len(group))))
        chosen += [group[index] for index in kept]
    return chosen


async def assess(kit: Kit, task: Task, prompt: tuple[Message, ...], answer: str) -> Solution:
    """Returns an answer judged by the task's own verifiers; unjudged where it has none.

    Raises:
        RefusedError: the task is no training task.
    """
    verdicts = await kit.judge(task, answer) if task.verifiers else ()
    turn = Turn(attempt=Attempt(messages=prompt, completion=Completion(text=answer)), verdicts=tuple(verdicts))
    return judged_answer(turn, task=task, prompt=prompt)


async def corrections(experience: Experience, kit: Kit) -> list[Solution]:
    """Returns the answers that people wrote instead, judged: what fails a verifier has not passed, whoever wrote it.

    Where a task has no verifier, the person is believed.
    """
    known = {task.id: task for task in experience.tasks}
    prompts: dict[str, tuple[Message, ...]] = {}
    about: list[tuple[Task, Feedback]] = []
    for episode in experience.episodes:
        known[episode.task.id], prompts[episode.task.id] = episode.task, episode.prompt
        about += [(episode.task, item) for item in episode.feedback]
    about += [(known[item.task_id], item) for item in experience.feedback if item.task_id in known]
    found = []
    for task, item in about:
        if item.kind == "correction" and item.text.strip():
            solution = await assess(kit, task, prompts.get(task.id, task.messages), item.text)
            found.append(_by_person(solution, item))
    return found


async def until_spent(found: AsyncIterator[T]) -> list[T]:
    """Returns what is found until the budget is used up.

    Raises:
        BudgetError: it did not allow a single one.
    """
    kept: list[T] = []
    try:
        async for item in found:
            kept.append(item)
    except BudgetError:
        if not kept:
            raise
    return kept


def _by_person(solution: Solution, item: Feedback) -> Solution:
    sources = tuple(id for id in (item.id, item.run_id, *solution.sources) if id)
    written = msgspec.structs.replace(solution, run_id=item.run_id or "", sources=sources, trust=item.trust)
    return written if solution.evidence else msgspec.structs.replace(written, passed=True, evidence="person")
