"""``collect``: from a memory to ``Experience``. Training tasks only, nothing tainted, nothing that broke down.

    experience = await collect(TrainMemory(memory), parse_where("agent=refine verdict=fail"))
    experience.left_out             # {"tainted run": 2, "unfinished run": 1}

What was forgotten is not in the store any more, so it cannot be collected.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias, TypeVar

from whet.core.errors import UserError
from whet.core.ids import parse_since
from whet.core.records import Critique, Feedback, ModelCall, Run, Step, Task, Verdict
from whet.learners.view import TrainMemory
from whet.learners.weights.attempts import attempts_of
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.where import EVERYTHING, Condition, Where

__all__ = ["collect"]

_OF_CALLS = ("model_call", "verdict", "critique")
_OF_RUNS = ("since", "model", "agent", "policy", "task_set", "tag")
_OF_TASKS = ("task_set", "tag")

S = TypeVar("S", Step, Verdict, Critique, Feedback)
ByRun: TypeAlias = Mapping[str, Sequence[S]]


async def collect(view: TrainMemory, where: Where = EVERYTHING) -> Experience:
    """Returns the episodes that a learner may learn from, oldest first, with how many runs were left out and why.

    Feedback that belongs to no run is taken where no condition asks for something of a run. A memory without any run is
    an empty experience for a view that can practise.

    Raises:
        UserError: no run is left; the message says how many each condition left.
        NotFoundError: ``where`` names a policy that is not stored.
    """
    runs = await view.runs(unfinished=True)
    tasks = {task.id: task for task in await view.tasks({run.task_id for run in runs})}
    funnel = _Funnel(runs)
    if beyond := await view.overlooked():
        funnel.left_out[f"older than the newest {view.limit} runs"] = beyond
    for condition in where.about(*_OF_RUNS):
        funnel.keep(condition, await _of_run(condition, tasks, view))
    _exclude(funnel, {run.id for run in runs if run.trust == "tainted"})
    episodes = await _episodes(view, funnel, where, tasks)
    if not episodes and (funnel.started or not view.can_practise):
        raise UserError(funnel.explain())
    loose = await _loose(view, where)
    trusted = _trusted(loose, funnel.left_out)
    at_hand = tuple(task for task in await view.tasks() if all(_of_task(c, task) for c in where.about(*_OF_TASKS)))
    return Experience(episodes=episodes, feedback=trusted, tasks=at_hand, left_out=dict(funnel.left_out))


class _Funnel:
    """The runs that are left, how many each condition left, and what was excluded."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        self.started = len(self.runs)
        self.left_out: Counter[str] = Counter()
        self._trail: list[tuple[str, int]] = []

    @property
    def ids(self) -> list[str]:
        """The ids of the runs that are left."""
        return [run.id for run in self.runs]

    def keep(self, condition: Condition, test: Callable[[Run], bool]) -> None:
        """Keeps the runs that fulfil a condition."""
        self.runs = [run for run in self.runs if test(run)]
        self._trail.append((str(condition), len(self.runs)))

    def exclude(self, reason: str, test: Callable[[Run], bool]) -> None:
        """Leaves out the runs that must not be learned from."""
        before = len(self.runs)
        self.runs = [run for run in self.runs if not test(run)]
        if gone := before - len(self.runs):
            self.left_out[reason] += gone
            self._trail.append((f"less {gone} with reason {reason!r}", len(self.runs)))

    def explain(self) -> str:
        """Returns one line on which condition left nothing."""
        if not self.started:
            return "the memory has no run on a training task; make some with: whet run TASKS"
        trail = ", ".join(f"{what}: {count}" for what, count in self._trail)
        return f"no run is left to learn from; of {self.started} on training tasks there are after {trail}"


def _exclude(funnel: _Funnel, tainted: Collection[str]) -> None:
    """Leaves out what broke down, and what strangers wrote or what goes on from it."""
    funnel.exclude("unfinished", lambda run: run.status in ("running", "interrupted", "cancelled"))
    funnel.exclude("failed", lambda run: run.status == "failed")
    funnel.exclude("tainted", lambda run: run.id in tainted)
    funnel.exclude("goes on from a tainted run", lambda run: run.parent_id in tainted)


async def _of_run(condition: Condition, tasks: Mapping[str, Task], view: TrainMemory) -> Callable[[Run], bool]:
    """Returns what tests a run's own fields."""
    value = condition.value
    if condition.key == "since":
        moment = parse_since(value)
        return lambda run: run.started_at >= moment
    if condition.key == "policy":
        digest = await view.policy(value)
        return lambda run: run.policy == digest
    if condition.key == "model":
        return lambda run: run.model == value or run.model.startswith(f"{value}+")
    if condition.key == "agent":
        return lambda run: run.agent == value
    return lambda run: (condition.key == "tag" and value in run.tags) or _of_task(condition, tasks[run.task_id])


def _of_task(condition: Condition, task: Task) -> bool:
    return condition.value in (task.tags if condition.key == "tag" else (task.task_set,))


async def _episodes(view: TrainMemory, funnel: _Funnel, where: Where, tasks: Mapping[str, Task]) -> tuple[Episode, ...]:
    """Returns the episodes of the runs that are left once their verdicts, feedback and steps were looked at."""
    verdicts = _by_run(await view.about(Verdict, funnel.ids))
    for condition in where.about("verdict", "score"):
        funnel.keep(condition, _of_verdicts(condition, tasks, verdicts))
    feedback = _by_run(_trusted(await view.about(Feedback, funnel.ids), funnel.left_out))
    for condition in where.about("feedback"):
        funnel.keep(condition, _of_feedback(condition, feedback))
    steps = _by_run(await view.about(Step, funnel.ids, kinds=_OF_CALLS))
    funnel.exclude("a model call failed", lambda run: any(_failed(step) for step in steps[run.id]))
    critiques = _by_run(await view.about(Critique, funnel.ids))
    return tuple(
        _episode(run, tasks[run.task_id], steps[run.id], verdicts[run.id], critiques[run.id], feedback[run.id])
        for run in funnel.runs
    )


def _by_run(found: Sequence[S]) -> ByRun[S]:
    groups: dict[str, list[S]] = defaultdict(list)
    for record in found:
        groups[record.run_id or ""].append(record)
    return groups


def _of_verdicts(condition: Condition, tasks: Mapping[str, Task], verdicts: ByRun[Verdict]) -> Callable[[Run], bool]:
    """Returns what tests the verdicts on a run's answer."""

    def judged(run: Run) -> Episode:
        return Episode(task=tasks[run.task_id], run=run, verdicts=_on_answer(verdicts[run.id]))

    if condition.key == "score":
        return lambda run: condition.admits(judged(run).score)
    wanted = {"pass": True, "fail": False, "none": None}[condition.value]
    return lambda run: judged(run).passed is wanted


def _of_feedback(condition: Condition, feedback: ByRun[Feedback]) -> Callable[[Run], bool]:
    return lambda run: any(item.kind == condition.value for item in feedback[run.id])


def _on_answer(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    return tuple(verdict for verdict in verdicts if verdict.repetition == 0)


def _failed(step: Step) -> bool:
    return isinstance(step.body, ModelCall) and step.body.completion is None


def _trusted(found: Sequence[Feedback], left_out: Counter[str]) -> tuple[Feedback, ...]:
    """Returns the feedback of trusted sources; the rest is counted."""
    trusted = tuple(item for item in found if item.trust == "trusted")
    if len(trusted) < len(found):
        left_out["tainted feedback"] += len(found) - len(trusted)
    return trusted


def _episode(
    run: Run,
    task: Task,
    steps: Sequence[Step],
    verdicts: Sequence[Verdict],
    critiques: Sequence[Critique],
    feedback: Sequence[Feedback],
) -> Episode:
    """Returns the episode; its own critiques are those on its answer, and those that are about no single attempt."""
    attempts = attempts_of(run, steps, verdicts, critiques)
    earlier = {critique.id for attempt in attempts if attempt.text != run.answer for critique in attempt.critiques}
    return Episode(
        task=task,
        run=run,
        attempts=attempts,
        verdicts=_on_answer(verdicts),
        critiques=tuple(critique for critique in critiques if critique.id not in earlier),
        feedback=tuple(feedback),
    )


async def _loose(view: TrainMemory, where: Where) -> list[Feedback]:
    """Returns feedback on training tasks that belongs to no run, where all conditions can be asked of it."""
    if len(where.about("since", "feedback", *_OF_TASKS)) < len(where.conditions):
        return []
    found = [item for item in await view.feedback() if item.run_id is None]
    tasks = {task.id: task for task in await view.tasks({item.task_id for item in found if item.task_id})}
    kinds = {condition.value for condition in where.about("feedback")}
    of_tasks = where.about(*_OF_TASKS)
    return [
        item
        for item in found
        if item.at >= (where.since or 0)
        and kinds <= {item.kind}
        and all(_of_task(condition, tasks[item.task_id or ""]) for condition in of_tasks)
    ]
