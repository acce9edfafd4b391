"""The learner of weights on a real memory: an agent's own runs become an adapter, and the gate decides on it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent, run_tasks
from whet.core.adapters import describe
from whet.core.budget import Budget
from whet.core.errors import ConflictError, NotFoundError, RefusedError, UserError
from whet.core.models import Limited, Model, ScriptedModel, load_model
from whet.core.models.wrappers import need_adaptable
from whet.core.policy import Policy
from whet.core.records import (
    Candidate,
    Completion,
    Message,
    ModelCall,
    Run,
    Sampling,
    Step,
    Task,
    TaskSet,
    ToolSpec,
    Verdict,
)
from whet.feedback import verify_all
from whet.learners import Gate, GateConfig, ImproveConfig, TrainMemory, decide, improve, incumbent_arm, load_learner
from whet.learners import take_in as store
from whet.learners.evaluation import evaluator, measure
from whet.learners.learner import Proposal
from whet.learners.weights.learner import WeightLearner, sweep
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Tasks = Callable[..., list[Task]]
TRAINING = {"steps": 80, "lr": 2e-3, "threads": 1}
ONCE = ImproveConfig(rounds=1, repeats=4, probe=6, concurrency=4)
GATE = Gate(GateConfig(concurrency=4, max_token_ratio=None))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load_model("tiny")


@pytest.fixture
def task_set(world_tasks: Tasks) -> TaskSet:
    """Sixteen training tasks, half of them single verbs, and chains that are held out."""
    found = world_tasks(48, lengths=(1, 2))
    ones = [task for task in found if "length-1" in task.tags]
    twos = [task for task in found if "length-2" in task.tags]
    held = [msgspec.structs.replace(task, split="heldout") for task in twos[8:]]
    return TaskSet(name="world-7", version="1", tasks=(*ones, *twos[:8], *held))


async def settle(memory: Memory, rounds: int = 3) -> None:
    text = f"temperature = 1.0\nrounds = {rounds}\nmax_tokens = 60\n"
    await memory.policies.commit(Policy.of({"settings.toml": text}), reason="settings of a test", actor="test")


async def practised(memory: Memory, agent: Agent, tasks: TaskSet, seeds: int = 4) -> None:
    train = [task for task in tasks.tasks if task.split == "train"]
    await run_tasks(agent, train, seeds=range(seeds), concurrency=4, progress=lambda result: None)


async def proposed(learner: WeightLearner, view: TrainMemory, memory: Memory) -> Proposal:
    (proposal,) = [each async for each in learner.propose(view, await incumbent_arm(memory), Budget(calls=5000))]
    return proposal


@pytest.mark.asyncio
async def test_an_adapter_from_the_agents_own_runs_is_promoted_and_taken_back(
    memory: Memory, pool: SandboxPool, task_set: TaskSet, tiny: Model
) -> None:
    await settle(memory)
    learner = WeightLearner("rft", training=TRAINING, sandboxes=pool)
    async with Agent("refine", tiny, memory=memory, sandbox=pool) as agent:
        before = await incumbent_arm(memory)
        report = await improve(agent, task_set, [learner], memory=memory, gate=GATE, config=ONCE)
        after = await incumbent_arm(memory)
        heldout = [task for task in task_set.tasks if task.split == "heldout"]
        scores = [await measure(evaluator(agent), arm, heldout, seed=9) for arm in (before, after)]
    (promotion,) = report.promotions
    assert promotion.decision == "promoted"
    assert scores[1].low > scores[0].high, scores
    candidate = await memory.get(Candidate, promotion.candidate_id or "")
    adapter = after.policy.text("adapter")
    info = describe(await memory.get_blob(adapter))
    assert (info.card.method, info.card.base) == ("rft", "tiny")
    assert set(info.card.sources) == set(candidate.evidence)
    runs = {run.id for run in await memory.find(Run, where={"purpose": "train"})}
    assert runs & set(candidate.evidence)
    assert not {run.id for run in await memory.find(Run, where={"purpose": "gate"})} & set(candidate.evidence)
    assert list((memory.store.folder or Path()).glob("training/*")) == [], "no copy of the data is left behind"
    ((blamed, line),) = await memory.policies.blame("adapter")
    assert (blamed and blamed.id, line) == (promotion.id, adapter)
    gate_run = next(run for run in await memory.find(Run, where={"purpose": "gate"}) if run.policy == candidate.policy)
    calls = [s.body for s in await memory.find(Step, where={"run_id": gate_run.id}) if isinstance(s.body, ModelCall)]
    assert calls[0].completion is not None
    assert calls[0].completion.model == f"tiny+{adapter[:12]}"
    await memory.policies.rollback("head~1", reason="a test", actor="test")
    assert (await memory.policies.head()).text("adapter") == ""


@pytest.mark.asyncio
async def test_from_shuffled_verdicts_no_adapter_is_promoted(
    memory: Memory, pool: SandboxPool, task_set: TaskSet, tiny: Model
) -> None:
    """On training tasks the verdicts are those of other tasks; on held-out tasks they are true."""
    await settle(memory)
    train = [task for task in task_set.tasks if task.split == "train"]
    other = {task.id: train[(i + 5) % len(train)] for i, task in enumerate(train)}

    async def verify(task: Task, run: Run) -> list[Verdict]:
        found = await verify_all(other.get(task.id, task), run, pool)
        return [msgspec.structs.replace(verdict, task_id=task.id) for verdict in found]

    learner = WeightLearner("rft", training=TRAINING, sandboxes=pool)
    config = msgspec.structs.replace(ONCE, probe=0)
    async with Agent("refine", tiny, memory=memory, sandbox=pool, verify=verify) as agent:
        report = await improve(agent, task_set, [learner], memory=memory, gate=GATE, config=config)
    assert [promotion.decision for promotion in report.promotions] != ["promoted"]
    assert (await memory.policies.head()).text("adapter") == ""


@pytest.mark.asyncio
async def test_a_method_that_practises_runs_the_agent_under_each_version(
    memory: Memory, pool: SandboxPool, task_set: TaskSet, tiny: Model
) -> None:
    await settle(memory, rounds=0)
    heard: list[float] = []
    learner = WeightLearner(
        "grpo",
        training={"threads": 1, "lr": 1e-3},
        rollouts={"rounds": 2, "tasks": 6, "samples": 4},
        sandboxes=pool,
        on_round=lambda report: heard.append(report.mismatch or 0.0),
    )
    train = [task for task in task_set.tasks if task.split == "train"]
    async with Agent("refine", tiny, memory=memory, sandbox=pool) as agent:
        proposal = await proposed(learner, TrainMemory(memory, agent, train), memory)
    runs = await memory.find(Run, where={"purpose": "train"})
    rounds = [{run.task_id for run in runs if any(f"/{n}" in tag for tag in run.tags)} for n in (0, 1)]
    tags = {tag.partition(":")[0] for run in runs for tag in run.tags}
    assert tags == {"round", "probe"}
    practised = {run.task_id for run in runs if run.tags[0].startswith("round")}
    probed = {run.task_id for run in runs if run.tags[0].startswith("probe")}
    assert len(probed) == len(train) // 5
    assert not practised & probed, "what is measured is never practised"
    assert all(rounds)
    policies = [run.policy for run in sorted(runs, key=lambda run: run.started_at) if run.tags[0].startswith("round")]
    assert policies[0] != policies[-1], "the second round ran under what the first one taught"
    versions = await memory.find(Candidate)
    assert {version.learner for version in versions} == {"grpo"}
    assert proposal.policy.text("adapter")
    assert proposal.policy.settings()["temperature"] == 1.0
    assert len(heard) == 2
    assert max(heard) < 0.02, "the embedded model and the trainer agree on what was sampled"


@pytest.mark.asyncio
async def test_training_goes_on_from_the_adapter_in_force_or_begins_anew(
    memory: Memory, pool: SandboxPool, task_set: TaskSet, tiny: Model
) -> None:
    await settle(memory)
    train = [task for task in task_set.tasks if task.split == "train"]
    async with Agent("refine", tiny, memory=memory, sandbox=pool) as agent:
        await practised(memory, agent, task_set, seeds=2)
        view = TrainMemory(memory, agent, train)
        settings = {"steps": 2, "threads": 1, "rank": 4}
        first = await proposed(WeightLearner("rft", training=settings, sandboxes=pool), view, memory)
        await memory.policies.commit((await store(memory, first)).policy, reason="by hand", actor="test")
        more = {**settings, "rank": 8}
        second = await proposed(WeightLearner("rft", training=more, sandboxes=pool), view, memory)
        anew = await proposed(WeightLearner("rft", training=more, sandboxes=pool, fresh=True), view, memory)
    infos = [describe(await memory.get_blob(each.policy.text("adapter"))) for each in (first, second, anew)]
    assert [info.rank for info in infos] == [4, 4, 8]
    assert [info.card.parent for info in infos] == ["", infos[0].digest, ""]


@pytest.mark.asyncio
async def test_the_trainer_may_live_in_another_environment_and_can_be_called_off(
    memory: Memory, pool: SandboxPool, task_set: TaskSet, tiny: Model
) -> None:
    await settle(memory)
    train = [task for task in task_set.tasks if task.split == "train"]
    async with Agent("refine", tiny, memory=memory, sandbox=pool) as agent:
        await practised(memory, agent, task_set, seeds=2)
        view = TrainMemory(memory, agent, train)
        here = await proposed(WeightLearner("rft", training={"steps": 3}, sandboxes=pool), view, memory)
        there = await proposed(
            WeightLearner("rft", training={"steps": 3}, sandboxes=pool, python=sys.executable), view, memory
        )
        assert describe(await memory.get_blob(there.policy.text("adapter"))).card.steps == 3
        assert here.candidate.evidence == there.candidate.evidence
        with pytest.raises(UserError, match="cannot be started"):
            await proposed(WeightLearner("rft", sandboxes=pool, python="/no/python"), view, memory)
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        endless = WeightLearner(
            "rft",
            training={"steps": 100_000},
            sandboxes=pool,
            on_step=lambda report: loop.call_soon_threadsafe(begun.set),  # type: ignore[arg-type]
        )
        work = asyncio.create_task(proposed(endless, view, memory))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert list((memory.store.folder or Path()).glob("training/*")) == []


@pytest.mark.asyncio
async def test_a_candidate_that_waits_is_decided_on_later(
    memory: Memory, pool: SandboxPool, task_set: TaskSet, tiny: Model
) -> None:
    await settle(memory)
    train = [task for task in task_set.tasks if task.split == "train"]
    async with Agent("refine", tiny, memory=memory, sandbox=pool) as agent:
        await practised(memory, agent, task_set, seeds=4)
        view = TrainMemory(memory, agent, train)
        proposal = await store(memory, await proposed(WeightLearner("rft", training=TRAINING), view, memory))
    agent = Agent("refine", tiny, memory=memory, sandbox=pool)
    candidate = proposal.candidate
    with pytest.raises(NotFoundError):
        await decide(memory, agent, "ffff", task_set)
    stranger = msgspec.structs.replace(candidate, id="0" * 32, trust="tainted")
    await memory.put(stranger)
    with pytest.raises(RefusedError, match="--tainted"):
        await decide(memory, agent, stranger.id, task_set)
    promotion = await decide(memory, agent, candidate.id[:20], task_set, gate=GATE)
    assert promotion.decision == "promoted"
    assert (await memory.policies.head()).text("adapter") == proposal.policy.text("adapter")
    with pytest.raises(ConflictError, match="propose again"):
        await decide(memory, agent, candidate.id, task_set, gate=GATE)


@pytest.mark.asyncio
async def test_what_cannot_be_trained_is_refused_with_the_way_out(memory: Memory, pool: SandboxPool) -> None:
    arm, view = await incumbent_arm(memory), TrainMemory(memory)
    with pytest.raises(UserError, match="which model to train"):
        await proposed(WeightLearner("rft"), view, memory)
    with pytest.raises(UserError, match="takes no adapters"):
        await proposed(WeightLearner("rft", model=ScriptedModel([], name="s")), view, memory)
    with pytest.raises(UserError, match="scorer, not a policy"):
        await proposed(WeightLearner("verifier", model="tiny"), view, memory)
    with pytest.raises(UserError, match=r"no train\.foo; there are train\.rank"):
        WeightLearner("rft", training={"foo": 1})
    with pytest.raises(UserError, match=r"train: .*rank"):
        WeightLearner("rft", training={"rank": "many"})
    with pytest.raises(UserError, match="does not practise"):
        WeightLearner("rft", rollouts={"rounds": 2})
    with pytest.raises(UserError, match="takes no nonsense"):
        load_learner("rft", nonsense=1)
    with pytest.raises(UserError, match="no run on a training task"):
        async for _ in WeightLearner("rft", model="tiny", sandboxes=pool).propose(view, arm, Budget()):
            pass


class Shift:
    """The embedded model behind a server that may sleep, and must not be asked meanwhile."""

    def __init__(self, model: Model) -> None:
        self.model, self.told, self.asleep = model, list[str](), False

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def base(self) -> str:
        return need_adaptable(self.model).base

    async def adapted(self, adapter: Path) -> Model:
        assert not self.asleep
        return await need_adaptable(self.model).adapted(adapter)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        assert not self.asleep
        return await self.model.complete(messages, tools=tools, sampling=sampling)

    async def sleep(self) -> None:
        self.told.append("sleep")
        self.asleep = True

    async def wake(self) -> None:
        self.told.append("wake")
        self.asleep = False


@pytest.mark.asyncio
async def test_server_and_trainer_share_a_gpu_by_turns(
    memory: Memory, pool: SandboxPool, task_set: TaskSet, tiny: Model
) -> None:
    await settle(memory, rounds=0)
    server = Shift(tiny)
    rollouts = {"rounds": 2, "tasks": 4, "samples": 3}
    train = [task for task in task_set.tasks if task.split == "train"]

    async def propose(model: Model) -> None:
        learner = WeightLearner("grpo", training={"threads": 1}, rollouts=rollouts, sandboxes=pool, by_turns=True)
        async with Agent("refine", model, memory=memory, sandbox=pool) as agent:
            view = TrainMemory(memory, agent, train)
            async for _ in learner.propose(view, await incumbent_arm(memory), Budget(calls=500)):
                pass

    await propose(Limited(server, 4))
    assert server.told == ["sleep", "wake"] * 2
    with pytest.raises(UserError, match="needs a server that can sleep"):
        await propose(tiny)
    with pytest.raises(UserError, match="staleness=0"):
        WeightLearner("grpo", rollouts={"staleness": 1}, by_turns=True)


def test_what_a_killed_training_left_is_swept_and_what_is_under_way_is_not(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    (tmp_path / f"whet-{killed.pid}-a").mkdir()
    (tmp_path / f"whet-{killed.pid}-a" / "data.jsonl").write_text("somebody's data")
    (tmp_path / f"whet-{os.getpid()}-b").mkdir()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"whet-{os.getpid()}-b"]
