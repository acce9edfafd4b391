"""``whet index``: the derived search index (status, verify, rebuild)."""

import typer

from whet.apps.cli.output import AsJson, console, emit_json
from whet.apps.cli.session import with_memory

app = typer.Typer()


def _print(report: object, json: bool) -> None:
    if json:
        emit_json(report)
        return
    from whet.core import decode, encode

    for name, value in decode(encode(report), dict).items():
        console().print(f"{name.replace('_', ' '):<20} {value}", markup=False)


@app.command()
def status(json: AsJson = False) -> None:
    """Show what the index holds and what waits to be indexed."""
    _print(with_memory(lambda memory: memory.index.status(), read_only=True), json)


@app.command()
def verify(json: AsJson = False) -> None:
    """Compare the index with the record; exit code 4 when they differ."""
    report = with_memory(lambda memory: memory.index.verify(), read_only=True)
    _print(report, json)
    if not report.ok:
        raise typer.Exit(4)


@app.command()
def rebuild(json: AsJson = False) -> None:
    """Make the index anew from the record."""
    _print(with_memory(lambda memory: memory.index.rebuild()), json)
