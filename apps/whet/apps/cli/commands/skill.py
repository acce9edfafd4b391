"""``whet skill``: list, show, test, install, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.apps.cli.output import AsJson, View, emit_json, listing, note
from whet.apps.cli.session import with_memory
from whet.core.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from whet.memory import Memory
    from whet.skills import Skill

app = typer.Typer()
Name = Annotated[str, typer.Argument(help="Name of the skill.")]
Ref = Annotated[str, typer.Option("--ref", help="Which policy.")]


async def _skill(memory: "Memory", name: str, ref: str) -> "Skill":
    from whet.skills import Skill

    policy = await memory.policies.get(ref)
    if name not in policy.skill_names():
        raise NotFoundError(f"no skill {name!r} in policy {ref}; there are {', '.join(policy.skill_names()) or 'none'}")
    return Skill.parse(policy.skill(name))


@app.command("list")
@listing
def list_skills(view: View, ref: Ref = "head") -> None:
    """List the skills of a policy, with their measured worth."""
    import msgspec

    from whet.skills import Skill

    async def work(memory: "Memory") -> list[dict[str, object]]:
        policy = await memory.policies.get(ref)
        rows: list[dict[str, object]] = []
        for name in policy.skill_names():
            skill = Skill.parse(policy.skill(name))
            worth = msgspec.to_builtins(await memory.worth(f"skill:{name}"))
            rows.append({"id": name, "description": skill.description, "files": len(skill.files), **worth})
        return rows

    rows = with_memory(work, read_only=True)
    view.show(
        rows,
        ("id", "files", "mean", "low", "high", "description"),
        empty="no skill yet; learn one with: whet learn skills",
    )


@app.command()
def show(name: Name, ref: Ref = "head", json: AsJson = False) -> None:
    """Show a skill's files."""
    skill = with_memory(lambda memory: _skill(memory, name, ref), read_only=True)
    if json:
        emit_json(
            {
                "name": skill.name,
                "description": skill.description,
                "files": {p: d.decode(errors="replace") for p, d in skill.files.items()},
            }
        )
        return
    for path, data in sorted(skill.files.items()):
        print(f"── {path}")
        print(data.decode(errors="replace").rstrip())


@app.command("test")
def run_scripts(name: Name, ref: Ref = "head", json: AsJson = False) -> None:
    """Run a skill's scripts in the sandbox; exit code 4 when one fails."""
    from whet.core import ExecResult

    async def work(memory: "Memory") -> dict[str, ExecResult]:
        from whet.sandboxes import open_sandbox
        from whet.skills import run_script

        skill = await _skill(memory, name, ref)
        scripts = [path for path in sorted(skill.files) if path.startswith("scripts/") and path.endswith(".py")]
        async with await open_sandbox() as box:
            return {path: await run_script(box, skill, path) for path in scripts}

    results = with_memory(work, read_only=True)
    if json:
        emit_json({"scripts": results})
    for path, result in results.items():
        note(f"{path}: {result.status}" + ("" if result.ok else f"\n{result.stderr.strip()}"))
    if not all(result.ok for result in results.values()):
        raise typer.Exit(4)


@app.command()
def install(
    folder: Annotated[Path, typer.Argument(help="Folder with a SKILL.md.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the policy's log.")] = "",
) -> None:
    """Add a skill folder to the policy, as a commit by hand."""
    from whet.core import Promotion
    from whet.skills import Skill

    if not (folder / "SKILL.md").is_file():
        raise UserError(f"no SKILL.md in {str(folder)!r}; a skill is a folder with one")
    files = {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()
    }
    skill = Skill.parse(files)

    async def work(memory: "Memory") -> Promotion:
        head = await memory.policies.head()
        changed = head.edit({f"skills/{skill.name}/{path}": data for path, data in files.items()})
        return await memory.policies.commit(changed, reason=reason or f"installed skill {skill.name}", actor="cli")

    promotion = with_memory(work)
    note(f"installed {skill.name}; head is now {promotion.policy[:12]}")


@app.command()
def export(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Folder to write the skill's folder into.")],
    ref: Ref = "head",
) -> None:
    """Write a skill as an Agent Skills folder for other agents."""
    skill = with_memory(lambda memory: _skill(memory, name, ref), read_only=True)
    target = folder / name
    if target.exists():
        raise UserError(f"{str(target)!r} exists; name another folder")
    for path, data in skill.files.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(data)
    note(f"wrote {target}")
