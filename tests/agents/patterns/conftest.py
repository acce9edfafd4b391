"""What the tests of search share: settings, tasks of a world with public checks, a budget that is kept, sandboxes."""

from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import pytest_asyncio

from whet.agents.tasksets.world import world_task
from whet.core import Message, Policy, Task, VerifierSpec
from whet.core.models.tiny.world import World
from whet.sandboxes import SandboxPool

MakeTasks = Callable[[int], list[Task]]
MakePolicy = Callable[..., Policy]
MakeTask = Callable[..., Task]


@pytest.fixture
def settings() -> MakePolicy:
    """A policy of settings alone."""
    return lambda **knobs: Policy.of({"settings.toml": "".join(f"{name} = {value}\n" for name, value in knobs.items())})


@pytest.fixture
def public_tasks() -> MakeTasks:
    """Held-out tasks of a world of eight verbs: two of four cases are public, all four judge the answer."""

    def make(n: int) -> list[Task]:
        world = World(7, verbs=8)
        return [_public(world_task(task, world)) for task in world.tasks(n, lengths=(1,))]

    return make


def _public(task: Task) -> Task:
    (hidden,) = task.verifiers
    cases = hidden.params["cases"]
    assert isinstance(cases, list)
    shown = VerifierSpec(kind=hidden.kind, params={**hidden.params, "cases": cases[:2]}, public=True)
    return msgspec.structs.replace(task, verifiers=(shown, hidden), split="heldout")


@pytest.fixture
def coding_task() -> MakeTask:
    """A held-out task to write ``solve``, judged by ``hidden`` cases (pairs of literals), ``public`` ones heard."""

    def make(public: list[tuple[str, str]], hidden: list[tuple[str, str]], prompt: str = "Write solve(x).") -> Task:
        specs = [
            VerifierSpec(
                kind="python_tests",
                params={"form": "cases", "entry_point": "solve", "cases": [list(case) for case in cases]},
                public=cases is public,
            )
            for cases in (public, hidden)
            if cases
        ]
        message = Message(role="user", content=prompt)
        return Task(id="coding", messages=(message,), verifiers=tuple(specs), split="heldout")

    return make


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[SandboxPool]:
    async with SandboxPool(size=2) as opened:
        yield opened
