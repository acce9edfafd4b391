"""A bench for learners of prompts: a small world, an agent that reads its prompt, the real gate, and a control."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from whet.agents import Agent
from whet.agents.tasksets.world import judge_answer
from whet.core.budget import Budget
from whet.core.models import Model
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.core.records import Promotion, Run, Task, Verdict
from whet.learners.adoption import incumbent_arm
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.gate import Gate, GateConfig
from whet.learners.learner import Learner, Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory


@pytest.fixture
def world() -> World:
    """Few verbs, so that a prompt can hold all of them."""
    return World(7, verbs=6)


class Bench:
    """Lets a learner propose from practice, judged truly or by the checks of other tasks, and the gate decide."""

    def __init__(
        self, memory: Memory, world: World, train: Sequence[Task], heldout: Sequence[Task], model: Model
    ) -> None:
        self.memory, self.world, self.train, self.heldout, self.model = memory, world, train, heldout, model

    def agent(self, *, shuffled: bool = False, graph: Any = "react") -> Agent:
        wrong = dict(zip([t.id for t in self.train], [*self.train[1:], *self.train[:1]], strict=True))

        async def verify(task: Task, run: Run) -> Sequence[Verdict]:
            judged = wrong.get(task.id, task) if shuffled else task
            found = judge_answer(judged, run.answer or "")
            return [msgspec.structs.replace(verdict, task_id=task.id, run_id=run.id) for verdict in found]

        return Agent(graph, self.model, memory=self.memory, verify=verify)

    async def proposals(self, learner: Learner, *, shuffled: bool = False, graph: Any = "react") -> list[Proposal]:
        async with self.agent(shuffled=shuffled, graph=graph) as agent:
            view = TrainMemory(self.memory, agent, self.train, held_back=self.heldout)
            incumbent = await incumbent_arm(self.memory)
            return [each async for each in learner.propose(view, incumbent, Budget(calls=5000))]

    async def check(self, learner: Learner) -> list[Proposal]:
        async with self.agent() as agent:
            return await check_learner(learner, self.memory, TrainMemory(self.memory, agent, self.train))

    async def in_force(self, files: Mapping[str, str]) -> None:
        policy, head = Policy.of(files), await self.memory.policies.head()
        await self.memory.policies.put(policy)
        await self.memory.policies.promote(
            Promotion(decision="committed", policy=policy.digest, incumbent=head.digest, actor="test")
        )

    async def decide(self, proposal: Proposal, *, graph: Any = "react", token_ratio: float = 4.0) -> Promotion:
        async with self.agent(graph=graph) as agent:
            incumbent = await incumbent_arm(self.memory)
            gate = Gate(GateConfig(max_token_ratio=token_ratio))
            return await gate.decide(proposal.arm(incumbent), incumbent, self.heldout, evaluator(agent))


@pytest_asyncio.fixture
async def bench(
    memory: Memory, world: World, world_tasks: Callable[..., list[Task]], reader: Callable[[], Model]
) -> AsyncIterator[Bench]:
    found = world_tasks(60, lengths=(1, 2, 3))
    train = found[:30]
    heldout = [msgspec.structs.replace(task, split="heldout") for task in found[30:]]
    yield Bench(memory, world, train, heldout, reader())
