"""``whet learn``: let one learner propose lessons, skills or weights from the memory, or from practice of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.improve import Calls, Dollars, Seconds, limits
from whet.apps.cli.commands.rows import first_line
from whet.apps.cli.output import AsJson, View, emit_json, note
from whet.apps.cli.session import with_memory
from whet.core.errors import UserError

if TYPE_CHECKING:
    from whet.learners import Proposal

__all__ = ["register"]

SHOWN = 10


def learn(
    learner: Annotated[str, typer.Argument(help="Name of a learner or method, or package.module:Class.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List the learners and methods.")] = False,
    where: Annotated[
        str, typer.Option(help="Which runs to learn from, e.g. 'agent=refine since=7d verdict=pass score>=0.5'.")
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the learner, e.g. beta=0.2, train.lr=1e-4, rollouts.rounds=4."),
    ] = None,
    tasks: Annotated[str, typer.Option(help="Task set to practise on, for methods that learn on-policy.")] = "",
    model: Annotated[str, typer.Option(help="Model to train; default: the one of whet.toml.")] = "",
    graph: Annotated[
        str, typer.Option(help="Agent that practises: a pattern (react, refine, …) or path/file.py:graph.")
    ] = "refine",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be learned from, or proposed.")
    ] = False,
    export: Annotated[Path | None, typer.Option(help="Write the data for other trainers; train nothing.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --export replace its folder.")] = False,
    out: Annotated[Path | None, typer.Option(help="Train into this folder and keep it; propose nothing.")] = None,
    calls: Calls = None,
    dollars: Dollars = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Let a learner propose lessons, a policy or an adapter; what it proposes waits for the gate."""
    from whet.apps.cli import teaching

    if list_:
        view = View(output="json" if json else "table", limit=None)
        view.show(teaching.describe_learners(options=json), ("name", "learns", "extra", "needs", "description"))
        if not json:
            note("papers, costs and options: whet learn --list --json")
        return
    if not learner:
        raise UserError("which learner? see: whet learn --list")
    method = teaching.is_method(learner)
    _check(learner, method=method, dry_run=dry_run, export=export, overwrite=overwrite, out=out)
    if tasks and method and (dry_run or export is not None or out is not None):
        raise UserError("--tasks is for practice, after which an adapter is proposed; leave it out")
    wish = teaching.Wish(
        learner=learner, where=where, settings=tuple(set_ or ()), tasks=tasks, model=model, graph=graph
    )
    budget = limits(calls, dollars, seconds)
    if method and (dry_run or export is not None):
        dataset = with_memory(lambda memory: teaching.look(memory, wish, budget))
        teaching.show_dataset(dataset, export, overwrite=overwrite, json=json)
    elif out is not None:
        if teaching.is_scorer(learner):
            credentials = with_memory(lambda memory: teaching.train_scorer(memory, wish, budget, out))
            emit_json(credentials) if json else print("\n".join(credentials.lines()))
            return
        trained = with_memory(lambda memory: teaching.train(memory, wish, budget, out))
        emit_json(trained.report) if json else note(f"wrote {trained.folder}: {trained.report.steps} steps")
    else:
        proposals = with_memory(lambda memory: teaching.propose(memory, wish, budget, keep=not dry_run))
        _show(proposals, teaching.needs_of(learner), practised=bool(tasks), kept=not dry_run, json=json)


def _check(
    learner: str, *, method: bool, dry_run: bool, export: Path | None, overwrite: bool, out: Path | None
) -> None:
    """Refuses what cannot be had at once."""
    if overwrite and export is None:
        raise UserError("--overwrite is for --export; name its folder")
    if out is not None and (dry_run or export is not None):
        raise UserError(f"--out trains, --{'dry-run' if dry_run else 'export'} does not; choose one of them")
    if not method and (export is not None or out is not None):
        name = "export" if export is not None else "out"
        raise UserError(f"{learner} trains no weights; leave --{name} out")


def _show(proposals: "list[Proposal]", needs: str, *, practised: bool, kept: bool, json: bool) -> None:
    if json:
        emit_json({"proposals": proposals})
        return
    if not proposals:
        why = "nothing tried within the limits is better" if practised else "there is nothing new to learn from"
        note(f"0 proposals: {why}" + (f"; needed: {needs}" if needs else ""))
        return
    for proposal in proposals:
        print(f"{proposal.candidate.id}  {proposal.candidate.summary}")
        for lesson in proposal.lessons[:SHOWN]:
            print(f"    {lesson.kind:<9} {first_line(lesson.text)}")
        if len(proposal.lessons) > SHOWN:
            print(f"    … and {len(proposal.lessons) - SHOWN} more; all of them with --json")
    note(
        f"{len(proposals)} proposals"
        + ("; decide on one with: whet gate decide ID TASKS" if kept else ", nothing kept")
    )


def register(app: typer.Typer) -> None:
    """Adds the command to the root."""
    app.command()(learn)
