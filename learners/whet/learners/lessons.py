"""Lessons from experience: definitions that the record confirms, what people said, and, with a model, its reflections.

    learner = LessonLearner()                      # needs no model
    async for proposal in learner.propose(view, incumbent, Budget()):
        print(proposal.lessons[0].text)            # def zorp(x): return x[::-1]

Without a model a lesson is a helper function that reproduces the checks of several training tasks (or of one that
checks it alone), a person's remark, or correction that nothing can execute, or, for a helper nobody got right yet, its
worked examples and rejected forms.
With a model, it is asked what a competent colleague would want to know next time (Reflexion, Shinn et al. 2023).
Every lesson names the runs, verdicts and feedback it comes from; what strangers wrote makes a tainted proposal.
"""

from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from whet.core.budget import Budget
from whet.core.models import Budgeted, Model, as_model
from whet.core.records import Feedback, Lesson, LessonKind, Usage
from whet.feedback import FreshSandboxes
from whet.learners.asking import ask_for_lessons
from whet.learners.cases import corrected, read_cases
from whet.learners.definitions import Case, Definition, Definitions, find_definitions
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.programs import Helper
from whet.learners.proposing import joint_trust, propose_lessons, replaced
from whet.learners.replay import lent_or_own
from whet.learners.view import Judged, TrainMemory

__all__ = ["LessonLearner", "self_contained"]

NAME = "lessons"
MIN_WORDS = 3
MAX_TEXT = 1000
_EVIDENCE = 20
_QUOTED = 200


class LessonLearner:
    """Proposes lessons: one proposal per kind, the most certain first, tainted ones apart.

    ``sandboxes`` is where definitions are replayed (a pool of its own unless given); ``model`` a model or its name to
    reflect with; ``hints``: whether worked examples and rejected forms are proposed for helpers without a definition,
    in a round that finds no new definitions.
    """

    def __init__(
        self, sandboxes: FreshSandboxes | None = None, model: Model | str | None = None, hints: bool = True
    ) -> None:
        self._sandboxes = sandboxes
        self._model = None if model is None else as_model(model)
        self._hints = hints

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields proposals that add lessons to the incumbent; none for what is known, quarantined or retired.

        Raises:
            BudgetError: the budget does not allow to ask the model.
            SandboxError: no sandbox could be had.
        """
        feedback = await view.feedback()
        judged = await view.judged()
        async with lent_or_own(self._sandboxes) as sandboxes:
            corrections = await corrected(view, feedback, sandboxes)
            found = await find_definitions(read_cases([*judged, *corrections]), sandboxes)
        known = await view.lessons()
        definitions = [_definition_lesson(found, one) for one in found.known.values()]
        proposals = propose_lessons(
            NAME, "definitions", definitions, known, incumbent, retires=lambda chosen: replaced(chosen, known)
        )
        if not proposals and self._hints:
            # What is certain comes first: a hint is worth a use of the held-out set only when nothing better is new.
            proposals = propose_lessons(NAME, "hints", _hint_lessons(found), known, incumbent)
        remarks = [_remark(item) for item in feedback if _is_remark(item)]
        cases = [lesson for item in feedback if (lesson := await _case_lesson(view, item)) is not None]
        for kind, lessons in (("corrections", cases), ("remarks", remarks)):
            proposals += propose_lessons(NAME, kind, lessons, known, incumbent)
        for proposal in proposals:
            yield proposal
        if self._model is not None:
            reflections, usage = await self._reflect(self._model, judged, budget)
            for proposal in propose_lessons(NAME, "reflections", reflections, known, incumbent, usage):
                yield proposal

    async def _reflect(self, model: Model, judged: Sequence[Judged], budget: Budget) -> tuple[list[Lesson], Usage]:
        return await ask_for_lessons(Budgeted(model, budget), judged, source=NAME)


def self_contained(helper: Helper, found: Definitions) -> str:
    """Returns the source of a helper after those of the helpers and imports it needs."""
    definition = found.known[helper.name]
    imports = {line for case in definition.supports for line in case.parts.imports}
    lines = [line for line in sorted(imports) if any(name in line.split() for name in helper.needs)]
    others = [found.known[name].helper.source for name in helper.needs if name in found.known]
    return "\n".join([*lines, *others, helper.source])


def _definition_lesson(found: Definitions, definition: Definition) -> Lesson:
    # The cases that checked the helper alone are its plainest evidence.
    supports = sorted(definition.supports, key=lambda case: len(case.parts.helpers))
    name, prompt = definition.helper.name, supports[0].prompt
    return Lesson(
        text=self_contained(definition.helper, found),
        applies_when=f"the task mentions {name}" if definition.mentioned else f"a task such as: {prompt[:_QUOTED]}",
        task_text=prompt,
        source=NAME,
        trust=definition.trust,
        derived_from=tuple(dict.fromkeys((*definition.origin.evidence, *supports[0].evidence))),
        supports=tuple(dict.fromkeys(case.evidence[0] for case in supports[1:]))[:_EVIDENCE],
        contradicts=tuple(dict.fromkeys(case.evidence[0] for case in definition.contradicts))[:_EVIDENCE],
        reason=f"reproduces the checks of {definition.tasks} training tasks",
    )


def _hint_lessons(found: Definitions) -> Iterable[Lesson]:
    for name, lines in found.examples.items():
        yield _hint(found.cases[name], name, "fact", "\n".join(lines), "worked examples from failing checks")
        for helper in found.refuted[name]:
            expression = helper.body.partition("return ")[2]
            if expression and "\n" not in expression:
                text = f"Rejected approach: {name}(x) is not {expression}."
                yield _hint(found.cases[name], name, "negative", text, "failed the checks of a training task")


def _hint(cases: Sequence[Case], name: str, kind: LessonKind, text: str, reason: str) -> Lesson:
    return Lesson(
        kind=kind,
        text=text,
        applies_when=f"the task mentions {name}",
        task_text=cases[0].prompt,
        source=NAME,
        trust=joint_trust(case.trust for case in cases),
        derived_from=tuple(dict.fromkeys(id for case in cases for id in case.evidence))[:_EVIDENCE],
        reason=reason,
    )


def _is_remark(item: Feedback) -> bool:
    """Whether a comment says enough to be worth recalling: a few words, and not a page."""
    return item.kind == "comment" and len(item.text.split()) >= MIN_WORDS and len(item.text) <= MAX_TEXT


def _remark(item: Feedback) -> Lesson:
    return Lesson(
        text=item.text.strip(),
        applies_when=item.applies_when,
        source=item.source,
        trust=item.trust,
        derived_from=tuple(id for id in (item.id, item.run_id) if id),
        reason="said by a person",
    )


async def _case_lesson(view: TrainMemory, item: Feedback) -> Lesson | None:
    """Returns a correction that nothing can execute as a case: what a person would have answered to that task."""
    if item.kind != "correction" or not item.text.strip() or len(item.text) > MAX_TEXT:
        return None
    task_id = (await view.run(item.run_id)).task_id if item.run_id else item.task_id
    task = await view.task(task_id) if task_id else None
    if task is None or task.verifiers:
        return None
    lesson = _remark(item)
    when = item.applies_when or f"a task such as: {task.prompt[:_QUOTED]}"
    return msgspec.structs.replace(
        lesson, kind="case", applies_when=when, task_text=task.prompt, reason="corrected by a person"
    )
