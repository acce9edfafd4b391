"""Principles from feedback: praise, critique or rewriting becomes one conditional principle in ``principles.md``.

learner = Principles(model="openai/gpt-4o-mini", accept="ask")
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar, Literal, get_args

import msgspec

from whet.core.budget import Budget
from whet.core.errors import BudgetError, UserError
from whet.core.models import Model, as_model
from whet.core.policy import Policy
from whet.core.records import Candidate, Feedback, Json, Record, Run, Task, Usage
from whet.core.wire import decode, encode
from whet.learners.asking import read_json
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.prompts.archive import Evidence
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import examples
from whet.learners.prompts.parts import PRINCIPLES, path_of
from whet.learners.prompts.terminal import Terminal
from whet.learners.proposing import joint_trust
from whet.learners.view import TrainMemory

__all__ = ["Principle", "Principles", "Scope"]

Accept = Literal["wait", "ask"]

_LISTED = 40
_KINDS = {
    "accept": "praised. What in it should be kept, and when?",
    "comment": "criticised. What should be done, and when?",
    "reject": "rejected. What should be done instead, and when?",
    "correction": "rewritten. What does the new version do that the old one does not, and when should that be done?",
}

_DERIVE = """\
An answer was {what} Write ONE principle that follows, as general as the feedback is meant and no more general.
Answer with JSON and nothing else:
{{"text": "the principle", "applies_when": "for which requests", "not_when": "for which similar ones it does not hold"}}

# Text (principles)
{principles}

# Request
{task}

# Answer
{answer}

# Feedback
{said}"""

_NARROW = """\
This principle does harm where it was not meant. Write it again so that it holds for what the feedback is about only.
Answer with JSON of the same form: {{"text": …, "applies_when": …, "not_when": …}}

# Principle
{principle}

# Where it did harm
{examples}"""

_SCOPE = """\
For which of these requests does the principle hold, and which are similar without it being meant for them?
Answer with JSON and nothing else: {{"in_scope": [numbers], "near_miss": [numbers]}}

# Principle
{principle}

# Requests
{requests}"""

_QUESTION = "\n{principle}\n\nEnter to accept, s to skip, or another wording of the principle > "


class Principle(Record, frozen=True, kw_only=True):
    """What should be done, for which requests, and for which similar ones not."""

    text: str
    applies_when: str = ""
    not_when: str = ""

    def show(self) -> str:
        """Returns it as a line of ``principles.md``."""
        beside = f" (not when {self.not_when.strip()})" if self.not_when.strip() else ""
        when = f"When {self.applies_when.strip()}{beside}: " if self.applies_when.strip() else ""
        return f"- {when}{self.text.strip()}"


class Scope(Record, frozen=True, kw_only=True):
    """Mean scores (before, after) on tasks that a principle is meant for and on similar ones that it is not."""

    in_scope: tuple[float, float] | None = None
    near_miss: tuple[float, float] | None = None

    @property
    def keeps(self) -> bool:
        """Whether neither side lost anything."""
        return all(side is None or side[1] >= side[0] for side in (self.in_scope, self.near_miss))


@dataclass(kw_only=True)
class Principles:
    """ConstitutionMaker (Petridis et al. 2024, arXiv 2310.15428), its scope kept as in C3PO (arXiv 2402.10893).

    ``limit``: so many of the newest pieces of feedback are looked at. ``accept``: ``ask`` shows each principle to a
    person on the terminal, who accepts, rewords or skips it; ``wait`` leaves that to whoever decides on the candidate.
    ``tests``: tasks run on either side of the scope, where there is an agent; ``runs`` limits all of them.

    Raises:
        UserError: an option has an impossible value, or there is no such model.
    """

    name: ClassVar[str] = "principles"
    model: Model | str | None = None
    limit: int = 1
    accept: str = "wait"
    tests: int = 4
    runs: int = 100
    seed: int = 0
    terminal: Terminal = field(default_factory=Terminal)

    def __post_init__(self) -> None:
        if self.model is not None:
            self.model = as_model(self.model)
        if self.accept not in get_args(Accept):
            raise UserError(f"accept={self.accept!r} is neither 'wait' nor 'ask'")
        for option in ("limit", "tests", "runs"):
            if getattr(self, option) < 1:
                raise UserError(f"{option} is {getattr(self, option)!r}; at least 1 is needed")

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal for each of the newest pieces of feedback, each a principle more than the incumbent has.

        Raises:
            UserError: there is no model that writes, or nobody answers on the terminal.
            ModelError: the model could not be asked.
        """
        model = None if self.model is None else as_model(self.model)
        tasks = await view.tasks()
        lab = Lab(view, tasks, model=model, budget=budget, runs=self.runs, validation=1, seed=self.seed, practise=False)
        usable = [item for item in await view.feedback() if item.kind in _KINDS and item.run_id]
        for item in list(reversed(usable))[: self.limit]:
            run = await view.run(item.run_id or "")
            try:
                found = await self._learn(item, run, tasks, incumbent.policy, lab)
            except BudgetError:  # What was proposed within the limits stands.
                return
            if found is not None:
                yield _proposal(item, run, *found, incumbent, lab)

    async def _learn(
        self, item: Feedback, run: Run, tasks: Sequence[Task], policy: Policy, lab: Lab
    ) -> tuple[Principle, Scope] | None:
        """Returns the principle of a piece of feedback and what its test found; ``None`` where none is worth it."""
        task = await lab.view.task(run.task_id)
        principle = await self._asked(await self._derive(item, task, run, policy, lab))
        if principle is None or principle.show() in policy.text(path_of(PRINCIPLES)):
            return None
        if not lab.view.can_practise:
            return principle, Scope()
        scope, harmed = await self._test(principle, task, tasks, policy, lab)
        if harmed:
            answer = await lab.ask(_NARROW.format(principle=principle.show(), examples=harmed))
            principle = await self._asked(_read(answer))
            if principle is None:
                return None
            scope, _ = await self._test(principle, task, tasks, policy, lab)
        return (principle, scope) if scope.keeps else None

    async def _derive(self, item: Feedback, task: Task, run: Run, policy: Policy, lab: Lab) -> Principle | None:
        """Returns the principle that the model draws; the scope that the person gave stands."""
        asked = _DERIVE.format(
            what=_KINDS[item.kind],
            principles=policy.text(path_of(PRINCIPLES)),
            task=task.prompt,
            answer=run.answer or "",
            said=item.text,
        )
        principle = _read(await lab.ask(asked))
        if principle is None or not item.applies_when:
            return principle
        return msgspec.structs.replace(principle, applies_when=item.applies_when)

    async def _asked(self, principle: Principle | None) -> Principle | None:
        """Returns the principle as a person accepts it; ``None`` where it is skipped."""
        if principle is None or self.accept == "wait":
            return principle
        said = await self.terminal.ask(_QUESTION.format(principle=principle.show()))
        if said in ("s", "skip"):
            return None
        return msgspec.structs.replace(principle, text=said) if said else principle

    async def _test(
        self, principle: Principle, task: Task, tasks: Sequence[Task], policy: Policy, lab: Lab
    ) -> tuple[Scope, str]:
        """Returns mean scores on both sides of the scope, and the near misses that were lost, as a model reads them."""
        listed = [each for each in tasks if each.id != task.id][:_LISTED]
        lines = "\n".join(f"{number}. {each.prompt}" for number, each in enumerate(listed))
        said = read_json(await lab.ask(_SCOPE.format(principle=principle.show(), requests=lines)))
        inside = [task, *_chosen(said, "in_scope", listed)][: self.tests]
        outside = [each for each in _chosen(said, "near_miss", listed) if each not in inside][: self.tests]
        changed = _with(policy, principle)
        sides = [(await lab.run(policy, side), await lab.run(changed, side)) for side in (inside, outside)]
        means = [_means(old, new) for old, new in sides]
        before = {each.task.id: each.score for each in sides[1][0]}
        lost = [each for each in sides[1][1] if each.score < before.get(each.task.id, 0.0)]
        return Scope(in_scope=means[0], near_miss=means[1]), examples(lost)


def _means(old: Sequence[Evidence], new: Sequence[Evidence]) -> tuple[float, float] | None:
    return (fmean(each.score for each in old), fmean(each.score for each in new)) if old and new else None


def _with(policy: Policy, principle: Principle) -> Policy:
    """Returns the policy with a principle more."""
    path = path_of(PRINCIPLES)
    old = policy.text(path).rstrip()
    return policy.edit({path: f"{old}\n{principle.show()}\n".lstrip("\n")})


def _read(answer: str) -> Principle | None:
    """Returns the principle of an answer; ``None`` where it holds none."""
    try:
        found = msgspec.convert(read_json(answer), Principle)
    except msgspec.ValidationError:
        return None
    return found if found.text.strip() else None


def _chosen(said: Json, key: str, tasks: Sequence[Task]) -> list[Task]:
    numbers = said.get(key) if isinstance(said, dict) else None
    found = numbers if isinstance(numbers, list) else []
    return [tasks[number] for number in found if isinstance(number, int) and 0 <= number < len(tasks)]


def _proposal(item: Feedback, run: Run, principle: Principle, scope: Scope, incumbent: Arm, lab: Lab) -> Proposal:
    policy, usage, lab.asked = _with(incumbent.policy, principle), lab.asked, Usage()
    candidate = Candidate(
        policy=policy.digest,
        parent=incumbent.policy.digest,
        learner=Principles.name,
        config={"scope": decode(encode(scope), dict[str, Json]), "kind": item.kind},
        summary=" ".join(principle.show().split()),
        evidence=(item.id, run.id),
        usage=usage,
        trust=joint_trust((item.trust, run.trust)),
    )
    return Proposal(candidate=candidate, policy=policy)
