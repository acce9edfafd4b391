"""What it costs a LangGraph graph to be recorded and resumable, by node.

    python -m benchmarks.node                 # a table; --json FILE also writes it as JSON

A graph of 20 nodes in a row that do next to nothing runs many times: bare, with LangGraph's savers, and with Whet's
recorder and checkpointer. ``run`` is the time of the graph itself; ``durable`` includes the wait at its end until
everything is on the disk (LangGraph's own savers are done when the graph is); ``CPU`` is that of all threads until
then.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from whet.agents.recording import record_graph
from whet.core import Run, new_id
from whet.memory import Memory

Row: TypeAlias = dict[str, float | int | str]
Invoke: TypeAlias = Callable[[], Awaitable[object]]
Flush: TypeAlias = Callable[[], Awaitable[None]]

NODES = 20


class State(TypedDict):
    """What the graph carries."""

    count: int
    text: str


def chain() -> "StateGraph[State]":
    """Returns a graph of nodes in a row, each counting."""

    async def node(state: State) -> dict[str, int]:
        return {"count": state["count"] + 1}

    graph = StateGraph(State)
    for number in range(NODES):
        graph.add_node(f"n{number}", node)
        graph.add_edge(f"n{number - 1}" if number else START, f"n{number}")
    return graph


def invoke(graph: Any) -> Invoke:
    """Returns one run of a compiled graph, in a thread of its own."""

    async def run() -> object:
        return await graph.ainvoke({"count": 0, "text": "x" * 500}, {"configurable": {"thread_id": new_id()}})

    return run


async def nothing() -> None:
    """What is durable when the graph ends needs no flush."""


@asynccontextmanager
async def with_saver(saver: "BaseCheckpointSaver[Any] | None") -> AsyncIterator[tuple[Invoke, Flush]]:
    """The graph with one of LangGraph's savers, or none."""
    yield invoke(chain().compile(checkpointer=saver)), nothing


@asynccontextmanager
async def with_sqlite(folder: Path) -> AsyncIterator[tuple[Invoke, Flush]]:
    """The graph with LangGraph's SQLite saver."""
    async with AsyncSqliteSaver.from_conn_string(str(folder / "saver.db")) as saver:
        yield invoke(chain().compile(checkpointer=saver)), nothing


@asynccontextmanager
async def with_whet(folder: Path, *, record: bool, save: bool) -> AsyncIterator[tuple[Invoke, Flush]]:
    """The graph with Whet's recorder, checkpointer or both."""
    async with await Memory.open(folder) as memory:
        compiled = chain().compile(checkpointer=memory.checkpointer if save else None)

        async def run() -> object:
            if not record:
                return await invoke(compiled)()
            return await invoke(record_graph(compiled, memory.recorder, Run(task_id="t", agent="chain")))()

        yield run, memory.recorder.flush


def cases(folder: Path) -> dict[str, Any]:
    """Returns every way to run the graph, by its name, as an asynchronous context manager."""
    return {
        "bare LangGraph": with_saver(None),
        "whet: recorded": with_whet(folder / "recorded", record=True, save=False),
        "whet: resumable": with_whet(folder / "saved", record=False, save=True),
        "whet: recorded and resumable": with_whet(folder / "both", record=True, save=True),
        "LangGraph in memory": with_saver(InMemorySaver()),
        "LangGraph SQLite": with_sqlite(folder),
    }


async def measure(repeats: int) -> list[Row]:
    """Returns a row for each case: the best of repeats taken in turn, so that all see the same machine."""
    runs: dict[str, list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            ways = {name: await stack.enter_async_context(way) for name, way in cases(Path(folder)).items()}
            for _ in range(repeats):
                for name, (run, flush) in ways.items():
                    runs.setdefault(name, []).append(await _time(run, flush))
    best = {name: [1000 * min(column) / NODES for column in zip(*times, strict=True)] for name, times in runs.items()}
    bare = best["bare LangGraph"]
    return [_row(name, times, bare) for name, times in best.items()]


async def _time(run: Invoke, flush: Flush) -> tuple[float, float, float]:
    start, busy = time.perf_counter(), time.process_time()
    await run()
    ran = time.perf_counter() - start
    await flush()
    return ran, time.perf_counter() - start, time.process_time() - busy


def _row(name: str, times: list[float], bare: list[float]) -> Row:
    row: Row = {"what": name}
    for column, value, unit in zip(("run", "durable", "cpu"), times, bare, strict=True):
        row[f"{column}_ms_per_node"] = value
        row[f"{column}_to_bare"] = value / unit
    return row


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    add_json(parser)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.repeats))
    if printed(options.json, rows):
        return
    table = Table("ms a node, 20 nodes", "run", "× bare", "durable", "× bare", "CPU", "× bare")
    for row in rows:
        table.add_row(str(row["what"]), *(f"{row[name]:.2f}" for name in list(row)[1:]))
    Console().print(table)


if __name__ == "__main__":
    main()
