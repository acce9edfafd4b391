"""Feedback that means something, and trust that is measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core import Actor, Feedback, Run, UserError, Verdict
from whet.core.records import Outcome, VerdictKind
from whet.feedback import feedback
from whet.feedback.trust import Tally, agreements, outranks, trust_interval, update, verdict_agreements


def test_every_kind_is_made_with_source_and_subject() -> None:
    made = [
        feedback.rating("ana", run_id="r", value=4, scale=(1, 5), text="good"),
        feedback.preference("ana", run_id="r", other_run_id="s"),
        feedback.correction("ana", run_id="r", text="def f(): ...", applies_when="asked for f"),
        feedback.comment("ana", task_id="t", text="odd task"),
        feedback.followup("ana", run_id="r", text="no, the other one", trust="tainted"),
        feedback.accept("ana", run_id="r", person="ana@example.org"),
        feedback.reject("ana", run_id="r", text="slow"),
    ]
    assert [item.kind for item in made] == [
        "rating",
        "preference",
        "correction",
        "comment",
        "followup",
        "accept",
        "reject",
    ]
    assert [item.value for item in made] == [0.75, None, None, None, None, 1.0, -1.0]
    assert all(item.source == "ana" for item in made)
    assert (made[3].run_id, made[3].task_id, made[4].trust, made[5].person) == (None, "t", "tainted", "ana@example.org")


@pytest.mark.parametrize(
    "make",
    [
        lambda: feedback.rating("ana", run_id="r", value=6, scale=(1, 5)),
        lambda: feedback.rating("ana", run_id="r", value=float("nan")),
        lambda: feedback.rating("ana", run_id="r", value=1, scale=(1, 1)),
        lambda: feedback.preference("ana", run_id="r", other_run_id="r"),
        lambda: feedback.correction("ana", run_id="r", text="  "),
        lambda: feedback.comment("ana", text="about what?"),
        lambda: feedback.accept("", run_id="r"),
        lambda: feedback.reject("ana", run_id=""),
    ],
)
def test_feedback_that_means_nothing_is_refused(make: object) -> None:
    with pytest.raises(UserError):
        make()  # type: ignore[operator]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=6))
def test_trust_is_the_posterior_mean_however_the_data_arrives(batches: list[tuple[int, int]]) -> None:
    actor = Actor(id="ana", kind="person")
    for agree, disagree in batches:
        actor = update(actor, Tally(agree=agree, disagree=disagree))
    agree, disagree = sum(a for a, _ in batches), sum(d for _, d in batches)
    assert actor.observations == agree + disagree
    expected = (1 + agree) / (2 + agree + disagree)
    assert (0.5 if actor.agreement is None else actor.agreement) == pytest.approx(expected)
    low, high = trust_interval(actor)
    assert low < expected < high


def verdict(
    run: Run, outcome: Outcome, score: float, *, kind: VerdictKind = "execution", verifier: str = "python_tests@1"
) -> Verdict:
    return Verdict(run_id=run.id, task_id="t", verifier=verifier, outcome=outcome, score=score, kind=kind)


def test_agreement_of_people_and_judges_with_execution() -> None:
    good, bad, unknown = (Run(task_id="t", agent="a") for _ in range(3))
    verdicts = [
        verdict(good, "pass", 1.0),
        verdict(bad, "pass", 1.0),
        verdict(bad, "fail", 0.2, verifier="python_tests@2"),
        verdict(unknown, "infra_error", 0.0),
        verdict(good, "fail", 0.0, kind="model", verifier="judge@1"),
        verdict(bad, "fail", 0.0, kind="model", verifier="judge@1"),
        verdict(unknown, "pass", 1.0, kind="model", verifier="judge@1"),
    ]
    said: list[Feedback] = [
        feedback.accept("ana", run_id=good.id),
        feedback.reject("ana", run_id=bad.id),
        feedback.rating("ana", run_id=bad.id, value=0.9),
        feedback.rating("ana", run_id=bad.id, value=0.5),
        feedback.accept("ana", run_id=unknown.id),
        feedback.preference("bob", run_id=good.id, other_run_id=bad.id),
        feedback.preference("bob", run_id=bad.id, other_run_id=good.id),
        feedback.preference("bob", run_id=bad.id, other_run_id=unknown.id),
        feedback.comment("bob", run_id=good.id, text="nice"),
    ]
    assert agreements(said, verdicts) == {"ana": Tally(agree=2, disagree=1), "bob": Tally(agree=1, disagree=1)}
    assert verdict_agreements(verdicts) == {"judge@1": Tally(agree=1, disagree=1)}


def test_execution_outranks_rules_people_and_models() -> None:
    assert outranks("execution", "rule")
    assert outranks("rule", "human")
    assert outranks("human", "model")
    assert not outranks("model", "model")
