"""Skills on disk: what is loaded is what was saved; links and foreign names are refused."""

from pathlib import Path

import msgspec
import pytest

from whet.core.errors import ConflictError, NotFoundError, UserError
from whet.skills import Skill, load_skill, save_skill


def test_load_reads_what_save_wrote(verbs: Skill, tmp_path: Path) -> None:
    assert load_skill(save_skill(verbs, tmp_path / "library")) == verbs


def test_hidden_files_and_caches_are_left_out(verbs: Skill, folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "scripts" / "__pycache__").mkdir()
    (folder / "scripts" / "__pycache__" / "verbs.pyc").write_bytes(b"x")
    assert load_skill(folder) == verbs


def test_replacing_removes_what_the_new_version_lacks(verbs: Skill, folder: Path) -> None:
    slim = msgspec.structs.replace(verbs, files={})
    with pytest.raises(ConflictError, match="exists already"):
        save_skill(slim, folder.parent)
    save_skill(slim, folder.parent, replace=True)
    assert load_skill(folder) == slim


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc"])
def test_a_link_is_refused(folder: Path, target: str) -> None:
    (folder / "references" / "link").symlink_to(target)
    with pytest.raises(UserError, match="is a link"):
        load_skill(folder)


def test_a_folder_with_another_name_or_without_a_skill_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder's name 'other'"):
        load_skill(folder.rename(tmp_path / "other"))
    with pytest.raises(NotFoundError, match="no skill in"):
        load_skill(tmp_path / "nowhere")
