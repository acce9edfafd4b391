"""The rules beside the gain, and the measure of an arm."""

import pytest

from whet.core.budget import Budget, Cost
from whet.core.errors import BudgetError, UserError
from whet.core.policy import Policy
from whet.core.records import Task, Usage
from whet.learners.evaluation import measure
from whet.learners.gate import Arm, Score
from whet.learners.rules import Pair, cost_objection, drop_objection, losses_allowed, regression_objection, suspects

ARM = Arm(policy=Policy())


def pair(candidate: float | None, incumbent: float | None, tokens: int = 100, dollars: int = 0) -> Pair:
    mine = Usage(output_tokens=tokens, micro_dollars=dollars)
    return Pair(
        task_id=f"{candidate}{incumbent}",
        candidate=candidate,
        incumbent=incumbent,
        candidate_usage=mine,
        incumbent_usage=Usage(input_tokens=100, micro_dollars=10),
    )


@pytest.mark.parametrize(
    ("tokens", "dollars", "objection"),
    [
        (400, 0, ""),
        (401, 0, "a run takes 4.01 times the tokens; at most 4 times is allowed"),
        (1, 25, "a run takes 2.50 times the dollars; at most 2 times is allowed"),
        (1, 20, ""),
    ],
)
def test_cost_is_compared_per_run(tokens: int, dollars: int, objection: str) -> None:
    assert cost_objection([pair(1, 0, tokens, dollars)] * 3, 4.0, 2.0) == objection


def test_without_a_limit_or_a_cost_before_nothing_is_too_dear() -> None:
    assert cost_objection([pair(1, 0, 10**9, 10**9)], None, None) == ""
    free = Pair(task_id="t", candidate=1, incumbent=0, candidate_usage=Usage(micro_dollars=5))
    assert cost_objection([free], 4.0, 4.0) == ""


def test_losses_are_counted_against_what_was_solved() -> None:
    pairs = [pair(1, 1)] * 18 + [pair(0, 1), pair(0.5, 1), pair(0, 0.9), pair(None, 1), pair(0, None)]
    assert [each.task_id for each in suspects(pairs)] == ["01", "0.51"]
    assert losses_allowed(pairs, 0.05) == 1
    assert regression_objection(pairs, ["a"], 0.05) == ""
    assert regression_objection(pairs, ["a", "b"], 0.05) == "2 of 21 tasks that were solved reliably fail now: a, b"


@pytest.mark.parametrize(("dropped", "judged", "fine"), [(0, 10, True), (2, 8, True), (3, 7, False), (0, 0, True)])
def test_too_many_unjudged_pairs_are_an_objection(dropped: int, judged: int, fine: bool) -> None:
    assert (drop_objection(dropped, judged, 0.2) == "") == fine


def test_repeats_of_a_task_are_averaged_over_what_was_judged() -> None:
    mean = Pair.average([pair(1, 0), pair(0, 0), pair(None, 1)])
    assert (mean.candidate, mean.incumbent, mean.difference) == (0.5, 0.0, 0.5)
    assert mean.candidate_usage.output_tokens == 300
    assert Pair.average([pair(None, 1)]).difference is None


def tasks(n: int) -> list[Task]:
    return [Task(id=str(i), messages=()) for i in range(n)]


@pytest.mark.asyncio
async def test_an_arm_is_measured_with_an_interval() -> None:
    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        return Score(value=None if task.id == "0" else float(int(task.id) <= 5), usage=Usage(calls=1))

    found = await measure(evaluate, ARM, tasks(11))
    assert (found.mean, found.n, found.dropped, found.usage.calls) == (0.5, 10, 1, 11)
    assert found.low == pytest.approx(0.2366, abs=1e-4)  # Wilson's interval of 5 in 10
    assert found.high == pytest.approx(0.7634, abs=1e-4)
    with pytest.raises(UserError, match="no tasks"):
        await measure(evaluate, ARM, [])


@pytest.mark.asyncio
async def test_a_budget_ends_a_measurement() -> None:
    budget = Budget(calls=3)

    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        budget.reserve(Cost(calls=1)).settle(Cost(calls=1))
        return Score(value=1.0)

    with pytest.raises(BudgetError, match="does not allow"):
        await measure(evaluate, ARM, tasks(10))
