"""Are the tasks sound? Every reference must pass its verifiers, every empty answer must not. No model is asked.

report = await validate(load_tasks("humaneval:HumanEval.jsonl.gz"))
report.reference_passes, report.empty_passes      # (164, 0)
"""

import ast
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

from whet.core.records import Json, Outcome, Record, Run, Task, TaskSet, Verdict, VerifierSpec
from whet.feedback import FreshSandboxes, check_spec, extract_code, verify_all
from whet.feedback.verifiers.asking import blockers_of

__all__ = ["AnswerKind", "ValidationFailure", "ValidationReport", "empty_answer", "validate"]

AnswerKind: TypeAlias = Literal["reference", "empty", "wrong"]


class ValidationFailure(Record, frozen=True, kw_only=True):
    """One answer that was not judged as it should be: a reference that does not pass, an empty answer that does."""

    task_id: str
    answer: AnswerKind
    outcome: Outcome
    detail: str


class ValidationReport(Record, frozen=True, kw_only=True):
    """How many tasks are sound. ``wrong``: answers that the set itself knows to be wrong (``meta["wrong"]``)."""

    task_set: str
    version: str
    tasks: int
    with_reference: int
    reference_passes: int
    empty_passes: int
    infra_errors: int
    wrong: int = 0
    wrong_passes: int = 0
    seconds: float = 0.0
    failures: tuple[ValidationFailure, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether every task has a reference that passes, and no empty or wrong answer passes."""
        return self.reference_passes == self.tasks and not (self.empty_passes or self.wrong_passes or self.infra_errors)


async def validate(
    task_set: TaskSet,
    sandboxes: FreshSandboxes | None = None,
    *,
    concurrency: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> ValidationReport:
    """Returns how many of the set's references, empty answers and known wrong answers pass its verifiers.

    Args:
        task_set: what to check.
        sandboxes: where fresh sandboxes come from; a pool of its own where none is given.
        concurrency: tasks judged at the same time.
        progress: called with (tasks done, tasks in all) after each.

    Where no sandbox can be had, every answer that must be executed is an infrastructure error.

    Raises:
        VerifierError: a verifier is misconfigured (nothing has run then).
    """
    for task in task_set.tasks:
        for spec in task.verifiers:
            check_spec(spec)
    started, done = time.monotonic(), 0
    gate = asyncio.Semaphore(concurrency)

    async def one(task: Task, boxes: FreshSandboxes) -> list[_Judged]:
        nonlocal done
        async with gate:
            judged = [await _judge(task, kind, answer, boxes) for kind, answer in _answers(task)]
        done += 1
        if progress is not None:
            progress(done, len(task_set.tasks))
        return judged

    async with _lent(sandboxes, concurrency) as boxes, asyncio.TaskGroup() as group:
        jobs = [group.create_task(one(task, boxes)) for task in task_set.tasks]
    return _report(task_set, [item for job in jobs for item in job.result()], time.monotonic() - started)


def empty_answer(task: Task) -> str:
    """Returns the emptiest answer of the task's form.

    Python tests: the reference with the body of every function replaced by ``pass`` (a function that does nothing
    where there is no reference that can be read). Everything else: the empty text.
    """
    spec = next((spec for spec in task.verifiers if spec.kind == "python_tests"), None)
    if spec is None:
        return ""
    if spec.params.get("form") == "humaneval":
        return "    pass\n"
    try:
        tree = ast.parse(extract_code(task.reference)[0]) if task.reference is not None else None
    except (SyntaxError, ValueError):
        tree = None
    if tree is None:
        return _stub(spec)
    return ast.unparse(ast.fix_missing_locations(_Emptier().visit(tree)))


def _stub(spec: VerifierSpec) -> str:
    entry = spec.params.get("entry_point")
    return f"def {entry}(*args, **kwargs):\n    pass\n" if entry else ""


class _Emptier(ast.NodeTransformer):
    """Empties the body of every function, methods included."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Returns the function with ``pass`` for a body."""
        node.body = [ast.Pass()]
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        """Returns the function with ``pass`` for a body."""
        node.body = [ast.Pass()]
        return node


class _Judged(Record, frozen=True, kw_only=True):
    task_id: str
    answer: AnswerKind
    outcome: Outcome
    detail: str = ""


def _answers(task: Task) -> list[tuple[AnswerKind, str]]:
    answers: list[tuple[AnswerKind, str]] = [("empty", empty_answer(task))]
    if task.reference is not None:
        answers.insert(0, ("reference", task.reference))
    wrong = task.meta.get("wrong", [])
    return answers + [("wrong", str(answer)) for answer in (wrong if isinstance(wrong, list) else [])]


async def _judge(task: Task, kind: AnswerKind, answer: str, sandboxes: FreshSandboxes) -> _Judged:
    # Whoever knows the reference of a task with gaps has asked about each.
    asked: list[Json] = [" ".join(blocker.about) for blocker in blockers_of(task)] if kind == "reference" else []
    run = Run(task_id=task.id, agent=f"validate/{kind}", status="done", answer=answer, meta={"questions": asked})
    verdicts = await verify_all(task, run, sandboxes)
    failing = next((verdict for verdict in verdicts if verdict.outcome != "pass"), None)
    if failing is not None:
        return _Judged(task_id=task.id, answer=kind, outcome=failing.outcome, detail=_detail(failing))
    outcome: Outcome = "pass" if verdicts else "abstain"
    return _Judged(task_id=task.id, answer=kind, outcome=outcome, detail="" if verdicts else "it has no verifier")


def _detail(verdict: Verdict) -> str:
    check = next((check for check in verdict.checks if not check.passed), None)
    if verdict.detail or check is None:
        return verdict.detail
    return " ".join(part for part in (check.name + ":", check.call, check.got or check.message) if part)


@asynccontextmanager
async def _lent(sandboxes: FreshSandboxes | None, concurrency: int) -> AsyncIterator[FreshSandboxes]:
    if sandboxes is not None:
        yield sandboxes
        return
    from whet.sandboxes import SandboxPool

    async with SandboxPool(size=concurrency) as pool:
        yield pool


def _report(task_set: TaskSet, judged: list[_Judged], seconds: float) -> ValidationReport:
    def count(answer: AnswerKind, outcome: Outcome) -> int:
        return sum(item.answer == answer and item.outcome == outcome for item in judged)

    failures = tuple(
        ValidationFailure(task_id=item.task_id, answer=item.answer, outcome=item.outcome, detail=item.detail)
        for item in judged
        if (item.outcome != "pass") == (item.answer == "reference") or item.outcome == "infra_error"
    )
    return ValidationReport(
        task_set=task_set.name,
        version=task_set.version,
        tasks=len(task_set.tasks),
        with_reference=sum(task.reference is not None for task in task_set.tasks),
        reference_passes=count("reference", "pass"),
        empty_passes=count("empty", "pass"),
        infra_errors=len({item.task_id for item in judged if item.outcome == "infra_error"}),
        wrong=sum(item.answer == "wrong" for item in judged),
        wrong_passes=count("wrong", "pass"),
        seconds=seconds,
        failures=failures,
    )
