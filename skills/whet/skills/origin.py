"""Skills from elsewhere: read from a folder, or from a git repository at a commit; nothing of them is executed.

    found = fetch_skill("https://example.org/skills.git", folder="skills/dates")
    found.skill.name, found.commit               # and found.source, to be kept with it

A repository is fetched without its history, hooks, submodules or filters, under a git configuration of its own, and
leaves nothing behind. Only ``https://`` and ``file://`` are asked: other transports run programs or prove no identity.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.core.errors import NotFoundError, RefusedError, UserError
from whet.core.records import Record
from whet.skills.folder import read_folder
from whet.skills.skill import MAIN, Skill

__all__ = ["Found", "fetch_skill"]

SCHEMES = ("https://", "file://")
SECONDS = 120.0
_URL = re.compile(r"[\w+.-]+://|[\w.-]+@[\w.-]+:|\w+::")
_LOGIN = re.compile(r"(?<=:)//[^/@]*@")
_QUIET = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "https:file",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C",
}


class Found(Record, frozen=True, kw_only=True):
    """A skill and where it comes from; ``commit`` is empty for a folder."""

    skill: Skill
    source: str
    commit: str = ""


def fetch_skill(source: str, *, folder: str = "", revision: str = "HEAD") -> Found:
    """Returns the skill in a folder, or in a git repository given by its URL.

    ``folder`` is the skill's folder inside of it, needed where there are several; ``revision`` a branch, tag or commit.

    Raises:
        NotFoundError: there is no such folder, repository or revision, or no skill in it.
        UserError: it holds several skills (the message lists them), or one that breaks the format or holds a link.
        RefusedError: the URL has another scheme, or git is not installed.
    """
    if not _URL.match(source):
        if revision != "HEAD":
            raise UserError(f"{source!r} is a folder and has no revision {revision!r}; give file://{source} for git's")
        return Found(skill=_read(Path(source), folder, named=True), source=str(Path(source).resolve()))
    if not source.startswith(SCHEMES):
        raise RefusedError(
            f"{source!r} is no URL that skills are fetched from; give https://… or file://…, or a folder"
        )
    with _checkout(source, revision) as (root, commit):
        # A password in the URL is nobody's business but git's.
        return Found(skill=_read(root, folder, named=False), source=_LOGIN.sub("//", source), commit=commit)


@contextmanager
def _checkout(url: str, revision: str) -> Iterator[tuple[Path, str]]:
    """Yields a folder with the files of the repository at the revision, and the commit."""
    if revision.startswith("-"):
        raise UserError(f"{revision!r} is no revision; give a branch, a tag or a commit")
    with tempfile.TemporaryDirectory(prefix="whet-skill-") as folder:
        root = Path(folder)
        _git(root, "init", "--quiet", "--template=")
        _git(root, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", url, revision)
        _git(root, "-c", "core.hooksPath=/dev/null", "checkout", "--quiet", "FETCH_HEAD")
        yield root, _git(root, "rev-parse", "HEAD").strip()


def _git(root: Path, *command: str) -> str:
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "SSL_CERT_FILE") if key in os.environ}
    try:
        done = subprocess.run(
            ["git", *command],
            cwd=root,
            env=environment | _QUIET,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise RefusedError("git is not installed; install it, or give the skill's folder") from None
    except subprocess.TimeoutExpired:
        raise NotFoundError(
            f"git {command[0]} took more than {SECONDS:g} seconds; try again, or give a folder"
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise NotFoundError(f"git {command[0]} failed: {said[-1]}")
    return done.stdout


def _read(root: Path, folder: str, *, named: bool) -> Skill:
    """Returns the skill under a root; the root's own name counts only where a person chose it (``named``)."""
    if folder:
        place = (root / folder).resolve()
        if not place.is_relative_to(root.resolve()):
            raise UserError(f"folder {folder!r} leaves {str(root)!r}; give a folder inside of it")
    else:
        places = _skills_under(root)
        if len(places) > 1:
            listed = ", ".join(str(each.relative_to(root)) for each in places)
            raise UserError(f"there are {len(places)} skills: {listed}; choose one with --folder")
        place = places[0] if places else root
    own_name = named or place != root
    return Skill.parse(read_folder(place), folder=place.resolve().name if own_name else None)


def _skills_under(root: Path) -> list[Path]:
    """Returns the folders with a ``SKILL.md``, hidden ones left out: the root where it is one, or those below it."""
    if (root / MAIN).is_file():
        return [root]
    found = (path.parent for path in root.rglob(MAIN))
    return sorted(path for path in found if not any(name.startswith(".") for name in path.relative_to(root).parts))
