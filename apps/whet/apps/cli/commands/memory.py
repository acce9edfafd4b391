"""``whet memory``: lessons, their evidence and worth; correcting and forgetting."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from whet.apps.cli.commands.rows import as_row, first_line
from whet.apps.cli.output import AsJson, View, console, emit_json, listing, note
from whet.apps.cli.session import with_memory
from whet.core.errors import UserError

if TYPE_CHECKING:
    from whet.core import Lesson
    from whet.memory import Memory

app = typer.Typer()
LessonId = Annotated[str, typer.Argument(help="Lesson id or prefix.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]


@app.command("list")
@listing
def list_lessons(view: View) -> None:
    """List the newest version of every lesson."""
    from whet.core import Lesson

    found = with_memory(
        lambda memory: memory.find(Lesson, where={"valid_to": None}, since=view.since, newest_first=True), read_only=True
    )
    view.show(
        [as_row(lesson) for lesson in found],
        ("id", "version", "kind", "status", "text", "applies_when", "source"),
        ("trust", "not_when", "valid_from", "reason"),
        empty="no lesson yet; learn some with: whet learn lessons",
    )


@app.command()
def show(id: LessonId, json: AsJson = False) -> None:
    """Show one lesson whole."""
    from whet.apps.cli.commands.store import print_record
    from whet.core import Lesson

    print_record(with_memory(lambda memory: memory.get(Lesson, id), read_only=True), json=json)


@app.command()
@listing
def search(
    view: View,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    explain: Annotated[bool, typer.Option("--explain", help="Show the parts of each score.")] = False,
) -> None:
    """Find lessons (and feedback) by words and by likeness, as an agent would recall them."""
    found = with_memory(lambda memory: memory.recall(query, k=view.limit or 50, explain=explain), read_only=True)
    rows = []
    for item in found:
        row = {**as_row(item.lesson), "score": item.score}
        rows.append({**row, **item.parts} if explain else row)
    parts = tuple(dict.fromkeys(name for item in found for name in item.parts)) if explain else ()
    view.show(rows, ("id", "score", *parts, "kind", "text"), ("applies_when", "source"), empty="nothing found")


@app.command()
def why(id: LessonId, json: AsJson = False) -> None:
    """Explain a lesson: what it was derived from, what supports and contradicts it, what it is worth."""
    from rich.tree import Tree

    explanation = with_memory(lambda memory: memory.why(id), read_only=True)
    if json:
        emit_json(explanation)
        return
    tree = Tree(explanation.title)
    for branch in explanation.branches:
        tree.add(branch)
    console().print(tree, markup=False)


@app.command("used-by")
@listing
def used_by(view: View, id: LessonId) -> None:
    """List the runs in which a lesson was shown, withheld or adopted."""
    found = with_memory(lambda memory: memory.used_by(id), read_only=True)
    view.show([as_row(use) for use in found], ("at", "run_id", "kind", "version"), ("id",), empty="not used yet")


@app.command()
@listing
def history(view: View, id: LessonId) -> None:
    """List all versions of a lesson."""
    found = with_memory(lambda memory: memory.history(id), read_only=True)
    view.show(
        [as_row(lesson) for lesson in found], ("id", "version", "status", "valid_from", "valid_to", "text", "reason"), ("source",)
    )


@app.command()
def diff(
    id: LessonId,
    older: Annotated[int, typer.Option(help="Version; default: the one before the newest.")] = 0,
    newer: Annotated[int, typer.Option(help="Version; default: the newest.")] = 0,
) -> None:
    """Show what changed between two versions of a lesson."""
    import difflib

    versions = {lesson.version: lesson for lesson in with_memory(lambda memory: memory.history(id), read_only=True)}
    new = newer or max(versions)
    old = older or max(new - 1, 1)
    for version in (old, new):
        if version not in versions:
            raise UserError(f"lesson {id!r} has no version {version}; there are {', '.join(map(str, sorted(versions)))}")
    lines = difflib.unified_diff(*(_lesson_lines(versions[v]) for v in (old, new)), f"v{old}", f"v{new}", lineterm="")
    print("\n".join(lines))


def _lesson_lines(lesson: "Lesson") -> list[str]:
    return [f"status: {lesson.status}", f"applies when: {lesson.applies_when}", *lesson.text.splitlines()]


@app.command()
@listing
def review(view: View) -> None:
    """List lessons that wait for a person: proposed from tainted sources, or quarantined."""
    from whet.core import Lesson

    found = with_memory(
        lambda memory: memory.find(Lesson, where={"valid_to": None, "status": ["proposed", "quarantined"]}), read_only=True
    )
    view.show(
        [as_row(lesson) for lesson in found], ("id", "status", "trust", "kind", "text", "source"), ("applies_when",),
        empty="nothing to review",
    )


def _change(id: str, **changes: object) -> None:
    async def work(memory: "Memory") -> "Lesson":
        from whet.core import Lesson

        lesson = await memory.get(Lesson, id)
        return await memory.lessons.update(lesson, actor="cli", **changes)

    lesson = with_memory(work)
    note(f"lesson {lesson.id[:12]} v{lesson.version} is {lesson.status}")


@app.command()
def edit(id: LessonId, text: Annotated[str, typer.Argument(help="New text.")], reason: Reason = "edited by hand") -> None:
    """Give a lesson a new text, as a new version."""
    _change(id, text=text, reason=reason)


@app.command()
def accept(id: LessonId, reason: Reason = "accepted by a person") -> None:
    """Make a reviewed lesson active and trusted."""
    _change(id, status="active", trust="trusted", reason=reason)


@app.command()
def quarantine(id: LessonId, reason: Reason = "quarantined by hand") -> None:
    """Keep a lesson from being recalled until a person has looked at it."""
    _change(id, status="quarantined", reason=reason)


@app.command()
def retire(id: LessonId, reason: Reason = "retired by hand") -> None:
    """Stop recalling a lesson; it stays in the history."""
    _change(id, status="retired", reason=reason)


@app.command()
def forget(
    person: Annotated[str, typer.Option(help="Forget all that came from this person.")] = "",
    run: Annotated[list[str] | None, typer.Option(help="Forget this run; repeatable.")] = None,
    feedback: Annotated[list[str] | None, typer.Option(help="Forget this feedback; repeatable.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be forgotten (the default).")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Forget, and search the files for what was forgotten.")] = False,
    reason: Reason = "",
    json: AsJson = False,
) -> None:
    """Forget a person's data, or runs, or feedback, with everything that was learned from it."""
    if plan and apply:
        raise UserError("--plan and --apply exclude each other")
    if apply and not reason:
        raise UserError("forgetting needs a reason: --reason TEXT")

    async def work(memory: "Memory") -> tuple[object, bool]:
        prepared = await memory.forget_plan(person=person or None, run_ids=run or (), feedback_ids=feedback or ())
        if not apply:
            return prepared, True
        report = await memory.forget(prepared, reason)
        return report, report.clean

    result, clean = with_memory(work)
    _print_report(result, json=json)
    if not apply:
        note("nothing was changed; to forget: the same command with --apply --reason TEXT")
    if not clean:
        raise typer.Exit(4)


def _print_report(report: object, *, json: bool) -> None:
    fields = msgspec.to_builtins(report)
    if json:
        emit_json(fields)
        return
    for name, value in fields.items():
        shown = f"{len(value)}  {', '.join(first_line(str(v), 24) for v in value[:6])}" if isinstance(value, list | tuple) else value
        console().print(f"{name.replace('_', ' '):<24} {shown}", markup=False)


@app.command()
def dedupe(
    apply: Annotated[bool, typer.Option("--apply", help="Merge them; otherwise they are only listed.")] = False, json: AsJson = False
) -> None:
    """Find lessons that say the same, and merge them."""
    pairs = with_memory(lambda memory: memory.lessons.dedupe(apply=apply))
    if json:
        emit_json({"merged": apply, "pairs": [{"kept": a.id, "merged": b.id, "text": b.text} for a, b in pairs]})
        return
    for kept, merged in pairs:
        print(f"{kept.id[:12]} <- {merged.id[:12]}  {first_line(merged.text)}")
    note(f"{len(pairs)} duplicates" + ("" if apply else "; to merge them: whet memory dedupe --apply"))


@app.command()
@listing
def stats(view: View) -> None:
    """Show every lesson's measured worth: pass rate with it, without it, and the difference with its interval."""
    from whet.core import Lesson

    async def work(memory: "Memory") -> list[dict[str, object]]:
        lessons = await memory.find(Lesson, where={"valid_to": None, "status": "active"})
        return [
            {"id": lesson.id, "text": lesson.text, **msgspec.to_builtins(await memory.worth(lesson.id))} for lesson in lessons
        ]

    rows = with_memory(work, read_only=True)
    view.show(rows, ("id", "mean", "low", "high", "n_shown", "n_withheld", "text"), empty="no active lesson")  # type: ignore[arg-type]
