"""What a run is worth to the gate: everything an answer does counts, nothing the host does."""

import pytest

from whet.agents import RunResult
from whet.core import Run, Verdict
from whet.core.records import Outcome
from whet.learners.evaluation import score_of


@pytest.mark.parametrize(
    ("outcomes", "value"),
    [
        (("pass",), 1.0),
        (("fail",), 0.0),
        (("timeout",), 0.0),
        (("tampered",), 0.0),
        (("pass", "tampered"), 0.0),
        (("infra_error",), None),
        (("abstain",), None),
        (("pass", "infra_error"), 1.0),
        ((), None),
    ],
)
def test_an_answer_cannot_escape_a_zero(outcomes: tuple[Outcome, ...], value: float | None) -> None:
    run = Run(task_id="t", agent="a", status="done", answer="x")
    verdicts = tuple(
        Verdict(run_id=run.id, task_id="t", verifier="v", outcome=outcome, score=float(outcome == "pass"))
        for outcome in outcomes
    )
    assert score_of(RunResult(run=run, answer="x", verdicts=verdicts)).value == value
