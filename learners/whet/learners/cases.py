"""Judged runs as cases: the answer's program taken apart, with the checks its verdicts recorded."""

import re
from collections.abc import Iterable, Sequence

from whet.core.records import Feedback, Run, Task
from whet.feedback import FreshSandboxes, verify_all
from whet.feedback.answers import python_program
from whet.learners.definitions import Case
from whet.learners.programs import dissect
from whet.learners.replay import recorded_checks
from whet.learners.view import Judged, TrainMemory

__all__ = ["corrected", "read_cases"]

_CALLED = re.compile(r"(\w+)\(")


def read_cases(judged: Iterable[Judged]) -> list[Case]:
    """Returns the cases of the runs whose answer is a Python program that its verdicts checked."""
    return [case for item in judged if (case := _case(item)) is not None]


async def corrected(view: TrainMemory, feedback: Sequence[Feedback], sandboxes: FreshSandboxes) -> list[Judged]:
    """Returns people's corrections as judged runs: executed by the task's own verifiers, which outrank people.

    A correction that cannot be executed (its task has no verifier) is not among them.
    """
    found = []
    for item in feedback:
        task_id = (await view.run(item.run_id)).task_id if item.run_id else item.task_id
        if item.kind != "correction" or not task_id:
            continue
        task = await view.task(task_id)
        run = Run(id=item.id, task_id=task.id, agent=item.source, status="done", answer=item.text, trust=item.trust)
        verdicts = tuple(verdict for verdict in await verify_all(task, run, sandboxes) if verdict.judged)
        if verdicts:
            evidence = tuple(id for id in (item.id, item.run_id) if id)
            found.append(Judged(run=run, task=task, verdicts=verdicts, evidence=evidence))
    return found


def _case(item: Judged) -> Case | None:
    recorded = [check for verdict in item.verdicts for check in verdict.checks]
    checks = recorded_checks(recorded)
    prompt, entry_point = _form(item.task, [call for call, _ in checks])
    program = python_program(item.run.answer or "", prompt=prompt, entry_point=entry_point)
    parts = dissect(program.source, entry_point)
    if parts is None:
        return None
    return Case(
        task_id=item.task.id,
        prompt=item.task.prompt,
        parts=parts,
        checks=tuple((call, expected) for call, expected in checks if call.startswith(f"{entry_point}(")),
        passed=item.passed,
        evidence=item.evidence or (item.run.id, *(verdict.id for verdict in item.verdicts)),
        entry_point=entry_point,
        trust=item.run.trust,
    )


def _form(task: Task, calls: Sequence[str]) -> tuple[str, str]:
    """Returns the head of the program that the task gives, and the function that is checked."""
    params = next((spec.params for spec in task.verifiers if "entry_point" in spec.params), {})
    named = str(params.get("entry_point") or "")
    called = (match[1] for call in calls if (match := _CALLED.match(call)))
    return str(params.get("prompt") or ""), named or next(called, "")
