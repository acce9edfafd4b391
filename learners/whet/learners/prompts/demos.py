"""Demonstrations: verified runs as examples inside a prompt.

pool = DemoPool(("system",))
await pool.collect(lab, parent, evidence)                # keeps the runs that passed, one of each task
draft = pool.draft(parent, {"system": pool.draw("system", 4, lab.rng)}, note="4 examples")
"""

import random
from collections.abc import Mapping, Sequence

from whet.core.records import Record
from whet.learners.prompts.archive import Evidence, Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft
from whet.learners.prompts.parts import PRINCIPLES

__all__ = ["Demo", "DemoPool", "demo_draft", "instruction_of", "show_demos"]

_HEAD = "# Verified examples"
_WHOLE = ("system", PRINCIPLES)


class Demo(Record, frozen=True, kw_only=True):
    """What a prompt's node was asked and answered in a run that passed; ``evidence`` are the records that show it."""

    task_id: str
    asked: str
    answer: str
    evidence: tuple[str, ...]
    tainted: bool = False


class DemoPool:
    """The demonstrations found for each part, one of each task."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._found: dict[str, dict[str, Demo]] = {part: {} for part in parts}

    def lacks(self, task_id: str) -> bool:
        """Whether a part has no demonstration of this task yet."""
        return any(task_id not in found for found in self._found.values())

    async def collect(self, lab: Lab, node: Node, evidence: Sequence[Evidence]) -> None:
        """Keeps, of runs under a candidate, what its parts were asked and answered in those that passed."""
        for each in evidence:
            if each.score >= 1.0 and self.lacks(each.task.id):
                for part, found in self._found.items():
                    if demo := await _demo(lab, each, part, node.parts[part]):
                        found.setdefault(each.task.id, demo)

    def draw(self, part: str, most: int, rng: random.Random) -> tuple[Demo, ...]:
        """Returns up to so many demonstrations of a part, drawn without repetition."""
        found = list(self._found[part].values())
        return tuple(rng.sample(found, min(most, len(found))))


def demo_draft(parent: Node, texts: Mapping[str, str], demos: Mapping[str, Sequence[Demo]], *, note: str) -> Draft:
    """Returns the draft that gives parts of a candidate these instructions with these demonstrations."""
    chosen = [demo for each in demos.values() for demo in each]
    return Draft(
        parts={part: show_demos(text, demos[part]) for part, text in texts.items()},
        parents=(parent,),
        note=note,
        evidence=tuple(id for demo in chosen for id in demo.evidence),
        tainted=any(demo.tainted for demo in chosen),
    )


def instruction_of(text: str) -> str:
    """Returns a prompt without its demonstrations."""
    return text.partition(_HEAD)[0].rstrip()


def show_demos(instruction: str, demos: Sequence[Demo]) -> str:
    """Returns an instruction with demonstrations under it; the instruction alone where there are none."""
    shown = [f"Task:\n{demo.asked.strip()}\nAnswer:\n{demo.answer.strip()}" for demo in demos]
    return "\n\n".join([instruction, _HEAD, *shown]).strip() if demos else instruction


async def _demo(lab: Lab, each: Evidence, part: str, text: str) -> Demo | None:
    """Returns the whole run for a part that every model call is told, the last call of its node for another."""
    calls = [(each.task.prompt, each.run.answer or "")] if part in _WHOLE else await lab.calls(each, text)
    if not calls:
        return None
    asked, answer = calls[-1]
    tainted = each.run.trust == "tainted"
    return Demo(task_id=each.task.id, asked=asked, answer=answer, evidence=each.ids, tainted=tainted)
