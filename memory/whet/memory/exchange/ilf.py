"""Human feedback on model-written code (the file of ILF, Chen et al. 2023): JSON lines, one task each.

A row has a task (``prompt``, ``test``), the model's wrong program (``original_model_completion``), what a person said
about it (``Feedback``), and the person's repair (``unedited_annotator_completion``; ``completion`` is a later edit of
its body, and not always a better one). It becomes a task with its verifier and the repair as reference, a run with the
wrong program, a comment and a correction as feedback, and a proposed lesson that rests on them. Verdicts are not made
up: verifying the task gives them.
"""

import re
from collections.abc import Iterator

import msgspec

from whet.core import Completion, Feedback, Json, Lesson, Message, ModelCall, Run, Task, UserError, VerifierSpec, digest
from whet.core.splits import split_of
from whet.memory.exchange.format import Arrival, Bundle, convert, json_lines
from whet.memory.exchange.transcript import numbered

__all__ = ["Ilf", "task_of"]

_FUNCTION = re.compile(r"^def (\w+)", re.MULTILINE)
_HEAD = re.compile(r'^\s*(?:"""|\'\'\')(.*?)(?:>>>|"""|\'\'\')', re.DOTALL)


_PYTEST = re.compile(r"^[ \t]*(?:from|import)[ \t]+pytest\b", re.MULTILINE)


class _Row(msgspec.Struct):
    task_id: int
    prompt: str
    test: str
    Feedback: str
    original_model_completion: str
    unedited_annotator_completion: str


def task_of(document: Json, scope: str = "default") -> Task:
    """Returns the task of a row. Its id and split are those of the task set ``ilf``, its reference the repair.

    Raises:
        UserError: the row is no row of this format.
    """
    return _task(convert(document, _Row), scope)


def _task(row: _Row, scope: str) -> Task:
    names = _FUNCTION.findall(row.prompt)
    if not names:
        raise UserError("the prompt ends in no function signature")
    params: dict[str, Json] = {
        "form": "humaneval",
        "prompt": row.prompt,
        "entry_point": names[-1],
        "test": row.test,
        "packages": ["pytest"] if _PYTEST.search(row.test) else [],
    }
    asked = f"Complete this Python program.\n\n```python\n{row.prompt.rstrip()}\n```"
    return Task(
        id=f"ilf/{row.task_id}",
        messages=(Message(role="user", content=asked),),
        verifiers=(VerifierSpec(kind="python_tests", params=params),),
        split=split_of(f"ilf/{row.task_id}"),
        reference=row.unedited_annotator_completion,
        meta={"feedback": row.Feedback, "wrong": [row.original_model_completion]},
        task_set="ilf",
        scope=scope,
    )


def description(prompt: str) -> str:
    """Returns what a prompt asks for in words: its leading docstring up to the example."""
    match = _HEAD.match(prompt)
    return match.group(1).strip() if match else prompt.strip()


class Ilf:
    """Reads and writes the human-feedback file."""

    name = "ilf"
    suffix = ".jsonl"
    own_only = True

    def documents(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields the lines of the file."""
        return json_lines(data)

    def read(self, document: Json, arrival: Arrival) -> Bundle:
        """Returns task, run, one model call, comment, correction and a proposed lesson."""
        row = convert(document, _Row)
        task = _task(row, arrival.scope)
        run = Run(
            id=arrival.run_id,
            task_id=task.id,
            agent="import:ilf",
            status="done",
            answer=row.original_model_completion,
            purpose="import",
            trust=arrival.trust,
            started_at=arrival.at,
            ended_at=arrival.at,
            scope=arrival.scope,
        )
        call = ModelCall(messages=task.messages, completion=Completion(text=row.original_model_completion))
        said = _feedback(row, task, arrival, _rest(document))
        return Bundle(
            task=task,
            run=run,
            steps=tuple(numbered([(0, call)], arrival)),
            feedback=said,
            lessons=(_lesson(row, run, said, arrival),),
        )

    def write(self, bundle: Bundle) -> Json:
        """Returns the row, as far as records have it."""
        texts = {feedback.kind: feedback.text for feedback in bundle.feedback}
        rest = next((feedback.meta["row"] for feedback in bundle.feedback if "row" in feedback.meta), {})
        params = next((spec.params for spec in bundle.task.verifiers if "test" in spec.params), {})
        number = bundle.task.id.removeprefix("ilf/")
        return {
            **(rest if isinstance(rest, dict) else {}),
            "task_id": int(number) if number.isdecimal() else bundle.task.id,
            "prompt": params.get("prompt", bundle.task.prompt),
            "test": params.get("test", ""),
            "Feedback": texts.get("comment", ""),
            "original_model_completion": bundle.run.answer or "",
            "unedited_annotator_completion": texts.get("correction", bundle.task.reference or ""),
        }


def _rest(document: Json) -> dict[str, Json]:
    """Returns the fields that no record has; they are the person's (the edited repair) and stay with their words."""
    known = {field.name for field in msgspec.structs.fields(_Row)}
    return {key: value for key, value in document.items() if key not in known} if isinstance(document, dict) else {}


def _feedback(row: _Row, task: Task, arrival: Arrival, rest: dict[str, Json]) -> tuple[Feedback, Feedback]:
    def made(kind: str, text: str) -> Feedback:
        return Feedback(
            id=digest(f"{arrival.run_id} {kind}")[:32],
            kind="comment" if kind == "comment" else "correction",
            source="ilf",
            run_id=arrival.run_id,
            task_id=task.id,
            text=text,
            applies_when=description(row.prompt),
            trust=arrival.trust,
            meta={"row": rest} if rest and kind == "correction" else {},
            at=arrival.at,
            scope=arrival.scope,
        )

    return made("comment", row.Feedback), made("correction", row.unedited_annotator_completion)


def _lesson(row: _Row, run: Run, said: tuple[Feedback, Feedback], arrival: Arrival) -> Lesson:
    return Lesson(
        id=digest(f"{arrival.run_id} lesson")[:32],
        kind="lesson",
        text=row.Feedback.strip(),
        applies_when=description(row.prompt),
        task_text=row.prompt,
        source="import:ilf",
        trust=arrival.trust,
        derived_from=(said[0].id, said[1].id, run.id),
        reason="a person's comment on a wrong program",
        valid_from=arrival.at,
        scope=arrival.scope,
    )
