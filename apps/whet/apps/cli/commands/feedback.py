"""``whet feedback``: add, list, show, trust, friction, signals."""

from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, View, emit_json, listing, note
from whet.apps.cli.session import with_memory
from whet.core.errors import UserError

if TYPE_CHECKING:
    from whet.core import Feedback, Run
    from whet.feedback.feedback import Extra
    from whet.memory import Memory

app = typer.Typer()
KINDS = ("rating", "preference", "correction", "comment", "followup", "accept", "reject")


@app.command()
def add(
    run: Annotated[str, typer.Argument(help="Run the feedback is about (id or prefix).")],
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
    text: Annotated[str, typer.Argument(help="Comment, follow-up or corrected answer; - reads stdin.")] = "",
    source: Annotated[str, typer.Option(help="Who says so.")] = "cli",
    value: Annotated[float | None, typer.Option(help="Rating in [0, 1].")] = None,
    other: Annotated[str, typer.Option(help="For a preference: the run that lost.")] = "",
    step: Annotated[str, typer.Option(help="The step of the run that it is about (id).")] = "",
    applies_when: Annotated[str, typer.Option(help="When this feedback applies.")] = "",
    person: Annotated[str | None, typer.Option(help="Whose data this is; can be forgotten by it.")] = None,
    tainted: Annotated[
        bool, typer.Option(help="The text comes from a stranger; what is learned waits for a person.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Record feedback on a run."""
    import sys

    from whet.core import Feedback, Run
    from whet.feedback.feedback import Extra
    from whet.memory import Memory

    _refuse_what_does_not_fit(kind, value, other)
    words = sys.stdin.read() if text == "-" else text

    async def work(memory: Memory) -> Feedback:
        about = await memory.get(Run, run)
        lost = (await memory.get(Run, other)).id if other else ""
        extra = Extra(
            task_id=about.task_id,
            step_id=await _step_of(memory, about, step) if step else None,
            applies_when=applies_when,
            person=person,
            trust="tainted" if tainted else "trusted",
        )
        said = _make(kind, source, about.id, words, value, lost, extra)
        await memory.put(said, actor=source)
        return said

    said = with_memory(work)
    emit_json(as_row(said)) if json else note(f"recorded {said.kind} {said.id} on run {said.run_id}")


async def _step_of(memory: "Memory", run: "Run", step: str) -> str:
    from whet.core import Step

    found = await memory.get(Step, step)
    if found.run_id != run.id:
        raise UserError(
            f"step {step!r} is one of run {found.run_id!r}, not of {run.id!r}; see: whet run steps {run.id}"
        )
    return found.id


def _refuse_what_does_not_fit(kind: str, value: float | None, other: str) -> None:
    if kind not in KINDS:
        raise UserError(f"{kind!r} is no kind of feedback; there are {', '.join(KINDS)}")
    if (kind == "rating") != (value is not None):
        raise UserError("a rating needs --value" if value is None else f"--value is for a rating, not for a {kind}")
    if (kind == "preference") != bool(other):
        raise UserError(f"--other is for a preference, not for a {kind}" if other else "a preference needs --other RUN")


def _make(
    kind: str, source: str, run_id: str, text: str, value: float | None, other: str, extra: "Extra"
) -> "Feedback":
    from whet.feedback import feedback

    if kind == "rating":
        return feedback.rating(source, run_id=run_id, value=value or 0.0, text=text, **extra)
    if kind == "preference":
        return feedback.preference(source, run_id=run_id, other_run_id=other, text=text, **extra)
    if kind == "correction":
        return feedback.correction(source, run_id=run_id, text=text, **extra)
    if kind == "comment":
        return feedback.comment(source, run_id=run_id, text=text, **extra)
    if kind == "followup":
        return feedback.followup(source, run_id=run_id, text=text, **extra)
    thumb = feedback.accept if kind == "accept" else feedback.reject
    return thumb(source, run_id=run_id, text=text, **extra)


@app.command("list")
@listing
def list_feedback(view: View) -> None:
    """List feedback, newest first."""
    from whet.core import Feedback

    found = with_memory(lambda memory: memory.find(Feedback, since=view.since, newest_first=True), read_only=True)
    view.show(
        [as_row(item) for item in found],
        ("id", "at", "kind", "source", "run_id", "value", "text"),
        ("task_id", "person", "trust", "applies_when"),
        empty="no feedback yet; add some with: whet feedback add RUN comment TEXT",
    )


@app.command()
def show(id: Annotated[str, typer.Argument(help="Id or prefix.")], json: AsJson = False) -> None:
    """Show one piece of feedback whole."""
    from whet.apps.cli.commands.store import print_record
    from whet.core import Feedback

    print_record(with_memory(lambda memory: memory.get(Feedback, id), read_only=True), json=json)


@app.command()
@listing
def trust(view: View) -> None:
    """Show how often each source agreed with execution, the most trusted first, measured from all that is recorded."""
    from whet.feedback.trust import trust_interval
    from whet.learners.trusting import measured_trust

    rows = []
    for actor in sorted(with_memory(measured_trust, read_only=True), key=lambda actor: -(actor.agreement or 0)):
        low, high = trust_interval(actor)
        rows.append({**as_row(actor), "low": low, "high": high})
    view.show(
        rows,
        ("id", "kind", "agreement", "low", "high", "observations"),
        ("name", "family"),
        empty="no source could be compared with tests yet; say what a judged run was: whet feedback add RUN accept",
    )


@app.command()
@listing
def friction(view: View) -> None:
    """Show how often feedback did not change the answer in recorded runs, by agent, model and settings."""
    from whet.learners.friction import recorded_friction

    found = with_memory(lambda memory: recorded_friction(memory, since=view.since), read_only=True)
    rows = [
        {
            "agent": row.agent,
            "model": row.model,
            "settings": row.settings,
            "corrections": row.friction.corrections,
            **as_row(row.friction),
        }
        for row in found
    ]
    view.show(
        rows,
        ("agent", "model", "settings", "runs", "first", "last", "corrections", "repeated", "changed", "worse", "fixed"),
        empty="no run revised an answer after feedback yet; make some with: whet run TASKS --graph refine",
    )


@app.command()
@listing
def signals(
    view: View,
    apply: Annotated[bool, typer.Option("--apply", help="Record them as feedback.")] = False,
) -> None:
    """Show what users did next in live and imported sessions: re-asks, corrections, thanks, edits, silence."""
    from whet.learners.sessions import new_signals
    from whet.memory import Memory

    async def work(memory: Memory) -> "list[Feedback]":
        found = await new_signals(memory)
        if apply and found:
            await memory.put(*found, actor="signals")
        return found

    found = with_memory(work, read_only=not apply)
    view.show(
        [as_row(item) for item in found],
        ("id", "at", "source", "run_id", "value", "text"),
        ("person", "trust", "meta"),
        empty="no new signals; they are read from runs that go on with an earlier run's conversation",
    )
    if found:
        note(f"recorded {len(found)}" if apply else f"{len(found)} not recorded; record them with --apply")
