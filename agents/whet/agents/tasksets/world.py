"""Tasks of a generated world: made-up verbs to chain, judged on hidden inputs in a sandbox.

load_tasks("world:7?n=200&lengths=1-3&verbs=12")

Options, with their defaults: ``n`` tasks (200), chain ``lengths`` as a range or a list like ``1,3`` (1-3), ``verbs`` in
the world (48), ``kind`` of input: list, string or mixed (list), ``examples`` in the prompt (0), hidden ``checks`` per
task (4), ``draw``: the seed of the chains (0).
"""

import ast
import re
from collections.abc import Mapping
from typing import Literal, get_args

from whet.agents.tasksets.files import accept_options
from whet.agents.tasksets.splits import split_of
from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.models.tiny.world import World, WorldTask, judge
from whet.core.records import Check, Json, Message, Task, TaskSet, Verdict, VerifierSpec
from whet.core.wire import encode

__all__ = ["judge_answer", "load", "read_lengths", "read_number", "world_task"]

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
    world = World(read_number("SEED", seed), verbs=read_number("verbs", chosen["verbs"]))
    found = world.tasks(
        read_number("n", chosen["n"]),
        lengths=read_lengths(chosen["lengths"]),
        seed=read_number("draw", chosen["draw"]),
        kind=_kind(chosen["kind"]),
        examples=read_number("examples", chosen["examples"]),
        checks=read_number("checks", chosen["checks"]),
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


def read_number(name: str, text: str) -> int:
    """Returns the whole number that an option is; raises UserError where it is none."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"world: {name}={text!r} is no whole number")
    return int(text)


def read_lengths(text: str) -> tuple[int, ...]:
    """Returns the chain lengths that an option lists; raises UserError where it lists none."""
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


def judge_answer(task: Task, answer: str) -> tuple[Verdict, ...]:
    """Returns the verdict on an answer to a world's task by the world's grammar, without executing anything.

    It agrees with the task's own verifier on answers in the world's form and fails any other, so it serves where many
    answers are judged that nobody will use: practice, benchmarks.

    Raises:
        UserError: the task is not one of a world.
    """
    cases = task.verifiers[0].params.get("cases") if task.verifiers else None
    if not isinstance(cases, list) or "world" not in task.meta:
        raise UserError(f"task {task.id!r} is none of a world; judge it with its own verifiers")
    checks = [(ast.literal_eval(str(value)), ast.literal_eval(str(expected))) for value, expected in _pairs(cases)]
    failed = {failure.call: failure for failure in judge(answer, checks)}
    found = []
    for number, (value, expected) in enumerate(checks):
        call = f"solve({value!r})"
        got = failed[call].got if call in failed else repr(expected)
        found.append(
            Check(name=f"case {number}", passed=call not in failed, call=call, expected=repr(expected), got=got)
        )
    score = sum(check.passed for check in found) / len(found)
    outcome: Literal["pass", "fail"] = "fail" if failed else "pass"
    return (Verdict(run_id="", task_id=task.id, verifier="world", outcome=outcome, score=score, checks=tuple(found)),)


def _pairs(cases: list[Json]) -> list[tuple[Json, Json]]:
    return [(case[0], case[1]) for case in cases if isinstance(case, list) and len(case) == 2]
