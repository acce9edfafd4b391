"""A command in a fresh sandbox: exit code, metric, files, and who is to blame."""

from collections.abc import Awaitable, Callable

import pytest

from whet.core import Task, Verdict, VerifierError, VerifierSpec
from whet.feedback import check_spec, load_verifier, verify_all
from whet.feedback.conformance import Example, verifier_breaches
from whet.sandboxes import SandboxPool

Judge = Callable[..., Awaitable[Verdict]]


@pytest.mark.asyncio
async def test_the_exit_code_judges(judge: Judge) -> None:
    passed = await judge("command", "yes", command="grep -q yes answer.txt")
    assert (passed.outcome, passed.score, passed.kind) == ("pass", 1.0, "execution")
    failed = await judge("command", "no", command="echo looked; grep -q yes answer.txt")
    assert (failed.outcome, failed.checks[0].got, failed.checks[0].message) == ("fail", "exit code 1", "looked")


@pytest.mark.asyncio
async def test_files_of_the_task_the_answer_and_the_verifier(judge: Judge) -> None:
    script = "import sys; sys.exit(open('given.txt').read() + open('a.py').read() != 'givenx = 1\\n')"
    answer = "```python\nx = 1\n```"
    params = {"command": ["python3", "grade.py"], "files": {"grade.py": script}, "answer_file": "a.py"}
    assert (await judge("command", answer, extract=True, **params)).outcome == "pass"
    assert (await judge("command", answer, **params)).outcome == "fail"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("metric", "command", "outcome", "score"),
    [
        ({"key": "acc"}, """echo talk; echo '{"acc": 1}'""", "pass", 1.0),
        ({"key": "acc", "threshold": 0.5}, """echo '{"acc": 0.7}'""", "pass", 0.7),
        ({"key": "acc", "threshold": 0.8}, """echo '{"acc": 0.7}'""", "fail", 0.7),
        ({"key": "loss", "low": 4, "high": 0, "threshold": 2}, """echo '{"loss": 1}'""", "pass", 0.75),
        ({"key": "loss", "low": 4, "high": 0, "threshold": 2}, """echo '{"loss": 3}'""", "fail", 0.25),
        ({"key": "a.b", "path": "out.json"}, """echo '{"a": {"b": 2}}' > out.json""", "pass", 1.0),
        ({"key": "a.b", "path": "out.json"}, "echo 1", "fail", 0.0),
        ({"key": "acc"}, """echo '{"acc": NaN}'""", "fail", 0.0),
        ({"key": "acc"}, """echo '{"acc": true}'""", "fail", 0.0),
        ({"key": "acc"}, "echo PASSED", "fail", 0.0),
    ],
)
async def test_a_metric_is_read_not_believed(
    judge: Judge, metric: dict[str, object], command: str, outcome: str, score: float
) -> None:
    verdict = await judge("command", "", command=command, metric=metric)
    assert (verdict.outcome, verdict.score) == (outcome, score)


@pytest.mark.asyncio
async def test_what_cannot_be_run_is_nobodys_failure(judge: Judge) -> None:
    for command in (["no-such-program"], "no-such-program"):
        verdict = await judge("command", "", command=command)
        assert (verdict.outcome, "127" in verdict.detail) == ("infra_error", True)


@pytest.mark.asyncio
async def test_a_command_that_does_not_end_is_a_timeout(judge: Judge) -> None:
    assert (await judge("command", "", command="sleep 60", seconds=0.5)).outcome == "timeout"


@pytest.mark.asyncio
async def test_nothing_is_left_for_the_next(judge: Judge) -> None:
    await judge("command", "", command="touch left /tmp/left")
    assert (await judge("command", "", command="test ! -e left && test ! -e /tmp/left")).outcome == "pass"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"command": ""},
        {"command": "x", "metric": {"key": "a", "low": 1, "high": 1}},
        {"command": "x", "metric": {"name": "a"}},
        {"command": "x", "files": {"answer.txt": ""}},
        {"command": "x", "timeout": 3},
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(VerifierError, match="command"):
        check_spec(VerifierSpec(kind="command", params=params))  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_it_needs_sandboxes() -> None:
    with pytest.raises(VerifierError, match="SandboxPool"):
        load_verifier(VerifierSpec(kind="command", params={"command": "true"}))


@pytest.mark.asyncio
async def test_it_conforms(pool: SandboxPool) -> None:
    spec = VerifierSpec(kind="command", params={"command": 'test "$(cat answer.txt)" = 42'})
    example = Example(task=Task(id="t", messages=(), verifiers=(spec,)), right="42", wrong="41", executes=True)
    assert await verifier_breaches(lambda boxes: load_verifier(spec, boxes), example, pool) == []


@pytest.mark.asyncio
async def test_all_verifiers_of_a_task_in_order(pool: SandboxPool) -> None:
    from whet.core import Run

    specs = (
        VerifierSpec(kind="command", params={"command": "grep -q 4 answer.txt"}),
        VerifierSpec(kind="exact", params={"expected": "42"}),
        VerifierSpec(kind="numeric", params={"expected": 41}),
    )
    task = Task(id="t", messages=(), verifiers=specs)
    verdicts = await verify_all(task, Run(task_id="t", agent="a", status="done", answer="42"), pool)
    assert [(verdict.verifier.split("@")[0], verdict.outcome) for verdict in verdicts] == [
        ("command", "pass"),
        ("exact", "pass"),
        ("numeric", "fail"),
    ]
