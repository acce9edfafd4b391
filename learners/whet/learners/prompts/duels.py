"""Who says which of two policies is better on a task: its verifiers, a person at the terminal, a judge.

    points = await prefer(lab, policies, task, by=load_comparer("person"))     # wins of each, a tie counts half

A judge or a simulated person is anything that implements ``Comparer`` of ``whet.feedback``.
"""

import asyncio
import sys
from collections.abc import Sequence
from itertools import combinations
from typing import TextIO

from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.core.records import Run, Task
from whet.feedback.judge import Comparer, Comparison, Winner
from whet.learners.prompts.lab import Lab

__all__ = ["Person", "VERIFIERS", "compare_by", "points_of"]

VERIFIERS = "verifiers"
_WINNERS: dict[str, Winner] = {"1": "first", "2": "second", "": "tie", "=": "tie"}


class Person:
    """A person at the terminal, who is shown two answers and types 1, 2 or nothing for a tie."""

    def __init__(self, said: TextIO | None = None, shown: TextIO | None = None) -> None:
        self._said, self._shown = said, shown

    @property
    def name(self) -> str:
        """``person``."""
        return "person"

    async def compare(self, task: Task, first: Run, second: Run) -> Comparison:
        """Returns what the person typed.

        Raises:
            UserError: the terminal was closed.
        """
        found = await asyncio.to_thread(self._ask, task.prompt, first.answer or "", second.answer or "")
        return Comparison(winner=found, first_run_id=first.id, second_run_id=second.id, judge=self.name)

    def _ask(self, prompt: str, first: str, second: str) -> Winner:
        shown = self._shown or sys.stderr
        if first == second:
            return "tie"
        print(f"\n{prompt}\n\n--- 1 ---\n{first}\n\n--- 2 ---\n{second}\n", file=shown)
        while True:
            print("better: 1, 2, or Enter for a tie > ", end="", file=shown, flush=True)
            line = (self._said or sys.stdin).readline()
            if not line:
                raise UserError("nobody answers which of two is better; run this in a terminal, or set by=verifiers")
            if (word := line.strip()) in _WINNERS:
                return _WINNERS[word]


def compare_by(by: "Comparer | str") -> Comparer | None:
    """Returns who compares: a person, a given judge, or ``None`` for the verifiers of the task.

    Raises:
        UserError: a text that is neither ``person`` nor ``verifiers``.
    """
    if not isinstance(by, str):
        return by
    if by not in ("person", VERIFIERS):
        raise UserError(f"by={by!r} is neither 'person' nor 'verifiers'; in Python it may be any Comparer")
    return Person() if by == "person" else None


async def points_of(lab: Lab, policies: Sequence[Policy], tasks: Sequence[Task], by: Comparer | None) -> list[float]:
    """Returns what ranks policies on these tasks: the sum of their scores, or how often each won against the others.

    A tie is half a win.

    Raises:
        Spent: the runs that it takes are not left.
        BudgetError: the budget does not allow it.
    """
    if by is None:
        return [sum(each.score for each in await lab.run(policy, tasks)) for policy in policies]
    answers = [await lab.answers(policy, tasks) for policy in policies]
    points = [0.0] * len(policies)
    for number, task in enumerate(tasks):
        for one, other in combinations(range(len(policies)), 2):
            won = (await by.compare(task, answers[one][number], answers[other][number])).winner
            share = {"first": 1.0, "second": 0.0}.get(won, 0.5)
            points[one] += share
            points[other] += 1 - share
    return points
