"""Learning a prompt on the embedded model: real weights, real sandboxes, a world it has never seen."""

from collections.abc import Callable

import msgspec
import pytest

from whet.agents import Agent
from whet.core.models import load_model
from whet.core.policy import Policy
from whet.core.records import Task, TaskSet
from whet.learners.improve import ImproveConfig, improve
from whet.learners.prompts.methods.textgrad import TextGrad
from whet.learners.prompts.testing import Colleague
from whet.memory import Memory
from whet.sandboxes import SandboxPool

pytestmark = pytest.mark.slow


@pytest.mark.asyncio
async def test_a_prompt_that_improve_learns_makes_the_embedded_model_better(
    memory: Memory, pool: SandboxPool, world_tasks: Callable[..., list[Task]]
) -> None:
    found = world_tasks(60, lengths=(1, 2, 3))
    heldout = [msgspec.structs.replace(task, split="heldout") for task in found[24:]]
    tasks = TaskSet(name="world-7", version="1", tasks=(*found[:24], *heldout))
    policy = Policy.of({"settings.toml": "temperature = 0.0\nmax_tokens = 60\n"})
    await memory.policies.commit(policy, reason="settings of a test", actor="test")
    async with Agent("react", load_model("tiny"), memory=memory, sandbox=pool) as agent:
        report = await improve(
            agent,
            tasks,
            [TextGrad(model=Colleague(), runs=200, validation=8, steps=14)],
            memory=memory,
            config=ImproveConfig(rounds=1, tasks_per_round=6),
        )
    assert [promotion.decision for promotion in report.promotions] == ["promoted"], report.stopped
    assert "def " in (await memory.policies.head()).text("prompts/system.md")
