"""A skill's scripts, run in a sandbox.

result = await run_script(sandbox, skill, "scripts/verbs.py", ["--help"])
results = await run_scripts(sandbox, skill)             # each of them, without arguments
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

from whet.core.errors import NotFoundError, RefusedError
from whet.core.records import ExecResult
from whet.sandboxes.sandbox import Sandbox
from whet.skills.skill import Skill

__all__ = ["run_script", "run_scripts"]

_INTERPRETERS = {".py": "python3", ".sh": "sh"}


async def run_script(
    sandbox: Sandbox,
    skill: Skill,
    script: str,
    args: Sequence[str] = (),
    *,
    stdin: bytes = b"",
    timeout: float | None = None,
) -> ExecResult:
    """Returns what became of a script of the skill, run in the skill's folder ``skills/<name>`` of the workspace.

    Raises:
        NotFoundError: the skill has no such script; the message lists those it has.
        RefusedError: the script is neither Python nor a shell script.
        SandboxError: the sandbox failed.
    """
    if script not in skill.scripts:
        raise NotFoundError(
            f"skill {skill.name!r} has no script {script!r}; it has {', '.join(skill.scripts) or 'none'}"
        )
    interpreter = _INTERPRETERS.get(PurePosixPath(script).suffix)
    if interpreter is None:
        raise RefusedError(f"script {script!r} is neither .py nor .sh; write it in Python or as a shell script")
    home = f"skills/{skill.name}"
    for path, data in skill.render().items():
        await sandbox.write(f"{home}/{path}", data)
    command = [interpreter, script, *args]
    return await sandbox.exec(command, stdin=stdin, timeout=timeout, cwd=f"/work/{home}")


async def run_scripts(sandbox: Sandbox, skill: Skill, *, timeout: float | None = None) -> dict[str, ExecResult]:
    """Returns what became of each script (``.py``, ``.sh``) of the skill, run without arguments; by its path.

    Raises:
        SandboxError: the sandbox failed.
    """
    runnable = [path for path in skill.scripts if PurePosixPath(path).suffix in _INTERPRETERS]
    return {path: await run_script(sandbox, skill, path, timeout=timeout) for path in runnable}
