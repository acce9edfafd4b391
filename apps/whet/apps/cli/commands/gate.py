"""``whet gate``: the decisions and their evidence."""

from typing import Annotated

import typer

from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, View, listing
from whet.apps.cli.session import with_memory

app = typer.Typer()


@app.command("list")
@listing
def list_decisions(view: View) -> None:
    """List the gate's decisions, newest first."""
    from whet.core import Promotion

    found = with_memory(lambda memory: memory.find(Promotion, since=view.since, newest_first=True), read_only=True)
    view.show(
        [as_row(item) for item in found],
        ("id", "at", "decision", "policy", "n", "mean", "low", "high", "reason"),
        ("incumbent", "p", "actor"),
        empty="no decision yet; make one with: whet improve TASKS",
    )


@app.command()
def show(id: Annotated[str, typer.Argument(help="Promotion id or prefix.")], json: AsJson = False) -> None:
    """Show a decision with its thresholds and evidence."""
    from whet.apps.cli.commands.store import print_record
    from whet.core import Promotion

    print_record(with_memory(lambda memory: memory.get(Promotion, id), read_only=True), json=json)
