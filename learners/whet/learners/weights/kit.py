"""What a builder may use when an agent's memory is learned from: the policy's model, the tasks' verifiers, logprobs.

kit = AgentKit(model, budget, sandboxes, score=score, seed=0)
answers = await kit.ask(messages, n=4)
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec

from whet.core.budget import Budget
from whet.core.errors import RefusedError
from whet.core.models import Budgeted, Model
from whet.core.records import Completion, Message, Run, Sampling, Task, Usage, Verdict
from whet.feedback import FreshSandboxes, verify_all
from whet.learners.weights.rows import Row

__all__ = ["AgentKit", "Score"]

Score: TypeAlias = Callable[[Sequence[Row], bool], Awaitable[list[list[float]]]]
"""Logprobs of what counts in each row; the flag asks for those after the teacher's context."""


class AgentKit:
    """The kit of the learner. ``usage`` adds up what asking cost; ``model`` is exchanged as the policy changes."""

    def __init__(self, model: Model, budget: Budget, sandboxes: FreshSandboxes, *, score: Score, seed: int = 0) -> None:
        self.round, self.rng = 0, random.Random(seed)
        self.usage = Usage()
        self.model, self.score = model, score
        self._budget, self._sandboxes, self._asked = budget, sandboxes, seed * 1_000_003

    async def ask(
        self, messages: Sequence[Message], *, n: int = 1, sampling: Sampling = Sampling(temperature=1.0)
    ) -> list[Completion]:
        """Returns ``n`` answers of the policy as it stands, each under a seed of its own, with tokens and logprobs.

        Raises:
            BudgetError: the budget does not allow it.
            ModelError: the model gave no usable answer.
        """
        model = Budgeted(self.model, self._budget)
        seeds = range(self._asked, self._asked + n)
        self._asked += n
        asked = [msgspec.structs.replace(sampling, seed=seed, logprobs=True) for seed in seeds]
        answers = await asyncio.gather(*(model.complete(messages, sampling=each) for each in asked))
        self.usage = sum((answer.usage for answer in answers), self.usage)
        return list(answers)

    async def judge(self, task: Task, answer: str) -> tuple[Verdict, ...]:
        """Returns the verdicts of the training task's own verifiers.

        Raises:
            RefusedError: the task is no training task.
            SandboxError: no sandbox could be had.
        """
        if task.split != "train":
            raise RefusedError(f"task {task.id!r} is {task.split}; a learner may have only training tasks judged")
        run = Run(task_id=task.id, agent="learner", status="done", answer=answer)
        return tuple(await verify_all(task, run, self._sandboxes)) if task.verifiers else ()

    async def logprobs(self, rows: Sequence[Row], *, teacher: bool = False) -> list[list[float]]:
        """Returns the logprobs of what counts in each row, under the weights as they stand."""
        return await self.score(rows, teacher)
