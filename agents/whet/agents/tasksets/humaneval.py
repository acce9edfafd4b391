"""HumanEval (Chen et al. 2021): complete a function from signature and docstring; tests are ``check(candidate)``."""

from collections.abc import Mapping

from whet.agents.tasksets.files import accept_options, read_bytes, rows_of
from whet.agents.tasksets.splits import split_of
from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.records import Json, Message, Record, Task, TaskSet, VerifierSpec

__all__ = ["completion_message", "load"]


class _Row(Record, frozen=True, kw_only=True):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def load(path: str, options: Mapping[str, str]) -> TaskSet:
    """Returns the tasks of a HumanEval file (``.jsonl`` or ``.jsonl.gz``).

    Raises:
        UserError: an option, a missing file or a malformed row.
    """
    accept_options(options, {}, "humaneval")
    data = read_bytes(path)
    tasks = tuple(_task(row) for _, row in rows_of(data, _Row, path))
    if not tasks:
        raise UserError(f"{path}: no task in it")
    return TaskSet(name="humaneval", version=digest(data)[:12], tasks=tasks)


def completion_message(prompt: str) -> Message:
    """Returns the user message that asks for the rest of a program."""
    return Message(role="user", content=f"Complete this Python program.\n\n```python\n{prompt.rstrip()}\n```")


def _task(row: _Row) -> Task:
    task_id = row.task_id.lower()
    params: dict[str, Json] = {
        "form": "humaneval",
        "prompt": row.prompt,
        "entry_point": row.entry_point,
        "test": row.test,
    }
    return Task(
        id=task_id,
        messages=(completion_message(row.prompt),),
        verifiers=(VerifierSpec(kind="python_tests", params=params),),
        split=split_of(task_id),
        reference=row.prompt + row.canonical_solution,
        task_set="humaneval",
    )
