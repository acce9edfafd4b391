"""Promise 1: nothing recorded is lost or doubled. Processes are killed at random moments; the store is read after each.

``WHET_CRASHES=5000`` makes a long run of it.
"""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from whet.core import Run, Step
from whet.memory import Memory

CRASHES = int(os.environ.get("WHET_CRASHES", "200"))
NODES = 25


class Crasher:
    """The program of ``crashing.py``."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("crashing.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._readline() == "ready\n"

    def crash(self, job: str, url: str, name: str, dice: random.Random) -> dict[str, Any]:
        """Returns what the child said before it was killed, at a random moment of its start or of its work."""
        assert self._process.stdin is not None
        order = {"job": job, "url": url, "name": name, "early": dice.random() < 0.2, "after": dice.uniform(0, 0.08)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._readline())
        assert not answer["failed"], "the child ended by an error of its own"
        return answer

    def stop(self) -> None:
        """Ends the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(10) == 0

    def _readline(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="module")
def crasher() -> Iterator[Crasher]:
    """The crashing program, its modules loaded."""
    program = Crasher()
    yield program
    program.stop()


async def check_records(url: str, name: str, said: list[tuple[str, Any]]) -> None:
    """What was acknowledged is there; what is there is a whole beginning of what was recorded, each once."""
    async with await Memory.open(url) as memory:
        steps = await memory.find(Step, {"run_id": name})
        assert [step.seq for step in steps] == list(range(len(steps))), "a gap, or a step twice"
        acknowledged = max((seq for what, seq in said if what == "step"), default=-1)
        assert acknowledged < len(steps), "an acknowledged step was lost"
        if ("run", name) in said:
            assert (await memory.get(Run, name)).id == name
        parts = Counter(run.id.split("/")[1] for run in await memory.find(Run) if run.id.startswith(f"{name}/"))
        assert set(parts.values()) <= {3}, "a part of a put"
        assert {str(seq) for what, seq in said if what == "put"} <= set(parts), "an acknowledged put was lost"


async def check_whole_store(url: str) -> None:
    """The change log is intact and agrees with the rows; SQLite finds its file in order."""
    async with await Memory.open(url) as memory:
        assert await memory.audit() == []
        if memory.store.dialect == "sqlite":
            check = text("PRAGMA integrity_check")
            assert await memory.store.write(lambda connection: connection.scalar(check)) == "ok"


async def crash_recording(crasher: Crasher, urls: list[str], crashes: int, seed: int) -> Counter[str]:
    """Kills recorders ``crashes`` times, each going on with the run of an earlier one; returns what was seen."""
    dice, seen = random.Random(seed), Counter[str]()
    said: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for _ in range(crashes):
        url, name = dice.choice(urls), f"run{dice.randrange(4)}"
        answer = crasher.crash("record", url, name, dice)
        assert answer["killed"]
        so_far = said.setdefault((url, name), [])
        so_far += [(what, value) for what, value in answer["said"]]
        seen["crashes"] += 1
        seen["before anything"] += not answer["said"]
        seen["acknowledged"] += len(answer["said"])
        await check_records(url, name, so_far)
    for url in urls:
        await check_whole_store(url)
    return seen


@pytest.mark.slow
@pytest.mark.asyncio
async def test_killed_recorders_lose_and_double_nothing(crasher: Crasher, tmp_path: Path) -> None:
    folders = max(8, CRASHES // 25)
    urls = [str(tmp_path / f"store{number}") for number in range(folders)]
    seen = await crash_recording(crasher, urls, CRASHES, seed=1)
    assert seen["crashes"] == CRASHES
    assert seen["acknowledged"] > CRASHES, "too little was recorded for the crashes to mean anything"


@pytest.mark.asyncio
async def test_killed_recorders_on_postgresql(crasher: Crasher, new_url: Callable[[str], str]) -> None:
    seen = await crash_recording(crasher, [new_url("postgresql")], max(20, CRASHES // 10), seed=2)
    assert seen["acknowledged"] > 20


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_killed_graph_goes_on_from_its_last_durable_step(
    crasher: Crasher, tmp_path: Path, durability: str
) -> None:
    url, dice, crashes, number = str(tmp_path), random.Random(3), 0, 0
    while crashes < CRASHES // 4:
        crashes += await crash_one_graph(crasher, url, f"{durability}{number}", dice)
        number += 1
    await check_whole_store(url)


async def crash_one_graph(crasher: Crasher, url: str, thread: str, dice: random.Random) -> int:
    """Kills a graph until it is through, and looks where it went on each time; returns how often it was killed."""
    crashes, reached, started = 0, 0, list[int]()
    while True:
        answer = crasher.crash("resume", url, thread, dice)
        crashes += answer["killed"]
        said = [(what, value) for what, value in answer["said"]]
        nodes = [value for what, value in said if what == "start"]
        for what, value in said:
            if what == "next" and value not in ("", "__start__"):
                here = int(value.removeprefix("n"))
                assert here >= reached, "it went back behind a durable step"
                assert nodes[:1] in ([], [here]), "it did not go on where the last durable checkpoint stands"
        started += nodes
        if thread.startswith("sync") and nodes:
            reached = nodes[-1]  # a node starts when the checkpoint before it is durable
        if ("done", thread) in said:
            break
    assert sorted(set(started)) == list(range(NODES))
    async with await Memory.open(url) as memory:
        found = await memory.checkpointer.aget_tuple({"configurable": {"thread_id": thread}})
        assert found is not None
        assert found.checkpoint["channel_values"]["seen"] == list(range(NODES)), "the state lost or doubled a node"
    return crashes
