"""Learning with a model: asks for lessons or a skill in JSON, and reads what comes back with patience.

    lessons, usage = await ask_for_lessons(model, judged, source="lessons")

Nothing that the model says is believed: evidence must be among the runs it was shown, and the gate decides.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from whet.core.errors import UserError
from whet.core.models import Model
from whet.core.prompting import describe_failure
from whet.core.records import Json, Lesson, Message, Sampling, Usage
from whet.feedback.answers import json_values
from whet.learners.proposing import joint_trust
from whet.learners.view import Judged, TrainMemory
from whet.skills import Skill

__all__ = [
    "again",
    "ask_for_lessons",
    "ask_for_wording",
    "describe_run",
    "entries",
    "failures",
    "newest_failures_first",
    "read_json",
    "said",
    "writing_model",
]

Show: TypeAlias = Callable[[Judged], str]

MAX_RUNS = 12
MAX_LESSONS = 8
MAX_TEXT = 1000
_CLIPPED = 1500

_ASK = """Below are attempts at tasks and what verifiers found. What should be known next time?
Write lessons that help with other tasks like these: short, true on their own, and never about one single task.
Answer with a JSON list and nothing else:
[{"text": "the lesson", "applies_when": "the tasks it helps with", "not_when": "exceptions, divided by semicolons",
"runs": ["ids of the runs it rests on"]}]"""

_WORD = """Describe this skill for a catalogue: what it holds and when to use it, in at most three sentences.
Answer with JSON and nothing else: {"description": "…"}"""


def failures(item: Judged, at_most: int = 3) -> list[str]:
    """Returns a line on each of the first checks that failed, as models are told of them."""
    failing = [check for verdict in item.verdicts for check in verdict.checks if not check.passed and check.call]
    return [describe_failure(check.call, check.got, check.expected) for check in failing[:at_most]]


def describe_run(item: Judged) -> str:
    """Returns a run as a model is shown it: id, task, answer, and the checks that failed."""
    outcome = "passed" if item.passed else " ".join(["failed.", *failures(item)])
    return (
        f"## Run {item.run.id}\nTask: {item.task.prompt[:_CLIPPED]}\n"
        f"Answer:\n{(item.run.answer or '')[:_CLIPPED]}\nOutcome: {outcome}"
    )


async def ask_for_lessons(
    model: Model, judged: Sequence[Judged], *, source: str, ask: str = _ASK, show: Show = describe_run
) -> tuple[list[Lesson], Usage]:
    """Returns the lessons that the model draws from the newest runs, failures first, and what asking took.

    An answer that holds no usable lesson gives none. ``ask`` is the question, ``show`` how a run is shown below it.

    Raises:
        ModelError: the model could not be asked.
        BudgetError: the budget does not allow it.
    """
    shown = newest_failures_first(judged)
    if not shown:
        return [], Usage()
    messages = [Message(role="user", content="\n\n".join([ask, *map(show, shown)]))]
    completion = await model.complete(messages, sampling=Sampling(temperature=0.0))
    runs = {item.run.id: item for item in shown}
    return [*_lessons(completion.text, runs, source)][:MAX_LESSONS], completion.usage


def newest_failures_first(judged: Sequence[Judged]) -> list[Judged]:
    """Returns as many runs as a model is shown."""
    return sorted(judged, key=lambda item: (item.passed, -item.run.started_at))[:MAX_RUNS]


async def ask_for_wording(model: Model, skill: Skill) -> tuple[Skill, Usage]:
    """Returns the skill with a description by the model, and what asking took.

    What the model says is used where it keeps to the format; otherwise the skill stays as it is.

    Raises:
        ModelError: the model could not be asked.
        BudgetError: the budget does not allow it.
    """
    messages = [Message(role="user", content=f"{_WORD}\n\n{skill.body}")]
    completion = await model.complete(messages, sampling=Sampling(temperature=0.0))
    entry = next(entries(read_json(completion.text)), {})
    worded = msgspec.structs.replace(skill, description=said(entry, "description"))
    try:
        worded.render()
    except UserError:
        return skill, completion.usage
    return worded, completion.usage


def writing_model(model: Model | None, view: TrainMemory, learner: str) -> Model:
    """Returns the model that a learner writes with: its own, else that of the agent which practises.

    Raises:
        UserError: there is neither.
    """
    chosen = model or view.model
    if chosen is None:
        raise UserError(f"{learner} needs a model that writes: --set model=NAME, or an agent with --tasks TASKS")
    return chosen


def again(answer: str, complaint: str) -> list[Message]:
    """Returns what goes on a conversation in which the model is to answer again, because of a complaint."""
    return [Message(role="assistant", content=answer), Message(role="user", content=complaint)]


def read_json(text: str) -> Json:
    """Returns the first JSON list or object in a text, whatever stands around it; ``None`` where there is none."""
    return next(json_values(text), None)


def _lessons(text: str, runs: dict[str, Judged], source: str) -> Iterator[Lesson]:
    for entry in entries(read_json(text)):
        lesson, named = said(entry, "text"), entry.get("runs")
        if not lesson or len(lesson) > MAX_TEXT:
            continue
        ids = [id for id in named if isinstance(id, str) and id in runs] if isinstance(named, list) else []
        # Where the model names no run that it was shown, the lesson rests on all of them.
        rests_on = ids or list(runs)
        yield Lesson(
            text=lesson,
            applies_when=said(entry, "applies_when"),
            not_when=said(entry, "not_when"),
            source=source,
            trust=joint_trust(runs[id].run.trust for id in rests_on),
            derived_from=tuple(rests_on),
            reason="drawn by a model from these runs",
        )


def said(entry: Mapping[str, Json], key: str) -> str:
    """Returns a text in what a model answered, stripped; empty where there is none."""
    value = entry.get(key)
    return value.strip() if isinstance(value, str) else ""


def entries(value: Json) -> Iterator[dict[str, Json]]:
    """Returns the objects of a list, of an object's ``lessons``, or the object itself."""
    if isinstance(value, dict):
        value = value["lessons"] if isinstance(value.get("lessons"), list) else [value]
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict))
