"""A policy without what certain promotions brought into it.

clean = without(history, head, {promotion.id}, load)

In prompts, principles and rubrics the lines those promotions introduced go; a skill, the settings or the adapter goes
back as a whole to what it was before the first of them touched it, and away where it was not there.
"""

from collections.abc import Collection, Sequence

from whet.core import Policy, Promotion
from whet.memory.blame import Load, blame, versions

__all__ = ["without"]


def without(history: Sequence[Promotion], policy: str, unwanted: Collection[str], load: Load) -> Policy:
    """Returns the policy cleared of the promotions whose ids are unwanted; ``history`` is oldest first."""
    descent = [(owner is not None and owner.id in unwanted, load(name)) for owner, name in versions(history, policy)]
    head = load(policy)
    files: dict[str, str | bytes] = {}
    for path in head.files:
        if _by_line(path):
            lines = blame(history, policy, path, load)
            kept = [line for owner, line in lines if owner is None or owner.id not in unwanted]
            if kept == [line for _, line in lines]:
                files[path] = head.files[path]
            elif kept:
                files[path] = "\n".join(kept) + "\n"
    for unit in dict.fromkeys(_unit(path) for path in head.files if not _by_line(path)):
        files.update(_last_clean(descent, unit))
    return Policy.of(files)


def _by_line(path: str) -> bool:
    return path.endswith(".md") and not path.startswith("skills/")


def _unit(path: str) -> str:
    """Returns what changes together with a file: its skill, or itself."""
    return "/".join(path.split("/")[:2]) + "/" if path.startswith("skills/") else path


def _last_clean(descent: Sequence[tuple[bool, Policy]], unit: str) -> dict[str, bytes]:
    current: dict[str, bytes] = {}
    for unwanted, policy in descent:
        files = {path: data for path, data in policy.files.items() if _unit(path) == unit}
        if unwanted and files != current:
            return current
        current = files
    return current
