"""A program that is killed over and over: forks a child for each line on stdin, lets it work, and kills it.

A line is ``{"url", "job", "name", "early", "after"}``: the child does the job under that name until it is done or
killed with SIGKILL, ``after`` seconds after its first word, or after its start where the kill is to be ``early``. The
answer is one line of JSON: what the child said it had made durable, and whether it was killed. Modules are loaded once,
before the forks, so that a trial takes milliseconds; no thread runs in the forking process.
"""

import asyncio
import json
import os
import select
import signal
import sys
import time
from typing import Annotated, Any, TypedDict

import langgraph.checkpoint.base
from langgraph.graph import START, StateGraph

import whet.memory.checkpoint
import whet.memory.databases.postgresql
import whet.memory.databases.sqlite  # noqa: F401
from whet.core import HumanEdit, Run, Step, digest
from whet.memory import Memory

NODES = 25


def step(run_id: str, seq: int) -> Step:
    """Step ``seq`` of a run: the same whoever records it."""
    body = HumanEdit(before="x" * (seq * 97 % 300), after="y" * (9_000 if seq % 40 == 7 else 10), actor="ann")
    return Step(id=digest(f"{run_id}/{seq}")[:32], run_id=run_id, seq=seq, body=body, at=seq)


async def record(url: str, name: str, say: Any) -> None:
    """Records steps of the run ``name`` without end, and says which are durable.

    It starts some steps before the last stored one, as a program does that cannot know what of its last work was kept.
    """
    async with await Memory.open(url) as memory:
        run = Run(id=name, task_id="t", agent="a", started_at=0)
        await memory.put(run)
        say("run", name)
        seq = max(0, await memory.count(Step, {"run_id": name}) - 7)
        while True:
            receipts = [memory.recorder.record(step(name, seq + n)) for n in range(1 + seq % 9)]
            if seq % 3:
                await receipts[-1]
                say("step", seq + len(receipts) - 1)
            if seq % 4 == 0:
                actors = [Run(id=f"{name}/{seq}/{n}", task_id="t", agent="a", started_at=n) for n in range(3)]
                await memory.put(*actors)
                say("put", seq)
            seq += len(receipts)


class State(TypedDict):
    """What the graph carries."""

    seen: Annotated[list[int], lambda left, right: left + right]


def build(say: Any) -> "StateGraph[State]":
    """A chain of nodes that say that they start."""

    def node(number: int) -> Any:
        def run(state: State) -> State:
            say("start", number)
            return {"seen": [number]}

        return run

    graph = StateGraph(State)
    for number in range(NODES):
        graph.add_node(f"n{number}", node(number))
        graph.add_edge(f"n{number - 1}" if number else START, f"n{number}")
    return graph


async def resume(url: str, name: str, say: Any) -> None:
    """Runs the graph of the thread ``name`` from where it stands to its end."""
    durability: Any = "sync" if name.startswith("sync") else "async"
    async with await Memory.open(url) as memory:
        graph = build(say).compile(checkpointer=memory.checkpointer)
        config: Any = {"configurable": {"thread_id": name}}
        state = await graph.aget_state(config)
        say("next", state.next[0] if state.next else "")
        await graph.ainvoke(None if state.values or state.next else {"seen": []}, config, durability=durability)
        await memory.recorder.flush()
        say("done", name)


JOBS = {"record": record, "resume": resume}


def child(pipe: int, job: str, url: str, name: str) -> None:
    """Does the job; what it says goes into the pipe, whole lines only."""

    def say(what: str, value: object) -> None:
        os.write(pipe, json.dumps([what, value]).encode() + b"\n")

    asyncio.run(JOBS[job](url, name, say))


def trial(job: str, url: str, name: str, early: bool, after: float) -> dict[str, Any]:
    """Forks, waits, kills; returns what the child said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        status = 1
        try:
            child(writing, job, url, name)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    said, killed = _listen(reading, pid, early, after)
    _, status = os.waitpid(pid, 0)
    os.close(reading)
    failed = os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
    return {"said": [json.loads(line) for line in said.splitlines()], "killed": killed, "failed": failed}


def _listen(pipe: int, pid: int, early: bool, after: float) -> tuple[bytes, bool]:
    said, killed = b"", False
    deadline = time.monotonic() + (after if early else 20)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 and not killed:
            os.kill(pid, signal.SIGKILL)
            killed = True
        ready, _, _ = select.select([pipe], [], [], None if killed else left)
        if not ready:
            continue
        data = os.read(pipe, 1 << 16)
        if not data:
            return said, killed
        if not said and not early:
            deadline = time.monotonic() + after
        said += data


if __name__ == "__main__":
    assert langgraph.checkpoint.base.BaseCheckpointSaver is not None
    print("ready", flush=True)
    for order in sys.stdin:
        print(json.dumps(trial(**json.loads(order))), flush=True)
