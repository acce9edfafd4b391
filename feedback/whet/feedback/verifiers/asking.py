"""Whether an agent asked for help where it had to, and only there: Ask-F1 over the blockers of a task.

    task.meta["blockers"]    # [{"kind": "missing", "about": ["deadline"], "answer": "It is due on Friday."}]
    run.meta["questions"]    # ["When is the deadline?", "May I use Python?"]: what the tool ``ask_person`` was asked
    count_asking(blockers_of(task), questions_of(run)).f1     # 2/3: one question of two hit, one blocker of one found

A blocker is what the task does not settle and only a person can (HiL-Bench, 2025). A question is about it when one of
its words begins with one of those that the blocker is ``about``.
"""

import re
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from whet.core.errors import UserError, VerifierError
from whet.core.ids import digest
from whet.core.records import Check, Json, Record, Run, Task, Verdict
from whet.core.wire import encode
from whet.feedback.verifier import FreshSandboxes
from whet.feedback.verifiers.configured import Params

__all__ = ["Asking", "AskingParams", "Blocker", "Counts", "blockers_of", "count_asking", "questions_of"]


class Blocker(Record, frozen=True, kw_only=True):
    """Something that a task leaves out, leaves open or contradicts; ``answer`` is what a person says when asked."""

    kind: Literal["missing", "ambiguous", "contradictory"]
    about: tuple[str, ...]
    answer: str

    def met_by(self, question: str) -> bool:
        """Returns whether a question is about this."""
        return any(re.search(rf"\b{re.escape(word)}", question, re.IGNORECASE) for word in self.about)


class Counts(Record, frozen=True, kw_only=True):
    """How many questions were asked and how many of them met a blocker; how many blockers there were and were found.

    Counts add up: the Ask-F1 of a set is that of the sum of its tasks' counts.
    """

    questions: int = 0
    relevant: int = 0
    blockers: int = 0
    found: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            questions=self.questions + other.questions,
            relevant=self.relevant + other.relevant,
            blockers=self.blockers + other.blockers,
            found=self.found + other.found,
        )

    @property
    def precision(self) -> float:
        """The share of questions that met a blocker; 1 where none was asked."""
        return self.relevant / self.questions if self.questions else 1.0

    @property
    def recall(self) -> float:
        """The share of blockers that were asked about; 1 where there was none."""
        return self.found / self.blockers if self.blockers else 1.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall: 1 for asking nothing where nothing blocks."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def count_asking(blockers: Sequence[Blocker], questions: Sequence[str]) -> Counts:
    """Returns the counts of one run."""
    return Counts(
        questions=len(questions),
        relevant=sum(any(blocker.met_by(question) for blocker in blockers) for question in questions),
        blockers=len(blockers),
        found=sum(any(blocker.met_by(question) for question in questions) for blocker in blockers),
    )


def blockers_of(task: Task) -> tuple[Blocker, ...]:
    """Returns the blockers in a task's ``meta``.

    Raises:
        UserError: they are of another form.
    """
    try:
        return msgspec.convert(task.meta.get("blockers", []), tuple[Blocker, ...])
    except msgspec.ValidationError as error:
        raise UserError(f"meta.blockers of task {task.id!r}: {error}; a blocker has kind, about and answer") from error


def questions_of(run: Run) -> tuple[str, ...]:
    """Returns what the run asked a person, in order."""
    asked = run.meta.get("questions")
    return tuple(str(question) for question in asked) if isinstance(asked, list) else ()


class AskingParams(Params, frozen=True, kw_only=True):
    """``least``: the Ask-F1 from which a run passes."""

    least: float = 1.0


class Asking:
    """Judges the questions of a run by the task's blockers; the score is Ask-F1."""

    def __init__(self, params: dict[str, Json], sandboxes: FreshSandboxes | None = None) -> None:
        try:
            self.params = msgspec.convert(params, AskingParams)
        except msgspec.ValidationError as error:
            raise VerifierError(f"verifier 'asking': {error}; its parameter is least") from error
        self._name = f"asking@{digest(encode(params))[:8]}"

    @property
    def name(self) -> str:
        """The kind and a digest of the parameters."""
        return self._name

    async def verify(self, task: Task, run: Run) -> Verdict:
        """Returns the verdict: a check for each blocker (asked about) and for each question (called for).

        Raises:
            UserError: the task's blockers are malformed.
        """
        started = time.monotonic()
        blockers, questions = blockers_of(task), questions_of(run)
        counts = count_asking(blockers, questions)
        asked = [Check(name=f"{b.kind}: {', '.join(b.about)}", passed=any(map(b.met_by, questions))) for b in blockers]
        needed = [Check(name=f"question: {q}", passed=any(b.met_by(q) for b in blockers)) for q in questions]
        return Verdict(
            run_id=run.id,
            task_id=task.id,
            verifier=self.name,
            outcome="pass" if counts.f1 >= self.params.least else "fail",
            score=counts.f1,
            kind="rule",
            checks=(*asked, *needed),
            detail=f"precision {counts.precision:.2f}, recall {counts.recall:.2f}",
            seconds=time.monotonic() - started,
            scope=run.scope,
        )
