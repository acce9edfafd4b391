"""``whet verdict``: list, show, rerun, disagree."""

from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, View, emit_json, listing, note
from whet.apps.cli.session import with_memory

if TYPE_CHECKING:
    from whet.core import Verdict
    from whet.memory import Memory

app = typer.Typer()


@app.command("list")
@listing
def list_verdicts(view: View) -> None:
    """List verdicts, newest first."""
    from whet.core import Verdict

    found = with_memory(lambda memory: memory.find(Verdict, since=view.since, newest_first=True), read_only=True)
    view.show(
        [as_row(item) for item in found],
        ("id", "at", "run_id", "task_id", "verifier", "outcome", "score", "detail"),
        ("kind", "seconds", "environment"),
        empty="no verdict yet; run a task first: whet run world:7",
    )


@app.command()
def show(id: Annotated[str, typer.Argument(help="Id or prefix.")], json: AsJson = False) -> None:
    """Show one verdict with its checks."""
    from whet.apps.cli.commands.store import print_record
    from whet.core import Verdict

    print_record(with_memory(lambda memory: memory.get(Verdict, id), read_only=True), json=json)


@app.command()
def rerun(
    run: Annotated[str, typer.Argument(help="Run to verify again (id or prefix).")], json: AsJson = False
) -> None:
    """Verify a run's answer again in a fresh sandbox and record the new verdicts; exit code 4 when one fails."""
    verdicts = with_memory(lambda memory: _verify_again(memory, run))
    if json:
        emit_json({"verdicts": [as_row(verdict) for verdict in verdicts]})
    for verdict in verdicts:
        note(f"{verdict.verifier}: {verdict.outcome} {verdict.score:.2f} {verdict.detail}".rstrip())
    if not all(verdict.outcome == "pass" for verdict in verdicts):
        raise typer.Exit(4)


async def _verify_again(memory: "Memory", run_id: str) -> "list[Verdict]":
    from whet.core import Run, Task, UserError
    from whet.feedback import verify_all
    from whet.sandboxes import SandboxPool

    run = await memory.get(Run, run_id)
    task = await memory.get(Task, run.task_id)
    if not task.verifiers:
        raise UserError(f"task {task.id!r} has no verifier; people can judge: whet feedback add {run.id[:16]} accept")
    async with SandboxPool() as sandboxes:
        verdicts = await verify_all(task, run, sandboxes)
    await memory.put(*verdicts, actor="cli", reason="verified again")
    return verdicts


@app.command()
def disagree(
    id: Annotated[str, typer.Argument(help="Verdict you disagree with (id or prefix).")],
    reason: Annotated[str, typer.Option(help="Why; kept as the detail.")],
    source: Annotated[str, typer.Option(help="Who says so.")] = "cli",
) -> None:
    """Record a person's opposite verdict beside a verifier's."""
    import msgspec

    from whet.core import UserError, Verdict, new_id, now_ms
    from whet.memory import Memory

    async def work(memory: Memory) -> Verdict:
        verdict = await memory.get(Verdict, id)
        if not verdict.judged:
            raise UserError(f"verdict {verdict.id[:16]} is {verdict.outcome}: it judged nothing to disagree with")
        opposite = msgspec.structs.replace(
            verdict,
            id=new_id(),
            verifier="person",
            outcome="fail" if verdict.outcome == "pass" else "pass",
            score=0.0 if verdict.outcome == "pass" else 1.0,
            kind="human",
            checks=(),
            detail=reason,
            actor=source,
            at=now_ms(),
        )
        await memory.put(opposite, actor=source, reason=reason)
        return opposite

    opposite = with_memory(work)
    note(f"recorded {opposite.outcome} by {source} on run {opposite.run_id[:16]}")
