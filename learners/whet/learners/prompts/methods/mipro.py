"""MIPROv2: instructions and demonstrations are proposed once, then searched together.

learner = Mipro(model="openai/gpt-4o-mini", candidates=6, runs=1000)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from whet.learners.prompts.archive import Node
from whet.learners.prompts.demos import Demo, DemoPool, demo_draft, instruction_of
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, example, fenced
from whet.learners.prompts.searching import import_optuna

if TYPE_CHECKING:
    from optuna import Study, Trial

__all__ = ["Mipro"]

_SHOWN = 3
_TIPS = (
    "Keep it short and plain.",
    "Say exactly what the answer has to look like.",
    "Say what the tasks have in common and what has to be known to solve them.",
    "Write down whatever facts can be read off the examples.",
    "Give the steps in their order.",
    "Warn of the mistake that is made most easily.",
)

_PROPOSE = """\
Write an instruction for a language model, to take the place of the text below. {tip}
Answer with the instruction between lines of three back-ticks.

# Text ({part})
{text}

# The program that it is used in
{code}

# Tasks
{tasks}

# Results
{examples}"""


@dataclass(kw_only=True)
class Mipro(PromptLearner):
    """Opsahl-Ong et al. 2024 (arXiv 2406.11695), version 2, with Optuna's multivariate TPE over indices.

    ``candidates``: instructions, and sets of demonstrations, for each part; the first of either is what there was.
    ``demos``: at most so many in a set. ``rounds``: seeds under which training tasks are run for demonstrations.
    ``minibatch``: validation tasks of a trial, where there are more of them. ``full_every``: after so many trials the
    combination of the best mean is run on all of them. ``steps``: trials.

    Raises:
        UserError: there is no model, or Optuna is not installed.
    """

    name: ClassVar[str] = "mipro"
    counts: ClassVar[tuple[str, ...]] = ("candidates", "demos", "rounds", "full_every")
    candidates: int = 6
    demos: int = 4
    rounds: int = 2
    minibatch: int = 35
    validation: int = 100
    full_every: int = 5
    steps: int = 12
    runs: int = 1000
    texts: dict[str, list[str]] = field(init=False, default_factory=dict)
    sets: dict[str, list[tuple[Demo, ...]]] = field(init=False, default_factory=dict)
    means: dict[int, list[float]] = field(init=False, default_factory=dict)
    study: "Study | None" = field(init=False, default=None)
    trial: "Trial | None" = field(init=False, default=None)

    async def begin(self, lab: Lab) -> None:
        """Scores the prompt as it is, bootstraps demonstrations, and has the instructions written."""
        optuna = import_optuna(self.name)
        sampler = optuna.samplers.TPESampler(seed=self.seed, multivariate=True, n_startup_trials=self.candidates)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        await super().begin(lab)
        seed = lab.archive.nodes[0]
        pool = DemoPool(tuple(seed.parts))
        for number in range(self.rounds):
            lacking = [task for task in lab.tasks if pool.lacks(task.id)]
            await pool.collect(lab, seed, await lab.run(seed.policy, lacking, seed=self.seed + number))
        for part, text in seed.parts.items():
            drawn = [pool.draw(part, self.demos, lab.rng) for _ in range(self.candidates - 1)]
            self.sets[part] = [(), *dict.fromkeys(each for each in drawn if each)]
            self.texts[part] = [instruction_of(text), *[await self._write(lab, part, text) for _ in drawn]]

    async def _write(self, lab: Lab, part: str, text: str) -> str:
        """Returns an instruction grounded in tasks, the graph's code and a set of demonstrations, with a tip."""
        tasks = lab.rng.sample(lab.tasks, min(_SHOWN, len(lab.tasks)))
        demos = lab.rng.choice(self.sets[part])
        asked = _PROPOSE.format(
            tip=lab.rng.choice(_TIPS),
            part=part,
            text=instruction_of(text),
            code=lab.view.graph_code(),
            tasks="\n".join(task.prompt for task in tasks),
            examples="\n\n".join(example(i, each.asked, each.answer, "passed") for i, each in enumerate(demos, 1)),
        )
        return fenced(await lab.ask(asked, temperature=1.0))

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the prompt as it was, which every combination is built on; none when a full score is perfect."""
        return lab.archive.nodes[:1] if super().select(lab) else ()

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the combination that the estimator would try next."""
        assert self.study is not None, "begun"
        self.trial = self.study.ask()
        texts, demos = {}, {}
        for part, written in self.texts.items():
            texts[part] = written[self.trial.suggest_categorical(f"{part}.text", range(len(written)))]
            sets = self.sets[part]
            demos[part] = sets[self.trial.suggest_categorical(f"{part}.demos", range(len(sets)))]
        said = ", ".join(f"{name}={index}" for name, index in self.trial.params.items())
        return [demo_draft(parents[0], texts, demos, note=said)]

    def add(self, draft: Draft, lab: Lab) -> Node | None:
        """Returns the candidate of a combination; one that was tried before is tried again on other tasks."""
        return super().add(draft, lab) or lab.archive.of(draft.applied())

    async def assess(self, node: Node, lab: Lab) -> None:
        """Scores a combination on a minibatch of the validation tasks, and now and then the best on all of them."""
        if self.trial is None or self.study is None:
            return await super().assess(node, lab)
        tasks = lab.rng.sample(lab.validation, min(self.minibatch, len(lab.validation)))
        found = await lab.run(node.policy, tasks)
        score = fmean(each.score for each in found) if found else 0.0
        self.study.tell(self.trial, score)
        self.means.setdefault(node.number, []).append(score)
        if len(self.study.trials) % self.full_every == 0 or len(self.study.trials) == self.steps:
            await self._full(lab)
        return None

    async def _full(self, lab: Lab) -> None:
        """Runs the combination of the best mean that was not yet run on all validation tasks on them."""
        waiting = [number for number in self.means if not lab.archive.scores(lab.archive.nodes[number])]
        if waiting:
            best = max(waiting, key=lambda number: fmean(self.means[number]))
            await lab.assess(lab.archive.nodes[best])
