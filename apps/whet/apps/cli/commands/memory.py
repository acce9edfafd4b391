"""``whet memory``: lessons, their evidence and worth; correcting and forgetting."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from whet.apps.cli.commands.rows import as_row, first_line
from whet.apps.cli.output import AsJson, View, console, emit_json, listing, note
from whet.apps.cli.session import with_memory
from whet.core.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from whet.core import Lesson
    from whet.memory import Memory
    from whet.memory.forget import ForgetPlan
    from whet.memory.lineage import Why
    from whet.memory.purge import ForgetReport

app = typer.Typer()
RAW = ("cosine_text", "cosine_task", "bm25")
LessonId = Annotated[str, typer.Argument(help="Lesson id or prefix.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]


@app.command("list")
@listing
def list_lessons(view: View) -> None:
    """List the newest version of every lesson."""
    from whet.core import Lesson

    found = with_memory(
        lambda memory: memory.find(Lesson, where={"valid_to": None}, since=view.since, newest_first=True),
        read_only=True,
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
    """Find lessons by words and by likeness; agents recall the active ones of these."""
    found = with_memory(
        lambda memory: memory.recall(query, k=view.limit or 50, statuses=("active", "proposed"), explain=explain),
        read_only=True,
    )
    rows = []
    for item in found:
        row = {**as_row(item.lesson), "score": item.score}
        rows.append({**row, **item.parts} if explain else row)
    parts = tuple(dict.fromkeys(name for item in found for name in item.parts)) if explain else ()
    raw = tuple(name for name in parts if name in RAW)
    columns = tuple(name for name in parts if name not in RAW) if explain else ("kind", "status")
    view.show(rows, ("id", "score", *columns, "text"), (*raw, "applies_when", "source"), empty="nothing found")


@app.command()
def why(id: LessonId, json: AsJson = False) -> None:
    """Explain a lesson: what it was derived from, what supports and contradicts it, what it is worth."""
    explanation = with_memory(lambda memory: memory.why(id), read_only=True)
    emit_json(explanation) if json else _print_why(explanation)


def _print_why(explanation: "Why") -> None:
    from rich.tree import Tree

    lesson, worth = explanation.lesson, explanation.worth
    made = f"{lesson.status}, by {lesson.source or 'hand'}" + (f": {lesson.reason}" if lesson.reason else "")
    print(f"{lesson.id} v{lesson.version} {lesson.kind}")
    tree = Tree(_line(f'"{first_line(lesson.text)}"'))
    tree.add(_line(f"status       {made}"))
    for source in explanation.sources:
        judged = ", ".join(f"{v.outcome} {v.verifier} {v.score:.2f}" for v in source.verdicts[:2])
        more = f" and {len(source.verdicts) - 2} more" if len(source.verdicts) > 2 else ""
        relation, kind = source.relation.replace("_", " "), source.kind.removesuffix("s")
        tree.add(_line(f"{relation:<12} {kind} {source.id[:16]}  {source.label}  {judged}{more}".rstrip()))
    measured = (
        "not measured yet" if worth.mean is None else f"{worth.mean:+.0%} (95 % {worth.low:+.0%} … {worth.high:+.0%})"
    )
    tree.add(_line(f"worth        {measured}, shown in {worth.n_shown} judged runs, withheld in {worth.n_withheld}"))
    console().print(tree)


def _line(text: str) -> "Text":
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")


@app.command("used-by")
def used_by(
    id: Annotated[str, typer.Argument(help="Lesson id or prefix, or skill:NAME.")], json: AsJson = False
) -> None:
    """Show what a lesson or skill went into: runs, other lessons, candidates, promotions."""
    found = with_memory(lambda memory: memory.used_by(id), read_only=True)
    if json:
        emit_json(found)
        return
    for kind in ("shown", "withheld", "adopted"):
        runs = [use.run_id for use in found.uses if use.kind == kind]
        print(f"{kind:<11} {len(runs)} runs  {' '.join(run[:16] for run in runs[-5:])}")
    for kind, records in (("lesson", found.lessons), ("candidate", found.candidates), ("promotion", found.promotions)):
        for record in records:
            print(f"{kind:<11} {record.id}")


@app.command()
@listing
def history(view: View, id: LessonId) -> None:
    """List all versions of a lesson."""
    found = with_memory(lambda memory: memory.lessons.history(id), read_only=True)
    view.show(
        [as_row(lesson) for lesson in found],
        ("id", "version", "status", "valid_from", "valid_to", "text", "reason"),
        ("source",),
    )


@app.command()
def diff(
    id: LessonId,
    older: Annotated[int, typer.Option(help="Version; default: the one before the newest.")] = 0,
    newer: Annotated[int, typer.Option(help="Version; default: the newest.")] = 0,
) -> None:
    """Show what changed between two versions of a lesson."""
    import difflib

    versions = {
        lesson.version: lesson for lesson in with_memory(lambda memory: memory.lessons.history(id), read_only=True)
    }
    new = newer or max(versions)
    old = older or max(new - 1, 1)
    for version in (old, new):
        if version not in versions:
            raise UserError(
                f"lesson {id!r} has no version {version}; there are {', '.join(map(str, sorted(versions)))}"
            )
    before, after = _lesson_lines(versions[old]), _lesson_lines(versions[new])
    print("\n".join(difflib.unified_diff(before, after, f"v{old}", f"v{new}", lineterm="")))


def _lesson_lines(lesson: "Lesson") -> list[str]:
    return [f"status: {lesson.status}", f"applies when: {lesson.applies_when}", *lesson.text.splitlines()]


@app.command()
@listing
def review(view: View) -> None:
    """List lessons that wait for a person: proposed from tainted sources, or quarantined."""
    from whet.core import Lesson

    found = with_memory(
        lambda memory: memory.find(Lesson, where={"valid_to": None, "status": ["proposed", "quarantined"]}),
        read_only=True,
    )
    view.show(
        [as_row(lesson) for lesson in found],
        ("id", "status", "trust", "kind", "text", "source"),
        ("applies_when",),
        empty="nothing to review",
    )


def _report(lesson: "Lesson") -> None:
    note(f"lesson {lesson.id} v{lesson.version} is {lesson.status}")


@app.command()
def edit(
    id: LessonId,
    text: Annotated[str | None, typer.Option(help="New text.")] = None,
    applies_when: Annotated[str | None, typer.Option(help="New condition.")] = None,
    not_when: Annotated[str | None, typer.Option(help="New exception.")] = None,
    reason: Reason = "edited by hand",
) -> None:
    """Give a lesson other words, as a new version."""
    _report(
        with_memory(
            lambda memory: memory.lessons.revise(
                id, text=text, applies_when=applies_when, not_when=not_when, reason=reason, actor="cli"
            )
        )
    )


@app.command()
def accept(id: LessonId, reason: Reason = "accepted by a person") -> None:
    """Make a reviewed lesson active."""
    _report(with_memory(lambda memory: memory.lessons.approve(id, reason=reason, actor="cli")))


@app.command()
def quarantine(id: LessonId, reason: Reason = "quarantined by hand") -> None:
    """Keep a lesson from being recalled until a person has looked at it."""
    _report(with_memory(lambda memory: memory.lessons.quarantine(id, reason=reason, actor="cli")))


@app.command()
def retire(id: LessonId, reason: Reason = "retired by hand") -> None:
    """Stop recalling a lesson; it stays in the history."""
    _report(with_memory(lambda memory: memory.lessons.retire(id, reason=reason, actor="cli")))


@app.command()
def forget(
    person: Annotated[str, typer.Option(help="Forget all that came from this person.")] = "",
    run: Annotated[list[str] | None, typer.Option(help="Forget this run; repeatable.")] = None,
    feedback: Annotated[list[str] | None, typer.Option(help="Forget this feedback; repeatable.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be forgotten (the default).")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Forget, and search the files for what was forgotten.")
    ] = False,
    reason: Reason = "",
    json: AsJson = False,
) -> None:
    """Forget a person's data, or runs, or feedback, with everything that was learned from it."""
    if plan and apply:
        raise UserError("--plan and --apply exclude each other")
    if apply and not reason:
        raise UserError("forgetting needs a reason: --reason TEXT")

    async def work(memory: "Memory") -> "tuple[ForgetPlan, ForgetReport | None]":
        prepared = await memory.forget_plan(person=person or None, run_ids=run or (), feedback_ids=feedback or ())
        return prepared, await memory.forget(prepared, reason, actor="cli") if apply else None

    prepared, report = with_memory(work)
    if json:
        emit_json(report or prepared)
    elif report:
        _print_forgotten(report)
    else:
        _print_plan(prepared)
    if report and not report.proved:
        raise typer.Exit(4)


def _print_plan(plan: "ForgetPlan") -> None:
    for item in plan.items[:40]:
        print(f"{item.action:<9} {item.kind:<10} {item.id[:32]:<32}  {item.why}")
    if len(plan.items) > 40:
        print(f"… and {len(plan.items) - 40} more; all of them with --json")
    policy = plan.policy
    if policy.head_after != policy.head:
        print(f"policy    head {policy.head[:12]} becomes {policy.head_after[:12]}, without:\n{policy.diff}")
    gone = ", ".join(f"{number} {kind}" for kind, number in plan.counts().items()) or "nothing"
    note(f"would purge {gone} and {plan.vectors} vectors; to do it: the same command with --apply --reason TEXT")


def _print_forgotten(report: "ForgetReport") -> None:
    gone = ", ".join(f"{number} {kind}" for kind, number in report.purged.items()) or "nothing"
    print(f"purged       {gone}, {report.vectors} vectors")
    print(f"re-derived   {len(report.rederived)} lessons")
    print(
        f"policy       {len(report.policies)} trees gone, head is {report.head[:12]}"
        + (" (moved)" if report.head_moved else "")
    )
    size = sum(size for _, size in report.searched)
    print(f"searched     {len(report.searched)} files, {size:,} bytes, for {report.marks} pieces of the text")
    for place, piece in report.left:
        print(f"LEFT         {piece!r} in {place}")
    print(f"result       {'proved: none of it is on the disk' if report.proved else report.note or 'NOT PROVED'}")


@app.command()
def dedupe(
    apply: Annotated[bool, typer.Option("--apply", help="Merge them; otherwise they are only listed.")] = False,
    json: AsJson = False,
) -> None:
    """Find active lessons that say the same, and merge them into the oldest."""
    groups = with_memory(lambda memory: _merge_equals(memory, apply))
    if json:
        emit_json({"merged": apply, "groups": groups})
        return
    for group in groups:
        print(f"{' '.join(lesson.id[:16] for lesson in group)}  {first_line(group[0].text)}")
    note(
        f"{len(groups)} groups of duplicates"
        + ("" if apply or not groups else "; to merge them: whet memory dedupe --apply")
    )


async def _merge_equals(memory: "Memory", apply: bool) -> "list[list[Lesson]]":
    equal = await memory.lessons.duplicates(("active",))
    for group in equal if apply else ():
        await memory.lessons.merge([lesson.id for lesson in group], reason="they say the same", actor="cli")
    return equal


@app.command()
@listing
def tend(
    view: View,
    errors: Annotated[
        bool, typer.Option("--errors", help="Tell what went wrong in the newest runs to the next ones, at once.")
    ] = False,
) -> None:
    """Retire what no longer holds: rewrites that lost, faded beliefs about people, what does harm."""
    from whet.learners.experience.tending import tend as look_after

    found = with_memory(lambda memory: look_after(memory, errors=errors))
    rows = [as_row(lesson) for lesson in found]
    view.show(rows, ("id", "status", "source", "reason", "text"), empty="every lesson holds")


@app.command()
@listing
def stats(view: View) -> None:
    """Show every lesson's measured worth: pass rate with it, without it, and the difference with its interval."""
    from whet.core import Lesson

    async def work(memory: "Memory") -> list[dict[str, object]]:
        lessons = await memory.find(Lesson, where={"valid_to": None, "status": "active"})
        return [
            {"id": lesson.id, "text": lesson.text, **msgspec.to_builtins(await memory.worth(lesson.id))}
            for lesson in lessons
        ]

    rows = with_memory(work, read_only=True)
    view.show(rows, ("id", "mean", "low", "high", "n_shown", "n_withheld", "text"), empty="no active lesson")
