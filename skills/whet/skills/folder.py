"""Skills on disk: one folder each, named like the skill.

skill = load_skill("library/dates")
save_skill(skill, "~/.other-agent/skills")      # a folder that any agent of the format loads as it is
"""

import os
from collections.abc import Iterator
from pathlib import Path

from whet.core.errors import ConflictError, NotFoundError, UserError
from whet.skills.skill import MAIN, Skill

__all__ = ["load_skill", "read_folder", "save_skill"]

MAX_BYTES = 16 << 20


def load_skill(folder: str | Path) -> Skill:
    """Returns the skill in a folder. Hidden files (``.git`` with them) and ``__pycache__`` are left out.

    Raises:
        NotFoundError: there is no such folder, or no ``SKILL.md`` in it.
        UserError: the folder breaks the format, holds a link, or more than 16 MiB.
    """
    return Skill.parse(read_folder(folder), folder=Path(folder).resolve().name)


def read_folder(folder: str | Path) -> dict[str, bytes]:
    """Returns the files of a skill's folder, by their paths in it; raises like ``load_skill``, but for the format."""
    root = Path(folder)
    if not (root / MAIN).is_file():
        raise NotFoundError(f"no skill in {str(root)!r}: a skill is a folder with a {MAIN}")
    files: dict[str, bytes] = {}
    size = 0
    for path in _files(root):
        size += path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"skill {str(root)!r} is larger than {MAX_BYTES >> 20} MiB; leave large assets out")
        files[path.relative_to(root).as_posix()] = path.read_bytes()
    return files


def save_skill(skill: Skill, parent: str | Path, *, replace: bool = False) -> Path:
    """Writes the skill as a folder named like it under ``parent`` and returns that folder.

    With ``replace``, files of an older version that the skill no longer has are removed.

    Raises:
        ConflictError: the folder exists and ``replace`` is off.
        UserError: the skill breaks the format.
    """
    root = Path(parent) / skill.name
    files = skill.render()
    if root.exists():
        if not replace:
            raise ConflictError(f"{str(root)!r} exists already; ask to replace it, or choose another folder")
        for path in list(_files(root)):
            if path.relative_to(root).as_posix() not in files:
                path.unlink()
    for name, data in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return root


def _files(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        for name in sorted(name for name in (*names, *folders) if not name.startswith(".")):
            path = Path(place) / name
            if path.is_symlink():
                raise UserError(f"{str(path)!r} is a link; a skill holds its own files: copy the target there")
            if path.is_file():
                yield path
