"""The briefing: what an agent is told before it starts, and which lessons and skills were shown or withheld.

briefing = await brief(policy, task, run, memory, recall=8, withhold_rate=0.05, can_open=False)
briefing.system       # the system message (empty: none is sent)
briefing.uses         # a Use for every lesson and skill that the task calls for

Withholding at random is what makes worth measurable: shown and withheld uses joined to verdicts are an experiment.
"""

from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

from whet.core import Lesson, Policy, Run, Task, Use, digest
from whet.core.prompting import render_system
from whet.skills import catalogue, disclose

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["Briefing", "brief"]

_WIDER = 4


@dataclass(frozen=True)
class Briefing:
    """The system message and what became of each lesson and skill."""

    system: str
    uses: tuple[Use, ...] = ()


class _Draw:
    """Draws for each item whether it is shown; the same run draws the same again."""

    def __init__(self, run: Run, rate: float) -> None:
        self._run = run
        self._random = Random(run.id)
        self._rate = rate
        self.uses: list[Use] = []

    def shows(self, item: str, version: str) -> bool:
        """Returns whether the item is shown, and keeps the use."""
        shown = self._random.random() >= self._rate
        kind: Literal["shown", "withheld"] = "shown" if shown else "withheld"
        self.uses.append(Use(run_id=self._run.id, item=item, version=version, kind=kind, scope=self._run.scope))
        return shown


async def brief(
    policy: Policy,
    task: Task,
    run: Run,
    memory: "Memory | None",
    *,
    recall: int,
    withhold_rate: float,
    can_open: bool,
    only: Collection[str] | None = None,
) -> Briefing:
    """Returns the briefing for a task under a policy, whose rubrics are told in every task.

    Skills are disclosed progressively: a body when the task calls for the skill; the names and descriptions of the
    others when the agent has tools to open one (``can_open``), since to any other agent they are noise. ``only`` are
    the ids of the lessons that may be recalled, proposed ones included; without it, all active ones may. What is known
    about a person is told in that person's tasks only (``task.meta["person"]``).

    Raises:
        UserError: a skill of the policy breaks the format.
        StoreError: the memory could not be read.
    """
    draw = _Draw(run, withhold_rate)
    opened = [
        (name, body)
        for name, body in disclose(policy, task.prompt)
        if draw.shows(f"skill:{name}", _skill_version(policy, name))
    ]
    if can_open and (others := _others(policy, {use.item for use in draw.uses})):
        opened.append(("others, open one with open_skill", others))
    lessons = []
    if memory is not None and recall > 0:
        for lesson in await _recalled(memory, task, recall, only):
            if draw.shows(lesson.id, str(lesson.version)):
                lessons.append(_told(lesson))
    prompt, principles = policy.text("prompts/system.md"), policy.text("principles.md")
    system = render_system(prompt, principles, opened, lessons, policy.rubrics())
    return Briefing(system=system, uses=tuple(draw.uses))


async def _recalled(memory: "Memory", task: Task, k: int, only: Collection[str] | None) -> list[Lesson]:
    given = task.meta.get("person")
    person = given if isinstance(given, str) else None
    if only is None:
        return [found.lesson for found in await memory.recall(task.prompt, k=k, person=person)]
    # Lessons outside of the chosen ones take places in the ranking, so more are fetched than are kept.
    found = await memory.recall(task.prompt, k=_WIDER * k, statuses=("active", "proposed"), person=person)
    return [each.lesson for each in found if each.lesson.id in only][:k]


def _told(lesson: Lesson) -> str:
    """Returns the lesson as the model is told it: its exceptions are kept by recall, and the model hears of them."""
    return f"{lesson.text}\nNot when: {lesson.not_when}" if lesson.not_when.strip() else lesson.text


def _skill_version(policy: Policy, name: str) -> str:
    """Returns what names exactly this content of the skill."""
    return digest("".join(f"{path}\0{digest(data)}\n" for path, data in sorted(policy.skill(name).items())))[:12]


def _others(policy: Policy, drawn: set[str]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in catalogue(policy) if f"skill:{name}" not in drawn)
