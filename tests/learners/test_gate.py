"""The gate on stand-ins with known true scores: few false promotions, real gains found, rules kept."""

import math
import random
import re
from collections.abc import Callable

import msgspec
import pytest

from whet.core.budget import Budget, Cost
from whet.core.errors import BudgetError, RefusedError, UserError
from whet.core.records import Task, Usage
from whet.learners.gate import Arm, Evaluate, Gate, GateConfig, Progress, Score
from whet.learners.ledger import CountingLedger, heldout_digest, level_of_use

Tasks = Callable[[int], list[Task]]
Arms = Callable[[str], Arm]
Coin = Callable[..., Evaluate]


def by_name(**chances: float) -> Callable[[str, str], float]:
    return lambda name, task: chances[name]


@pytest.mark.asyncio
async def test_at_most_5_percent_of_1000_equal_candidates_are_promoted(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    """A/A on the boundary of the null (minimum effect 0), looked at after every pair, the ledger fresh each time."""
    gate, tasks, promoted = Gate(GateConfig(min_effect=0.0, concurrency=1)), heldout(60), 0
    for trial in range(1000):
        evaluate = coin(by_name(a=0.6, b=0.6), nonce=trial)
        promoted += (await gate.decide(arm("b"), arm("a"), tasks, evaluate)).decision == "promoted"
    # The level of a first use is 3.04 %; three standard errors of 1,000 draws at 5 % are 2.1 points.
    assert promoted <= 50, promoted


@pytest.mark.asyncio
async def test_a_held_out_set_used_again_and_again_lets_nothing_through(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    """60 held-out sets, each used for 20 worthless candidates: at most 5 % (and slack) of them ever promote one."""
    gate, tasks, fooled = Gate(GateConfig(min_effect=0.0, concurrency=1)), heldout(40), 0
    for trial in range(60):
        ledger = CountingLedger()
        for use in range(20):
            evaluate = coin(by_name(a=0.5, b=0.5), nonce=trial * 100 + use)
            if (await gate.decide(arm("b"), arm("a"), tasks, evaluate, ledger=ledger)).decision == "promoted":
                fooled += 1
                break
    assert fooled <= 60 * 0.05 + 3 * math.sqrt(60 * 0.05 * 0.95), fooled


@pytest.mark.asyncio
async def test_a_real_gain_is_promoted_early_with_its_evidence(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    seen: list[Progress] = []
    promotion = await Gate().decide(
        arm("b"), arm("a"), heldout(100), coin(by_name(a=0.1, b=0.9)), candidate_id="c1", on_progress=seen.append
    )
    assert promotion.decision == "promoted"
    assert promotion.n == len(seen) < 40
    assert promotion.low is not None
    assert promotion.high is not None
    assert promotion.mean is not None
    assert 0.02 < promotion.low < promotion.mean <= promotion.high
    assert promotion.p == seen[-1].p < 0.05 * 6 / math.pi**2
    assert promotion.candidate_id == "c1"
    assert promotion.policy == arm("b").policy.digest
    assert promotion.evidence["wins"] == pytest.approx(promotion.n * 0.8, abs=promotion.n * 0.3)
    assert promotion.thresholds["alpha_of_use"] == pytest.approx(level_of_use(0.05, 1))
    assert promotion.usage.calls == len(promotion.run_ids) >= 2 * promotion.n


@pytest.mark.asyncio
async def test_a_real_loss_is_rejected(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    promotion = await Gate().decide(arm("b"), arm("a"), heldout(100), coin(by_name(a=0.9, b=0.3)))
    assert promotion.decision == "rejected"
    assert promotion.n < 100
    assert promotion.high is not None
    assert promotion.high < 0.02


@pytest.mark.asyncio
async def test_a_lucky_candidate_is_refused(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    """50 equal candidates compete on 20 training tasks; the luckiest looks much better, and is not."""
    rng = random.Random(0)
    on_train = max(sum(rng.random() < 0.5 for _ in range(20)) / 20 for _ in range(50))
    assert on_train >= 0.7
    decisions = []
    for trial in range(40):
        promotion = await Gate().decide(arm("b"), arm("a"), heldout(60), coin(by_name(a=0.5, b=0.5), nonce=trial))
        decisions.append(promotion.decision)
    assert decisions.count("promoted") <= 4
    assert decisions.count("insufficient_evidence") >= 32


@pytest.mark.asyncio
async def test_a_gain_below_the_minimum_effect_is_rejected_given_enough_tasks(
    heldout: Tasks, arm: Arms, coin: Coin
) -> None:
    gate = Gate(GateConfig(min_effect=0.3, concurrency=1))
    promotion = await gate.decide(arm("b"), arm("a"), heldout(300), coin(by_name(a=0.50, b=0.55)))
    assert promotion.decision == "rejected"
    assert "below 0.3" in promotion.reason


@pytest.mark.asyncio
async def test_a_gain_at_any_price_is_rejected(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    evaluate = coin(by_name(a=0.1, b=0.9), tokens={"a": 100, "b": 500}.__getitem__)
    promotion = await Gate().decide(arm("b"), arm("a"), heldout(60), evaluate)
    assert promotion.decision == "rejected"
    assert promotion.reason == "a run takes 5.00 times the tokens; at most 4 times is allowed"
    free = Gate(GateConfig(max_token_ratio=None))
    assert (await free.decide(arm("b"), arm("a"), heldout(60), evaluate)).decision == "promoted"


@pytest.mark.asyncio
async def test_losing_what_was_solved_reliably_is_rejected_and_bad_luck_is_not(
    heldout: Tasks, arm: Arms, coin: Coin
) -> None:
    def trade(name: str, task: str) -> float:
        """The incumbent solves the tasks whose number ends in 0 or 1; the candidate solves all but those."""
        return float((task[-1] in "01") == (name == "a"))

    promotion = await Gate().decide(arm("b"), arm("a"), heldout(100), coin(trade))
    assert promotion.decision == "rejected"
    assert "solved reliably fail now" in promotion.reason
    assert all(str(task)[-1] in "01" for task in promotion.evidence["regressed"])  # type: ignore[union-attr]
    flaky = await Gate().decide(arm("b"), arm("a"), heldout(100), coin(by_name(a=0.3, b=0.8)))
    assert flaky.decision == "promoted"
    assert flaky.evidence["losses"] != 0


@pytest.mark.asyncio
async def test_what_nobody_could_judge_is_retried_and_never_counted(heldout: Tasks, arm: Arms) -> None:
    tries: dict[tuple[str, str], int] = {}

    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        name = arm.policy.text("prompts/system.md")
        tries[name, task.id] = count = tries.get((name, task.id), 0) + 1
        broken = task.id == "t3" or (name == "b" and count < 3)
        return Score(value=None if broken else float(name == "b"), usage=Usage(calls=1))

    promotion = await Gate(GateConfig(concurrency=1)).decide(arm("b"), arm("a"), heldout(12), evaluate)
    assert promotion.decision == "promoted"
    assert promotion.mean == 1.0
    assert max(tries.values()) == 3
    assert promotion.usage.calls == sum(tries.values())


@pytest.mark.asyncio
async def test_too_many_unjudged_pairs_are_no_basis(heldout: Tasks, arm: Arms) -> None:
    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        broken = int(task.id[1:]) % 2 == 0
        return Score(value=None if broken else float(arm.policy.text("prompts/system.md") == "b"))

    promotion = await Gate().decide(arm("b"), arm("a"), heldout(60), evaluate)
    assert promotion.decision == "insufficient_evidence"
    assert "could not be judged" in promotion.reason


@pytest.mark.asyncio
async def test_a_budget_that_ends_gives_no_promotion(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    budget, inner = Budget(calls=10), coin(by_name(a=0.1, b=0.9))

    async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
        with budget.reserve(Cost(calls=1)) as reservation:
            score = await inner(arm, task, seed)
            reservation.settle(Cost(calls=1))
        return score

    promotion = await Gate().decide(arm("b"), arm("a"), heldout(100), evaluate, budget=budget)
    assert promotion.decision == "insufficient_evidence"
    assert "budget" in promotion.reason
    assert budget.spent.calls == 10
    with pytest.raises(BudgetError):
        budget.reserve(Cost(calls=1))


@pytest.mark.asyncio
async def test_too_few_tasks_are_said_to_be_too_few_before_anything_is_spent(
    heldout: Tasks, arm: Arms, coin: Coin
) -> None:
    ledger = CountingLedger()
    promotion = await Gate().decide(arm("b"), arm("a"), heldout(4), coin(by_name(a=0, b=1)), ledger=ledger)
    assert (promotion.decision, promotion.n) == ("insufficient_evidence", 0)
    assert "4 held-out tasks cannot" in promotion.reason
    assert await ledger.uses(heldout(4)) == 0


@pytest.mark.asyncio
async def test_each_use_of_a_held_out_set_asks_for_more(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    ledger, needed = CountingLedger(), []
    for use in range(1, 5):
        evaluate = coin(by_name(a=0.0, b=1.0))
        promotion = await Gate(GateConfig(concurrency=1)).decide(
            arm("b"), arm("a"), heldout(60), evaluate, ledger=ledger
        )
        assert promotion.thresholds["use"] == use
        needed.append(promotion.n)
    assert needed == sorted(needed)
    assert needed[0] < needed[-1]
    assert await ledger.uses(heldout(61)[55:]) == 4


def test_the_levels_of_all_uses_sum_to_alpha() -> None:
    assert sum(level_of_use(0.05, use) for use in range(1, 200_000)) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.asyncio
async def test_repeats_are_averaged_per_task(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    gate = Gate(GateConfig(repeats=5, concurrency=2))
    promotion = await gate.decide(arm("b"), arm("a"), heldout(40), coin(by_name(a=0.4, b=0.8)))
    assert promotion.decision == "promoted"
    assert promotion.n <= 40
    assert promotion.usage.calls >= promotion.n * 10


@pytest.mark.asyncio
async def test_the_decision_does_not_depend_on_concurrency(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    results = []
    for concurrency in (1, 7):
        gate = Gate(GateConfig(concurrency=concurrency))
        promotion = await gate.decide(arm("b"), arm("a"), heldout(80), coin(by_name(a=0.3, b=0.7)))
        results.append((promotion.decision, promotion.n, promotion.mean, promotion.low, promotion.p))
    assert results[0] == results[1]


@pytest.mark.asyncio
@pytest.mark.parametrize("split", ["train", "sealed"])
async def test_only_held_out_tasks_are_read(heldout: Tasks, arm: Arms, coin: Coin, split: str) -> None:
    tasks = [Task(id="x", messages=(), split=split), *heldout(20)]  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=f"of the {split} split"):
        await Gate().decide(arm("b"), arm("a"), tasks, coin(by_name(a=0, b=1)))


@pytest.mark.asyncio
async def test_impossible_requests_are_refused(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    with pytest.raises(UserError, match="no held-out tasks"):
        await Gate().decide(arm("b"), arm("a"), [], coin(by_name(a=0, b=1)))
    with pytest.raises(UserError, match="same id"):
        await Gate().decide(arm("b"), arm("a"), heldout(3) * 2, coin(by_name(a=0, b=1)))
    for config in (GateConfig(max_regressed=2), GateConfig(repeats=0), GateConfig(alpha=-1)):
        with pytest.raises(UserError, match="needed"):
            Gate(config)


def elsewhere(a: float, b: float) -> Callable[[str, str], float]:
    """The candidate ``b`` gains on the tasks; on probes the two arms have these chances."""
    return lambda name, task: ({"a": a, "b": b} if task[0] == "p" else {"a": 0.1, "b": 0.9})[name]


def as_probes(tasks: list[Task]) -> list[Task]:
    return [msgspec.structs.replace(task, id=f"p{task.id}") for task in tasks]


@pytest.mark.asyncio
async def test_a_gain_that_costs_general_ability_is_rejected(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    probes, evaluate, seen = as_probes(heldout(20)), coin(elsewhere(1.0, 0.2)), list[Progress]()
    ledger = CountingLedger()
    without = await Gate().decide(arm("b"), arm("a"), heldout(60), evaluate)
    assert (without.decision, without.evidence["probes"]) == ("promoted", None)
    promotion = await Gate().decide(
        arm("b"), arm("a"), heldout(60), evaluate, probes=probes, ledger=ledger, on_progress=seen.append
    )
    assert promotion.decision == "rejected"
    assert re.match(r"\d+ of \d+ probes that were solved", promotion.reason)
    assert promotion.thresholds["max_probe_loss"] == 0.1
    found = promotion.evidence["probes"]
    assert isinstance(found, dict)
    assert (found["tasks"], found["heldout"], found["incumbent_mean"]) == (20, heldout_digest(probes), 1.0)
    assert 0 < sum(progress.of == "probes" for progress in seen) <= 20
    assert (promotion.n, promotion.mean, promotion.p) == (without.n, without.mean, without.p)
    assert promotion.usage.calls == len(promotion.run_ids) > without.usage.calls
    assert (await ledger.uses(heldout(60)), await ledger.uses(probes)) == (1, 0)


@pytest.mark.asyncio
async def test_tasks_lost_for_good_are_named_though_others_are_won(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    """The mean on the probes stays: four of ten are lost, and four others are solved."""

    def trade(name: str, task: str) -> float:
        if task[0] != "p":
            return elsewhere(0, 0)(name, task)
        return float(task[-1] not in ("0123" if name == "b" else "4567"))

    probes = as_probes(heldout(30))
    promotion = await Gate().decide(arm("b"), arm("a"), heldout(60), coin(trade), probes=probes)
    assert promotion.decision == "rejected"
    assert "of 18 probes that were solved reliably fail now: p" in promotion.reason
    patient = Gate(GateConfig(max_probe_loss=0.7))
    assert (await patient.decide(arm("b"), arm("a"), heldout(60), coin(trade), probes=probes)).decision == "promoted"


@pytest.mark.asyncio
@pytest.mark.parametrize("chance", [0.5, 0.95])
async def test_probes_hardly_ever_stop_a_candidate_that_lost_nothing(
    heldout: Tasks, arm: Arms, coin: Coin, chance: float
) -> None:
    promoted = 0
    for trial in range(100):
        evaluate = coin(elsewhere(chance, chance), nonce=trial)
        promotion = await Gate(GateConfig(concurrency=1)).decide(
            arm("b"), arm("a"), heldout(40), evaluate, probes=as_probes(heldout(40))
        )
        assert promotion.decision == "promoted" or "probes" in promotion.reason
        promoted += promotion.decision == "promoted"
    assert promoted >= 90, promoted


@pytest.mark.asyncio
async def test_probes_are_not_run_before_a_gain_is_shown(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    for chances in (by_name(a=0.5, b=0.5), by_name(a=0.9, b=0.1)):
        promotion = await Gate().decide(arm("b"), arm("a"), heldout(40), coin(chances), probes=as_probes(heldout(10)))
        assert promotion.decision != "promoted"
        assert not [id for id in promotion.run_ids if "-p" in id]


@pytest.mark.asyncio
async def test_probes_that_nobody_could_judge_or_pay_decide_nothing(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    inner, probes = coin(elsewhere(1.0, 1.0)), as_probes(heldout(10))

    async def broken(arm: Arm, task: Task, seed: int) -> Score:
        return Score(value=None) if task.id[0] == "p" else await inner(arm, task, seed)

    promotion = await Gate().decide(arm("b"), arm("a"), heldout(60), broken, probes=probes)
    assert promotion.decision == "insufficient_evidence"
    assert promotion.reason.startswith("of the probes 10 of 10 pairs could not be judged")

    async def unpaid(arm: Arm, task: Task, seed: int) -> Score:
        if task.id[0] == "p":
            raise BudgetError("no calls are left")
        return await inner(arm, task, seed)

    promotion = await Gate().decide(arm("b"), arm("a"), heldout(60), unpaid, probes=probes)
    assert promotion.decision == "insufficient_evidence"
    assert "budget" in promotion.reason


@pytest.mark.asyncio
async def test_only_held_out_tasks_of_other_sets_are_probes(heldout: Tasks, arm: Arms, coin: Coin) -> None:
    evaluate = coin(by_name(a=0, b=1))
    for split in ("train", "sealed"):
        probe = Task(id="p", messages=(), split=split)  # type: ignore[arg-type]
        with pytest.raises(RefusedError, match=f"'p' is of the {split} split"):
            await Gate().decide(arm("b"), arm("a"), heldout(20), evaluate, probes=[probe])
    with pytest.raises(UserError, match="'t0' decides and cannot be a probe"):
        await Gate().decide(arm("b"), arm("a"), heldout(20), evaluate, probes=heldout(2))
    with pytest.raises(UserError, match="two probes have the same id"):
        await Gate().decide(arm("b"), arm("a"), heldout(20), evaluate, probes=as_probes(heldout(2)) * 2)
    with pytest.raises(UserError, match="max_probe_loss is 1"):
        Gate(GateConfig(max_probe_loss=1))
