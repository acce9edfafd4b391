"""Tips: a short list of advice that a model rewrites after looking at what was done, step by step, and what came of it.

    async for proposal in TipLearner("ollama/qwen3").propose(view, incumbent, Budget(calls=5)):
        print([lesson.text for lesson in proposal.lessons], proposal.retires)

After the tips of Mobile-Agent-E (Wang et al. 2025, arXiv 2501.11733): the reflector sees task, actions with their
outcome, and the tips so far, and writes the list anew. A tip that it leaves out is retired with the promotion of the
others. Beside ``lessons`` with a model, it sees the tool calls and their errors, and keeps one list.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

from whet.core.budget import Budget
from whet.core.models import Budgeted, Model, as_model
from whet.core.records import Lesson, Step, ToolResult
from whet.learners.asking import ask_for_lessons, describe_run, newest_failures_first, writing_model
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.proposing import propose_lessons
from whet.learners.view import Judged, TrainMemory

__all__ = ["TipLearner"]

NAME = "tips"
_LINE = 200
_ACTIONS = 20

_ASK = """Below are tips for an agent, then attempts at tasks: what was done, what came back, and what verifiers found.
Write the list of tips anew, at most eight: keep what proved right, correct what proved wrong, merge what says the same,
add what would have helped, leave out the rest. A tip is general advice, true on its own, never about one single task.
Answer with a JSON list and nothing else:
[{"text": "the tip", "applies_when": "the tasks it helps with", "not_when": "exceptions, divided by semicolons",
"runs": ["ids of the runs it rests on"]}]"""


class TipLearner:
    """Proposes a list of tips in the place of the one in force; ``model`` writes (the agent's own unless given)."""

    def __init__(self, model: Model | str | None = None) -> None:
        self._model = None if model is None else as_model(model)

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal of the tips that are new; none where the model has nothing to add.

        Raises:
            UserError: there is no model to write with.
            BudgetError: the budget does not allow to ask the model.
            ModelError: the model could not be asked.
        """
        model = Budgeted(writing_model(self._model, view, NAME), budget)
        judged, known = newest_failures_first(await view.judged()), await view.lessons()
        current = [lesson for lesson in known if lesson.source == NAME and lesson.status == "active"]
        done = await _actions(view, judged)
        tips = "\n".join(["# Tips so far", *(f"- {lesson.text}" for lesson in current)])
        lessons, usage = await ask_for_lessons(
            model,
            judged,
            source=NAME,
            ask=f"{_ASK}\n\n{tips}",
            show=lambda item: f"{describe_run(item)}{done[item.run.id]}",
        )
        kept = {lesson.text for lesson in lessons}

        def left_out(chosen: Sequence[Lesson]) -> tuple[str, ...]:
            return tuple(old.id for old in current if old.text not in kept) if chosen[0].trust == "trusted" else ()

        for proposal in propose_lessons(NAME, "tips", lessons, known, incumbent, usage, retires=left_out):
            yield proposal


async def _actions(view: TrainMemory, judged: Sequence[Judged]) -> dict[str, str]:
    """Returns, by run, what was done with tools and what came back, a line each."""
    lines: dict[str, list[str]] = defaultdict(list)
    for step in await view.about(Step, [item.run.id for item in judged], kinds=["tool_result"]):
        if isinstance(result := step.body, ToolResult):
            came = result.content if result.error is None else f"error: {result.error}"
            lines[step.run_id].append(f"- {result.call.name} {result.call.arguments[:_LINE]} -> {came[:_LINE]}")
    return defaultdict(str, {id: "\n".join(["\nActions:", *found[-_ACTIONS:]]) for id, found in lines.items()})
