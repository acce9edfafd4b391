"""Tasks that can be solved as they stand, and tasks that cannot without a question: a world with gaps.

load_tasks("asking:7?n=48&verbs=8")

Every task defines its verbs, and in three of four one of the definitions is missing, is given twice as alternatives
(ambiguous), or is contradicted further down. The right one is in the blocker, which only a person knows.

Options, with their defaults: ``n`` tasks (48), chain ``lengths`` (2), ``verbs`` in the world (24), ``draw``: the seed
of the chains (0).
"""

import random
from collections.abc import Mapping

import msgspec

from whet.agents.tasksets.files import accept_options
from whet.agents.tasksets.world import read_lengths, read_number, world_task
from whet.core.ids import digest
from whet.core.models.tiny.world import OPERATIONS, World, WorldTask
from whet.core.records import Json, Message, Task, TaskSet, VerifierSpec
from whet.core.wire import encode

__all__ = ["load"]

_DEFAULTS = {"n": "48", "lengths": "2", "verbs": "24", "draw": "0"}
_KINDS = ("clear", "missing", "ambiguous", "contradictory")


def load(seed: str, options: Mapping[str, str]) -> TaskSet:
    """Returns tasks of the world of that seed; the kinds take turns.

    Raises:
        UserError: no whole number, an unknown option, or a world too small for so many tasks.
    """
    chosen = accept_options(options, _DEFAULTS, "asking")
    world = World(read_number("SEED", seed), verbs=read_number("verbs", chosen["verbs"]))
    found = world.tasks(
        read_number("n", chosen["n"]), lengths=read_lengths(chosen["lengths"]), seed=read_number("draw", chosen["draw"])
    )
    tasks = tuple(_with_gap(task, world, _KINDS[index % len(_KINDS)]) for index, task in enumerate(found))
    return TaskSet(name=f"asking-{seed}", version=digest(encode(tasks))[:12], tasks=tasks)


def _with_gap(task: WorldTask, world: World, kind: str) -> Task:
    """Returns the task with its definitions, one of them spoiled as the kind says."""
    whole, rng = world_task(task, world), random.Random(task.prompt)
    verb = rng.choice(task.verbs)
    right = world.definition(verb)
    wrong = f"def {verb}(x): return {rng.choice([other for other in OPERATIONS if other != world.meaning(verb)])}"
    either = sorted([right, wrong])
    spoiled = {
        "clear": [right],
        "missing": [],
        "ambiguous": [f"{either[0]}  # this one,\n{either[1]}  # or this one, as the customer has it"],
        "contradictory": [either[0]],
    }[kind]
    lines = [world.definition(other) for other in dict.fromkeys(task.verbs) if other != verb] + spoiled
    rng.shuffle(lines)
    if kind == "contradictory":
        lines.append(f"# As agreed before:\n{either[1]}")
    blockers: list[Json] = [] if kind == "clear" else [{"kind": kind, "about": [verb], "answer": right}]
    return msgspec.structs.replace(
        whole,
        id=whole.id.replace("world/", f"asking/{kind}/", 1),
        messages=(Message(role="user", content="\n".join([task.prompt, *lines])),),
        verifiers=(*whole.verifiers, VerifierSpec(kind="asking")),
        tags=(*whole.tags, kind),
        meta={**whole.meta, "blockers": blockers},
        task_set=f"asking-{world.seed}",
    )
