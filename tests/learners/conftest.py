"""Stand-ins for agents whose true scores are known, so that the gate's errors can be counted."""

import random
from collections.abc import Callable

import pytest

from whet.core.policy import Policy
from whet.core.records import Message, Task, Usage
from whet.learners.gate import Arm, Evaluate, Score

Chance = Callable[[str, str], float]


@pytest.fixture
def heldout() -> Callable[[int], list[Task]]:
    def make(n: int) -> list[Task]:
        return [Task(id=f"t{i}", messages=(Message(role="user", content=f"{i}"),), split="heldout") for i in range(n)]

    return make


@pytest.fixture
def arm() -> Callable[[str], Arm]:
    """An arm whose policy says only its name."""
    return lambda name: Arm(policy=Policy.of({"prompts/system.md": name}))


@pytest.fixture
def coin() -> Callable[..., Evaluate]:
    """An agent that solves a task with a probability that depends on the arm's name and the task; a seed repeats it."""

    def make(chance: Chance, tokens: Callable[[str], int] = lambda name: 100, nonce: int = 0) -> Evaluate:
        async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
            name = arm.policy.text("prompts/system.md")
            solved = random.Random(f"{nonce}:{name}:{task.id}:{seed}").random() < chance(name, task.id)
            return Score(
                value=float(solved), usage=Usage(output_tokens=tokens(name), calls=1), run_id=f"{name}-{task.id}"
            )

        return evaluate

    return make
