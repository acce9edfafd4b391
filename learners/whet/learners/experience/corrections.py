"""Corrections distilled: what a person had to say, kept once the task was solved, by the level it was about.

    async for proposal in CorrectionLearner().propose(view, incumbent, Budget()):
        print(proposal.lessons[0].text, proposal.lessons[0].applies_when)

After DROC (Zha et al. 2023, arXiv 2311.10678): a correction is about the plan or about a step, and only a task that
ended in success says that it was a good one. A correction or comment with a ``step_id`` is about that step; without one
it is about the plan. The attempts that failed before are kept as negative lessons, in a proposal of their own.
"""

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Literal, TypeAlias

import msgspec

from whet.core.budget import Budget
from whet.core.models import Budgeted, Model, as_model
from whet.core.records import Feedback, Lesson, Message, Record, Sampling, Step, ToolResult, Usage
from whet.learners.asking import describe_run, entries, failures, read_json, said
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.lessons import MAX_TEXT, MIN_WORDS
from whet.learners.proposing import joint_trust, propose_lessons
from whet.learners.view import Judged, TrainMemory

__all__ = ["CorrectionLearner"]

NAME = "corrections"
_QUOTED = 200

Level: TypeAlias = Literal["plan", "step"]

_ASK = """A person corrected an agent, and after that the task was solved. What should the agent know next time?
Say it in one or two sentences that are true without this conversation. Is it about the plan, or about a single step?
Answer with JSON and nothing else:
{"level": "plan or step", "text": "…", "applies_when": "the tasks it helps with",
 "not_when": "exceptions, divided by semicolons"}"""


class CorrectionLearner:
    """Proposes corrections that were followed by success, and what had failed before.

    ``model``: a model or its name, which words the correction so that it is true on its own; without one it stays as
    the person said it. ``negatives``: whether failed attempts are proposed as well.
    """

    def __init__(self, model: Model | str | None = None, negatives: bool = True) -> None:
        self._model = None if model is None else as_model(model)
        self._negatives = negatives

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal of corrections and one of negative lessons; tainted ones apart.

        Raises:
            BudgetError: the budget does not allow to ask the model.
            ModelError: the model could not be asked.
        """
        known = await view.lessons()
        taken = {source: lesson for lesson in known for source in lesson.derived_from}
        heeded, lessons, usage = await _heeded(view), list[Lesson](), Usage()
        for each in heeded:
            lesson = taken.get(each.item.id) or _lesson(each)
            if self._model is not None and each.item.id not in taken:
                lesson, cost = await _worded(Budgeted(self._model, budget), each, lesson)
                usage += cost
            lessons.append(lesson)
        for proposal in propose_lessons(NAME, "corrections", lessons, known, incumbent, usage):
            yield proposal
        if self._negatives:
            failed = {attempt.run.id: attempt for each in heeded for attempt in each.failed}
            for proposal in propose_lessons(NAME, "negatives", map(_negative, failed.values()), known, incumbent):
                yield proposal


class _Heeded(Record, frozen=True, kw_only=True):
    """A correction, the step it is about, the run that solved the task after it, and those that failed before."""

    item: Feedback
    step: Step | None
    solved: Judged
    failed: tuple[Judged, ...]

    @property
    def level(self) -> Level:
        return "plan" if self.item.step_id is None else "step"


async def _heeded(view: TrainMemory) -> list[_Heeded]:
    by_task: dict[str, list[Judged]] = defaultdict(list)
    task_of: dict[str, str] = {}
    for each in await view.judged():
        by_task[each.task.id].append(each)
        task_of[each.run.id] = each.task.id
    found = []
    for item in filter(_is_correction, await view.feedback()):
        attempts = by_task[task_of.get(item.run_id or "", "")]
        after = [each for each in attempts if each.run.started_at >= item.at or each.run.id == item.run_id]
        if (solved := next((each for each in after if each.passed), None)) is not None:
            failed = [each for each in attempts[: attempts.index(solved)] if not each.passed]
            step = await _step(view, item)
            found.append(_Heeded(item=item, step=step, solved=solved, failed=tuple(failed)))
    return found


def _is_correction(item: Feedback) -> bool:
    says = len(item.text.split()) >= MIN_WORDS and len(item.text) <= MAX_TEXT
    return item.kind in ("correction", "comment") and item.run_id is not None and says


async def _step(view: TrainMemory, item: Feedback) -> Step | None:
    if item.step_id is None or item.run_id is None:
        return None
    return next((step for step in await view.about(Step, [item.run_id]) if step.id == item.step_id), None)


def _lesson(heeded: _Heeded) -> Lesson:
    item, run, task = heeded.item, heeded.solved.run, heeded.solved.task
    return Lesson(
        text=item.text.strip(),
        applies_when=item.applies_when or f"{_where(heeded)} in a task such as: {task.prompt[:_QUOTED]}",
        task_text=task.prompt,
        source=item.source,
        trust=joint_trust((item.trust, run.trust)),
        derived_from=tuple(dict.fromkeys(id for id in (item.id, item.run_id, run.id) if id)),
        supports=tuple(verdict.id for verdict in heeded.solved.verdicts),
        reason=f"a correction of the {heeded.level}, after which the task was solved",
    )


def _where(heeded: _Heeded) -> str:
    if heeded.level == "plan":
        return "planning"
    body = None if heeded.step is None else heeded.step.body
    if isinstance(body, ToolResult):
        return f"calling {body.call.name}"
    return f"at {heeded.step.node}" if heeded.step is not None and heeded.step.node else "at one step"


async def _worded(model: Budgeted, heeded: _Heeded, lesson: Lesson) -> tuple[Lesson, Usage]:
    """Returns the lesson in the model's words, where they can be used, and what asking took."""
    parts = [_ASK, f"The correction ({heeded.level}): {lesson.text}", *map(describe_run, heeded.failed[-2:])]
    messages = [Message(role="user", content="\n\n".join([*parts, describe_run(heeded.solved)]))]
    completion = await model.complete(messages, sampling=Sampling(temperature=0.0))
    entry = next(entries(read_json(completion.text)), {})
    text, level = said(entry, "text"), said(entry, "level")
    if not text or len(text) > MAX_TEXT or level not in ("plan", "step"):
        return lesson, completion.usage
    worded = msgspec.structs.replace(
        lesson,
        text=text,
        applies_when=said(entry, "applies_when") or lesson.applies_when,
        not_when=said(entry, "not_when"),
        reason=f"a correction of the {level}, worded by a model, after which the task was solved",
    )
    return worded, completion.usage


def _negative(attempt: Judged) -> Lesson:
    why = " ".join(failures(attempt, at_most=1))
    tried = " ".join((attempt.run.answer or "nothing").split())[:_QUOTED]
    return Lesson(
        kind="negative",
        text=f"Tried and rejected: {tried} {why}".strip(),
        applies_when=f"a task such as: {attempt.task.prompt[:_QUOTED]}",
        task_text=attempt.task.prompt,
        source=NAME,
        trust=attempt.run.trust,
        derived_from=(attempt.run.id, *(verdict.id for verdict in attempt.verdicts)),
        reason="failed before a correction led to success",
    )
