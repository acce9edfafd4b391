"""The ``Format`` contract: one document of a format to records, and records to a document.

``read`` takes what it understands; whatever else a document says is kept as a residue by the importer, so ``write``
need not reproduce it. A stranger's format is a class with a name and these three methods.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from whet.core import Feedback, Json, Lesson, Run, Step, Task, Trust, UserError, Verdict

__all__ = ["Arrival", "Bundle", "Format", "convert", "json_lines", "one_document", "source_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Arrival:
    """What an importer tells a format about a document: the id its run gets, the scope, the time, the trust."""

    run_id: str
    scope: str
    at: int
    trust: Trust


@dataclass(frozen=True)
class Bundle:
    """The records of one document: one run and what belongs to it."""

    task: Task
    run: Run
    steps: tuple[Step, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    feedback: tuple[Feedback, ...] = ()
    lessons: tuple[Lesson, ...] = field(default=())

    def records(self) -> list[Task | Run | Step | Verdict | Feedback | Lesson]:
        """Returns every record, the task first."""
        return [self.task, self.run, *self.steps, *self.verdicts, *self.feedback, *self.lessons]


class Format(Protocol):
    """A file format for runs."""

    name: str
    suffix: str
    """How a file of one document ends; ``.jsonl`` says that a file holds one document a line."""

    own_only: bool
    """Whether an export of everything leaves out runs that did not come from this format."""

    def documents(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields (line from 1, bytes of one document)."""
        ...

    def read(self, document: Json, arrival: Arrival) -> Bundle:
        """Returns the records of a document.

        Raises:
            UserError: the document is not of this format; the message says where.
        """
        ...

    def write(self, bundle: Bundle) -> Json:
        """Returns the document of a run."""
        ...


def json_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (line from 1, bytes) of every line that is not blank."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line.strip()


def one_document(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the file as one document where it is one, and else its lines."""
    text = data.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except msgspec.DecodeError:
        yield from json_lines(data)
    else:
        yield 1, text


def convert(document: Json, kind: type[T]) -> T:
    """Returns the document as ``kind``; unknown fields are ignored.

    Raises:
        UserError: a field is missing or of the wrong type; the message names its path.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise UserError(str(error)) from error


def source_of(run: Run, format_name: str) -> dict[str, Json]:
    """Returns what the importer of a format kept with the run, empty for a run from elsewhere."""
    source = run.meta.get("source")
    return source if isinstance(source, dict) and source.get("format") == format_name else {}
