"""Validation of task sets in real sandboxes: sound sets are sound, and each kind of unsoundness is found."""

import ast
import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from whet.agents.tasksets import ValidationReport, empty_answer, load_tasks, validate
from whet.core import Json, RefusedError, Task, TaskSet, VerifierError, VerifierSpec
from whet.memory.exchange.ilf import task_of
from whet.sandboxes import SandboxPool

DATA = Path(os.environ.get("WHET_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool(size=2)
    try:
        asyncio.run(pool.prepare())
    except RefusedError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    yield pool
    asyncio.run(pool.close())


def data(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here; WHET_DATA names the folder that holds it")
    return DATA / name


def counts(report: ValidationReport) -> tuple[int, int, int, int]:
    return report.tasks, report.reference_passes, report.empty_passes, report.infra_errors


@pytest.mark.asyncio
async def test_every_humaneval_solution_passes_and_no_empty_body_does(pool: SandboxPool) -> None:
    report = await validate(load_tasks(f"humaneval:{data('HumanEval.jsonl.gz')}"), pool)
    assert counts(report) == (164, 164, 0, 0), report.failures
    assert report.sound


@pytest.mark.asyncio
async def test_every_persons_repair_passes_and_none_of_the_models_programs_does(pool: SandboxPool) -> None:
    report = await validate(load_tasks(f"ilf:{data('ilf_mbpp_feedback.jsonl')}"), pool)
    assert counts(report) == (124, 124, 0, 0), report.failures
    assert (report.wrong, report.wrong_passes) == (124, 0)


def test_an_imported_row_is_the_same_task_as_the_sets() -> None:
    path = data("ilf_mbpp_feedback.jsonl")
    imported = tuple(task_of(json.loads(line)) for line in path.read_text().splitlines())
    assert imported == load_tasks(f"ilf:{path}").tasks


@pytest.mark.asyncio
async def test_the_files_own_extracts_of_the_repairs_lack_what_was_cut_off(pool: SandboxPool) -> None:
    task_set = load_tasks(f"ilf:{data('ilf_mbpp_feedback.jsonl')}?repair=completion")
    broken = {"ilf/469", "ilf/659", "ilf/671", "ilf/905", "ilf/926", "ilf/949"}
    chosen = tuple(task for task in task_set.tasks if task.id in broken or task.id in ("ilf/1", "ilf/13"))
    report = await validate(TaskSet(name="ilf", version="1", tasks=chosen), pool)
    assert {failure.task_id for failure in report.failures} == broken
    assert all(failure.answer == "reference" and failure.outcome == "fail" for failure in report.failures)


@pytest.mark.asyncio
async def test_a_world_is_sound(pool: SandboxPool) -> None:
    done: list[tuple[int, int]] = []
    report = await validate(load_tasks("world:7?n=12"), pool, progress=lambda *at: done.append(at))
    assert counts(report) == (12, 12, 0, 0), report.failures
    assert done == [(number, 12) for number in range(1, 13)]


def task(task_id: str, test: str, reference: str | None, *, wrong: str = "") -> Task:
    params: dict[str, Json] = {"form": "check", "entry_point": "f", "test": test, "seconds": 5}
    return Task(
        id=task_id,
        messages=(),
        verifiers=(VerifierSpec(kind="python_tests", params=params),),
        reference=reference,
        meta={"wrong": [wrong]} if wrong else {},
    )


@pytest.mark.asyncio
async def test_each_kind_of_unsoundness_is_found() -> None:
    good = "def check(candidate):\n    assert candidate(1) == 1\n"
    vain = "def check(candidate):\n    candidate(1)\n"
    answer = "def f(x):\n    return x"
    tasks = (
        task("sound", good, answer, wrong="def f(x): return 2"),
        task("wrong reference", good, "def f(x):\n    return -x"),
        task("passes empty", vain, answer, wrong="def f(x): return 2"),
        task("missing package", "import nowhere_to_be_found\n" + good, answer),
        task("no reference", good, None),
        Task(id="no verifier", messages=(), reference="x"),
    )
    report = await validate(TaskSet(name="t", version="1", tasks=tasks))
    assert counts(report) == (6, 2, 1, 1)
    assert (report.with_reference, report.wrong, report.wrong_passes, report.sound) == (5, 2, 1, False)
    assert {(failure.task_id, failure.answer, failure.outcome) for failure in report.failures} == {
        ("wrong reference", "reference", "fail"),
        ("passes empty", "empty", "pass"),
        ("passes empty", "wrong", "pass"),
        ("missing package", "reference", "infra_error"),
        ("missing package", "empty", "infra_error"),
        ("no verifier", "reference", "abstain"),
    }
    told = next(failure for failure in report.failures if failure.task_id == "wrong reference")
    assert told.detail == "assert 1: f(1) -1"


@pytest.mark.asyncio
async def test_a_wrong_verifier_is_told_before_anything_runs() -> None:
    wrong = Task(id="t", messages=(), verifiers=(VerifierSpec(kind="exact", params={"expect": "x"}),))
    with pytest.raises(VerifierError, match="expect"):
        await validate(TaskSet(name="t", version="1", tasks=(wrong,)))


def test_what_empty_means() -> None:
    spec = VerifierSpec(kind="python_tests", params={"form": "asserts", "test": "assert f(1)", "entry_point": "f"})
    method = "class C:\n    def m(self):\n        return 1\n"
    reference = f"import math\nK = 2\n{method}async def g(): return 2\ndef f(x): return K"
    emptied = empty_answer(Task(id="t", messages=(), verifiers=(spec,), reference=reference))
    functions = [
        node for node in ast.walk(ast.parse(emptied)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [ast.unparse(node.body[0]) for node in functions] == ["pass"] * 3
    assert emptied.startswith("import math\nK = 2\n")
    assert "def f(*args" in empty_answer(Task(id="t", messages=(), verifiers=(spec,)))
    assert "def f(*args" in empty_answer(Task(id="t", messages=(), verifiers=(spec,), reference="no Python at all"))
    assert "pass" in empty_answer(
        Task(id="t", messages=(), verifiers=(spec,), reference=f"```python\n{reference}\n```")
    )
    assert empty_answer(Task(id="t", messages=(), reference="42")) == ""
