"""``whet policy``: log, show, diff, blame, tag, rollback, commit, export, import, watch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.rows import as_row
from whet.apps.cli.output import AsJson, View, console, emit_json, listing, note
from whet.apps.cli.session import with_memory

if TYPE_CHECKING:
    from whet.core import Policy, Promotion
    from whet.memory import Memory

app = typer.Typer()
Ref = Annotated[str, typer.Argument(help="head, head~1, a tag, or a digest prefix.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the log.")]


@app.command()
@listing
def log(view: View) -> None:
    """The log of promotions and rollbacks, newest first."""
    promotions = with_memory(lambda memory: memory.policies.log(view.limit), read_only=True)
    view.show(
        [as_row(item) for item in promotions],
        ("id", "at", "decision", "policy", "incumbent", "mean", "low", "high", "actor", "reason"),
        ("n", "p", "candidate_id"),
        empty="nothing was promoted yet; try: whet improve TASKS",
    )


@app.command()
def show(ref: Ref = "head", json: AsJson = False) -> None:
    """Show a policy's files, and where its adapter comes from."""
    from rich.rule import Rule

    from whet.apps.cli.adapters import Brought, show_adapter

    async def work(memory: "Memory") -> "tuple[Policy, Brought | None]":
        policy = await memory.policies.get(ref)
        return policy, await Brought.find(memory, policy.adapter) if policy.adapter else None

    policy, brought = with_memory(work, read_only=True)
    if json:
        files = {path: data.decode(errors="replace") for path, data in policy.files.items()}
        more = {} if brought is None else {"adapter": brought.as_json()}
        emit_json({"digest": policy.digest, "files": files, **more})
        return
    terminal = console()
    count = len(policy.files)
    terminal.print(f"policy {policy.digest[:12]}  {count} file{'' if count == 1 else 's'}", style="bold")
    for path in sorted(policy.files):
        terminal.print(Rule(path, align="left", style="dim"))
        terminal.print(policy.files[path].decode(errors="replace").rstrip(), markup=False)
        if path == "adapter" and brought is not None:
            show_adapter(terminal, brought)


@app.command()
def diff(
    older: Annotated[str, typer.Argument(help="Ref of the older policy.")] = "head~1", newer: Ref = "head"
) -> None:
    """Show what changed between two policies, as a unified diff."""
    from rich.syntax import Syntax

    text = with_memory(lambda memory: memory.policies.diff(older, newer), read_only=True)
    terminal = console()
    if terminal.is_terminal:
        terminal.print(Syntax(text.rstrip(), "diff", background_color="default"))
    else:
        print(text, end="" if text.endswith("\n") else "\n")


@app.command()
def blame(
    path: Annotated[str, typer.Argument(help="File in the policy, e.g. skills/verbs/SKILL.md.")],
    ref: Annotated[str, typer.Option(help="Which policy.")] = "head",
    json: AsJson = False,
) -> None:
    """Show which promotion brought each line of a file, and from which evidence."""
    lines = with_memory(lambda memory: memory.policies.blame(path, ref), read_only=True)
    if json:
        emit_json({"path": path, "lines": [{"line": line, "promotion": promotion} for promotion, line in lines]})
        return
    terminal = console()
    for promotion, line in lines:
        who = f"{promotion.id[:16]} {promotion.decision:<12} {promotion.actor:<10.10}" if promotion else "not promoted"
        terminal.print(f"{who:<40} │ {line}", markup=False, soft_wrap=True)


@app.command()
def tag(name: Annotated[str, typer.Argument(help="Name of the tag.")], ref: Ref = "head") -> None:
    """Give a policy a name."""
    with_memory(lambda memory: memory.policies.tag(name, ref))
    note(f"tagged {ref} as {name}")


@app.command()
def rollback(
    ref: Annotated[str, typer.Argument(help="head~2, a tag or a digest prefix; default: before the last change.")] = "",
    reason: Reason = "",
    json: AsJson = False,
) -> None:
    """Take the last change back, or go back to an earlier policy: one more entry in the log, nothing is lost."""
    promotion = with_memory(lambda memory: _roll_back(memory, ref, reason or "rolled back by hand"))
    emit_json(as_row(promotion)) if json else note(
        f"head is now {promotion.policy[:12]} (was {promotion.incumbent[:12]})"
    )


async def _roll_back(memory: "Memory", ref: str, reason: str) -> "Promotion":
    """Takes back the gate's last promotion with the lessons it brought and replaced, or moves the head to ``ref``."""
    from whet.learners.watch import MOVES, take_back

    last = next((change for change in await memory.policies.log() if change.decision in MOVES), None)
    if not ref and last and last.decision == "promoted":
        return await take_back(memory, last, reason=reason, actor="cli")
    return await memory.policies.rollback(ref or "head~1", reason=reason, actor="cli")


@app.command()
def watch(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look; take nothing back.")] = False,
    json: AsJson = False,
) -> None:
    """Compare live verdicts with what the gate measured; take the promotion back when they turned (exit code 4)."""
    from whet.learners import watch as look

    found = with_memory(lambda memory: look(memory, act=not dry_run))
    if json:
        emit_json(found)
    elif found.promotion is None:
        print("nothing to watch: no promotion by the gate is in force")
    else:
        live = "-" if found.mean is None else f"{found.mean:.2f}"
        print(f"policy {found.promotion.policy[:12]}: live score {live} in {found.n} runs, promised {found.level:.2f}")
        print(f"p {found.p:.3g} that it keeps its promise" + (": taken back" if found.rolled_back else ""))
    if found.rolled_back:
        raise typer.Exit(4)


@app.command()
def commit(
    folder: Annotated[Path, typer.Argument(help="Folder of a policy, as written by: whet policy export.")],
    reason: Reason = "",
    json: AsJson = False,
) -> None:
    """Make an edited folder the head of the history."""
    from whet.core import Promotion, UserError
    from whet.memory import Memory

    if not reason:
        raise UserError("a policy committed by hand needs a reason: --reason TEXT")

    async def work(memory: Memory) -> Promotion:
        return await memory.policies.commit(await memory.policies.import_folder(folder), reason=reason, actor="cli")

    promotion = with_memory(work)
    emit_json(as_row(promotion)) if json else note(
        f"head is now {promotion.policy[:12]} (was {promotion.incumbent[:12]})"
    )


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    ref: Annotated[str, typer.Option(help="Which policy.")] = "head",
) -> None:
    """Write a policy as a folder that can be read, edited and committed."""
    with_memory(lambda memory: memory.policies.export(ref, folder), read_only=True)
    note(f"wrote {folder}; edit it, then: whet policy commit {folder} --reason TEXT")
