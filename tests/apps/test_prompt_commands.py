"""Learners of prompts that ask a person, on the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Whet = Callable[..., Any]

MODEL = '''
"""A model that says what it was told, and one that writes principles."""
import json

from whet.core import Completion

class Echo:
    name = "echo"

    async def complete(self, messages, *, tools=(), sampling=None):
        return Completion(text=messages[0].content, model=self.name)

class Writer(Echo):
    async def complete(self, messages, *, tools=(), sampling=None):
        said = {"text": "Say what it is for.", "applies_when": "the question is deep", "in_scope": [0]}
        return Completion(text=json.dumps(said), model=self.name)
'''


@pytest.fixture
def echo(ran: Whet, tmp_path: Path) -> Whet:
    """``whet`` with tasks that were run, a model that repeats its prompt, and two prompts to choose from."""
    (tmp_path / "echo.py").write_text(MODEL)
    (tmp_path / "pool.txt").write_text("Be polite.\n---\nBe rude.\n")
    return lambda *arguments, **more: ran(*arguments, WHET_MODEL="echo:Echo", **more)


APOHF = ("learn", "apohf", "--tasks", "jsonl:tasks.jsonl", "--set", "pool=pool.txt", "--set", "steps=4")


def test_a_person_compares_two_answers_at_a_time(echo: Whet) -> None:
    asked = echo(*APOHF, stdin="1\nboth\n=\n2\n1\n").err
    assert asked.count("--- 2 ---") == 4
    assert asked.count("better: 1, 2, or Enter for a tie >") == 5, "what cannot be read is asked again"
    assert "run this in a terminal" in echo(*APOHF, stdin="1\n", code=2).err
    assert "proposals" in echo(*APOHF, "--set", "by=simulated").err


def test_a_principle_is_printed_or_asked_about(echo: Whet) -> None:
    run = echo("run", "list", "-o", "id").out.split()[0]
    echo("feedback", "add", run, "comment", "Tell me what it is for.")
    learn = ("learn", "principles", "--set", "model=echo:Writer")
    assert "- When the question is deep: Say what it is for." in echo(*learn).out
    assert "Enter to accept, s to skip" in echo(*learn, "--set", "accept=ask", stdin="s\n").err
    reworded = echo(*learn, "--set", "accept=ask", "--dry-run", stdin="Say why.\n").out
    assert "- When the question is deep: Say why." in reworded
    assert "needs a model that can write" in echo("learn", "principles", code=2).err
