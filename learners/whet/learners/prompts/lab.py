"""Where a prompt learner works: it runs candidates on training tasks and asks a model, both under hard limits.

    evidence = await lab.run(policy, lab.minibatch(3))      # Evidence per task; a run too many raises Spent before it
    text = await lab.ask("Improve this prompt: …")

The limit counts runs of the agent (metric calls). Equal runs are not made twice: a policy is run once per task.
"""

import random
from collections.abc import Sequence

from whet.agents import RunResult
from whet.core.budget import Budget
from whet.core.errors import BudgetError, UserError
from whet.core.models import Budgeted, Model
from whet.core.policy import Policy
from whet.core.records import Message, ModelCall, Run, Sampling, Step, Task, Usage
from whet.learners.evaluation import score_of
from whet.learners.prompts.archive import Archive, Evidence, Node
from whet.learners.view import TrainMemory

__all__ = ["Lab", "Spent"]

_FEW = 6


class Spent(BudgetError):
    """The runs that a learner was granted are used up; what it found until then stands."""


class Lab:
    """A learner's runs, questions, tasks and chance.

    ``tasks`` are for feedback and ``validation`` for scores; both are training tasks, apart where there are enough of
    them. ``archive`` is what was tried. ``asked`` is what asking the model took.

    Raises:
        UserError: the view has no agent to run, or no training tasks, and the learner has to ``practise``.
    """

    def __init__(
        self,
        view: TrainMemory,
        tasks: Sequence[Task],
        *,
        model: Model | None,
        budget: Budget,
        runs: int,
        validation: int,
        seed: int = 0,
        concurrency: int = 4,
        tag: str = "",
        practise: bool = True,
    ) -> None:
        if practise and not (view.can_practise and tasks):
            raise UserError(
                "this learner runs the agent on training tasks: whet learn NAME --tasks TASKS, or whet improve TASKS "
                "--learners NAME"
            )
        self.view, self.budget, self.archive = view, budget, Archive()
        self.rng, self.left, self.asked = random.Random(seed), runs, Usage()
        self._model, self._seed, self._concurrency, self._tag = model, seed, concurrency, tag
        self._known: dict[tuple[str, int, str], RunResult] = {}
        self._queue: list[Task] = []
        self.tasks, self.validation = self._split(tasks, validation)

    def _split(self, tasks: Sequence[Task], validation: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
        mixed = self.rng.sample(list(tasks), len(tasks))
        if len(mixed) < _FEW:
            return tuple(mixed), tuple(mixed)
        size = min(validation, len(mixed) // 2)
        return tuple(mixed[size:]), tuple(mixed[:size])

    def minibatch(self, size: int) -> list[Task]:
        """Returns the next tasks for feedback: each comes once before any comes again, in an order drawn anew."""
        chosen: list[Task] = []
        while len(chosen) < min(size, len(self.tasks)):
            if not self._queue:
                self._queue = self.rng.sample(self.tasks, len(self.tasks))
            task = self._queue.pop()
            if task not in chosen:
                chosen.append(task)
        return chosen

    async def run(self, policy: Policy, tasks: Sequence[Task], *, seed: int | None = None) -> list[Evidence]:
        """Returns what a policy made of tasks, without those that nobody could judge.

        The seed is the lab's unless given.

        Raises:
            Spent: it would take more runs than are left; nothing is run.
            BudgetError: the budget ended a run.
            UserError: the agent fails at every one of its first tasks.
        """
        results = await self._results(policy, tasks, self._seed if seed is None else seed)
        found = [_evidence(task, result) for task, result in zip(tasks, results, strict=True)]
        return [each for each in found if each is not None]

    async def answers(self, policy: Policy, tasks: Sequence[Task]) -> list[Run]:
        """Returns the runs of a policy on tasks, whether or not anybody can judge them; raises like ``run``."""
        return [result.run for result in await self._results(policy, tasks, self._seed)]

    async def _results(self, policy: Policy, tasks: Sequence[Task], seed: int) -> list[RunResult]:
        keys = {(policy.digest, seed, task.id): task for task in tasks}
        new = {key: task for key, task in keys.items() if key not in self._known}
        if len(new) > self.left:
            raise Spent(f"{len(new)} runs are needed and {self.left} are left")
        self.left -= len(new)
        results = await self.view.practise(
            list(new.values()),
            policy=policy,
            seeds=(seed,),
            budget=self.budget,
            concurrency=self._concurrency,
            tags=(self._tag,) if self._tag else (),
        )
        if cancelled := [result.run for result in results if result.run.status == "cancelled"]:
            raise BudgetError(f"run {cancelled[0].id!r} was ended: {cancelled[0].error}")
        if new and not self._known and all(result.run.status == "failed" for result in results):
            raise UserError(f"the agent fails at every task: {results[0].run.error}; try it with: whet run TASKS")
        self._known |= dict(zip(new, results, strict=True))
        return [self._known[policy.digest, seed, task.id] for task in tasks]

    async def assess(self, node: Node) -> float:
        """Returns a candidate's mean score on the validation tasks, and records it; raises like ``run``."""
        self.archive.record(node, await self.run(node.policy, self.validation))
        return self.archive.mean(node) or 0.0

    @property
    def model(self) -> Model:
        """The model that writes for the learner, under its budget.

        Raises:
            UserError: there is none.
        """
        if self._model is None:
            raise UserError(
                "this learner needs a model that can write prompts: --set model=NAME (any LiteLLM name); "
                "with whet improve --set LEARNER.model=NAME"
            )
        return Budgeted(self._model, self.budget)

    async def ask(
        self, text: str, *, system: str = "", temperature: float | None = None, after: Sequence[Message] = ()
    ) -> str:
        """Returns what the model answers, ``after`` what was said in the same conversation.

        Raises:
            UserError: there is no model.
            ModelError: it could not be asked.
            BudgetError: the budget does not allow it.
        """
        said = [*after, Message(role="user", content=text)]
        messages = [Message(role="system", content=system), *said] if system else said
        completion = await self.model.complete(messages, sampling=Sampling(temperature=temperature))
        self.asked += completion.usage
        return completion.text

    async def calls(self, evidence: Evidence, text: str) -> list[tuple[str, str]]:
        """Returns, of the model calls in a run that were told this text, the last message and the answer."""
        steps = await self.view.about(Step, [evidence.run.id], kinds=("model_call",))
        found: list[tuple[str, str]] = []
        for body in (step.body for step in steps):
            if isinstance(body, ModelCall) and body.completion is not None and body.messages:
                told = "\n".join(message.content for message in body.messages)
                if text.strip() in told:
                    found.append((body.messages[-1].content, body.completion.text))
        return found


def _evidence(task: Task, result: RunResult) -> Evidence | None:
    """Returns what a run showed, ``None`` where nobody could judge it."""
    judged = score_of(result)
    if judged.value is None:
        return None
    score = judged.value if result.score is None else result.score
    return Evidence(task=task, run=result.run, verdicts=result.verdicts, score=score)
