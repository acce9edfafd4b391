"""Tasks of a generated world: made-up verbs to chain, judged on hidden inputs in a sandbox.

load_tasks("world:7?n=200&lengths=1-3&verbs=12")

Options, with their defaults: ``n`` tasks (200), chain ``lengths`` as a range or a list like ``1,3`` (1-3), ``verbs`` in
the world (48), ``kind`` of input: list, string or mixed (list), ``examples`` in the prompt (0), hidden ``checks`` per
task (4), ``draw``: the seed of the chains (0).
"""

import re
from collections.abc import Mapping
from typing import Literal, get_args

from whet.agents.tasksets.files import accept_options
from whet.agents.tasksets.splits import split_of
from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.models.tiny.world import World, WorldTask
from whet.core.records import Json, Message, Task, TaskSet, VerifierSpec
from whet.core.wire import encode

__all__ = ["load", "world_task"]

_DEFAULTS = {
    "n": "200",
    "lengths": "1-3",
    "verbs": "48",
    "kind": "list",
    "examples": "0",
    "checks": "4",
    "draw": "0",
}
_Kind = Literal["list", "string", "mixed"]
_SECONDS = 5.0


def load(seed: str, options: Mapping[str, str]) -> TaskSet:
    """Returns tasks of the world of that seed.

    Raises:
        UserError: no whole number, an unknown option, or a world too small for so many tasks.
    """
    chosen = accept_options(options, _DEFAULTS, "world")
    world = World(_number("SEED", seed), verbs=_number("verbs", chosen["verbs"]))
    found = world.tasks(
        _number("n", chosen["n"]),
        lengths=_lengths(chosen["lengths"]),
        seed=_number("draw", chosen["draw"]),
        kind=_kind(chosen["kind"]),
        examples=_number("examples", chosen["examples"]),
        checks=_number("checks", chosen["checks"]),
    )
    tasks = tuple(world_task(task, world) for task in found)
    return TaskSet(name=f"world-{seed}", version=digest(encode(tasks))[:12], tasks=tasks)


def world_task(task: WorldTask, world: World) -> Task:
    """Returns a world's task as a record, judged by running the answer's ``solve`` on the hidden inputs."""
    cases: list[Json] = [[repr(value), repr(expected)] for value, expected in task.checks]
    params: dict[str, Json] = {"form": "cases", "entry_point": "solve", "cases": cases, "seconds": _SECONDS}
    task_id = f"world/{world.seed}/{digest(encode([task.prompt, task.reference, cases]))[:12]}"
    return Task(
        id=task_id,
        messages=(Message(role="user", content=task.prompt),),
        verifiers=(VerifierSpec(kind="python_tests", params=params),),
        tags=(f"length-{len(task.verbs)}",),
        split=split_of(task_id),
        reference=task.reference,
        meta={"verbs": list(task.verbs), "world": world.seed},
        task_set=f"world-{world.seed}",
    )


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"world: {name}={text!r} is no whole number")
    return int(text)


def _lengths(text: str) -> tuple[int, ...]:
    if match := re.fullmatch(r"([1-6])-([1-6])", text):
        low, high = int(match[1]), int(match[2])
        lengths = tuple(range(low, high + 1))
    else:
        lengths = tuple(int(part) for part in text.split(",")) if re.fullmatch(r"[1-6](,[1-6])*", text) else ()
    if not lengths:
        raise UserError(f"world: lengths={text!r} is neither a range like 1-3 nor a list like 1,3 of lengths 1 to 6")
    return lengths


def _kind(text: str) -> _Kind:
    for kind in get_args(_Kind):
        if text == kind:
            return kind  # type: ignore[no-any-return]
    raise UserError(f"world: kind={text!r} is none of {', '.join(get_args(_Kind))}")
