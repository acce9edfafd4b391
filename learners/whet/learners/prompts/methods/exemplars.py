"""Bootstrap few-shot: verified runs become demonstrations in the prompt. No model that writes is needed.

learner = Exemplars(demos=4, runs=300)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from whet.learners.prompts.archive import Evidence, Node
from whet.learners.prompts.demos import DemoPool, demo_draft, instruction_of
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner

__all__ = ["Exemplars"]


@dataclass(kw_only=True)
class Exemplars(PromptLearner):
    """Bootstrapped demonstrations with random search (Khattab et al. 2023, arXiv 2310.03714).

    ``demos``: at most so many in a prompt. ``drafts``: sets drawn in a step. A task without a verified run is tried
    again with another seed, under the best prompt so far: what was found helps to find more.
    """

    name: ClassVar[str] = "exemplars"
    unused: ClassVar[tuple[str, ...]] = ("model",)
    counts: ClassVar[tuple[str, ...]] = ("demos", "drafts")
    demos: int = 4
    drafts: int = 1
    minibatch: int = 8
    pool: DemoPool = field(init=False, default_factory=lambda: DemoPool(()))
    tries: int = field(init=False, default=0)

    async def begin(self, lab: Lab) -> None:
        """Scores the prompt as it is, and takes what passed before from the memory."""
        await super().begin(lab)
        seed, tasks = lab.archive.nodes[0], {task.id for task in lab.tasks}
        self.pool = DemoPool(tuple(seed.parts))
        passed = [each for each in await lab.view.judged() if each.passed and each.task.id in tasks]
        known = [Evidence(task=each.task, run=each.run, verdicts=each.verdicts, score=1.0) for each in passed]
        await self.pool.collect(lab, seed, known)

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the parent with sets of demonstrations drawn anew; none while nothing was verified."""
        parent = parents[0]
        self.tries += 1
        lacking = [task for task in lab.tasks if self.pool.lacks(task.id)]
        tried = lab.rng.sample(lacking, min(self.minibatch, len(lacking)))
        await self.pool.collect(lab, parent, await lab.run(parent.policy, tried, seed=self.seed + self.tries))
        drafts = []
        for _ in range(self.drafts):
            demos = {part: self.pool.draw(part, self.demos, lab.rng) for part in parent.parts}
            if any(demos.values()):
                texts = {part: instruction_of(text) for part, text in parent.parts.items()}
                drafts.append(demo_draft(parent, texts, demos, note=f"{max(map(len, demos.values()))} examples"))
        return drafts
