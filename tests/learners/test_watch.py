"""After a promotion: a regression is taken back with its evidence, a good change is left alone, harm is retired."""

import random
from collections.abc import Callable

import pytest

from whet.core.errors import RefusedError, UserError
from whet.core.policy import Policy
from whet.core.records import Candidate, Lesson, Promotion, Run, Task, Use, Verdict
from whet.learners.adoption import adopt, incumbent_arm, take_in
from whet.learners.gate import Arm, Evaluate, Gate, Score
from whet.learners.learner import Proposal
from whet.learners.view import current_lessons
from whet.learners.watch import retire_harmful, take_back, watch
from whet.memory import Memory
from whet.skills import Skill, install

Tasks = Callable[[int], list[Task]]
Coin = Callable[..., Evaluate]


async def promoted(memory: Memory, heldout: Tasks, coin: Coin, *, same_policy: bool = False) -> Promotion:
    """A change from .2 to .9 that went through the gate: a prompt, a new lesson, and one that it replaces."""
    stale = Lesson(text="old advice", status="active", source="x")
    await memory.put(stale)
    incumbent = await incumbent_arm(memory)
    policy = incumbent.policy if same_policy else Policy.of({"prompts/system.md": "b"})
    digest = incumbent.policy.digest
    candidate = Candidate(policy=policy.digest, parent=digest, learner="x", config={"retires": [stale.id]})
    lesson = Lesson(text="new advice", source="x")
    proposal = Proposal(candidate=candidate, policy=policy, lessons=(lesson,), retires=(stale.id,))
    proposal = await take_in(memory, proposal)
    arm = proposal.arm(incumbent)

    chance = coin(lambda name, task: 0.9 if name == "b" else 0.2)

    async def evaluate(each: Arm, task: Task, seed: int) -> Score:
        name = "b" if each == arm else "a"
        return await chance(Arm(policy=Policy.of({"prompts/system.md": name})), task, seed)

    promotion = await Gate().decide(arm, incumbent, heldout(80), evaluate, candidate_id=candidate.id)
    assert promotion.decision == "promoted"
    await adopt(memory, proposal, promotion)
    return promotion


async def live_runs(memory: Memory, policy: str, scores: list[bool], purpose: str = "live") -> None:
    for passed in scores:
        run = Run(task_id="t", agent="a", policy=policy, status="done", purpose=purpose)  # type: ignore[arg-type]
        outcome = "pass" if passed else "fail"
        await memory.put(run, Verdict(run_id=run.id, task_id="t", verifier="x", outcome=outcome))  # type: ignore[arg-type]


def coins(n: int, chance: float, seed: int = 0) -> list[bool]:
    rng = random.Random(seed)
    return [rng.random() < chance for _ in range(n)]


@pytest.mark.asyncio
@pytest.mark.parametrize("same_policy", [False, True])
async def test_an_injected_regression_is_rolled_back_with_its_evidence(
    memory: Memory, heldout: Tasks, coin: Coin, same_policy: bool
) -> None:
    promotion = await promoted(memory, heldout, coin, same_policy=same_policy)
    await live_runs(memory, promotion.policy, coins(10, 0.9))
    assert (await watch(memory)).rolled_back is None
    scores = coins(40, 0.05)
    found = None
    for count in range(len(scores)):
        await live_runs(memory, promotion.policy, scores[count : count + 1])
        found = await watch(memory)
        if found.rolled_back:
            break
    assert found is not None
    back = found.rolled_back
    assert back is not None, "a fall from .9 to .05 is noticed within 40 runs"
    assert (back.decision, back.policy, back.incumbent) == ("rolled_back", promotion.incumbent, promotion.policy)
    assert back.evidence == {"takes_back": promotion.id}
    assert len(back.run_ids) == back.n == found.n
    assert back.p is not None
    assert back.p <= 0.01
    assert "live score" in back.reason
    assert (await memory.policies.head()).digest == promotion.incumbent
    lessons = {lesson.text: lesson for lesson in await current_lessons(memory)}
    assert lessons["new advice"].status == "retired"
    assert promotion.id in lessons["new advice"].reason
    assert lessons["old advice"].status == "active"
    assert (await watch(memory)).promotion is None, "nothing of the gate's is in force any more"


@pytest.mark.asyncio
async def test_a_change_that_keeps_its_level_is_left_alone(memory: Memory, heldout: Tasks, coin: Coin) -> None:
    promotion = await promoted(memory, heldout, coin)
    for seed in range(12):
        await live_runs(memory, promotion.policy, coins(10, 0.85, seed))
        found = await watch(memory)
        assert found.rolled_back is None
    assert found.n == 120
    assert found.mean == pytest.approx(0.85, abs=0.1)
    assert found.p > 0.5


@pytest.mark.asyncio
async def test_only_live_runs_of_the_promoted_policy_count(memory: Memory, heldout: Tasks, coin: Coin) -> None:
    promotion = await promoted(memory, heldout, coin)
    await live_runs(memory, promotion.incumbent, coins(60, 0.0))
    await live_runs(memory, promotion.policy, coins(60, 0.0), purpose="train")
    assert (await watch(memory)).n == 0


@pytest.mark.asyncio
async def test_a_watch_that_only_looks_changes_nothing(memory: Memory, heldout: Tasks, coin: Coin) -> None:
    promotion = await promoted(memory, heldout, coin)
    await live_runs(memory, promotion.policy, coins(60, 0.0))
    found = await watch(memory, act=False)
    assert found.p < 0.01
    assert found.rolled_back is None
    assert (await memory.policies.head()).digest == promotion.policy
    with pytest.raises(UserError, match="shares"):
        await watch(memory, alpha=2)


@pytest.mark.asyncio
async def test_nothing_is_watched_where_the_gate_promoted_nothing(memory: Memory) -> None:
    assert (await watch(memory)).promotion is None
    await memory.policies.commit(Policy.of({"principles.md": "x"}), reason="by hand", actor="ana")
    assert (await watch(memory)).promotion is None


@pytest.mark.asyncio
async def test_only_the_change_in_force_is_taken_back(memory: Memory, heldout: Tasks, coin: Coin) -> None:
    promotion = await promoted(memory, heldout, coin)
    await memory.policies.commit(Policy.of({"principles.md": "x"}), reason="by hand", actor="ana")
    with pytest.raises(RefusedError, match="not the last change"):
        await take_back(memory, promotion, reason="regret")


async def used(memory: Memory, item: str, shown: float, withheld: float, n: int = 60) -> None:
    """Records runs in which an item was shown or withheld at random, with these chances of a pass."""
    for i in range(n):
        kind = "shown" if i % 2 else "withheld"
        passed = random.Random(f"{item}{i}").random() < (shown if kind == "shown" else withheld)
        run = Run(task_id="t", agent="a", status="done", purpose="live")
        outcome = "pass" if passed else "fail"
        verdict = Verdict(run_id=run.id, task_id="t", verifier="x", outcome=outcome, score=float(passed))  # type: ignore[arg-type]
        await memory.put(run, Use(run_id=run.id, item=item, kind=kind), verdict)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_what_does_harm_is_retired_and_what_helps_is_kept(memory: Memory) -> None:
    names = ("harmful", "useful", "idle", "rare")
    lessons = {name: Lesson(text=name, status="active", source="x") for name in names}
    await memory.put(*lessons.values())
    await used(memory, lessons["harmful"].id, shown=0.1, withheld=0.8)
    await used(memory, lessons["useful"].id, shown=0.8, withheld=0.1)
    await used(memory, lessons["idle"].id, shown=0.5, withheld=0.5)
    await used(memory, lessons["rare"].id, shown=0.0, withheld=1.0, n=8)
    policy = install(Policy(), Skill(name="bad", description="Bad advice.", body="x"))
    policy = install(policy, Skill(name="good", description="Good advice.", body="x"))
    await memory.policies.commit(policy, reason="by hand", actor="ana")
    await used(memory, "skill:bad", shown=0.1, withheld=0.8)
    await used(memory, "skill:good", shown=0.8, withheld=0.1)
    for _ in range(30):  # the gate shows everything, on tasks that may be harder; that is no evidence of harm
        run = Run(task_id="h", agent="a", status="done", purpose="gate")
        use = Use(run_id=run.id, item=lessons["useful"].id, kind="shown")
        await memory.put(run, use, Verdict(run_id=run.id, task_id="h", verifier="x", outcome="fail"))
    worth = await memory.worth(lessons["useful"].id)
    assert (worth.n_shown, worth.n_withheld) == (30, 30)
    retired = await retire_harmful(memory)
    assert {found.item for found in retired} == {lessons["harmful"].id, "skill:bad"}
    now = {lesson.text: lesson for lesson in await current_lessons(memory)}
    assert {name: lesson.status for name, lesson in now.items()} == {
        "harmful": "retired",
        "useful": "active",
        "idle": "active",
        "rare": "active",
    }
    assert "shown in 30 runs and withheld from 30" in now["harmful"].reason
    assert (await memory.policies.head()).skill_names() == ["good"]
    assert "does harm: worth -" in (await memory.policies.log(1))[0].reason
    assert await retire_harmful(memory) == []
