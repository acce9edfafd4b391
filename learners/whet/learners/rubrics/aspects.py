"""Aspects: what people remarked on in a run, each a behaviour with its sign, grounded in what the agent did.

for each in await remarked(view, 40):
    (await with_aspects(teacher, each)).aspects     # (Aspect(behaviour="gives no unit", sign=-1, …),)
"""

from typing import Literal

import msgspec

from whet.core.records import Feedback, Record, Run, Step, Task, ToolResult, Trust
from whet.feedback.answers import quoted
from whet.learners.proposing import joint_trust
from whet.learners.rubrics.teacher import Teacher, numbers, text_of
from whet.learners.view import TrainMemory

__all__ = ["Aspect", "Remarked", "remarked", "with_aspects"]

_CLIPPED = 2000

_ASPECTS = """People remarked on an attempt at a task. List what they remarked on: each behaviour, whether they found it
good ("+") or bad ("-"), and the shortest part of the attempt that shows it, word for word. The quote of something bad
that is missing is empty. Leave out remarks that do not fit this attempt.
Answer with a JSON list and nothing else: [{"behaviour": "…", "sign": "+", "quote": "…", "remark": 0}]"""


class Aspect(Record, frozen=True, kw_only=True):
    """One behaviour that feedback is about; ``sign`` +1 is good, -1 bad."""

    behaviour: str
    remark: str
    sign: Literal[1, -1]


class Remarked(Record, frozen=True, kw_only=True):
    """A run that people said something about, and the aspects of it; ``calls`` are the tools it called, in words."""

    run: Run
    task: Task
    said: tuple[Feedback, ...]
    calls: tuple[str, ...] = ()
    aspects: tuple[Aspect, ...] = ()

    @property
    def trust(self) -> Trust:
        """Tainted where the run or something said about it is."""
        return joint_trust([self.run.trust, *(item.trust for item in self.said)])

    @property
    def attempt(self) -> str:
        """What the agent did: the tools it called and its answer, without what the tools returned."""
        return "\n".join([*self.calls, (self.run.answer or "")[:_CLIPPED]])

    def shown(self) -> str:
        """Returns task and attempt as a model is shown them."""
        return f"# Task\n{quoted(self.task.prompt[:_CLIPPED])}\n\n# Attempt\n{quoted(self.attempt)}"


async def remarked(view: TrainMemory, limit: int) -> list[Remarked]:
    """Returns the newest runs on training tasks about which something was said in words, oldest first.

    What strangers said of a run stands apart from what others did, so that it taints nothing else.
    """
    said: dict[tuple[str, Trust], list[Feedback]] = {}
    for item in await view.feedback():
        if item.run_id and item.kind != "correction" and item.text.strip():
            said.setdefault((item.run_id, item.trust), []).append(item)
    chosen = [*said][-limit:]
    runs = {id: await view.run(id) for id in dict.fromkeys(id for id, _ in chosen)}
    steps = await view.about(Step, [*runs], kinds=("tool_result",))
    return [
        Remarked(
            run=runs[id],
            task=await view.task(runs[id].task_id),
            said=tuple(said[id, trust]),
            calls=tuple(_called(step) for step in steps if step.run_id == id),
        )
        for id, trust in chosen
    ]


async def with_aspects(teacher: Teacher, each: Remarked) -> Remarked:
    """Returns the run with its aspects: those whose quote is in the attempt, or that name something bad as missing."""
    remarks = [_remark(item) for item in each.said]
    lines = [f"{n}. {remark}" for n, remark in enumerate(remarks)]
    found = []
    for entry in await teacher.ask("\n\n".join([_ASPECTS, each.shown(), "# Remarks\n" + "\n".join(lines)])):
        behaviour, quote, sign = text_of(entry, "behaviour"), text_of(entry, "quote"), text_of(entry, "sign")
        grounded = quote in each.attempt if quote else sign == "-"
        about = numbers(entry, "remark", len(remarks))
        if behaviour and sign in ("+", "-") and grounded and about:
            found.append(Aspect(behaviour=behaviour, remark=remarks[about[0]], sign=1 if sign == "+" else -1))
    return msgspec.structs.replace(each, aspects=tuple(found))


def _called(step: Step) -> str:
    call = step.body.call if isinstance(step.body, ToolResult) else None
    return f"Called {call.name}({call.arguments[:_CLIPPED]})" if call else ""


def _remark(item: Feedback) -> str:
    scope = f" (applies when {item.applies_when})" if item.applies_when else ""
    return " ".join(item.text.split())[:_CLIPPED] + scope
