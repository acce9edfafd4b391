"""PROMST: for tasks of many steps. Rules by a person say what went wrong on the way; a forecast prunes what is written.

learner = Promst(model="openai/gpt-4o-mini", rules="rules.toml", runs=600)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from whet.core.errors import UserError
from whet.core.records import Step
from whet.learners.prompts.archive import Evidence, Node
from whet.learners.prompts.forecast import Forecast
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, example, fenced
from whet.learners.prompts.steps import StepRule, load_rules, remarks_on

__all__ = ["Promst"]

_KNOWN = 6
_FALLING = 3

_SUMMARISE = """\
An agent was told the text below and failed at some tasks. Summarise what went wrong: kinds of errors, most frequent
first, with what matters of the single cases. Do not write a new text.

# Text ({part})
{text}

# Results
{results}"""

_WRITE = """\
Improve this part of an agent's prompt so that the errors below do not happen again. Keep what its tasks require. Answer
with the whole new text between lines of three back-ticks.

# Earlier versions and their scores
{earlier}

# Text ({part})
{text}

# What went wrong
{summary}"""


@dataclass(kw_only=True)
class Promst(PromptLearner):
    """Prompt optimisation in multi-step tasks (Chen et al. 2024, arXiv 2402.08702).

    ``rules``: a TOML file or ``package.module:NAME`` (``steps.py``), or the rules themselves. ``children`` are written
    for each prompt of a level and ``keep`` of them go on. ``levels``: at least so many, before the search ends because
    the best of a level fell twice in a row. ``margin``: a child is not tried when its forecast lies so many errors
    below its parent (0: all are tried).

    Raises:
        UserError: an option has an impossible value, or the rules cannot be read.
    """

    name: ClassVar[str] = "promst"
    counts: ClassVar[tuple[str, ...]] = ("children", "keep", "levels")
    rules: str | Sequence[StepRule] = ()
    children: int = 4
    keep: int = 2
    levels: int = 3
    margin: float = 1.0
    minibatch: int = 8
    _level: list[Node] = field(default_factory=list, init=False)
    _best: list[float] = field(default_factory=list, init=False)
    _rules: Sequence[StepRule] = field(default=(), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise UserError(f"margin is {self.margin!r}; at least 0 is needed, and 0 tries all children")
        self._rules = load_rules(self.rules) if isinstance(self.rules, str) else self.rules

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the prompts of the next level: of each prompt of the last one the best children."""
        archive = lab.archive
        if archive.mean(archive.best()) == 1.0:
            return ()
        if not self._level:
            self._level = [archive.nodes[0]]
            return self._level
        families = [[node for node in archive.children(parent) if archive.scores(node)] for parent in self._level]
        ranked = [sorted(family, key=lambda node: -(archive.mean(node) or 0.0)) for family in families]
        self._level = [node for family in ranked for node in family[: self.keep]]
        self._best.append(max((archive.mean(node) or 0.0 for node in self._level), default=0.0))
        falling = len(self._best) >= max(self.levels, _FALLING) and all(
            after < before for before, after in pairwise(self._best[-_FALLING:])
        )
        return () if falling else self._level

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the children of a level that the forecast leaves."""
        drafts = [draft for parent in parents for draft in await self._children(parent, lab)]
        return self.promising(drafts, lab)

    async def _children(self, parent: Node, lab: Lab) -> list[Draft]:
        tried = await lab.run(parent.policy, lab.minibatch(self.minibatch))
        failed = tuple(each for each in tried if each.score < 1.0)
        if not failed:
            return []
        part = sorted(parent.parts)[len(self._best) % len(parent.parts)]
        text, results = parent.parts[part], await self._results(failed, lab)
        summary = await lab.ask(_SUMMARISE.format(part=part, text=text, results=results))
        earlier = [(lab.archive.mean(node) or 0.0, node.parts[part]) for node in lab.archive.lineage(parent)]
        shown = "\n\n".join(f"Score {score:.2f}:\n{words}" for score, words in earlier)
        asked = _WRITE.format(part=part, text=text, summary=summary, earlier=shown)
        written = [fenced(await lab.ask(asked, temperature=1.0)) for _ in range(self.children)]
        return [Draft(parts={part: each}, parents=(parent,), note=summary, on=failed) for each in written]

    async def _results(self, failed: Sequence[Evidence], lab: Lab) -> str:
        """Returns failed runs with what verifiers found and what the rules say of their steps."""
        shown = []
        for number, each in enumerate(failed, 1):
            steps = await lab.view.about(Step, [each.run.id])
            found = " ".join([each.feedback, *remarks_on(each.run, steps, self._rules)])
            shown.append(example(number, each.task.prompt, each.run.answer or "", found))
        return "\n\n".join(shown)

    def promising(self, drafts: Sequence[Draft], lab: Lab) -> list[Draft]:
        """Returns the drafts without those that are forecast to score well below their parent."""
        known = lab.archive.assessed()
        if len(known) < _KNOWN or self.margin == 0 or not drafts:
            return list(drafts)
        scores = [lab.archive.mean(node) or 0.0 for node in known]
        forecast = Forecast.of([_words(node.parts) for node in known], scores)
        expected = forecast.at([_words({**draft.parents[0].parts, **draft.parts}) for draft in drafts])
        least = [(lab.archive.mean(draft.parents[0]) or 0.0) - self.margin * forecast.error for draft in drafts]
        return [draft for draft, score, low in zip(drafts, expected, least, strict=True) if score >= low]

    async def admit(self, node: Node, draft: Draft, lab: Lab) -> bool:
        """Assesses every child that the forecast left."""
        return True


def _words(parts: dict[str, str]) -> str:
    return "\n".join(parts[name] for name in sorted(parts))
