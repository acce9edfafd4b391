"""The gate hears a judge only after it was measured, and found to agree with what outranks it."""

from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from whet.agents import Agent
from whet.core import (
    Budget,
    BudgetError,
    Candidate,
    Completion,
    Job,
    Json,
    Message,
    ModelError,
    Policy,
    RefusedError,
    Run,
    Sampling,
    Task,
    TaskSet,
    ToolSpec,
    UserError,
    Verdict,
    VerifierSpec,
)
from whet.core.models import Model
from whet.core.records import Split
from whet.feedback import load_verifier
from whet.feedback.judges import Checklist, Pairwise, judging_under
from whet.feedback.judges.testing import PlantedModel
from whet.feedback.verifiers.registry import judges_of
from whet.learners import (
    Arm,
    Gate,
    GateConfig,
    ImproveConfig,
    Proposal,
    StoredLedger,
    TrainMemory,
    decide,
    evaluator,
    improve,
    measure,
)
from whet.learners.judging import (
    measure_judge,
    measured_judges,
    probe_cases,
    probe_judge,
    refuse_unheard,
    weighted_panel,
)
from whet.memory import Memory


def right(answer: str) -> bool:
    return answer.startswith("right")


def fair() -> Model:
    return PlantedModel(right, error=0.02)


def weak() -> Model:
    return PlantedModel(right, error=0.35)


def spec(model: str = "fair") -> VerifierSpec:
    params: dict[str, Json] = {"items": ["The answer is right."], "model": f"{__name__}:{model}"}
    return VerifierSpec(kind="judge", params=params)


def name(model: str = "fair") -> str:
    return load_verifier(spec(model)).name


class Speaker:
    """Says what its system message tells it to."""

    name = "speaker"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        word = "right" if "rightly" in messages[0].content else "wrong"
        return Completion(text=f"{word} {messages[-1].content}", model=self.name)


def task(number: int, split: Split, *verifiers: VerifierSpec) -> Task:
    return Task(
        id=f"{split}{number}",
        messages=(Message(role="user", content=f"task {number}"),),
        verifiers=verifiers,
        split=split,
    )


class Wishful:
    """Proposes to answer rightly."""

    name = "wishful"

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        better = incumbent.policy.edit({"prompts/system.md": "Answer rightly."})
        candidate = Candidate(
            policy=better.digest, parent=incumbent.policy.digest, learner=self.name, summary="rightly"
        )
        yield Proposal(candidate=candidate, policy=better)


async def remember(memory: Memory, n: int) -> None:
    """Stores runs on training tasks, every other one right, and what execution found of them."""
    for i in range(n):
        good = i % 2 == 0
        about = task(i // 2, "train")
        run = Run(
            id=f"run{i:03}",
            task_id=about.id,
            agent="a",
            status="done",
            answer=f"{'right' if good else 'wrong'} {i}",
            started_at=i,
        )
        outcome = Verdict(
            run_id=run.id,
            task_id=about.id,
            verifier="tests@1",
            outcome="pass" if good else "fail",
            score=float(good),
        )
        await memory.put(about, run, outcome)


@pytest.mark.asyncio
async def test_a_judge_is_measured_on_runs_whose_truth_is_known_and_then_heard(memory: Memory) -> None:
    await remember(memory, 120)
    with pytest.raises(RefusedError, match="whet judge report") as caught:
        await refuse_unheard(memory, [name()])
    assert "it was not measured" in str(caught.value)
    assert "\n" not in str(caught.value)
    made = await measure_judge(memory, load_verifier(spec()), limit=100)
    assert [verdict.run_id for verdict in made] == [f"run{i:03}" for i in range(119, 19, -1)]
    await refuse_unheard(memory, [name()])
    assert len(await measure_judge(memory, load_verifier(spec()))) == 20  # those that it did not judge before
    (report,) = await measured_judges(memory)
    assert (report.judge, report.judged) == (name(), 120)
    with pytest.raises(RefusedError, match=r"0\.99 is needed"):
        await refuse_unheard(memory, [name()], 0.99)


@pytest.mark.asyncio
async def test_a_weak_judge_is_not_heard_and_says_nothing_of_another_one(memory: Memory) -> None:
    await remember(memory, 120)
    await measure_judge(memory, load_verifier(spec("weak")))
    with pytest.raises(RefusedError, match="balanced agreement on 120 runs"):
        await refuse_unheard(memory, [name("weak")])
    with pytest.raises(RefusedError, match="it was not measured"):
        await refuse_unheard(memory, [name("fair")])


@pytest.mark.asyncio
async def test_held_out_tasks_are_never_shown_to_a_judge_that_is_measured(memory: Memory) -> None:
    about, run = task(0, "heldout"), Run(task_id="heldout0", agent="a", status="done", answer="right")
    truth = Verdict(run_id=run.id, task_id=about.id, verifier="tests@1", outcome="pass", score=1.0)
    await memory.put(about, run, truth)
    assert await measure_judge(memory, load_verifier(spec())) == []
    assert await probe_judge(memory, load_verifier(spec())) is None


@pytest.mark.asyncio
async def test_a_panel_weighs_its_judges_by_what_was_measured(memory: Memory) -> None:
    await remember(memory, 100)
    judges = [spec("fair"), spec("weak")]
    await measure_judge(memory, load_verifier(judges[0]))
    with pytest.raises(UserError, match="was not measured"):
        await weighted_panel(memory, judges)
    await measure_judge(memory, load_verifier(judges[1]))
    panel = await weighted_panel(memory, judges)
    strong, faint = cast("list[float]", panel.params["weights"])
    assert strong > 2 > 1 > faint > 0
    await measure_judge(memory, load_verifier(panel))
    reports = {report.judge: report for report in await measured_judges(memory)}
    assert reports[load_verifier(panel).name].standard.balanced >= reports[name("weak")].standard.balanced + 0.2


@pytest.mark.asyncio
async def test_measuring_keeps_to_its_budget_and_what_was_judged_stays(memory: Memory) -> None:
    await remember(memory, 60)
    with judging_under(Budget(calls=20)), pytest.raises(BudgetError):
        await measure_judge(memory, load_verifier(spec()))
    assert len(await memory.find(Verdict, where={"kind": "model"})) == 16


@pytest.mark.asyncio
async def test_probes_are_made_of_tasks_with_a_right_and_a_wrong_run_and_shown_in_the_report(memory: Memory) -> None:
    await remember(memory, 40)
    await measure_judge(memory, load_verifier(spec()))
    assert len(await probe_cases(memory)) == 20
    found = await probe_judge(memory, load_verifier(spec()), limit=12, comparer=Pairwise(fair(), longer=0))
    assert found is not None
    (report,) = await measured_judges(memory)
    assert report.probed == found
    assert found.cases == 12
    assert any(line.startswith("of pairs:") for line in report.lines())
    assert len(await memory.find(Job, where={"kind": "judge_probes"})) == 1


@pytest.mark.asyncio
async def test_judges_decide_at_the_gate_once_they_are_heard_and_cost_no_use_before(memory: Memory) -> None:
    heldout = [task(i, "heldout", spec()) for i in range(60)]
    tasks = TaskSet(name="t", version="1", tasks=tuple(heldout))
    better = Policy.of({"prompts/system.md": "Answer rightly."})
    await memory.policies.put(better)
    candidate = Candidate(policy=better.digest, parent=(await memory.policies.head()).digest, learner="l")
    await memory.put(candidate)
    agent = Agent("react", Speaker(), memory=memory)
    assert judges_of(heldout[0]) == [name()]
    with pytest.raises(RefusedError, match="the gate does not hear"):
        await decide(memory, agent, candidate.id, tasks)
    assert await StoredLedger(memory).uses(heldout) == 0
    await remember(memory, 100)
    await measure_judge(memory, load_verifier(spec()))
    with pytest.raises(RefusedError, match=r"0\.99 is needed"):
        await decide(memory, agent, candidate.id, tasks, gate=Gate(GateConfig(min_trust=0.99)))
    promotion = await decide(memory, agent, candidate.id, tasks)
    assert promotion.decision == "promoted"


@pytest.mark.asyncio
async def test_a_judge_that_the_agent_was_given_is_refused_as_well(memory: Memory) -> None:
    judge = load_verifier(spec())

    async def verify(about: Task, run: Run) -> Sequence[Verdict]:
        return [await judge.verify(about, run)]

    heldout = [task(i, "heldout") for i in range(40)]
    arm = Arm(policy=Policy())
    async with Agent("react", Speaker(), memory=memory, verify=verify) as agent:
        with pytest.raises(RefusedError, match="whet judge report"):
            await Gate().decide(Arm(policy=Policy.of({"principles.md": "x"})), arm, heldout, evaluator(agent))
        with pytest.raises(RefusedError, match="whet judge report"):
            await measure(evaluator(agent), arm, heldout)


@pytest.mark.asyncio
async def test_the_loop_ends_with_the_refusal_and_the_held_out_set_unused(memory: Memory) -> None:
    tasks = [task(i, "train", spec()) for i in range(4)] + [task(i, "heldout", spec()) for i in range(40)]
    learner = Wishful()
    agent = Agent("react", Speaker(), memory=memory)
    with pytest.raises(RefusedError, match="the gate does not hear"):
        await improve(agent, TaskSet(name="t", version="1", tasks=tuple(tasks)), [learner], memory=memory)
    assert await StoredLedger(memory).uses([one for one in tasks if one.split == "heldout"]) == 0
    (job,) = await memory.find(Job, where={"kind": "improve"})
    assert (job.status, "whet judge report" in (job.error or "")) == ("cancelled", True)


@pytest.mark.asyncio
async def test_who_asks_less_of_judges_hears_a_weak_one(memory: Memory) -> None:
    await remember(memory, 120)
    await measure_judge(memory, load_verifier(spec("weak")))
    tasks = [task(i, split, spec("weak")) for split in ("train", "heldout") for i in range(900, 912)]
    lax = Gate(GateConfig(min_trust=0.5))
    agent = Agent("react", Speaker(), memory=memory)
    named = TaskSet(name="t", version="1", tasks=tuple(tasks))
    report = await improve(agent, named, [Wishful()], memory=memory, gate=lax, config=ImproveConfig(rounds=1, probe=0))
    assert [promotion.thresholds["min_trust"] for promotion in report.promotions] == [0.5]
    assert report.promotions[0].n > 0


class Away:
    """A model that cannot be reached at first."""

    name = "away"
    reached = False

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        if not self.reached:
            raise ModelError("'away' cannot be reached")
        return await fair().complete(messages, tools=tools, sampling=sampling)


@pytest.mark.asyncio
async def test_runs_that_a_judge_could_not_judge_are_left_for_the_next_time(memory: Memory) -> None:
    await remember(memory, 6)
    model = Away()
    judge = Checklist({"items": ["The answer is right."]}, model=model)
    assert {one.outcome for one in await measure_judge(memory, judge)} == {"infra_error"}
    model.reached = True
    assert len([one for one in await measure_judge(memory, judge) if one.judged]) == 6
    (report,) = await measured_judges(memory)
    assert report.judged == 6
    assert await measure_judge(memory, judge) == []
