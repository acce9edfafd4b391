"""Worlds whose words change their meaning, models that do what a large one would with lessons, and quick runs."""

import random
import re
from ast import literal_eval
from collections.abc import Callable, Sequence

import msgspec
import pytest

from whet.agents import Agent
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core.models.tiny.world import OPERATIONS, World, program, read_definitions
from whet.core.policy import Policy
from whet.core.records import Completion, Message, Run, Sampling, Task, ToolSpec, Usage, Verdict
from whet.memory import Memory

_CHAIN = re.compile(r"Write solve\(x\): (.+?)\.")
_FAILED = re.compile(r"solve\((.+?)\) (?:returned|raised) .*, expected (.+)\.$")


class Drifted(World):
    """A world in which every verb means what another one meant."""

    def __init__(self, world: World) -> None:
        super().__init__(world.seed, verbs=len(world.verbs), split=world.split)
        meanings = [*self._meanings.values()]
        self._meanings = dict(zip(self._meanings, meanings[3:] + meanings[:3], strict=True))


class Inferrer:
    """Reads definitions and failing checks in its context, and infers from the checks what a verb means."""

    name = "inferrer"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        system = "\n".join(message.content for message in messages if message.role == "system")
        chain = _CHAIN.search(next(message.content for message in messages if message.role == "user"))
        verbs = chain[1].split(", then ") if chain else []
        known = {**read_definitions(system), **inferred(system)}
        rng = random.Random(f"{sampling.seed}/{verbs}")
        text = program(verbs, {verb: known.get(verb) or rng.choice(sorted(OPERATIONS)) for verb in verbs})
        return Completion(text=text, usage=Usage(output_tokens=20, calls=1))


def inferred(system: str) -> dict[str, str]:
    """What single verbs mean by the failing checks below their tasks; of several tasks the last counts."""
    seen: dict[str, list[tuple[str, str]]] = {}
    verb = ""
    for line in system.splitlines():
        if task := _CHAIN.match(line):
            verb = "" if ", then " in task[1] else task[1]
            seen[verb] = []
        elif (check := _FAILED.match(line)) and verb:
            seen[verb].append((check[1], check[2]))
    fits = {
        verb: [name for name, operation in OPERATIONS.items() if checks and all(_fits(operation, *c) for c in checks)]
        for verb, checks in seen.items()
    }
    return {verb: found[0] for verb, found in fits.items() if found}


def _fits(operation: Callable[..., object], value: str, expected: str) -> bool:
    try:
        return repr(operation(literal_eval(value))) == expected
    except TypeError:
        return False


def judge(task: Task, run: Run) -> tuple[Verdict, ...]:
    return tuple(msgspec.structs.replace(each, run_id=run.id) for each in judge_answer(task, run.answer or ""))


@pytest.fixture
def drifted() -> Callable[[World], World]:
    return Drifted


@pytest.fixture
def quick() -> Callable[..., Agent]:
    """An agent whose answers are judged by the world's grammar, which takes no sandbox."""

    def make(memory: Memory, model: object | None = None) -> Agent:
        policy = Policy.of({"settings.toml": "withhold_rate = 0.0"})
        return Agent("react", model or Inferrer(), memory=memory, verify=judge, policy=policy)  # type: ignore[arg-type]

    return make


@pytest.fixture
def single() -> Callable[[World], list[Task]]:
    """A training task for each verb of a world."""

    def make(world: World) -> list[Task]:
        found = [world_task(world.task([verb], seed=i), world) for i, verb in enumerate(world.verbs)]
        return [msgspec.structs.replace(task, split="train") for task in found]

    return make


@pytest.fixture
def inferrer() -> Inferrer:
    return Inferrer()


@pytest.fixture
def infer() -> Callable[[str], dict[str, str]]:
    """What single verbs mean by the failing checks below their tasks."""
    return inferred
