"""``whet gate``: the decisions and their evidence."""

from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.improve import (
    Calls,
    Criteria,
    Dollars,
    Judge,
    MinTrust,
    Probes,
    Seconds,
    Stages,
    limits,
    load_probes,
    load_stages,
)
from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, View, console, emit_json, listing
from whet.apps.cli.session import with_memory

if TYPE_CHECKING:
    from whet.core import Promotion
    from whet.learners import Progress
    from whet.memory import Memory

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


@app.command("decide")
def decide_on(
    candidate: Annotated[str, typer.Argument(help="Candidate id or prefix, as whet learn prints it.")],
    tasks: Annotated[str, typer.Argument(help="Task set whose held-out tasks decide: world:7, jsonl:FILE …")],
    model: Annotated[str, typer.Option(help="Model; default: the one of whet.toml.")] = "",
    graph: Annotated[str, typer.Option(help="A pattern (react, refine, …) or path/file.py:graph.")] = "refine",
    concurrency: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 4,
    alpha: Annotated[float, typer.Option(help="Error rate of the gate over all uses of the held-out set.")] = 0.05,
    min_effect: Annotated[float, typer.Option(help="Gain in pass rate that has to be exceeded.")] = 0.02,
    min_trust: MinTrust = 0.7,
    probes: Probes = None,
    stages: Stages = "lint",
    judge: Judge = "",
    criteria: Criteria = None,
    tainted: Annotated[bool, typer.Option("--tainted", help="Decide though it rests on what strangers wrote.")] = False,
    calls: Calls = None,
    dollars: Dollars = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Let the gate decide on a candidate that waits, and carry the decision out."""
    from whet.agents.tasksets import load_tasks
    from whet.apps.cli.workshop import make_agent
    from whet.learners import Gate, GateConfig, decide

    task_set, general, budget = load_tasks(tasks), load_probes(probes), limits(calls, dollars, seconds)
    gate = Gate(GateConfig(alpha=alpha, min_effect=min_effect, min_trust=min_trust, concurrency=concurrency))
    before = load_stages(stages, judge, criteria)

    async def work(memory: "Memory") -> "Promotion":
        agent = make_agent(memory, model=model, graph=graph)
        return await decide(
            memory,
            agent,
            candidate,
            task_set,
            gate=gate,
            probes=general,
            stages=before,
            budget=budget,
            tainted=tainted,
            on_progress=_tell,
        )

    promotion = with_memory(work)
    if json:
        emit_json(promotion)
        return
    columns = ("id", "decision", "n", "mean", "low", "high", "reason")
    View(limit=None).show([as_row(promotion)], columns)


def _tell(progress: "Progress") -> None:
    terminal = console(stderr=True)
    if terminal.is_terminal:
        said = f"gain {progress.mean:+.2f}, p {progress.p:.2g}" if progress.of == "tasks" else "probes"
        line = f"  {said} {progress.n}/{progress.total}          "
        terminal.print(line, end="\r", markup=False)
