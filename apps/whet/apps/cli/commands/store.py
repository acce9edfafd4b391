"""Commands about the whole store: init, status, config, doctor, stats, log, show, undo, query, export, import."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, Row, View, console, emit_json, is_time, listing, note
from whet.apps.cli.session import load_settings, memory, run_async, with_memory
from whet.core.errors import NotFoundError, UserError
from whet.core.records import Json, Record

if TYPE_CHECKING:
    from whet.memory import Memory
    from whet.memory.exchange import ImportReport

__all__ = ["print_record", "register"]

CONFIG = """\
# Settings of this project; every one can also be given as an environment variable (WHET_MODEL=…).
# whet docs: docs/models.md names the models, docs/memory.md the stores.
model = "tiny"            # the embedded model; or openai:NAME, litellm:provider/name, hf:FOLDER
# store = "postgresql+asyncpg://user@host/database"   # default: SQLite in .whet/
"""


def print_record(record: Record, *, json: bool) -> None:
    """Prints one record: JSON, or field by field with long texts whole."""
    row = as_row(record)
    if json:
        emit_json(row)
        return
    terminal = console()
    for name, value in row.items():
        if value in (None, "", [], {}):
            continue
        shown = _shown(name, value)
        if "\n" in shown:
            terminal.print(f"{name}:", style="bold")
            print("    " + shown.replace("\n", "\n    "))
        else:
            terminal.print(f"[bold]{name + ':':<14}[/bold] ", end="")
            print(shown)


def _shown(name: str, value: Json) -> str:
    """Returns a field for a person: text as it is, times in UTC, the rest as JSON, indented where it is long."""
    import msgspec

    if isinstance(value, str):
        return value
    if isinstance(value, int) and is_time(name):
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(" ", "milliseconds")
    if isinstance(value, float):
        return f"{value:.6g}"
    text = msgspec.json.encode(value)
    return (text if len(text) < 100 else msgspec.json.format(text, indent=2)).decode()


def _kinds() -> dict[str, type[Record]]:
    from whet.core import Candidate, Critique, Feedback, Job, Lesson, Promotion, Run, Step, Task, Verdict

    kinds = (Run, Task, Verdict, Lesson, Promotion, Feedback, Critique, Candidate, Job, Step)
    return {kind.__name__.lower(): kind for kind in kinds}


def init() -> None:
    """Make a memory in this folder (.whet) and a whet.toml to edit."""
    settings = load_settings()
    config = Path("whet.toml")
    existed = Path(settings.home).exists()

    async def work() -> None:
        async with memory(create=True):
            pass

    run_async(work())
    if not config.exists():
        config.write_text(CONFIG)
    note(f"{'found' if existed else 'made'} {settings.home}, settings in {config}; next: whet run world:7 --limit 5")


def status(json: AsJson = False) -> None:
    """Show what is in the memory and where the policy stands."""

    async def work(memory: "Memory") -> dict[str, Json]:
        counts: dict[str, Json] = {name: await memory.count(kind) for name, kind in _kinds().items()}
        log = await memory.policies.log(1)
        return {
            "store": str(load_settings().store or load_settings().home),
            "head": await memory.policies.head_digest(),
            "last_decision": f"{log[0].decision}: {log[0].reason}" if log else None,
            "records": counts,
        }

    report = with_memory(work, read_only=True)
    if json:
        emit_json(report)
        return
    counts = report.pop("records")
    for name, value in report.items():
        print(f"{name.replace('_', ' '):<14} {value or '-'}")
    assert isinstance(counts, dict)
    print(f"{'records':<14} {', '.join(f'{number} {name}' for name, number in counts.items() if number) or 'none'}")


@listing
def config(view: View) -> None:
    """List the settings in force, and where each comes from: default, whet.toml or a variable WHET_…."""
    view.show([as_row(setting) for setting in load_settings().describe()], ("name", "value", "source"))


def doctor(json: AsJson = False) -> None:
    """Check this machine: boot the sandbox and attack it, open the store, load the model; exit code 4 on failure."""
    from whet.apps.cli.health import examine

    checks = run_async(examine(load_settings()))
    if json:
        emit_json({"checks": checks})
    else:
        for check in checks:
            mark = (
                "[green]ok[/green]  " if check.ok else "[red]FAIL[/red]" if check.required else "[yellow]no[/yellow]  "
            )
            console().print(mark, f"{check.name:<28}", end="")
            print(check.detail)
    if not all(check.ok for check in checks if check.required):
        raise typer.Exit(4)


@listing
def stats(view: View) -> None:
    """Show runs, pass rates and cost, by purpose and model."""
    from whet.apps.cli.commands.rows import run_rows
    from whet.core import Run

    async def work(memory: "Memory") -> list[Row]:
        return await run_rows(memory, await memory.find(Run, since=view.since))

    rows = _summaries(with_memory(work, read_only=True))
    columns = ("purpose", "model", "runs", "judged", "pass_rate", "tokens", "dollars")
    view.show(rows, columns, empty="no run yet; start one with: whet run world:7 --limit 5")


def _summaries(rows: Sequence[Row]) -> list[Row]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["purpose"]), str(row["model"])), []).append(row)
    return [_summary(purpose, model, members) for (purpose, model), members in sorted(groups.items())]


def _summary(purpose: str, model: str, members: Sequence[Row]) -> Row:
    judged = [row for row in members if row["outcome"] in ("pass", "fail")]
    passed = len([row for row in judged if row["outcome"] == "pass"])
    return {
        "purpose": purpose,
        "model": model,
        "runs": len(members),
        "judged": len(judged),
        "pass_rate": passed / len(judged) if judged else None,
        "tokens": sum(int(str(row["tokens"])) for row in members),
        "dollars": sum(int(str(row["micro_dollars"])) for row in members) / 1e6,
    }


def show(id: Annotated[str, typer.Argument(help="Any id, or the beginning of one.")], json: AsJson = False) -> None:
    """Show any record by its id."""

    async def work(memory: "Memory") -> Record:
        found: list[Record] = []
        for kind in _kinds().values():
            try:
                found.append(await memory.get(kind, id))
            except NotFoundError as error:
                if "several" in str(error):
                    raise
        if len(found) != 1:
            what = ", ".join(f"{type(record).__name__.lower()} {record.id}" for record in found)  # type: ignore[attr-defined]
            raise NotFoundError(f"{id!r} names several records: {what}" if found else f"no record begins with {id!r}")
        return found[0]

    print_record(with_memory(work, read_only=True), json=json)


@listing
def log(view: View) -> None:
    """List the changes to the memory, newest first."""
    changes = with_memory(lambda memory: memory.changes(limit=view.limit, since=view.since), read_only=True)
    view.show([as_row(change) for change in changes], ("id", "at", "op", "kind", "key", "actor", "reason"), ("digest",))


def undo(
    change: Annotated[str, typer.Argument(help="Id of the change, from: whet log.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the log.")] = "undone by hand",
) -> None:
    """Take one change back; the log keeps both."""
    with_memory(lambda memory: memory.undo(change, actor="cli", reason=reason))
    note(f"change {change} was undone")


@listing
def query(view: View, sql: Annotated[str, typer.Argument(help="A SELECT statement.")]) -> None:
    """Ask the store in SQL; read only."""
    rows = with_memory(lambda memory: memory.query(sql), read_only=True)
    view.show(rows, tuple(rows[0]) if rows else (), empty="no row")


def export(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    format: Annotated[str, typer.Option(help="store (everything), openai, atif or mini-swe.")] = "store",
    run: Annotated[list[str] | None, typer.Option(help="Only this run; repeatable.")] = None,
) -> None:
    """Write the memory, or runs of it, to a file."""
    from whet.memory.exchange import export_file

    if file.exists():
        raise UserError(f"{str(file)!r} exists; name another file")
    count = with_memory(lambda memory: export_file(memory.store, format, file, run_ids=run), read_only=True)
    note(f"wrote {'everything, with ' if format == 'store' else ''}{count} runs to {file}")


def import_(
    file: Annotated[Path, typer.Argument(help="File to read.")],
    format: Annotated[str, typer.Option(help="openai, atif, mini-swe, ilf, or store (an export of everything).")],
    json: AsJson = False,
) -> None:
    """Read runs, tasks and feedback from a file; malformed rows are quarantined with their reason."""
    from whet.memory.exchange import import_file

    async def work() -> "ImportReport":
        async with memory(create=True) as opened:
            return await import_file(opened.store, format, file, actor="cli")

    report = run_async(work())
    if json:
        emit_json(report)
        return
    counts = {name: value for name, value in as_row(report).items() if isinstance(value, int)}
    print(", ".join(f"{value} {name}" for name, value in counts.items()) + f", {len(report.quarantined)} quarantined")
    for row in report.quarantined:
        print(f"  quarantined: {row}")


def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the completion script for a shell, e.g.: eval "$(whet completion bash)"."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in ("bash", "zsh", "fish"):
        raise UserError(f"no completion for {shell!r}; there is bash, zsh and fish")
    print(get_completion_script(prog_name="whet", complete_var="_WHET_COMPLETE", shell=shell))


def register(app: typer.Typer) -> None:
    """Adds these commands to the root."""
    for command in (init, status, config, doctor, stats, log, show, undo, query, export, completion):
        app.command()(command)
    app.command("import")(import_)
