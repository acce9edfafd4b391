"""OPTO: one question sees code, variables, a trace and feedback, and changes prompts and settings together.

learner = Opto(model="openai/gpt-4o-mini", parts="system,reviewer", ranges="rounds=0:6")
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from whet.core.errors import UserError
from whet.core.records import Json, NodeFinished, Record, Step
from whet.learners.asking import read_json
from whet.learners.prompts.archive import Evidence, Node
from whet.learners.prompts.dials import Dial, read_dials, settings_of
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, examples

__all__ = ["Opto", "Suggestion"]

_STOP = "TERMINATE"
_CLIPPED = 200

_ASK = """\
Below is a workflow: its code, its variables, and what it did with some inputs. Change the variables so that the
feedback gets better on these and on other inputs of the kind. Change several together where one alone would not do.
The code stays as it is. Answer with JSON and nothing else, the new value of each variable that changes, texts whole:
{{"reasoning": "…", "suggestion": {{"NAME": value}}}}
or with the word TERMINATE where nothing should change.

# Code
{code}

{texts}

# Settings
{settings}

# Trace
{trace}

# Results
{examples}

# Tried before
{memory}"""


class Suggestion(Record, frozen=True, kw_only=True):
    """What an answer says: new texts, new settings and why; nothing new to stop."""

    reasoning: str = ""
    texts: dict[str, str] = msgspec.field(default_factory=dict)
    settings: dict[str, int | float] = msgspec.field(default_factory=dict)


@dataclass(kw_only=True)
class Opto(PromptLearner):
    """Optimisation with trace oracle, OptoPrime (Cheng et al. 2024, arXiv 2406.16218).

    ``ranges``: settings that may change as well, ``NAME`` or ``NAME=LOW:HIGH`` with commas; unless given, all of a
    finite range that the graph has. ``memory``: how many earlier suggestions are shown with what came of them.
    """

    name: ClassVar[str] = "opto"
    ranges: str = ""
    memory: int = 3
    dials: list[Dial] = field(init=False, default_factory=list)
    unreadable: int = field(init=False, default=0)
    stopped: bool = field(init=False, default=False)

    async def begin(self, lab: Lab) -> None:
        """Scores the incumbent, and reads which settings are variables."""
        self.dials = read_dials(lab.view, self.ranges, least=0)
        await super().begin(lab)

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the best candidate, none when it is perfect or the model said to stop."""
        return () if self.stopped else super().select(lab)

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns what the model suggests from a minibatch; none where it says to stop or cannot be read twice."""
        parent = parents[0]
        on = tuple(await lab.run(parent.policy, lab.minibatch(self.minibatch)))
        if all(each.score >= 1.0 for each in on):
            return []
        asked = await self._report(parent, on, lab)
        found = self._read(await lab.ask(asked), parent)
        if isinstance(found, str):
            found = self._read(await lab.ask(f"{asked}\n\n# Your last answer could not be used\n{found}"), parent)
        if isinstance(found, str):
            self.unreadable += 1
            return []
        self.stopped = not found.texts and not found.settings
        change = Draft(parts=found.texts, settings=found.settings, parents=(parent,), note=found.reasoning, on=on)
        return [] if self.stopped else [change]

    async def _report(self, parent: Node, on: Sequence[Evidence], lab: Lab) -> str:
        values = settings_of(lab.view, parent.policy, self.dials)
        tried = lab.archive.nodes[1:][-self.memory :] if self.memory else []
        return _ASK.format(
            code=lab.view.graph_code(),
            texts="\n\n".join(f"# Text ({part})\n{text}" for part, text in parent.parts.items()),
            settings="\n".join(f"{dial.name} = {values.get(dial.name)} ({dial.allowed})" for dial in self.dials),
            trace="\n".join([line for each in on for line in await _trace(each, lab)]),
            examples=examples(on),
            memory="\n".join(f"{node.note} Score: {_score(node, lab)}" for node in tried),
        )

    def _read(self, answer: str, parent: Node) -> Suggestion | str:
        """Returns what an answer suggests, or what is wrong with it."""
        entry = read_json(answer)
        if not isinstance(entry, dict) or not isinstance(said := entry.get("suggestion"), dict):
            return Suggestion() if _STOP in answer else 'It holds no JSON object with "suggestion".'
        dials = {dial.name: dial for dial in self.dials}
        if unknown := sorted(said.keys() - parent.parts.keys() - dials.keys()):
            return f"There is no variable {unknown[0]!r}; there are {', '.join([*parent.parts, *dials])}."
        texts = {name: value for name, value in said.items() if name in parent.parts and isinstance(value, str)}
        try:
            settings = {name: dials[name].check(value) for name, value in said.items() if name in dials}
        except UserError as error:
            return str(error)
        if wrong := sorted(said.keys() - texts.keys() - settings.keys()):
            return f"The variable {wrong[0]!r} has to be a text."
        return Suggestion(reasoning=str(entry.get("reasoning", "")), texts=texts, settings=settings)

    def options(self) -> Mapping[str, Json]:
        """Returns the options, and how many answers could not be used."""
        return {**super().options(), "unreadable": self.unreadable}


def _score(node: Node, lab: Lab) -> str:
    mean = lab.archive.mean(node)
    return "did not gain" if mean is None else f"{mean:.2f}"


async def _trace(evidence: Evidence, lab: Lab) -> list[str]:
    """Returns a line for each node of the graph that finished in a run, with what it gave out."""
    steps = await lab.view.about(Step, [evidence.run.id], kinds=("node_finished",))
    return [
        f"{step.node}: {step.body.error or str(step.body.output)[:_CLIPPED]}"
        for step in steps
        if isinstance(step.body, NodeFinished)
    ]
