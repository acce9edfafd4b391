"""Critics: localised, grounded, worded as the models were trained; and tolerant of what a model replies."""

import pytest

from whet.core import Check, Message, Run, Task, UserError, Verdict
from whet.core.models.scripted import ScriptedModel
from whet.core.prompting import describe_failure, render_retry
from whet.core.records import Outcome
from whet.feedback import CheckCritic, Critic, ModelCritic

TASK = Task(id="t", messages=(Message(role="user", content="Write solve(x)."),))
ANSWER = "def solve(x):\n    y = x\n    return y[9]\n"
RUN = Run(task_id="t", agent="a", status="done", answer=ANSWER)


def failing(*checks: Check, outcome: Outcome = "fail", detail: str = "") -> Verdict:
    verifier = "python_tests@1"
    return Verdict(run_id=RUN.id, task_id="t", verifier=verifier, outcome=outcome, checks=checks, detail=detail)


def check(number: int, *, passed: bool = False, line: int | None = None, message: str = "") -> Check:
    call, expected, got = f"solve([{number}])", f"[{number}]", "None"
    return Check(
        name=f"assert {number}", passed=passed, call=call, expected=expected, got=got, line=line, message=message
    )


@pytest.mark.asyncio
async def test_each_failing_check_is_one_critique_in_the_models_own_wording() -> None:
    verdict = failing(check(1, passed=True), check(2), check(3), check(4), check(5))
    critiques = await CheckCritic().critique(TASK, RUN, [verdict])
    assert [critique.text for critique in critiques] == [
        describe_failure(f"solve([{n}])", "None", f"[{n}]") for n in (2, 3, 4)
    ]
    assert all(critique.verdict_ids == (verdict.id,) and critique.run_id == RUN.id for critique in critiques)
    assert "solve([2]) returned None, expected [2]." in render_retry([critique.text for critique in critiques])
    assert len(await CheckCritic(limit=1).critique(TASK, RUN, [verdict])) == 1
    with pytest.raises(UserError):
        CheckCritic(limit=0)


@pytest.mark.asyncio
async def test_a_known_line_is_named_and_spanned() -> None:
    (critique,) = await CheckCritic().critique(TASK, RUN, [failing(check(1, line=3))])
    assert critique.text == (
        f"{describe_failure('solve([1])', 'None', '[1]')}\nThat is line 3 of the answer: return y[9]"
    )
    assert critique.span is not None
    assert ANSWER[critique.span.start : critique.span.end] == "    return y[9]"


@pytest.mark.asyncio
async def test_load_errors_timeouts_and_tampering() -> None:
    load = Check(name="load", passed=False, got="raised SyntaxError: invalid syntax", line=2)
    unreached = Check(name="assert 1", passed=False, message="not reached")
    critiques = await CheckCritic().critique(TASK, RUN, [failing(load, unreached)])
    assert [critique.text for critique in critiques] == [
        "The answer cannot be loaded: SyntaxError: invalid syntax.\nThat is line 2 of the answer: y = x"
    ]
    slow = failing(unreached, outcome="timeout", detail="solve([1]): the answer did not return in time")
    (critique,) = await CheckCritic().critique(TASK, RUN, [slow])
    assert critique.text == "The answer did not end in time: solve([1]): the answer did not return in time."
    assert len(await CheckCritic().critique(TASK, RUN, [failing(outcome="tampered", detail="x")])) == 1


@pytest.mark.asyncio
async def test_nothing_is_said_of_what_passed_or_was_not_judged() -> None:
    outcomes: tuple[Outcome, ...] = ("pass", "infra_error", "abstain")
    for outcome in outcomes:
        assert await CheckCritic().critique(TASK, RUN, [failing(outcome=outcome, detail="x")]) == []
    assert len(await CheckCritic().critique(TASK, RUN, [failing(detail="out of memory")])) == 1


@pytest.mark.asyncio
async def test_a_model_is_given_task_answer_and_results_and_its_critique_is_grounded() -> None:
    reply = (
        'Here you are:\n```json\n{"critiques": [{"text": "Index 9 is out of range.", "checks": ["assert 1", "none"],'
        ' "quote": "y[9]"}, {"text": "Also slow."}, 7, {"text": ""}]}\n```'
    )
    model = ScriptedModel([reply])
    verdict = failing(check(1), check(2))
    critic = ModelCritic(model)
    critiques = await critic.critique(TASK, RUN, [verdict])
    assert isinstance(critic, Critic)
    assert [critique.text for critique in critiques] == [
        "Index 9 is out of range. [assert 1]",
        "Also slow. [assert 1, assert 2]",
    ]
    assert critiques[0].span is not None
    assert ANSWER[critiques[0].span.start : critiques[0].span.end] == "y[9]"
    assert critiques[0].source == f"model:{model.name}"
    assert all(critique.verdict_ids == (verdict.id,) for critique in critiques)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        ('{"critiques": ["one", "two"]}', ["one", "two"]),
        ('[{"text": "one", "checks": "assert 1", "quote": 3}]', ["one"]),
        ('Well, {"critiques": [{"text": "one"}]} that is it.', ["one"]),
        ("- one\n- two\n- three\n- four", ["one", "two", "three"]),
        ("1. one\n2) two", ["one", "two"]),
        ("It is\nsimply wrong.", ["It is simply wrong."]),
        ("{broken", ["{broken"]),
        ('{"critiques": []}', []),
        ("  ", []),
    ],
)
async def test_replies_of_every_kind_are_read(reply: str, texts: list[str]) -> None:
    critiques = await ModelCritic(ScriptedModel([reply])).critique(TASK, RUN, [failing(check(1))])
    assert [critique.text for critique in critiques] == [f"{text} [assert 1]" for text in texts]


@pytest.mark.asyncio
async def test_a_model_is_not_asked_about_what_did_not_fail() -> None:
    model = ScriptedModel([])
    outcomes: tuple[Outcome, ...] = ("pass", "infra_error", "abstain")
    for outcome in outcomes:
        assert await ModelCritic(model).critique(TASK, RUN, [failing(outcome=outcome)]) == []
