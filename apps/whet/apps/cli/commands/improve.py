"""``whet improve``: run, learn, decide, promote, and again, under a budget."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, View, console, emit_json, note
from whet.apps.cli.session import load_settings, same_command, with_memory
from whet.core.errors import UserError

if TYPE_CHECKING:
    from whet.core import Budget, Task
    from whet.learners import Event, ImproveReport
    from whet.learners.stages import Stage
    from whet.memory import Memory

__all__ = [
    "Calls",
    "Criteria",
    "Dollars",
    "Judge",
    "MinTrust",
    "Probes",
    "Seconds",
    "Stages",
    "limits",
    "load_probes",
    "load_stages",
    "register",
    "tell",
]

Calls = Annotated[int | None, typer.Option(help="Budget: model calls.")]
Dollars = Annotated[float | None, typer.Option(help="Budget: dollars.")]
Seconds = Annotated[float | None, typer.Option(help="Budget: seconds.")]
Probes = Annotated[
    list[str] | None,
    typer.Option(help="Another task set, whose held-out tasks must not get worse; may be given several times."),
]

Stages = Annotated[
    str, typer.Option(help="What looks at a candidate before the held-out tasks do: lint,hygiene,hacking; '': nothing.")
]
Judge = Annotated[str, typer.Option(help="Model that the stages ask; default: the one of whet.toml.")]
MinTrust = Annotated[
    float, typer.Option(min=0, max=1, help="Balanced agreement that the gate asks of a judge, surely reached.")
]
Criteria = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="File that says what was asked for; the stage hacking needs it."),
]


def load_stages(names: str, judge: str, criteria: Path | None) -> "list[Stage]":
    """Returns the stages named in a list with commas.

    Raises:
        UserError: there is no such stage, it lacks what it needs, or none uses an option that was given.
    """
    from whet.learners.stages import load_stage

    wanted = [name for name in names.replace(" ", "").split(",") if name]
    if judge and not {"hygiene", "hacking"} & set(wanted):
        raise UserError(f"--judge {judge!r}: none of the stages asks a model; add --stages lint,hygiene")
    if criteria is not None and "hacking" not in wanted:
        raise UserError("--criteria are for the stage hacking; add --stages lint,hacking")
    asks = bool({"hygiene", "hacking"} & set(wanted))
    model = load_settings().load_model(judge) if asks else None
    text = criteria.read_text() if criteria is not None else ""
    return [load_stage(name, model=model, criteria=text) for name in wanted]


def load_probes(specs: Sequence[str] | None) -> "list[Task]":
    """Returns the held-out tasks of some task sets.

    Raises:
        UserError: one of the sets cannot be loaded, or has no held-out tasks.
    """
    from whet.agents.tasksets import load_tasks

    found: list[Task] = []
    for spec in specs or ():
        heldout = [task for task in load_tasks(spec).tasks if task.split == "heldout"]
        if not heldout:
            raise UserError(f"--probes {spec!r} has no held-out tasks; see whet tasks validate {spec}")
        found += heldout
    return found


def limits(calls: int | None, dollars: float | None, seconds: float | None) -> "Budget":
    """Returns the budget of a command: what its options say, and the settings where they say nothing."""
    micro_dollars = None if dollars is None else round(dollars * 1e6)
    return load_settings().new_budget(calls=calls, micro_dollars=micro_dollars, seconds=seconds)


def improve(
    tasks: Annotated[str, typer.Argument(help="Task set: world:7, jsonl:FILE, humaneval:FILE, ilf:FILE.")],
    learners: Annotated[
        str, typer.Option(help="Learners, comma-separated, e.g. lessons,skills,rft; they take turns.")
    ] = "lessons,skills",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of a learner, e.g. gepa.model=openai/gpt-4o-mini, rft.train.lr=1e-4."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model; default: the one of whet.toml.")] = "",
    graph: Annotated[str, typer.Option(help="A pattern (react, refine, …) or path/file.py:graph.")] = "refine",
    rounds: Annotated[int, typer.Option(min=1, help="At most so many rounds.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Runs per training task in a round.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 4,
    alpha: Annotated[float, typer.Option(help="Error rate of the gate over all uses of the held-out set.")] = 0.05,
    min_effect: Annotated[float, typer.Option(help="Gain in pass rate that has to be exceeded.")] = 0.02,
    min_trust: MinTrust = 0.7,
    probes: Probes = None,
    stages: Stages = "lint",
    judge: Judge = "",
    criteria: Criteria = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this job (id or prefix).")] = None,
    calls: Calls = None,
    dollars: Dollars = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Run, learn, decide on held-out tasks, promote; and again, under a budget. Ctrl-C stops, --resume goes on."""
    from whet.agents.tasksets import load_tasks
    from whet.apps.cli.teaching import load_learners
    from whet.apps.cli.workshop import make_agent
    from whet.learners import Gate, GateConfig, ImproveConfig
    from whet.learners import improve as loop

    task_set, general = load_tasks(tasks), load_probes(probes)
    gate = Gate(GateConfig(alpha=alpha, min_effect=min_effect, min_trust=min_trust, concurrency=concurrency))
    before = load_stages(stages, judge, criteria)
    config = ImproveConfig(rounds=rounds, repeats=repeats, concurrency=concurrency)
    taught = load_learners(learners, set_ or ())
    budget = limits(calls, dollars, seconds)

    async def work(memory: "Memory") -> "ImproveReport":
        async with _way_back(memory):
            return await loop(
                make_agent(memory, model=model, graph=graph),
                task_set,
                taught,
                memory=memory,
                gate=gate,
                config=config,
                probes=general,
                stages=before,
                options=tuple(set_ or ()),
                on_event=tell,
                budget=await _resumed(memory, budget, resume),
                resume=resume,
            )

    _report(with_memory(work), json=json)


def _report(report: "ImproveReport", *, json: bool) -> None:
    """Prints the decisions, and how to go on."""
    if json:
        emit_json(report)
        return
    columns = ("id", "decision", "n", "mean", "low", "high", "reason")
    View(limit=None).show([as_row(promotion) for promotion in report.promotions], columns)
    again = same_command("--resume", report.job_id)
    note(f"{report.stopped}; {report.spent.calls} model calls; go on with: {again}")


@asynccontextmanager
async def _way_back(memory: "Memory") -> AsyncIterator[None]:
    """Says how to go on when the loop is interrupted."""
    from whet.core import Job

    try:
        yield
    except asyncio.CancelledError:
        for job in await memory.find(Job, where={"kind": "improve"}, newest_first=True, limit=1):
            again = same_command("--resume", job.id)
            note(f"what was done stays done; go on with: {again}")
        raise


async def _resumed(memory: "Memory", budget: "Budget", job: str | None) -> "Budget":
    """Returns the budget less what the job had spent before it stopped."""
    from whet.core import Budget, Job
    from whet.learners import spent_by

    return budget if job is None else Budget.of(budget.grant, spent=spent_by(await memory.get(Job, job)))


def tell(event: "Event") -> None:
    """Prints what the loop says of itself on stderr: one line that is overwritten while it counts, on a terminal."""
    terminal = console(stderr=True)
    if event.kind in ("run", "gate"):
        if terminal.is_terminal:
            terminal.print(f"  {event.text} {event.done}/{event.total}", end="\r", markup=False)
        return
    terminal.print(f"{event.text}", markup=False)


def register(app: typer.Typer) -> None:
    """Adds the command to the root."""
    app.command()(improve)
