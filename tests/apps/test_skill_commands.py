"""``whet skill``: from a repository into quarantine, looked at, approved, compared, taken back, and out again."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whet.skills import Skill, load_skill, save_skill

Whet = Callable[..., Any]

SKILL = Skill(
    name="answers",
    description="The answer to everything. Use when a task asks for the answer or the question.",
    body="Run scripts/answer.py.",
    metadata={"keywords": "answer question"},
    files={"scripts/answer.py": b"print(42)\n"},
)


def commit(skill: Skill, root: Path) -> None:
    save_skill(skill, root, replace=True)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)


@pytest.fixture
def repository(tmp_path: Path) -> str:
    root = tmp_path / "repository"
    commit(SKILL, root)
    subprocess.run(["git", "clone", "-q", "--bare", str(root), "bare.git"], cwd=tmp_path, check=True)
    return f"file://{tmp_path}/bare.git"


def test_a_skill_from_a_repository_waits_until_a_person_approves(ran: Whet, repository: str, tmp_path: Path) -> None:
    installed = ran("skill", "install", repository)
    assert "2 files" in installed.err
    assert "programs: scripts/answer.py" in installed.err
    (row,) = ran("skill", "list", "--json").json["items"]
    assert (row["id"], row["status"], row["files"]) == ("answers", "quarantined", 2)
    assert "quarantined" in ran("skill", "list").out
    assert ran("policy", "show", "--json").json["files"] == {}
    (candidate,) = ran("query", "select body from candidates", "--json").json["items"]
    assert repository in str(candidate)
    assert "scripts/answer.py" in ran("skill", "show", "answers").out
    ran("skill", "test", "answers")
    ran("skill", "show", "answers", "--ref", "head~0", code=3)

    ran("skill", "approve", "answers", "--reason", "read it")
    (row,) = ran("skill", "list", "--json").json["items"]
    assert (row["status"], row["always"] > 10, row["body"], row["file_tokens"]) == ("active", True, 8, 4)
    assert "read it" in ran("policy", "log").out
    assert ran("skill", "show", "answers", "--json").json["files"].keys() == {"SKILL.md", "scripts/answer.py"}
    ran("skill", "test", "answers")
    assert "already" in ran("skill", "install", repository, code=5).err
    ran("policy", "rollback", "--reason", "no")
    assert ran("skill", "list", "-o", "id").out == ""


def test_a_skill_that_is_rejected_waits_no_more(ran: Whet, repository: str) -> None:
    ran("skill", "install", repository)
    ran("skill", "reject", "answers")
    assert ran("skill", "list", "-o", "id").out == ""
    assert "waits in quarantine; there are: none" in ran("skill", "approve", "answers", code=3).err


def test_two_versions_that_wait_are_told_apart_by_id(ran: Whet, tmp_path: Path) -> None:
    one = save_skill(SKILL, tmp_path / "one")
    first = ran("skill", "install", str(one), "--json").json["id"]
    (one / "SKILL.md").write_text((one / "SKILL.md").read_text() + "\nAgain.\n")
    ran("skill", "install", str(one))
    assert "2 versions of 'answers' wait" in ran("skill", "approve", "answers", code=3).err
    ran("skill", "approve", first)
    assert "Again" not in ran("skill", "show", "answers").out
    ran("skill", "approve", "answers")
    assert "Again" in ran("skill", "show", "answers").out


def test_skills_are_exported_as_folders_that_load_as_they_are(ran: Whet, tmp_path: Path) -> None:
    for name in ("answers", "others"):
        folder = save_skill(Skill(name=name, description="d", body="b", files=SKILL.files), tmp_path / "from")
        ran("skill", "install", str(folder))
        ran("skill", "approve", name)
    ran("skill", "export", "all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["answers", "others"]
    assert load_skill(tmp_path / "all" / "answers").files == SKILL.files
    assert "--replace" in ran("skill", "export", "all", "answers", code=5).err
    ran("skill", "export", "all", "answers", "--replace")
    ran("skill", "export", "one", "others")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["others"]
    assert "'gone'" in ran("skill", "export", "all", "gone", code=3).err


def test_versions_are_compared_on_training_tasks(ran: Whet, tmp_path: Path) -> None:
    folder = save_skill(SKILL, tmp_path / "from")
    ran("skill", "install", str(folder))
    ran("skill", "approve", "answers")
    found = ran("skill", "compare", "answers", "jsonl:tasks.jsonl", "--graph", "react", "--json").json
    assert found["arms"].keys() == {"without", "new"}
    assert "no other version" in ran("skill", "compare", "answers", "jsonl:tasks.jsonl", "--old", "head", code=2).err
    old = ran("policy", "show", "--json").json["digest"]
    (folder / "SKILL.md").write_text((folder / "SKILL.md").read_text() + "\nAgain.\n")
    ran("skill", "install", str(folder))
    ran("skill", "approve", "answers")
    table = ran("skill", "compare", "answers", "jsonl:tasks.jsonl", "--old", old, "--graph", "react").out
    assert all(arm in table for arm in ("without", "old", "new"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("install", "nowhere"), 3, "no skill in 'nowhere'"),
        (("install", "git@example.org:a/b"), 6, "https://"),
        (("approve", "nothing"), 3, "'nothing'"),
        (("compare", "nothing", "jsonl:tasks.jsonl"), 3, "'nothing'"),
        (("test", "nothing"), 3, "'nothing'"),
    ],
)
def test_bad_input_is_one_line(unchanged: Whet, arguments: tuple[str, ...], code: int, says: str) -> None:
    result = unchanged("skill", *arguments, code=code)
    assert says in result.err
    assert result.err.count("\n") == 1


SHOP = '''
from whet.core import Completion

def lookup(question: str) -> str:
    """Look a question up."""
    return "42" if "answer" in question else "6x9"

TOOLS = [lookup]

class Writer:
    name = "writer"

    async def complete(self, messages, *, tools=(), sampling=None):
        lines = ["# name: look-up", "# description: Looks questions up.", "# keywords: answer", "answer = lookup(task)"]
        return Completion(text=chr(10).join(lines), model=self.name)
'''


def test_a_workflow_is_read_as_steps_before_it_is_in_force(ran: Whet, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    ran("learn", "workflows", "--set", "tools=shop:TOOLS", "--set", "model=shop:Writer")
    (row,) = ran("skill", "list", "--json").json["items"]
    assert (row["name"], row["status"]) == ("look-up", "quarantined")
    shown = ran("skill", "show", "look-up")
    assert "1. Call `lookup(task)` and answer with the result." in shown.out
    assert "asks for lookup" in shown.err
    ran("skill", "approve", "look-up")
    assert ran("skill", "list", "--json").json["items"][0]["status"] == "active"
    assert "no module 'nowhere'" in ran("learn", "workflows", "--set", "tools=nowhere:TOOLS", code=2).err
