"""The command line in a folder of its own, as a person would use it."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from whet.apps.cli.main import main

MODEL = '''
"""A model that knows one answer, and one wrong one; and one that does not come back from the second."""
import asyncio
from pathlib import Path

from whet.core import Completion

class Knows:
    name = "knows"

    async def complete(self, messages, *, tools=(), sampling=None):
        asked = messages[-1].content
        return Completion(text="42" if "answer" in asked else "dunno", model=self.name)

class Hangs(Knows):
    async def complete(self, messages, *, tools=(), sampling=None):
        if "question" in messages[-1].content and not Path("released").exists():
            Path("asked").touch()
            await asyncio.sleep(3600)
        return await super().complete(messages)
'''
TASKS = [
    {"id": "easy", "prompt": "What is the answer?", "verifiers": [{"kind": "exact", "params": {"expected": "42"}}]},
    {"id": "hard", "prompt": "What is the question?", "verifiers": [{"kind": "exact", "params": {"expected": "6x9"}}]},
]


@dataclass
class Result:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)


Whet = Callable[..., Result]


@contextlib.contextmanager
def standing_in(folder: Path, variables: Mapping[str, str], arguments: Sequence[str], stdin: str) -> Iterator[None]:
    """Makes this process look like a new one: its folder, environment, arguments and standard input."""
    environment, argv, path, old_stdin = dict(os.environ), sys.argv, list(sys.path), sys.stdin
    os.environ.update(variables)
    sys.argv, sys.stdin = ["whet", *arguments], io.StringIO(stdin)
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.path[:], sys.stdin = argv, path, old_stdin


def make_whet(folder: Path) -> Whet:
    """Returns what runs ``whet`` with arguments in a folder and asserts how it ends."""
    (folder / "models.py").write_text(MODEL)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in TASKS))

    def run(*arguments: str, code: int = 0, stdin: str = "", **variables: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        chosen = {"WHET_MODEL": "models:Knows", "COLUMNS": "120", **variables}
        with standing_in(folder, chosen, arguments, stdin), redirect_stdout(out), redirect_stderr(err):
            try:
                main()
                ended: object = 0
            except SystemExit as error:
                ended = error.code or 0
        assert ended == code, out.getvalue() + err.getvalue()
        return Result(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def whet(tmp_path: Path) -> Whet:
    """``whet`` in an empty folder."""
    return make_whet(tmp_path)


@pytest.fixture
def ran(whet: Whet) -> Whet:
    """``whet`` in a folder where the two tasks were run."""
    whet("init")
    whet("run", "jsonl:tasks.jsonl")
    return whet


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Whet:
    """The same for all tests of a module, which must not change anything."""
    run = make_whet(tmp_path_factory.mktemp("unchanged"))
    run("init")
    run("run", "jsonl:tasks.jsonl")
    return run
