"""Runs that a judge judges: under the run's budget, and with the first wrong answer found in their record."""

import pytest

from whet.agents import Agent
from whet.core import Budget, Json, Message, Step, Task, Verdict, VerifierSpec
from whet.core.models import Model, ScriptedModel
from whet.core.records import ModelCall
from whet.feedback.judges.steps import first_failure
from whet.feedback.judges.testing import PlantedModel
from whet.memory import Memory

ITEMS: list[Json] = ["It is right."]


def planted() -> Model:
    return PlantedModel(lambda answer: answer == "42")


def task(*verifiers: VerifierSpec) -> Task:
    return Task(id="t", messages=(Message(role="user", content="6 times 7?"),), verifiers=verifiers)


JUDGE = VerifierSpec(kind="judge", params={"model": f"{__name__}:planted", "items": ITEMS})


@pytest.mark.asyncio
async def test_a_judges_calls_count_in_the_budget_of_the_run_it_judges() -> None:
    budget = Budget(calls=2)
    result = await Agent("react", ScriptedModel(["42"])).arun(task(JUDGE), budget=budget)
    assert [(verdict.kind, verdict.outcome) for verdict in result.verdicts] == [("model", "pass")]
    assert budget.spent.calls == 2
    poor = await Agent("react", ScriptedModel(["42"])).arun(task(JUDGE), budget=Budget(calls=1))
    assert (poor.run.status, poor.answer, poor.verdicts) == ("done", "42", ())
    assert "not judged" in (poor.run.error or "")


@pytest.mark.asyncio
async def test_the_first_wrong_answer_of_a_run_is_found_in_its_record(memory: Memory) -> None:
    checked = task(VerifierSpec(kind="exact", params={"expected": "42"}))
    await Agent("refine", ScriptedModel(["40", "41", "42"]), memory=memory).arun(checked)
    steps = await memory.find(Step)
    verdicts = {verdict.id: verdict for verdict in await memory.find(Verdict)}
    found = first_failure(steps, verdicts)
    assert found is not None
    assert isinstance(found.body, ModelCall)
    assert found.body.completion is not None
    assert found.body.completion.text == "40"
