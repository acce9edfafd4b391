"""``PromptLearner``: the one loop of all learners of prompts; a method says what happens at each of its five points.

    class Shorter(PromptLearner):
        "Asks for a shorter prompt as long as nothing is lost."
        name = "shorter"

        async def draft(self, parents, lab):
            text = fenced(await lab.ask(f"Say it in fewer words, in one fence:\\n{parents[0].parts['system']}"))
            return [Draft(parts={"system": text}, parents=parents, note="shorter")]

    learner = Shorter(model="openai/gpt-4o-mini", runs=200)

The loop: *select* parents, *draft* changes, *admit* the drafts that a few tasks favour, *assess* what was admitted on
the validation tasks, until the runs are used up or nothing is left to do; then *choose*. What is chosen is proposed to
the gate if it scores above where the search began. The defaults are those of hill climbing: from the best so far, one
draft at a time, admitted on a strict gain on the tasks it was drafted from.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import msgspec

from whet.core.budget import Budget
from whet.core.errors import BudgetError, UserError
from whet.core.models import Model, as_model
from whet.core.policy import Policy
from whet.core.records import Candidate, Json, Record
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.prompts.archive import Archive, Evidence, Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.parts import pick_parts, read_parts, write_parts
from whet.learners.view import TrainMemory

__all__ = ["Draft", "PromptLearner", "example", "examples", "examples_of", "fenced"]

_CLIPPED = 2000
_CALLS = 3
_FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*)^[ \t]*```", re.MULTILINE | re.DOTALL)


class Draft(Record, frozen=True, kw_only=True):
    """A change before it is tried: the ``parts`` that it replaces in its first parent, and what it rests on.

    ``settings`` are knobs that it sets as well; ``on`` are the runs that it was drafted from. ``policy`` is the whole
    tree to begin with, in place of the parent's. ``evidence`` are further records that it rests on, ``tainted`` where
    strangers wrote one of them.
    """

    parts: dict[str, str]
    parents: tuple[Node, ...]
    note: str = ""
    settings: Mapping[str, int | float] = msgspec.field(default_factory=dict)
    on: tuple[Evidence, ...] = ()
    policy: Policy | None = None
    evidence: tuple[str, ...] = ()
    tainted: bool = False

    def applied(self) -> Policy:
        """Returns the policy with the change."""
        policy = write_parts(self.policy or self.parents[0].policy, self.parts)
        return policy.with_settings(**self.settings) if self.settings else policy


@dataclass(kw_only=True)
class PromptLearner:
    """Base of the learners of prompts. A subclass has a ``name``, its options as fields, and overrides what differs.

    Each search works on a copy of its own, so a method may keep what it needs in fields with ``init=False``.
    ``unused`` names the options that a method has no use for; they are refused. ``counts`` names its own options that
    are at least 1, ``positive`` those that are above 0.

    Args:
        model: a model, or its name, that writes; the learners that need one say so.
        parts: names of the prompts to change, with commas (``principles`` is one).
        runs: hard limit on runs of the agent for one proposal (metric calls).
        validation: at most so many training tasks are kept for scores, and at most half of them.
        minibatch: tasks that a draft is made from and first tried on.
        steps: hard limit on rounds of the loop.
        seed: of what is drawn, and of the runs.

    Raises:
        UserError: an option has an impossible value, or there is no such model.
    """

    name: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[tuple[str, ...]] = ()
    positive: ClassVar[tuple[str, ...]] = ()
    model: Model | str | None = None
    parts: str = "system"
    runs: int = 300
    validation: int = 24
    minibatch: int = 3
    steps: int = 50
    seed: int = 0
    concurrency: int = 4

    def __post_init__(self) -> None:
        if self.model is not None:
            self.model = as_model(self.model)
        for option in ("runs", "validation", "minibatch", "steps", "concurrency", *self.counts):
            if getattr(self, option) < 1:
                raise UserError(f"{option} is {getattr(self, option)!r}; at least 1 is needed")
        for option in self.positive:
            if getattr(self, option) <= 0:
                raise UserError(f"{option} is {getattr(self, option)!r}; a number above 0 is needed")
        for each in fields(self):
            if each.name in self.unused and getattr(self, each.name) != each.default:
                raise UserError(f"learner {self.name!r} has no use for {each.name}; leave it out")

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields the best that was found, if it scores above the incumbent on the validation tasks.

        Raises:
            UserError: there is no agent to run, no such part, or no model where one is needed.
            ModelError: the model could not be asked.
        """
        lab = Lab(
            view,
            await view.tasks(),
            model=None if self.model is None else as_model(self.model),
            budget=budget,
            runs=self.runs,
            validation=self.validation,
            seed=self.seed,
            concurrency=self.concurrency,
            tag=f"learner:{self.name}",
        )
        lab.archive.add(incumbent.policy, pick_parts(read_parts(view, incumbent.policy), self.parts), note="incumbent")
        if self.asks():
            _ = lab.model  # Said before anything is run.
        mine = replace(self)
        with suppress(BudgetError):  # What was found within the limits stands.
            await mine.search(lab)
        chosen, seed = mine.choose(lab.archive), lab.archive.nodes[0]
        if chosen.policy != seed.policy and mine.better(chosen, seed, lab.archive):
            yield mine.proposal(chosen, incumbent, lab)

    async def search(self, lab: Lab) -> None:
        """Goes round until nothing is left to do or to spend.

        Raises:
            BudgetError: a limit was reached.
        """
        await self.begin(lab)
        for _ in range(self.steps):
            parents = self.select(lab)
            if not parents:
                return
            for draft in await self.draft(parents, lab):
                node = self.add(draft, lab)
                if node is not None and await self.admit(node, draft, lab):
                    await self.assess(node, lab)

    def asks(self) -> bool:
        """Whether it needs a model that writes."""
        return "model" not in self.unused

    # --- the five points --------------------------------------------------------------------------------------------

    async def begin(self, lab: Lab) -> None:
        """Prepares the archive; by default the incumbent is assessed."""
        await self.assess(lab.archive.nodes[0], lab)

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the parents of the next drafts, none when nothing is left to do; by default the best if imperfect."""
        best = lab.archive.best()
        return () if lab.archive.mean(best) == 1.0 else (best,)

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns changes to try; what a method is."""
        raise NotImplementedError

    async def admit(self, node: Node, draft: Draft, lab: Lab) -> bool:
        """Whether a draft is worth assessing; by default it has to gain on the tasks that it was drafted from."""
        if not draft.on:
            return True
        tried = await lab.run(node.policy, [each.task for each in draft.on])
        before = {each.task.id: each.score for each in draft.on}
        return sum(each.score - before[each.task.id] for each in tried) > 0

    async def assess(self, node: Node, lab: Lab) -> None:
        """Scores a candidate; by default on the validation tasks."""
        await lab.assess(node)

    def choose(self, archive: Archive) -> Node:
        """Returns what to propose; by default the candidate of the highest mean score."""
        return archive.best()

    def better(self, chosen: Node, seed: Node, archive: Archive) -> bool:
        """Whether the chosen candidate is worth a use of the held-out set; by default if its mean score is higher."""
        return (archive.mean(chosen) or 0.0) > (archive.mean(seed) or 0.0)

    # --- what all of them do the same way ---------------------------------------------------------------------------

    def add(self, draft: Draft, lab: Lab) -> Node | None:
        """Returns a draft as a candidate of the archive, ``None`` where it changes nothing or was tried before."""
        policy = draft.applied()
        if lab.archive.of(policy) is not None:
            return None
        found = read_parts(lab.view, policy)
        return lab.archive.add(
            policy,
            {name: found[name] for name in draft.parents[0].parts},
            parents=[node.number for node in draft.parents],
            note=draft.note,
            evidence=[*(id for each in draft.on for id in each.ids), *draft.evidence],
            tainted=draft.tainted or any(each.run.trust == "tainted" for each in draft.on),
        )

    def proposal(self, chosen: Node, incumbent: Arm, lab: Lab) -> Proposal:
        """Returns a candidate as a proposal that knows its lineage, its score and what it rests on."""
        archive = lab.archive
        line = archive.lineage(chosen)
        mean, before = archive.mean(chosen) or 0.0, archive.mean(archive.nodes[0]) or 0.0
        notes: list[Json] = [node.note for node in line[1:]]
        names = ", ".join(sorted(part for part in chosen.parts if chosen.parts[part] != line[0].parts.get(part)))
        scored = f"{before:.2f} -> {mean:.2f} on {len(archive.scores(chosen))} training tasks"
        summary = f"{names or 'settings'}: {scored if archive.scores(chosen) else chosen.note}"
        candidate = Candidate(
            policy=chosen.policy.digest,
            parent=incumbent.policy.digest,
            learner=self.name,
            config={"notes": notes, "tried": len(archive.nodes), **self.options(), "runs": self.runs - lab.left},
            summary=summary,
            evidence=tuple(dict.fromkeys(id for node in line for id in node.evidence)),
            usage=lab.asked,
            trust="tainted" if chosen.tainted else "trusted",
        )
        return Proposal(candidate=candidate, policy=chosen.policy)

    def options(self) -> Mapping[str, Json]:
        """Returns the options, as they are recorded with a candidate."""
        return {
            each.name: value if isinstance(value, bool | int | float | str) else getattr(value, "name", None)
            for each in sorted(fields(self), key=lambda field: field.name)
            if each.init and (value := getattr(self, each.name)) is not None
        }


def fenced(text: str) -> str:
    """Returns what stands between the first and the last fence of an answer, which may hold fences of its own; the
    whole answer where there is none."""
    match = _FENCED.search(text)
    return (match[1] if match else text).strip()


def examples(evidence: Sequence[Evidence]) -> str:
    """Returns runs as a writing model is shown them: task, answer, and what the verifiers found."""
    shown = [(each.task.prompt, each.run.answer or "", each.feedback) for each in evidence]
    return "\n\n".join(example(number, *each) for number, each in enumerate(shown, 1))


async def examples_of(lab: Lab, evidence: Sequence[Evidence], text: str) -> str:
    """Returns, in the form of ``examples``, what a graph's nodes that were told this text were asked and answered.

    Of each run the last calls are shown; a run in which no node was told it is left out.
    """
    shown = [
        (asked, answer, each.feedback) for each in evidence for asked, answer in (await lab.calls(each, text))[-_CALLS:]
    ]
    return "\n\n".join(example(number, *each) for number, each in enumerate(shown, 1))


def example(number: int, task: str, answer: str, feedback: str) -> str:
    """Returns one example as a writing model is shown it."""
    return f"## Example {number}\nTask:\n{task[:_CLIPPED]}\nAnswer:\n{answer[:_CLIPPED]}\nFeedback: {feedback}"
