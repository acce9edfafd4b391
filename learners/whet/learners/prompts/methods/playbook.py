"""ACE: a playbook that grows by bullets, with counters that say which of them help.

learner = Playbook(model="openai/gpt-4o-mini", parts="principles", tokens=4000)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from whet.core.records import Json
from whet.learners.asking import read_json
from whet.learners.prompts.archive import Evidence, Node
from whet.learners.prompts.bullets import (
    Operation,
    count,
    fit,
    operate,
    read_bullets,
    show_bullets,
    without_doubles,
)
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, examples
from whet.memory.embedders import Embedder, HashedNgrams

__all__ = ["Playbook", "used_in"]

_CITED = re.compile(r"\[(p\d+)\]")

_REFLECT = """\
Below is a playbook, and what came of it on some tasks. What is to be learned from these results? And which bullets
helped, which did harm? Answer with JSON and nothing else:
{{"insight": "what to do, and why the failures happened", "tags": {{"p1": "helpful", "p2": "harmful"}}}}

# Text ({part})
{text}

# Results
{examples}"""

_CURATE = """\
Below is a playbook, and an insight. Change the playbook by as few operations as it takes; never repeat what it says.
Each bullet stands for itself, serves other tasks of the kind too, and says when it applies where that is not always.
Answer with JSON and nothing else, a list of
{{"op": "add", "text": "…"}}, {{"op": "update", "ids": ["p1"], "text": "…"}},
{{"op": "merge", "ids": ["p1", "p2"], "text": "…"}}, {{"op": "retire", "ids": ["p1"]}}

# Text ({part})
{text}

# Insight
{insight}

# Results
{examples}"""


@dataclass(kw_only=True)
class Playbook(PromptLearner):
    """Agentic context engineering (Zhang et al. 2025, arXiv 2510.04618), with all four operations.

    ``tokens``: what the bullets of a part may take; ``alike``: cosine from which two say the same; ``embedder``: what
    tells, hashed n-grams unless given.
    """

    name: ClassVar[str] = "playbook"
    counts: ClassVar[tuple[str, ...]] = ("tokens",)
    positive: ClassVar[tuple[str, ...]] = ("alike",)
    parts: str = "principles"
    tokens: int = 4000
    alike: float = 0.9
    embedder: Embedder | None = None
    refused: int = field(init=False, default=0)

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the newest playbook: counters and corrections add up, and the best one is proposed at the end."""
        return (lab.archive.nodes[-1],) if super().select(lab) else ()

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the playbook after one reflection on a minibatch; none where nothing failed."""
        parent = parents[0]
        on = tuple(await lab.run(parent.policy, lab.minibatch(self.minibatch)))
        if all(each.score >= 1.0 for each in on):
            return []
        parts = {part: await self._revise(part, text, on, lab) for part, text in parent.parts.items()}
        return [Draft(parts=parts, parents=(parent,), note=_said(parent, parts), on=on)]

    async def admit(self, node: Node, draft: Draft, lab: Lab) -> bool:
        """Admits every revision: what does harm is counted and retired."""
        return True

    async def _revise(self, part: str, text: str, on: Sequence[Evidence], lab: Lab) -> str:
        """Returns a part after its bullets were counted, operated on, deduplicated, and those that do harm retired."""
        head, bullets = read_bullets(text)
        shown = examples(on)
        reflection = read_json(await lab.ask(_REFLECT.format(part=part, text=text, examples=shown)))
        said = reflection if isinstance(reflection, dict) else {}
        bullets = count(bullets, *used_in(on, said.get("tags")))
        told = show_bullets(head, bullets)
        asked = _CURATE.format(part=part, text=told, insight=said.get("insight", ""), examples=shown)
        bullets, refused = operate(bullets, self._operations(await lab.ask(asked)))
        self.refused += len(refused)
        bullets = await without_doubles(bullets, self.embedder or HashedNgrams(), self.alike)
        return show_bullets(head, fit([each for each in bullets if not each.does_harm], self.tokens))

    def _operations(self, answer: str) -> list[Operation]:
        """Returns the operations that an answer holds; what is none is counted as refused."""
        found = read_json(answer)
        operations = []
        for entry in found if isinstance(found, list) else [found]:
            try:
                operations.append(msgspec.convert(entry, Operation))
            except msgspec.ValidationError:
                self.refused += 1
        return operations

    def options(self) -> Mapping[str, Json]:
        """Returns the options, and how many operations were refused."""
        return {**super().options(), "refused": self.refused}


def used_in(on: Sequence[Evidence], tags: Json) -> tuple[list[str], list[str]]:
    """Returns the ids that helped and that did harm: by the outcome of runs that cite them, else by the tags."""
    helped: list[str] = []
    harmed: list[str] = []
    for each in on:
        cited = sorted(set(_CITED.findall(each.run.answer or "")))
        (helped if each.score >= 1.0 else harmed).extend(cited)
    said = tags if isinstance(tags, dict) else {}
    told = {id: tag for id, tag in said.items() if id not in helped and id not in harmed}
    helped += [id for id, tag in told.items() if tag == "helpful"]
    harmed += [id for id, tag in told.items() if tag == "harmful"]
    return helped, harmed


def _said(parent: Node, parts: Mapping[str, str]) -> str:
    """Returns how the bullets changed in number."""
    before, after = (sum(len(read_bullets(text)[1]) for text in each.values()) for each in (parent.parts, parts))
    return f"{before} -> {after} bullets"
