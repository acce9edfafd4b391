"""``whet learn`` and ``whet improve``: from memory to proposals, through the gate, to a better agent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.rows import as_row, first_line
from whet.apps.cli.output import AsJson, View, console, emit_json, note
from whet.apps.cli.session import load_settings, same_command, with_memory
from whet.core.errors import UserError

if TYPE_CHECKING:
    from whet.core import Budget
    from whet.learners import Event, ImproveReport, Proposal
    from whet.memory import Memory

__all__ = ["register", "tell"]

SHOWN = 10
Calls = Annotated[int | None, typer.Option(help="Budget: model calls.")]
Dollars = Annotated[float | None, typer.Option(help="Budget: dollars.")]
Seconds = Annotated[float | None, typer.Option(help="Budget: seconds.")]


def _budget(calls: int | None, dollars: float | None, seconds: float | None) -> "Budget":
    micro_dollars = None if dollars is None else round(dollars * 1e6)
    return load_settings().new_budget(calls=calls, micro_dollars=micro_dollars, seconds=seconds)


def learn(
    learner: Annotated[str, typer.Argument(help="Name of a learner, or package.module:Class.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="List the learners.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be proposed.")] = False,
    calls: Calls = None,
    dollars: Dollars = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Let a learner propose lessons or a policy from the memory; what it proposes waits for the gate."""
    from whet.learners.learner import LEARNERS

    if list_:
        rows = [{"name": name, "where": path} for name, path in LEARNERS.items()]
        View(output="json" if json else "table").show(rows, ("name", "where"))
        return
    if not learner:
        raise UserError(f"which learner? there are {', '.join(LEARNERS)}; more with: whet learn --list")
    budget = _budget(calls, dollars, seconds)
    proposals = with_memory(lambda memory: _propose(memory, learner, budget, keep=not dry_run))
    if json:
        emit_json({"proposals": proposals})
        return
    for proposal in proposals:
        print(f"{proposal.candidate.id}  {proposal.candidate.summary}")
        for lesson in proposal.lessons[:SHOWN]:
            print(f"    {lesson.kind:<9} {first_line(lesson.text)}")
        if len(proposal.lessons) > SHOWN:
            print(f"    … and {len(proposal.lessons) - SHOWN} more; all of them with --json")
    note(f"{len(proposals)} proposals" + (", nothing kept" if dry_run else "; decide on them with: whet improve TASKS"))


async def _propose(memory: "Memory", name: str, budget: "Budget", *, keep: bool) -> "list[Proposal]":
    from whet.learners import TrainMemory, incumbent_arm, load_learner, take_in

    incumbent = await incumbent_arm(memory)
    proposals = [p async for p in load_learner(name).propose(TrainMemory(memory), incumbent, budget)]
    return [await take_in(memory, proposal) for proposal in proposals] if keep else proposals


def improve(
    tasks: Annotated[str, typer.Argument(help="Task set: world:7, jsonl:FILE, humaneval:FILE, ilf:FILE.")],
    learners: Annotated[str, typer.Option(help="Learners, comma-separated; they take turns.")] = "lessons,skills",
    model: Annotated[str, typer.Option(help="Model; default: the one of whet.toml.")] = "",
    graph: Annotated[str, typer.Option(help="react, refine, best_of_n, or path/file.py:graph.")] = "refine",
    rounds: Annotated[int, typer.Option(min=1, help="At most so many rounds.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Runs per training task in a round.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 4,
    alpha: Annotated[float, typer.Option(help="Error rate of the gate over all uses of the held-out set.")] = 0.05,
    min_effect: Annotated[float, typer.Option(help="Gain in pass rate that has to be exceeded.")] = 0.02,
    resume: Annotated[str | None, typer.Option(help="Go on with this job (id or prefix).")] = None,
    calls: Calls = None,
    dollars: Dollars = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Run, learn, decide on held-out tasks, promote; and again, under a budget. Ctrl-C stops, --resume goes on."""
    from whet.agents.tasksets import load_tasks
    from whet.apps.cli.workshop import make_agent
    from whet.learners import Gate, GateConfig, ImproveConfig
    from whet.learners import improve as loop

    task_set = load_tasks(tasks)
    gate = Gate(GateConfig(alpha=alpha, min_effect=min_effect, concurrency=concurrency))
    config = ImproveConfig(rounds=rounds, repeats=repeats, concurrency=concurrency)
    budget = _budget(calls, dollars, seconds)

    async def work(memory: "Memory") -> "ImproveReport":
        agent = make_agent(memory, model=model, graph=graph)
        async with _way_back(memory):
            return await loop(
                agent,
                task_set,
                learners.split(","),
                memory=memory,
                gate=gate,
                config=config,
                on_event=tell,
                budget=await _resumed(memory, budget, resume),
                resume=resume,
            )

    report = with_memory(work)
    if json:
        emit_json(report)
        return
    columns = ("id", "decision", "n", "mean", "low", "high", "reason")
    View(limit=None).show([as_row(promotion) for promotion in report.promotions], columns)
    note(
        f"{report.stopped}; {report.spent.calls} model calls; "
        f"go on with: whet improve {tasks} --resume {report.job_id[:16]}"
    )


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
    """Adds these commands to the root."""
    app.command()(learn)
    app.command()(improve)
