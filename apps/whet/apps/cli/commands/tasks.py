"""``whet tasks``: list, show, validate, add."""

from typing import Annotated

import msgspec
import typer

from whet.apps.cli.commands.rows import as_row, first_line
from whet.apps.cli.output import AsJson, View, emit_json, listing, note
from whet.apps.cli.session import run_async, with_memory
from whet.core.errors import NotFoundError

app = typer.Typer()
Spec = Annotated[str, typer.Argument(help="humaneval:FILE, ilf:FILE, jsonl:FILE or world:SEED.")]


@app.command("list")
@listing
def list_tasks(view: View, spec: Spec) -> None:
    """List the tasks of a set, with the split each belongs to."""
    from whet.agents.tasksets import load_tasks

    rows = [{**as_row(task), "prompt": task.prompt} for task in load_tasks(spec).tasks]
    view.show(rows, ("id", "split", "prompt"), ("tags",))


@app.command()
def show(
    spec: Spec, id: Annotated[str, typer.Argument(help="Task id (or its beginning).")], json: AsJson = False
) -> None:
    """Show one task of a set."""
    from whet.agents.tasksets import load_tasks
    from whet.apps.cli.commands.store import print_record

    task = next((task for task in load_tasks(spec).tasks if task.id.startswith(id)), None)
    if task is None:
        raise NotFoundError(f"no task {id!r} in {spec!r}; list them with: whet tasks list {spec}")
    print_record(task, json=json)


@app.command()
def add(spec: Spec) -> None:
    """Put a task set into the memory, so that its tasks have ids there."""
    from whet.agents.tasksets import load_tasks

    tasks = load_tasks(spec).tasks
    with_memory(lambda memory: memory.put(*tasks, actor="cli", reason=f"added {spec}"))
    note(f"{len(tasks)} tasks of {spec} are in the memory")


@app.command()
def validate(
    spec: Spec,
    json: AsJson = False,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many tasks; 0 for all.")] = 0,
) -> None:
    """Run every task's reference solution and an empty one through its verifiers; exit code 4 when a task is broken."""
    from whet.agents.tasksets import load_tasks
    from whet.agents.tasksets import validate as check

    tasks = load_tasks(spec)
    if limit:
        tasks = msgspec.structs.replace(tasks, tasks=tasks.tasks[:limit])
    report = run_async(check(tasks))
    if json:
        emit_json(report)
    else:
        print(
            f"{report.tasks} tasks: {report.reference_passes} reference solutions pass, "
            f"{report.empty_passes} empty ones pass, {report.infra_errors} could not be judged"
        )
        for failure in report.failures:
            print(f"  {first_line(str(failure), 160)}")
    if report.failures:
        raise typer.Exit(4)
