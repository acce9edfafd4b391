"""A user's own tasks: one JSON object per line.

    {"task_set": {"name": "mine", "packages": ["numpy"]}}
    {"id": "add", "prompt": "Write add(a, b).", "reference": "def add(a, b): return a + b",
     "verifiers": [{"kind": "python_tests", "params": {"form": "check", "entry_point": "add", "test": "…"}}]}

The first line may describe the set (``name``, ``version``, ``packages``). A task has ``id``, ``prompt`` or ``messages``
and ``verifiers``; it may have ``reference``, ``files``, ``tags``, ``split``, ``meta``. Unknown fields are refused.
``packages`` are added to every ``python_tests`` and ``command`` verifier.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from whet.agents.tasksets.files import accept_options, read_bytes, rows_of
from whet.agents.tasksets.splits import split_of
from whet.core.errors import UserError, VerifierError
from whet.core.ids import digest
from whet.core.records import Json, Message, Split, Task, TaskSet, VerifierSpec

__all__ = ["load"]

_EXECUTING = ("python_tests", "command")


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = ""
    version: str = ""
    packages: tuple[str, ...] = ()


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task_set: _Header | None = None
    id: str = ""
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    verifiers: tuple[VerifierSpec, ...] = ()
    reference: str | None = None
    files: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    split: Split | None = None
    meta: dict[str, Json] = {}


def load(path: str, options: Mapping[str, str]) -> TaskSet:
    """Returns the tasks of a JSONL file (``.jsonl`` or ``.jsonl.gz``).

    Raises:
        UserError: an option, a missing file, a malformed row or a doubled id; the message names the line.
    """
    accept_options(options, {}, "jsonl")
    data = read_bytes(path)
    header, tasks = _Header(), dict[str, Task]()
    for number, row in rows_of(data, _Row, path):
        where = f"{path}, line {number}"
        if row.task_set is not None:
            if number != 1 or row.id:
                raise UserError(f"{where}: 'task_set' describes the set and stands alone on the first line")
            header = row.task_set
            continue
        task = _task(row, header, where)
        if task.id in tasks:
            raise UserError(f"{where}: a second task {task.id!r}; ids must differ")
        tasks[task.id] = task
    if not tasks:
        raise UserError(f"{path}: no task in it")
    name = header.name or Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
    named = tuple(msgspec.structs.replace(task, task_set=name) for task in tasks.values())
    return TaskSet(name=name, version=header.version or digest(data)[:12], tasks=named, packages=header.packages)


def _task(row: _Row, header: _Header, where: str) -> Task:
    if not row.id:
        raise UserError(f"{where}: no 'id'")
    if bool(row.prompt) == bool(row.messages):
        raise UserError(f"{where}: task {row.id!r} needs either 'prompt' or 'messages'")
    return Task(
        id=row.id,
        messages=row.messages or (Message(role="user", content=row.prompt),),
        verifiers=tuple(_verifier(spec, header, where) for spec in row.verifiers),
        files=row.files,
        tags=row.tags,
        split=row.split or split_of(row.id),
        reference=row.reference,
        meta=row.meta,
    )


def _verifier(spec: VerifierSpec, header: _Header, where: str) -> VerifierSpec:
    from whet.feedback import check_spec

    params = dict(spec.params)
    if header.packages and spec.kind in _EXECUTING:
        params.setdefault("packages", list(header.packages))
    completed = VerifierSpec(kind=spec.kind, params=params)
    try:
        check_spec(completed)
    except VerifierError as error:
        raise UserError(f"{where}: {error}") from error
    return completed
