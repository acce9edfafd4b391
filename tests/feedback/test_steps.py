"""Judges of steps: scores, the first wrong one, credit; and without a model, by verdicts or by re-execution."""

import json
import math
from collections.abc import Sequence

import pytest

from whet.core import (
    Completion,
    ExecResult,
    Execution,
    Message,
    ModelCall,
    Run,
    Step,
    Task,
    ToolCall,
    ToolResult,
    Verdict,
    VerdictGiven,
)
from whet.core.models import ScriptedModel
from whet.core.records import NodeStarted, StepBody
from whet.feedback.judges.steps import StepJudge, StepScore, first_error, first_failure, locate

TASK = Task(id="t", messages=(Message(role="user", content="Sort the file."),))
RUN = Run(task_id="t", agent="a", status="done", answer="done")
CALL = ToolCall(id="c", name="shell", arguments='{"command": "sort in > out"}')


def steps(*bodies: StepBody) -> list[Step]:
    return [Step(id=f"s{seq}", run_id=RUN.id, seq=seq, body=body) for seq, body in enumerate(bodies)]


def says(text: str, *calls: ToolCall) -> ModelCall:
    return ModelCall(messages=(), completion=Completion(text=text, tool_calls=calls))


ACTED = steps(
    NodeStarted(),
    says("I sort it.", CALL),
    ToolResult(call=CALL, content="ok"),
    Execution(command="cat out", result=ExecResult(status="ok", stdout="1 2 3")),
    says("done"),
)


def scored(*scores: float) -> str:
    return json.dumps({"steps": [{"step": n, "why": f"w{n}", "score": score} for n, score in enumerate(scores, 1)]})


@pytest.mark.asyncio
async def test_each_step_that_acts_is_scored_and_the_first_wrong_one_named() -> None:
    model = ScriptedModel([scored(0.9, 0.3, 0.8, 0.1)])
    scores = await StepJudge(model).scores(TASK, RUN, ACTED)
    assert scores is not None
    assert [(one.step_id, one.score, one.why) for one in scores] == [
        ("s1", 0.9, "w1"),
        ("s2", 0.3, "w2"),
        ("s3", 0.8, "w3"),
        ("s4", 0.1, "w4"),
    ]
    assert first_error(scores) == "s2"
    assert first_error(scores, 0.2) == "s4"
    assert first_error([StepScore(step_id="s", score=0.5)]) is None
    shown = model.asked[0].messages[1].content
    assert '1. says: I sort it.\ncalls shell({"command": "sort in > out"})' in shown
    assert "2. shell returns: ok" in shown
    assert "3. runs 'cat out': ok\n1 2 3" in shown


@pytest.mark.asyncio
async def test_replies_with_a_step_left_out_or_off_the_scale_are_no_scores() -> None:
    model = ScriptedModel([scored(0.9, 0.3, 0.8), scored(0.9, 0.3, 0.8, 7.0)])
    assert await StepJudge(model).scores(TASK, RUN, ACTED) is None
    assert await StepJudge(ScriptedModel([])).scores(TASK, RUN, steps(NodeStarted())) == []


@pytest.mark.asyncio
async def test_credit_goes_to_the_steps_that_reached_goals() -> None:
    goals = [("read it", 2), ("sort it", 2), ("write it", 3), ("tell", None), ("mail it", 9)]
    reply = json.dumps({"goals": [{"goal": goal, "why": "…", "reached_in": number} for goal, number in goals]})
    credit = await StepJudge(ScriptedModel(["Let me see: [1]", reply])).credit(TASK, RUN, ACTED)
    assert credit == pytest.approx({"s2": 0.4, "s3": 0.2})
    assert await StepJudge(ScriptedModel(["?", '{"goals": []}'])).credit(TASK, RUN, ACTED) is None


def test_the_first_answer_that_failed_is_found_in_the_record() -> None:
    verdicts = {
        id: Verdict(id=id, run_id=RUN.id, task_id="t", verifier="tests@1", outcome=outcome)  # type: ignore[arg-type]
        for id, outcome in (("v1", "pass"), ("v2", "infra_error"), ("v3", "fail"), ("v4", "fail"))
    }
    found = steps(
        says("first"),
        VerdictGiven(verdict_id="v1"),
        says("second"),
        VerdictGiven(verdict_id="v2"),
        says("third"),
        VerdictGiven(verdict_id="v3"),
        says("fourth"),
        VerdictGiven(verdict_id="v4"),
    )
    wrong = first_failure(found[::-1], verdicts)
    assert wrong is not None
    assert wrong.id == "s4"
    assert first_failure(found[:5], verdicts) is None


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [1, 2, 7, 20])
async def test_the_first_wrong_step_is_located_by_execution_in_few_looks(count: int) -> None:
    for wrong in range(1, count + 2):
        looks = 0
        state: Sequence[int] = [1] * (wrong - 1) + [0] * (count - wrong + 1)

        async def still_right(k: int, state: Sequence[int] = state) -> bool:
            nonlocal looks
            looks += 1
            return all(state[:k])

        assert await locate(count, still_right) == (wrong if wrong <= count else None)
        assert looks <= math.ceil(math.log2(count + 1))
