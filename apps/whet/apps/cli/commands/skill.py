"""``whet skill``: list, show, test, compare, install, approve, reject, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.commands.improve import Calls, Dollars, Seconds, limits
from whet.apps.cli.output import AsJson, Row, View, emit_json, listing, note
from whet.apps.cli.session import with_memory
from whet.core.errors import ConflictError, NotFoundError, UserError

if TYPE_CHECKING:
    from whet.core import Policy
    from whet.learners.arms import Comparison
    from whet.memory import Memory
    from whet.skills import Skill

app = typer.Typer()
Name = Annotated[str, typer.Argument(help="Name of the skill.")]
Ref = Annotated[str, typer.Option("--ref", help="Which policy: head, a tag, a digest.")]
Waiting = Annotated[str, typer.Argument(help="Name of a skill in quarantine, or its candidate's id.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the policy's log.")]


def _skill_of(policy: "Policy", name: str, ref: str) -> "Skill":
    from whet.skills import Skill

    if name not in policy.skill_names():
        raise NotFoundError(f"no skill {name!r} in policy {ref}; there are {', '.join(policy.skill_names()) or 'none'}")
    return Skill.parse(policy.skill(name), folder=name)


async def _skill(memory: "Memory", name: str, ref: str) -> "Skill":
    """Returns a skill of a policy; where the one in force has none of that name, the one that waits in quarantine."""
    from whet.learners.quarantine import find, quarantined_skill

    policy = await memory.policies.get(ref)
    if ref == "head" and name not in policy.skill_names() and (waiting := await find(memory, name)):
        return await quarantined_skill(memory, waiting[-1])
    return _skill_of(policy, name, ref)


def _row(skill: "Skill", status: str) -> dict[str, object]:
    """Returns a skill as a row: what it holds, and what each level of disclosure costs in tokens."""
    from whet.skills import disclosure_cost

    cost = disclosure_cost(skill)
    tokens = {"always": cost.always, "body": cost.body, "file_tokens": cost.files}
    return {
        "id": skill.name,
        "name": skill.name,
        "status": status,
        "files": len(skill.files) + 1,
        **tokens,
        "description": skill.description,
    }


@app.command("list")
@listing
def list_skills(view: View, ref: Ref = "head") -> None:
    """List the skills of a policy: tokens of each level of disclosure, measured worth; and those in quarantine."""
    import msgspec

    from whet.learners.quarantine import quarantined_skill, waiting
    from whet.skills import library

    async def work(memory: "Memory") -> list[Row]:
        rows: list[Row] = []
        for skill in library(await memory.policies.get(ref)):
            worth = msgspec.to_builtins(await memory.worth(f"skill:{skill.name}"))
            rows.append({**_row(skill, "active"), **worth})
        for candidate in await waiting(memory):
            skill = await quarantined_skill(memory, candidate)
            rows.append({**_row(skill, "quarantined"), "candidate": candidate.id})
        return rows

    rows = with_memory(work, read_only=True)
    view.show(
        rows,
        ("name", "status", "always", "body", "file_tokens", "mean", "low", "high", "description"),
        ("files", "candidate"),
        empty="no skill yet; learn one with: whet learn skills",
    )


@app.command()
def show(name: Name, ref: Ref = "head", json: AsJson = False) -> None:
    """Show the files of a skill, in force or in quarantine, what they cost in tokens, and what deserves a look."""
    from whet.skills import disclosure_cost, inspect_skill

    skill = with_memory(lambda memory: _skill(memory, name, ref), read_only=True)
    files = {path: data.decode(errors="replace") for path, data in skill.render().items()}
    cost, safety = disclosure_cost(skill), inspect_skill(skill)
    if json:
        about = {"name": skill.name, "description": skill.description, "advice": skill.advice()}
        emit_json({**about, "tokens": cost, "safety": safety, "files": files})
        return
    for path, text in files.items():
        print(f"── {path}")
        print(text.rstrip())
    note(f"about {cost.always} tokens always, {cost.body} when activated, {cost.files} in files on demand")
    note("\n".join([*safety.lines(), *skill.advice()]))


@app.command("test")
def try_scripts(name: Name, ref: Ref = "head", json: AsJson = False) -> None:
    """Run the scripts of a skill, in force or in quarantine, in the sandbox; exit code 4 when one fails."""
    from whet.core import ExecResult

    async def work(memory: "Memory") -> dict[str, ExecResult]:
        from whet.sandboxes import open_sandbox
        from whet.skills import run_scripts

        skill = await _skill(memory, name, ref)
        async with await open_sandbox() as box:
            return await run_scripts(box, skill)

    results = with_memory(work, read_only=True)
    if json:
        emit_json({"scripts": results})
    for path, result in results.items():
        note(f"{path}: {result.status}" + ("" if result.ok else f"\n{result.stderr.strip()}"))
    if not all(result.ok for result in results.values()):
        raise typer.Exit(4)


@app.command()
def compare(
    name: Name,
    tasks: Annotated[str, typer.Argument(help="Task set: world:7, jsonl:FILE, humaneval:FILE, ilf:FILE.")],
    ref: Ref = "head",
    old: Annotated[str, typer.Option(help="Policy with the old version, as an arm of its own.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many training tasks.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Runs per task in each arm.")] = 1,
    model: Annotated[str, typer.Option(help="Model; default: the one of whet.toml.")] = "",
    graph: Annotated[str, typer.Option(help="A pattern (react, refine, …) or path/file.py:graph.")] = "refine",
    calls: Calls = None,
    dollars: Dollars = None,
    seconds: Seconds = None,
    json: AsJson = False,
) -> None:
    """Run training tasks without a skill, with its old version and with the new one; what each arm passes and costs."""
    from whet.agents.tasksets import load_tasks

    chosen = [task for task in load_tasks(tasks).tasks if task.split == "train"][:limit]
    if not chosen:
        raise UserError(f"{tasks!r} has no training tasks to compare on; see whet tasks validate {tasks}")
    budget = limits(calls, dollars, seconds)

    async def work(memory: "Memory") -> "Comparison":
        from whet.apps.cli.workshop import make_agent
        from whet.learners import TrainMemory
        from whet.learners.arms import compare_arms, skill_arms

        policy = await memory.policies.get(ref)
        _skill_of(policy, name, ref)
        arms = skill_arms(policy, name, await memory.policies.get(old) if old else None)
        if old and "old" not in arms:
            raise UserError(f"policy {old!r} has no other version of skill {name!r}; see whet policy diff {old} {ref}")
        async with make_agent(memory, model=model, graph=graph) as agent:
            view = TrainMemory(memory, agent, chosen)
            return await compare_arms(view, chosen, arms, seeds=range(repeats), budget=budget)

    found = with_memory(work)
    if json:
        emit_json(found)
        return
    rows = [
        {"arm": arm, "tasks": result.tasks, "passed": round(result.passed, 3), "sd": round(result.deviation, 3)}
        | {"gain": round(found.gain(arm, "without"), 3), "tokens": round(result.tokens)}
        | {"seconds": round(result.seconds, 2)}
        for arm, result in found.arms.items()
    ]
    View(limit=None).show(rows, ("arm", "tasks", "passed", "sd", "gain", "tokens", "seconds"))
    note(f"{len(found.assertions)} checks tell the arms apart or fail; {found.dropped} always pass and say nothing")


@app.command()
def install(
    source: Annotated[str, typer.Argument(help="Folder with a SKILL.md, or git URL: https://…, file://….")],
    folder: Annotated[str, typer.Option(help="The skill's folder inside of it, where it holds several.")] = "",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the repository.")] = "HEAD",
    json: AsJson = False,
) -> None:
    """Bring a skill into quarantine and report what it could do; nothing is in force until a person approves."""
    from whet.learners.quarantine import quarantine
    from whet.skills import fetch_skill, inspect_skill

    found = fetch_skill(source, folder=folder, revision=revision)
    candidate = with_memory(lambda memory: quarantine(memory, found, actor="cli"))
    if json:
        emit_json(candidate)
        return
    print(f"{candidate.id}  {candidate.summary}")
    note("\n".join([*inspect_skill(found.skill).lines(), *found.skill.advice()]))
    note(f"in quarantine; read it with: whet skill show {found.skill.name}")
    evidence = f"whet gate decide {candidate.id} TASKS --tainted"
    note(f"then: whet skill approve {found.skill.name}; or, with evidence: {evidence}")


@app.command()
def approve(name: Waiting, reason: Reason = "") -> None:
    """Put a skill that waits in quarantine in force, as a commit by hand."""
    from whet.learners import quarantine

    why = reason or "looked at and approved"
    promotion = with_memory(lambda memory: quarantine.approve(memory, name, reason=why, actor="cli"))
    note(f"approved {name}; head is now {promotion.policy[:12]}; take it back with: whet policy rollback")


@app.command()
def reject(name: Waiting, reason: Reason = "") -> None:
    """Decide that a skill that waits in quarantine shall not come into force."""
    from whet.learners import quarantine

    why = reason or "looked at and rejected"
    with_memory(lambda memory: quarantine.reject(memory, name, reason=why, actor="cli"))
    note(f"rejected {name}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write the skills' folders into.")],
    names: Annotated[list[str] | None, typer.Argument(help="Which skills; all unless given.")] = None,
    ref: Ref = "head",
    replace: Annotated[bool, typer.Option("--replace", help="Replace older versions that are there.")] = False,
) -> None:
    """Write skills as Agent Skills folders, which other agents load as they are."""
    from whet.skills import save_skill

    policy = with_memory(lambda memory: memory.policies.get(ref), read_only=True)
    chosen = [_skill_of(policy, name, ref) for name in names or policy.skill_names()]
    if there := [skill.name for skill in chosen if not replace and (folder / skill.name).exists()]:
        raise ConflictError(f"{str(folder / there[0])!r} exists; name another folder, or --replace")
    for skill in chosen:
        note(f"wrote {save_skill(skill, folder, replace=replace)}")
    if not chosen:
        note(f"policy {ref} has no skill; learn one with: whet learn skills")
