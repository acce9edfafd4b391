"""Follow-up likelihood as a judge: what the model expects the user to say next."""

import math
from collections.abc import Sequence

import pytest

from whet.core import Message, Run, Task, VerifierError, VerifierSpec
from whet.core.models import ScriptedModel
from whet.core.models.tiny.model import TinyModel
from whet.feedback import check_spec
from whet.feedback.judges import FollowUpJudge
from whet.feedback.judges.followup import NEGATIVE, POSITIVE, contrast, followed

TASK = Task(id="t", messages=(Message(role="user", content="Write solve(x): zorp."),))


class Expectant(ScriptedModel):
    """Expects thanks after right answers and complaints after wrong ones, more or less."""

    def __init__(self) -> None:
        super().__init__([])

    async def logprobs(self, messages: Sequence[Message], answer: str) -> tuple[float, ...]:
        right = messages[-2].content == "right"
        likely = (answer in POSITIVE) == right
        return (-1.0 if likely else -3.0,) * len(answer.split())


def run(answer: str) -> Run:
    return Run(task_id="t", agent="a", status="done", answer=answer)


@pytest.mark.asyncio
async def test_an_answer_passes_where_thanks_are_likelier_than_complaints() -> None:
    judge = FollowUpJudge({}, model=Expectant())
    good, bad = await judge.verify(TASK, run("right")), await judge.verify(TASK, run("wrong"))
    assert (good.outcome, bad.outcome, good.kind) == ("pass", "fail", "model")
    assert good.score == pytest.approx(1 / (1 + math.exp(-2)))
    assert bad.score == pytest.approx(1 - good.score)
    assert bad.checks[0].got == "-2.000 nats per token"
    shifted = FollowUpJudge({"scale": 10.0, "shift": -30.0}, model=Expectant())
    assert (await shifted.verify(TASK, run("right"))).outcome == "fail"


@pytest.mark.asyncio
async def test_the_embedded_model_scores_every_follow_up_after_the_answer() -> None:
    model = TinyModel()
    verdict = await FollowUpJudge({}, model=model).verify(TASK, run("def solve(x):\n    return x\n"))
    said = [await model.logprobs(followed(TASK.messages, run("").answer or ""), text) for text in POSITIVE + NEGATIVE]
    assert len({len(one) for one in said}) > 1  # per token, since they differ in length
    turned = FollowUpJudge({"positive": [*NEGATIVE], "negative": [*POSITIVE]}, model=model)
    other = await turned.verify(TASK, run("def solve(x):\n    return x\n"))
    assert verdict.score + other.score == pytest.approx(1.0)
    assert verdict.score != 0.5


def test_the_contrast_is_a_difference_of_means_per_token() -> None:
    assert contrast([(-1.0, -1.0), (-2.0,), (-4.0, -2.0)], 2) == pytest.approx(-1.5 + 3.0)


@pytest.mark.asyncio
async def test_a_model_without_weights_at_hand_is_no_verdict_and_impossible_parameters_are_refused() -> None:
    verdict = await FollowUpJudge({}, model=ScriptedModel([])).verify(TASK, run("right"))
    assert (verdict.outcome, "does not tell how likely" in verdict.detail) == ("infra_error", True)
    for params in ({"positive": []}, {"rubric": "x"}, {"show_reference": True}, {"temperature": 0.5}):
        with pytest.raises(VerifierError):
            check_spec(VerifierSpec(kind="followup_judge", params={"model": "tiny", **params}))  # type: ignore[dict-item]
