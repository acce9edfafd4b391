"""Who says which of two policies is better on a task: its verifiers, a person, a simulated one, a judge.

    points = await points_of(lab, policies, tasks, compare_by("person"))       # wins of each, a tie counts half

A judge is anything that implements ``Comparer`` of ``whet.feedback``.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.core.records import Run, Task
from whet.feedback.judge import Comparer, Comparison, Winner
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.terminal import Terminal

__all__ = ["Person", "VERIFIERS", "compare_by", "points_of"]

VERIFIERS = "verifiers"
SIMULATED = "simulated"
_SURENESS = 10.0
_QUESTION = "better: 1, 2, or Enter for a tie > "
_WINNERS: dict[str, Winner] = {"1": "first", "2": "second", "": "tie", "=": "tie"}


class Person:
    """A person at the terminal, who is shown two answers and types 1, 2 or nothing for a tie."""

    def __init__(self, terminal: Terminal | None = None) -> None:
        self._terminal = terminal or Terminal()

    @property
    def name(self) -> str:
        """``person``."""
        return "person"

    async def compare(self, task: Task, first: Run, second: Run) -> Comparison:
        """Returns what the person typed; two equal answers are a tie, which nobody is asked about.

        Raises:
            UserError: the terminal was closed.
        """
        winner = "tie" if first.answer == second.answer else await self._ask(task, first, second)
        return Comparison(winner=winner, first_run_id=first.id, second_run_id=second.id, judge=self.name)

    async def _ask(self, task: Task, first: Run, second: Run) -> Winner:
        question = f"\n{task.prompt}\n\n--- 1 ---\n{first.answer}\n\n--- 2 ---\n{second.answer}\n\n{_QUESTION}"
        while (word := await self._terminal.ask(question)) not in _WINNERS:
            question = _QUESTION
        return _WINNERS[word]


def compare_by(by: "Comparer | str") -> "Comparer | str":
    """Returns who compares: a person, a given judge, or the text ``verifiers`` or ``simulated`` as it is.

    Raises:
        UserError: another text.
    """
    if by == "person":
        return Person()
    if isinstance(by, str) and by not in (VERIFIERS, SIMULATED):
        raise UserError(
            f"by={by!r} is none of 'person', {VERIFIERS!r}, {SIMULATED!r}; in Python it may be any Comparer"
        )
    return by


async def points_of(lab: Lab, policies: Sequence[Policy], tasks: Sequence[Task], by: "Comparer | str") -> list[float]:
    """Returns what ranks policies on these tasks: the sum of their scores, or how often each won against the others.

    A tie is half a win. A simulated person prefers the higher score with probability σ(10·Δ) (arXiv 2405.17346).

    Raises:
        Spent: the runs that it takes are not left.
        BudgetError: the budget does not allow it.
    """
    if by == VERIFIERS:
        return [sum(each.score for each in await lab.run(policy, tasks)) for policy in policies]
    answers = [await lab.answers(policy, tasks) for policy in policies]
    points = [0.0] * len(policies)
    for number, task in enumerate(tasks):
        for one, other in combinations(range(len(policies)), 2):
            if isinstance(by, str):
                share = await _simulated(lab, policies[one], policies[other], task)
            else:
                won = (await by.compare(task, answers[one][number], answers[other][number])).winner
                share = {"first": 1.0, "second": 0.0}.get(won, 0.5)
            points[one] += share
            points[other] += 1 - share
    return points


async def _simulated(lab: Lab, one: Policy, other: Policy, task: Task) -> float:
    """Returns whether a simulated person prefers the first."""
    first, second = [sum(each.score for each in await lab.run(policy, [task])) for policy in (one, other)]
    return float(lab.rng.random() < 1 / (1 + math.exp(-_SURENESS * (first - second))))
