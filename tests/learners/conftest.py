"""Stand-ins for agents whose true scores are known, a memory, sandboxes, and a small world of tasks."""

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from whet.agents import Agent, run_tasks
from whet.agents.tasksets.world import world_task
from whet.core.models import Model
from whet.core.models.tiny.world import OPERATIONS, World, program, read_definitions
from whet.core.policy import Policy
from whet.core.records import Completion, Message, Sampling, Task, ToolSpec, Usage
from whet.learners.gate import Arm, Evaluate, Score
from whet.memory import Memory
from whet.sandboxes import SandboxPool

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


@pytest_asyncio.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    async with await Memory.open(tmp_path / "store") as memory:
        yield memory


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[SandboxPool]:
    async with SandboxPool(size=2) as pool:
        yield pool


@pytest.fixture
def world() -> World:
    return World(7, verbs=8)


@pytest.fixture
def world_tasks(world: World) -> Callable[..., list[Task]]:
    """Tasks of the world, all of one split, of the chain lengths given."""

    def make(n: int, *, lengths: tuple[int, ...] = (1, 2), split: str = "train", draw: int = 0) -> list[Task]:
        found = world.tasks(n, lengths=lengths, seed=draw)
        return [msgspec.structs.replace(world_task(task, world), split=split) for task in found]

    return make


_CHAIN = re.compile(r"Write solve\(x\): (.+?)\.")


class Reader:
    """Does what a large model would: reads definitions in its context, and guesses what it does not know."""

    name = "reader"

    def __init__(self, reads: bool = True) -> None:
        self.reads = reads
        self.calls = 0

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        self.calls += 1
        system = "\n".join(message.content for message in messages if message.role == "system")
        task = next(message.content for message in messages if message.role == "user")
        found = _CHAIN.search(task)
        chain = found[1].split(", then ") if found else []
        rng = random.Random(f"{sampling.seed}/{task}")
        known = read_definitions(system) if self.reads else {}
        meanings = {verb: known.get(verb) or rng.choice(sorted(OPERATIONS)) for verb in chain}
        text = program(chain, meanings)
        usage = Usage(input_tokens=len(system) // 4 + 20, output_tokens=len(text) // 4, calls=1)
        return Completion(text=text, usage=usage, model=self.name)


@pytest.fixture
def reader() -> type[Reader]:
    """The model class: ``reads=False`` turns the use of its context off."""
    return Reader


Live = Callable[[Memory, Sequence[Task]], Awaitable[None]]


@pytest.fixture
def live(pool: SandboxPool, reader: Callable[[], Model]) -> Live:
    """Runs the reading model on tasks, so that the memory holds real runs and verdicts."""

    async def run(memory: Memory, tasks: Sequence[Task]) -> None:
        async with Agent("react", reader(), memory=memory, sandbox=pool) as agent:
            await run_tasks(agent, tasks, progress=lambda result: None)

    return run
