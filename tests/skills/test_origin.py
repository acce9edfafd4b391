"""Skills from folders and real git repositories: the right files, at the right commit, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from whet.core.errors import NotFoundError, RefusedError, UserError
from whet.skills import Skill, fetch_skill, save_skill


def git(*command: str, at: Path) -> str:
    return subprocess.run(["git", *command], cwd=at, check=True, capture_output=True, text=True).stdout.strip()


def commit(at: Path, message: str) -> str:
    git("add", "--all", at=at)
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", message, at=at)
    return git("rev-parse", "HEAD", at=at)


@pytest.fixture
def repository(verbs: Skill, tmp_path: Path) -> Path:
    """A working tree with two skills below ``skills/``, committed."""
    root = tmp_path / "work"
    save_skill(verbs, root / "skills")
    save_skill(Skill(name="dates", description="Reads dates.", body="Use isoformat."), root / "skills")
    git("init", "--quiet", at=root)
    commit(root, "first")
    return root


@pytest.fixture
def bare(repository: Path, tmp_path: Path) -> str:
    """The URL of a bare copy of the repository."""
    git("clone", "--quiet", "--bare", str(repository), "bare.git", at=tmp_path)
    return f"file://{tmp_path / 'bare.git'}"


def test_a_skill_is_read_from_a_folder_or_from_below_it(verbs: Skill, folder: Path) -> None:
    found = fetch_skill(str(folder))
    assert (found.skill, found.source, found.commit) == (verbs, str(folder), "")
    assert fetch_skill(str(folder.parent)).skill == verbs
    assert fetch_skill(str(folder.parent), folder="verbs").skill == verbs


def test_a_skill_is_read_from_a_bare_repository_at_a_commit(verbs: Skill, repository: Path, bare: str) -> None:
    first = fetch_skill(bare, folder="skills/verbs")
    assert first.skill == verbs
    assert (first.source, first.commit) == (bare, git("rev-parse", "HEAD", at=repository))
    (repository / "skills" / "dates" / "SKILL.md").unlink()
    second = commit(repository, "only verbs are left")
    git("push", "--quiet", bare, "HEAD", at=repository)
    assert fetch_skill(bare).commit == second
    assert fetch_skill(bare, folder="skills/dates", revision=first.commit).skill.name == "dates"


def test_of_several_skills_one_has_to_be_chosen(bare: str) -> None:
    with pytest.raises(UserError, match=r"2 skills: skills/dates, skills/verbs; choose one with --folder"):
        fetch_skill(bare)


def test_a_repository_that_is_a_skill_may_have_any_name(verbs: Skill, folder: Path) -> None:
    git("init", "--quiet", at=folder)
    commit(folder, "a skill")
    moved = folder.rename(folder.parent / "some-repository")
    found = fetch_skill(f"file://{moved}")
    assert found.skill == verbs
    with pytest.raises(UserError, match="not the folder's name 'some-repository'"):
        fetch_skill(str(moved))


def test_hooks_and_filters_of_a_repository_do_not_run(repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
    hook.chmod(0o755)
    (repository / ".gitattributes").write_text("* filter=evil\n")
    git("config", "filter.evil.smudge", f"touch {proof}; cat", at=repository)
    commit(repository, "filters")
    proof.unlink(missing_ok=True)
    fetch_skill(f"file://{repository}", folder="skills/verbs")
    assert not proof.exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../dates/SKILL.md"])
def test_a_link_in_a_repository_is_refused(repository: Path, target: str) -> None:
    (repository / "skills" / "verbs" / "scripts" / "link.py").symlink_to(target)
    commit(repository, "a link")
    with pytest.raises(UserError, match="is a link"):
        fetch_skill(f"file://{repository}", folder="skills/verbs")


def test_a_folder_that_leaves_the_repository_is_refused(bare: str, folder: Path) -> None:
    for outside in ("../verbs", str(folder)):
        with pytest.raises(UserError, match="give a folder inside of it"):
            fetch_skill(bare, folder=outside)


@pytest.mark.parametrize(
    "source", ["git@example.org:x/y.git", "ext::sh -c touch% x", "ssh://example.org/x", "http://example.org/x"]
)
def test_other_transports_are_refused(source: str) -> None:
    with pytest.raises(RefusedError, match="give https://… or file://…, or a folder"):
        fetch_skill(source)


def test_what_is_not_there_is_said_in_one_line(bare: str, tmp_path: Path) -> None:
    for source, more in ((str(tmp_path / "gone"), {}), (f"file://{tmp_path}/gone.git", {}), (bare, {"revision": "v9"})):
        with pytest.raises(NotFoundError) as caught:
            fetch_skill(source, **more)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no revision"):
        fetch_skill(bare, revision="--upload-pack=touch x")
    with pytest.raises(UserError, match=r"give file://"):
        fetch_skill(str(tmp_path), revision="main")


def test_a_password_in_the_url_is_not_kept(bare: str) -> None:
    found = fetch_skill(bare.replace("file://", "file://ana:secret@localhost"), folder="skills/verbs")
    assert "secret" not in str(found)
