"""``whet run --graph …`` for the patterns with roles and tools: further models, questions to a person, replay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Whet = Callable[..., Any]

ROLES = """
from whet.core import Completion
from whet.core.models import say_tool


class Plays:
    name = "plays"

    async def complete(self, messages, *, tools=(), sampling=None):
        return self.say(messages[-1].content, tools, [m.content for m in messages if m.role == "tool"])


class Asks(Plays):
    def say(self, asked, tools, results):
        if results:
            return Completion(text=f"It is due {results[0]}.")
        return say_tool("ask_person", {"question": "When is it due?"})


class Manages(Plays):
    def say(self, asked, tools, results):
        if "You are the manager" in asked:
            return Completion(text="DONE: 3" if "it succeeded" in asked else "NEXT: Count.")
        if tools and "it succeeded" not in asked:
            return say_tool("shell", {"command": "echo 3"})
        return Completion(text="A: It counted." if "Judge whether" in asked else "3")


class Tests(Plays):
    def say(self, asked, tools, results):
        if "acceptance tests" in asked:
            return Completion(text="```python\\nassert f(1) == 2\\n```")
        return Completion(text="def f(x):\\n    return x + " + ("1" if "expected 2" in asked else "2"))


class Reviews(Plays):
    name = "reviews"

    def say(self, asked, tools, results):
        return Completion(text="ACCEPT")
"""


@pytest.fixture
def roles(whet: Whet, tmp_path: Path) -> Whet:
    (tmp_path / "roles.py").write_text(ROLES)
    whet("init")
    return whet


def test_a_run_that_asks_says_what_and_goes_on_with_the_answer(roles: Whet) -> None:
    started = roles("run", "Write the report.", "--graph", "react", "--tools", "ask_person", WHET_MODEL="roles:Asks")
    assert "asks: When is it due?" in started.err
    (row,) = roles("run", "list", "--json").json["items"]
    assert row["status"] == "interrupted"
    assert f"answer it with: whet run resume {row['id'][:16]} ANSWER" in started.err
    resumed = roles("run", "resume", row["id"][:16], "on Friday", WHET_MODEL="roles:Asks")
    assert resumed.out.splitlines() == [row["id"], "It is due on Friday."]
    assert "the answer is the same" in roles("run", "replay", row["id"]).err


def test_a_simulated_person_answers_from_the_tasks_blockers(roles: Whet, tmp_path: Path) -> None:
    blocker = {"kind": "missing", "about": ["due"], "answer": "on Monday"}
    task = {
        "id": "report",
        "prompt": "Write the report.",
        "verifiers": [{"kind": "asking"}],
        "meta": {"blockers": [blocker]},
    }
    (tmp_path / "gaps.jsonl").write_text(json.dumps(task) + "\n")
    ran = roles("run", "jsonl:gaps.jsonl", "--graph", "react", "--tools", "simulated_person", WHET_MODEL="roles:Asks")
    assert ran.out.splitlines()[-1] == "It is due on Monday."
    (row,) = roles("run", "list", "--json").json["items"]
    assert (row["outcome"], row["score"]) == ("pass", 1.0)
    assert "the answer is the same" in roles("run", "replay", row["id"]).err


def test_a_reviewer_comes_from_the_command_line_or_the_settings(roles: Whet, tmp_path: Path) -> None:
    asked = ("run", "What is the answer?", "--graph", "reviewed")
    refused = roles(*asked, code=2)
    assert "whet run --models reviewer=NAME, or [models] in whet.toml" in refused.err
    assert roles(*asked, "--models", "reviewer=roles:Reviews").out.splitlines()[-1] == "42"
    settings = tmp_path / "whet.toml"
    settings.write_text(settings.read_text() + '\n[models]\nreviewer = "roles:Reviews"\n')
    assert roles(*asked, "--seed", "1").out.splitlines()[-1] == "42"
    assert roles("run", "What is the answer?", "--seed", "2").out.splitlines()[-1] == "42", "refine asks no reviewer"
    (newest, *_) = [row for row in roles("run", "list", "--json").json["items"] if row["agent"] == "reviewed"]
    assert newest["meta"]["models"] == {"reviewer": "reviews"}
    assert "the answer is the same" in roles("run", "replay", newest["id"]).err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--graph", "reviewed", "--models", "reviewer"), "write --models reviewer=NAME"),
        (("--graph", "react", "--models", "judge=tiny"), "'react' never asks a model 'judge'"),
        (
            ("--graph", "react", "--tools", "hammer"),
            "knows no tool 'hammer'; its tools are ask_person, python, shell, simulated_person",
        ),
    ],
)
def test_what_no_graph_asks_for_is_refused(roles: Whet, arguments: tuple[str, ...], says: str) -> None:
    assert says in roles("run", "Do it.", *arguments, code=2).err


def test_hierarchy_and_test_driven_run_from_the_command_line(roles: Whet) -> None:
    counted = roles("run", "How many?", "--graph", "hierarchy", WHET_MODEL="roles:Manages")
    assert counted.out.splitlines()[-1] == "3"
    written = roles("run", "Write f(x).", "--graph", "test_driven", WHET_MODEL="roles:Tests")
    assert written.out.splitlines()[-1].strip() == "return x + 1"
