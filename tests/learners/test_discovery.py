"""Discovery offline: tasks from known helpers, tried with the agent, kept when they verify; nothing from noise."""

import random
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from whet.agents import Agent, run_tasks
from whet.agents.tasksets.world import judge_answer
from whet.core.budget import Budget
from whet.core.errors import BudgetError, UserError
from whet.core.models import Model
from whet.core.models.tiny.world import World, read_definitions
from whet.core.policy import Policy
from whet.core.records import Completion, Message, Run, Sampling, Task, ToolSpec, Verdict
from whet.learners.adoption import adopt, incumbent_arm, take_in
from whet.learners.cases import read_cases
from whet.learners.conformance import check_learner
from whet.learners.definitions import Case
from whet.learners.discovery import DiscoveryLearner
from whet.learners.evaluation import evaluator
from whet.learners.gate import Gate
from whet.learners.invention import invent, unused_pairs
from whet.learners.learner import Proposal
from whet.learners.programs import Helper, dissect
from whet.learners.repertoire import Repertoire
from whet.learners.view import TrainMemory
from whet.memory import Memory
from whet.sandboxes import SandboxPool
from whet.skills import Skill

Tasks = Callable[..., list[Task]]
SKILL = "world-7-discovered"


def judged_by(judge: Callable[[Task, str], Sequence[Verdict]]) -> Callable[[Task, Run], Sequence[Verdict]]:
    """Judges by the world's grammar, which takes no sandbox; an invented task has nothing to judge it by."""

    def verify(task: Task, run: Run) -> Sequence[Verdict]:
        found = judge(task, run.answer or "") if task.verifiers else ()
        return [msgspec.structs.replace(verdict, run_id=run.id, task_id=task.id) for verdict in found]

    return verify


TRUTH = judged_by(judge_answer)


async def record(memory: Memory, model: Model, tasks: Sequence[Task]) -> None:
    async with Agent("react", model, memory=memory, verify=TRUTH) as agent:
        await run_tasks(agent, tasks, progress=lambda result: None)


async def discover(agent: Agent, memory: Memory, train: Sequence[Task], learner: DiscoveryLearner) -> list[Proposal]:
    view = TrainMemory(memory, agent, train)
    return [p async for p in learner.propose(view, await incumbent_arm(memory), Budget(calls=1000))]


@pytest.fixture
def train(world_tasks: Tasks) -> list[Task]:
    """Singles and pairs: by chance alone, most answers fail, and still say what was expected."""
    return world_tasks(28, lengths=(1, 2))


@pytest.fixture
def heldout(world_tasks: Tasks) -> list[Task]:
    """Chains of three, so that the pairs are left to be invented."""
    return world_tasks(30, lengths=(3,), split="heldout")


@pytest.mark.asyncio
async def test_helpers_and_chains_that_verify_become_a_skill_and_the_gate_promotes_it(
    memory: Memory, pool: SandboxPool, reader: type, world: World, train: list[Task], heldout: list[Task]
) -> None:
    await record(memory, reader(), train)
    async with Agent("react", reader(), memory=memory, verify=TRUTH) as agent:
        (proposal,) = await discover(agent, memory, train, DiscoveryLearner(pool, tasks=8))
        before = await incumbent_arm(memory)
        decision = await Gate().decide(proposal.arm(before), before, heldout, evaluator(agent))
        assert decision.decision == "promoted", decision.reason
        skill = Skill.parse(proposal.policy.skill(SKILL), folder=SKILL)
        assert skill.advice() == []
        known = read_definitions(skill.body)
        assert len(known) >= 6
        assert all(world.meaning(verb) == meaning for verb, meaning in known.items())
        assert proposal.candidate.config["tried"] == proposal.candidate.usage.calls == len(known) + 8
        solved = Repertoire.of(proposal.policy.skill(SKILL))
        chains = solved.functions.keys() - set(world.verbs)
        assert len(chains) == 8
        chain = sorted(chains)[0]
        first, second = chain.split("_then_")
        assert f"{second}({first}(x))" in solved.functions[chain]
        assert f"{first}, then {second}" in solved.programs[chain]

        await adopt(memory, await take_in(memory, proposal), msgspec.structs.replace(decision, actor="gate"))
        (further,) = await discover(agent, memory, train, DiscoveryLearner(pool, tasks=4))
        assert further.candidate.config["tried"] == 4
        assert len(Repertoire.of(further.policy.skill(SKILL)).functions) == len(known) + 8 + 4


@pytest.mark.asyncio
async def test_from_shuffled_verdicts_nothing_is_promoted(
    memory: Memory, pool: SandboxPool, reader: type, world_tasks: Tasks, heldout: list[Task]
) -> None:
    rng, train = random.Random(0), world_tasks(30, lengths=(1, 2))
    noise = judged_by(lambda task, answer: judge_answer(rng.choice(train), answer))
    async with Agent("react", reader(), memory=memory, verify=noise) as agent:
        await TrainMemory(memory, agent, train).practise(train)
        assert len(await TrainMemory(memory).judged()) == len(train)
        proposals = await discover(agent, memory, train, DiscoveryLearner(pool))
    before = await incumbent_arm(memory)
    async with Agent("react", reader(), memory=memory, verify=TRUTH) as agent:
        for proposal in proposals:
            decision = await Gate().decide(proposal.arm(before), before, heldout, evaluator(agent))
            assert decision.decision != "promoted"


class Hasty:
    """Gets a chain right only after it was told what was wrong."""

    name = "hasty"

    def __init__(self, reads: Callable[[Sequence[Message]], Awaitable[Completion]], stubborn: str = "") -> None:
        self._reads, self._stubborn = reads, stubborn

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        asked = messages[-1].content
        wrong = self._stubborn in asked if self._stubborn else False
        if wrong or (", then " in asked and "Rejected." not in asked):
            return Completion(text="def solve(x): return 7")
        return await self._reads(messages)


@pytest.mark.asyncio
async def test_a_failed_attempt_is_refined_and_what_never_verifies_is_left_out(
    memory: Memory, pool: SandboxPool, reader: type, world: World, train: list[Task]
) -> None:
    await record(memory, reader(), train)
    async with Agent("react", Hasty(reader().complete), memory=memory) as agent:
        (once,) = await discover(agent, memory, train, DiscoveryLearner(pool, tasks=3, attempts=1))
        (twice,) = await discover(agent, memory, train, DiscoveryLearner(pool, tasks=3, attempts=2))
    alone = Repertoire.of(once.policy.skill(SKILL)).functions
    both = Repertoire.of(twice.policy.skill(SKILL)).functions
    assert len(alone) == 3
    assert len(both.keys() - set(world.verbs)) == 3
    verb = next(iter(alone))
    async with Agent("react", Hasty(reader().complete, stubborn=f" {verb}."), memory=memory) as agent:
        (third,) = await discover(agent, memory, train, DiscoveryLearner(pool, tasks=3, attempts=1))
    assert verb not in Repertoire.of(third.policy.skill(SKILL)).functions


@pytest.mark.asyncio
async def test_what_is_held_back_is_not_invented_and_trials_are_no_evidence(
    memory: Memory, pool: SandboxPool, reader: type, train: list[Task], world_tasks: Tasks
) -> None:
    await record(memory, reader(), train)
    judged = len(await TrainMemory(memory).judged())
    held_back = [
        msgspec.structs.replace(task, split="heldout", id=f"h/{task.id}") for task in world_tasks(8, lengths=(1,))
    ]
    async with Agent("react", reader(), memory=memory) as agent:
        view = TrainMemory(memory, agent, train, held_back=held_back)
        learner = DiscoveryLearner(pool, tasks=3)
        (proposal,) = [p async for p in learner.propose(view, await incumbent_arm(memory), Budget())]
        with pytest.raises(BudgetError):
            [p async for p in learner.propose(view, await incumbent_arm(memory), Budget(calls=2))]
    assert proposal.candidate.config["tried"] == 3
    assert all("_then_" in str(name) for name in proposal.candidate.config["solved"])
    assert len(await TrainMemory(memory).judged()) == judged


@pytest.mark.asyncio
async def test_it_keeps_the_contract_and_says_what_is_missing(
    memory: Memory, pool: SandboxPool, reader: type, train: list[Task]
) -> None:
    assert await discover(Agent("react", reader(), memory=memory), memory, train, DiscoveryLearner(pool)) == []
    await record(memory, reader(), train)
    async with Agent("react", reader(), memory=memory) as agent:
        assert await check_learner(DiscoveryLearner(pool, tasks=2), memory, TrainMemory(memory, agent, train))
    with pytest.raises(UserError, match="runs the agent"):
        [p async for p in DiscoveryLearner(pool).propose(TrainMemory(memory), await incumbent_arm(memory), Budget())]
    with pytest.raises(UserError, match="attempts=0"):
        DiscoveryLearner(attempts=0)


@pytest.mark.asyncio
async def test_pairs_are_put_together_as_in_a_task_that_was_seen(
    memory: Memory, pool: SandboxPool, reader: type, world_tasks: Tasks
) -> None:
    policy = Policy.of({"prompts/system.md": "\n".join(World(7, verbs=8).definitions(World(7, verbs=8).verbs))})
    await memory.policies.commit(policy, reason="all is known", actor="test")
    await record(memory, reader(), world_tasks(12, lengths=(2,)))
    cases = read_cases(await TrainMemory(memory).judged())
    known = {name: helper for case in cases for name, helper in case.parts.helpers.items()}
    used = [set(case.parts.helpers) for case in cases]
    pairs = unused_pairs(cases, known)
    assert pairs
    assert not any({*pair} <= names for pair in pairs for names in used)
    (first, *_) = await invent(cases, known, pool, limit=1)
    assert first.helpers == pairs[0]
    assert first.task.prompt == f"Write solve(x): {pairs[0][0]}, then {pairs[0][1]}."
    assert not first.task.verifiers
    assert await invent(cases, known, pool, tried={pairs[0]}, limit=1) != [first]
    rounded = {
        name: Helper(name=name, source=f"def {name}(x): return [math.floor(v / 2) for v in x]") for name in known
    }
    assert await invent(cases, rounded, pool, limit=1) == []
    (found, *_) = await invent(cases, rounded, pool, limit=1, imports=["import math"])
    assert found.checks
    broken = {name: Helper(name=name, source=f"def {name}(x): return 1 / 0") for name in known}
    assert await invent(cases, broken, pool) == []


def used_together(*helpers: str, passed: bool = True) -> Case:
    source = "\n".join(f"def {name}(x): return x" for name in helpers)
    calls = "".join(f"{name}(" for name in helpers) + "x" + ")" * len(helpers)
    parts = dissect(f"{source}\ndef solve(x): return {calls}", "solve")
    assert parts is not None
    return Case(task_id="t", prompt="p", parts=parts, checks=(), passed=passed, evidence=(), entry_point="solve")


def test_the_pairs_that_share_neighbours_come_first_and_failures_are_no_use() -> None:
    cases = [used_together("a", "c"), used_together("b", "c"), used_together("a", "d", passed=False)]
    assert unused_pairs(cases, "abcd") == [("a", "b"), ("a", "d"), ("b", "d"), ("c", "d")]


def test_a_function_that_is_written_anew_keeps_its_earlier_version() -> None:
    one = Repertoire().add(
        functions={
            "zorp": "def zorp(x): return x[::-1]",
            "zorp_then_zorp": "def zorp_then_zorp(x): return zorp(zorp(x))",
        },
        checks={
            "zorp": "def check_zorp():\n    assert zorp([1, 2]) == [2, 1]",
            "zorp_then_zorp": "def check_zorp_then_zorp(): ...",
        },
        programs={"zorp": "Write zorp."},
        imports=["import math"],
    )
    stored = one.skill("verbs")
    assert Repertoire.of(stored.render()) == one
    assert stored.advice() == []
    two = one.add(functions={"zorp": "def zorp(x): return x[1:]"}, checks={}, programs={})
    assert two.functions == {"zorp": "def zorp(x): return x[1:]"}
    assert two.checks.keys() == {"zorp"}
    three = Repertoire.of(two.skill("verbs").render()).add(
        functions={"zorp": "def zorp(x): return x"}, checks={}, programs={}
    )
    assert list(three.earlier) == ["zorp, version 1", "zorp, version 2"]
    assert "x[::-1]" in three.earlier["zorp, version 1"]
    assert "x[1:]" in three.earlier["zorp, version 2"]
    assert three.skill("verbs").advice() == []
    assert one.mastered({"zorp": Helper(name="zorp", source="def zorp(x): return x[::-1]")}) == {
        ("zorp",),
        ("zorp", "zorp"),
    }
    assert one.mastered({"zorp": Helper(name="zorp", source="def zorp(x): return x")}) == set()
