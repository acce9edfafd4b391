"""Human feedback on model-written code (Chen et al. 2023, "Improving Code Generation by Training with Natural
Language Feedback"): MBPP tasks, a model's wrong program, what a person said about it, and the person's repair.

Many of its tests import ``pytest``, so the set declares that package; only the tasks whose tests do ask for it.
"""

import re
from collections.abc import Mapping

from whet.agents.tasksets.files import accept_options, read_bytes, rows_of
from whet.agents.tasksets.humaneval import completion_message
from whet.agents.tasksets.splits import split_of
from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.records import Json, Record, Task, TaskSet, VerifierSpec

__all__ = ["load"]

_PYTEST = re.compile(r"^[ \t]*(?:from|import)[ \t]+pytest\b", re.MULTILINE)
_DEFINITION = re.compile(r"^def (\w+)", re.MULTILINE)


class _Row(Record, frozen=True, kw_only=True, rename={"feedback": "Feedback"}):
    task_id: int
    prompt: str
    test: str
    feedback: str
    completion: str
    unedited_annotator_completion: str
    original_model_completion: str


def load(path: str, options: Mapping[str, str]) -> TaskSet:
    """Returns the tasks of the human-feedback file.

    The reference is the person's program as they wrote it (``repair=unedited``, the default) or the file's own
    extract of its last function (``repair=completion``). ``meta`` holds the person's ``feedback`` and, under
    ``wrong``, the model's program.

    Raises:
        UserError: an option, a missing file or a malformed row.
    """
    chosen = accept_options(options, {"repair": "unedited"}, "ilf")["repair"]
    if chosen not in ("unedited", "completion"):
        raise UserError(f"ilf: repair={chosen!r} is neither 'unedited' nor 'completion'")
    data = read_bytes(path)
    tasks = tuple(_task(row, chosen, f"{path}, line {number}") for number, row in rows_of(data, _Row, path))
    if not tasks:
        raise UserError(f"{path}: no task in it")
    return TaskSet(name="ilf", version=digest(data)[:12], tasks=tasks, packages=("pytest",))


def _task(row: _Row, repair: str, where: str) -> Task:
    names = _DEFINITION.findall(row.prompt)
    if not names:
        raise UserError(f"{where}: the prompt ends in no function signature")
    params: dict[str, Json] = {
        "form": "humaneval",
        "prompt": row.prompt,
        "entry_point": names[-1],
        "test": row.test,
        "packages": ["pytest"] if _PYTEST.search(row.test) else [],
    }
    task_id = f"ilf/{row.task_id}"
    whole = row.unedited_annotator_completion
    return Task(
        id=task_id,
        messages=(completion_message(row.prompt),),
        verifiers=(VerifierSpec(kind="python_tests", params=params),),
        split=split_of(task_id),
        reference=whole if repair == "unedited" else row.prompt + row.completion,
        meta={"feedback": row.feedback, "wrong": [row.original_model_completion]},
        task_set="ilf",
    )
