"""Feedback from outside the loop, made by constructors that accept only what means something.

from whet.feedback import feedback

feedback.rating("ana", run_id=run.id, value=0.8)
feedback.correction("ana", run_id=run.id, text="def solve(x): return sorted(x)", applies_when="asked to sort")

``source`` names the actor who says it. Text from strangers is ``tainted``: what is learned from it waits for a person.
"""

from typing import TypedDict, Unpack

from whet.core.errors import UserError
from whet.core.records import Feedback, FeedbackKind, Json, Trust

__all__ = ["Extra", "accept", "comment", "correction", "followup", "preference", "rating", "reject"]


class Extra(TypedDict, total=False):
    """What any feedback may carry besides its own content."""

    task_id: str | None
    step_id: str | None
    applies_when: str
    person: str | None
    trust: Trust
    meta: dict[str, Json]
    at: int
    scope: str


def rating(
    source: str,
    *,
    run_id: str,
    value: float,
    scale: tuple[float, float] = (0.0, 1.0),
    text: str = "",
    **extra: Unpack[Extra],
) -> Feedback:
    """Returns a rating; ``value`` on ``scale`` (lowest, highest) is stored in [0, 1].

    Raises:
        UserError: the value is off the scale, or the scale has no length.
    """
    low, high = scale
    if not low < high or not low <= value <= high:
        raise UserError(f"rating {value!r} is not on the scale from {low!r} to {high!r}")
    return _made("rating", source, run_id=run_id, value=(value - low) / (high - low), text=text, extra=extra)


def preference(source: str, *, run_id: str, other_run_id: str, text: str = "", **extra: Unpack[Extra]) -> Feedback:
    """Returns the statement that ``run_id`` is better than ``other_run_id``. Raises UserError when they are one run."""
    if run_id == other_run_id or not other_run_id:
        raise UserError(f"a preference needs two different runs, not {run_id!r} and {other_run_id!r}")
    return _made("preference", source, run_id=run_id, other_run_id=other_run_id, text=text, extra=extra)


def correction(source: str, *, run_id: str, text: str, **extra: Unpack[Extra]) -> Feedback:
    """Returns the answer as it should have been. Raises UserError for an empty text."""
    return _made("correction", source, run_id=run_id, text=_said("correction", text), extra=extra)


def comment(source: str, *, run_id: str | None = None, text: str, **extra: Unpack[Extra]) -> Feedback:
    """Returns a remark on a run, a step or a task. Raises UserError for an empty text, or one about nothing."""
    return _made("comment", source, run_id=run_id, text=_said("comment", text), extra=extra)


def followup(source: str, *, run_id: str, text: str, **extra: Unpack[Extra]) -> Feedback:
    """Returns the next message of the user, which may tell how the answer was received. Raises UserError if empty."""
    return _made("followup", source, run_id=run_id, text=_said("followup", text), extra=extra)


def accept(source: str, *, run_id: str, text: str = "", **extra: Unpack[Extra]) -> Feedback:
    """Returns a thumb up: the answer was taken as it is (value +1)."""
    return _made("accept", source, run_id=run_id, value=1.0, text=text, extra=extra)


def reject(source: str, *, run_id: str, text: str = "", **extra: Unpack[Extra]) -> Feedback:
    """Returns a thumb down: the answer was not taken (value -1)."""
    return _made("reject", source, run_id=run_id, value=-1.0, text=text, extra=extra)


def _said(kind: FeedbackKind, text: str) -> str:
    if not text.strip():
        raise UserError(f"a {kind} needs text")
    return text


def _made(
    kind: FeedbackKind,
    source: str,
    *,
    run_id: str | None,
    extra: Extra,
    other_run_id: str | None = None,
    value: float | None = None,
    text: str = "",
) -> Feedback:
    if not source.strip():
        raise UserError(f"a {kind} needs a source: who says it?")
    if not run_id and not extra.get("task_id") and not extra.get("step_id"):
        raise UserError(f"a {kind} must be about something: give run_id, task_id or step_id")
    return Feedback(
        kind=kind, source=source, run_id=run_id or None, other_run_id=other_run_id, value=value, text=text, **extra
    )
