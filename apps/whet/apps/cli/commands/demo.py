"""``whet demo``: the main loop on the embedded model, with a table at the end."""

import os
import shutil
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.improve import tell
from whet.apps.cli.output import AsJson, console, emit_json, note
from whet.apps.cli.session import load_settings, memory, run_async
from whet.core.errors import RefusedError

if TYPE_CHECKING:
    from whet.apps.demo import Report

__all__ = ["register"]


def demo(
    world: Annotated[int, typer.Option(help="Seed of the world.")] = 7,
    learning: Annotated[bool, typer.Option(help="Switch learning off to see that nothing is gained.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the runs.")] = 0,
    json: AsJson = False,
) -> None:
    """See a small model fail, be told what went wrong, learn, and do measurably better."""
    from whet.apps.demo import DemoConfig, demonstrate

    config = DemoConfig(world=world, seed=seed, learners=_learners() if learning else ())

    async def work() -> "Report":
        async with memory(create=True) as opened:
            if await opened.policies.log(1):
                home = load_settings().store or load_settings().home
                raise RefusedError(
                    f"there is a history in {str(home)!r} already; see a demo elsewhere: whet --home demo demo"
                )
            return await demonstrate(opened, config, tell)

    report = run_async(work())
    if json:
        emit_json(report)
        return
    _print(report)
    _print_next(report)


def _learners() -> tuple[str, ...]:
    """Returns the learners that can be shown here: weights need torch."""
    from whet.apps.demo import STAGES

    if all(find_spec(package) for package in ("torch", "transformers", "peft")):
        return tuple(STAGES)
    note("without torch there are no weights to learn; for all three stages: pip install 'whet[weights]'")
    return tuple(name for name, stage in STAGES.items() if stage != "weights")


def _print_next(report: "Report") -> None:
    """Prints three commands that can be pasted as they are."""
    home = load_settings().home
    program = "whet" if shutil.which("whet") else os.path.relpath(sys.argv[0])
    whet = program if str(home) == ".whet" else f"{program} --home {home}"
    note(f"look further:\n  {whet} policy log")
    if report.lessons:
        note(f"  {whet} memory why {report.lessons[-1]}")
    if report.skills:
        note(f"  {whet} policy blame skills/{report.skills[-1]}/SKILL.md")


def _print(report: "Report") -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in (
        "",
        "pass rate",
        "95 %",
        "gain at the gate",
        "95 %",
        "pairs",
        "decision",
        "calls",
        "tokens",
        "seconds",
    ):
        table.add_column(name, justify="left" if name in ("", "decision") else "right", no_wrap=True)
    for row in report.rows:
        rate, gate = row.pass_rate, row.promotion
        shown = (
            (f"{gate.mean:+.2f}", f"{gate.low:+.2f} … {gate.high:+.2f}") if gate and gate.mean is not None else ("", "")
        )
        table.add_row(
            row.stage,
            "-" if rate.mean is None else f"{rate.mean:.0%}",
            f"{rate.low:.0%} … {rate.high:.0%}",
            *shown,
            str(gate.n) if gate else "",
            gate.decision.replace("_", " ") if gate else "",
            f"{row.calls:,}",
            f"{row.tokens:,}",
            f"{row.seconds:.0f}",
        )
    console().print(table)


def register(app: typer.Typer) -> None:
    """Adds ``whet demo`` to the root."""
    app.command()(demo)
