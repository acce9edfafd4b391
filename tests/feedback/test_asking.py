"""Ask-F1: questions that hit and questions that do not, blockers found and missed, sums over tasks."""

import pytest

from whet.core import Run, Task, UserError, VerifierError, VerifierSpec
from whet.core.records import Json
from whet.feedback import verify_all
from whet.feedback.verifiers.asking import Blocker, Counts, blockers_of, count_asking, questions_of
from whet.feedback.verifiers.registry import load_verifier

DEADLINE: dict[str, Json] = {"kind": "missing", "about": ["deadline", "due"], "answer": "On Friday."}
FORMAT: dict[str, Json] = {"kind": "ambiguous", "about": ["format"], "answer": "CSV."}


def task_with(*blockers: Json) -> Task:
    return Task(id="t", messages=(), verifiers=(VerifierSpec(kind="asking"),), meta={"blockers": list(blockers)})


def run_with(*questions: str) -> Run:
    return Run(task_id="t", agent="a", status="done", answer="x", meta={"questions": list(questions)})


@pytest.mark.parametrize(
    ("blockers", "questions", "precision", "recall", "f1"),
    [
        ((), (), 1, 1, 1),
        ((), ("Which format?",), 0, 1, 0),
        ((DEADLINE,), (), 1, 0, 0),
        ((DEADLINE,), ("When is it due?",), 1, 1, 1),
        ((DEADLINE,), ("When is it due?", "Which colour?"), 0.5, 1, 2 / 3),
        ((DEADLINE, FORMAT), ("When is the DEADLINE?",), 1, 0.5, 2 / 3),
        ((DEADLINE, FORMAT), ("Which formats, and due when?",), 1, 1, 1),
        ((DEADLINE,), ("Is this residue?",), 0, 0, 0),
    ],
)
def test_ask_f1(
    blockers: tuple[Json, ...], questions: tuple[str, ...], precision: float, recall: float, f1: float
) -> None:
    counts = count_asking(blockers_of(task_with(*blockers)), questions_of(run_with(*questions)))
    assert (counts.precision, counts.recall, counts.f1) == pytest.approx((precision, recall, f1))


def test_the_f1_of_a_set_is_that_of_its_sum() -> None:
    """One task asked well, one blocked task not asked at all, one clear task asked for nothing."""
    blocked, clear = (Blocker(kind="missing", about=("a",), answer="b"),), ()
    each = [count_asking(blocked, ["a?"]), count_asking(blocked, []), count_asking(clear, ["c?"])]
    total = sum(each, Counts())
    assert total == Counts(questions=2, relevant=1, blockers=2, found=1)
    assert total.f1 == 0.5


@pytest.mark.asyncio
async def test_the_verifier_says_what_was_missed_and_what_was_needless() -> None:
    task, run = task_with(DEADLINE, FORMAT), run_with("When is it due?", "Which colour?")
    (verdict,) = await verify_all(task, run)
    assert (verdict.outcome, verdict.score, verdict.kind) == ("fail", 0.5, "rule")
    assert [(check.name, check.passed) for check in verdict.checks] == [
        ("missing: deadline, due", True),
        ("ambiguous: format", False),
        ("question: When is it due?", True),
        ("question: Which colour?", False),
    ]
    (lenient,) = [load_verifier(VerifierSpec(kind="asking", params={"least": 0.5}))]
    assert (await lenient.verify(task, run)).outcome == "pass"


def test_what_is_malformed_is_refused() -> None:
    with pytest.raises(UserError, match=r"meta.blockers of task 't': .*kind, about and answer"):
        blockers_of(task_with({"kind": "vague", "about": [], "answer": ""}))
    with pytest.raises(VerifierError, match="its parameter is least"):
        load_verifier(VerifierSpec(kind="asking", params={"most": 1}))
