"""Recall in figures: how long it takes at 1,000 to 100,000 lessons, and whether it finds what it should.

    python -m benchmarks.recall               # two tables; --json for JSON, --quick leaves 100,000 out

Latency is that of ``Memory.recall`` (k = 8) in a process that has asked before, against a bare NumPy product of all
vectors of the scope with the query, and the choice of the best. Lessons are made up but not random: each belongs to one
of many topics with words of its own, as lessons of related tasks do. Once the scope holds every lesson of the store,
once a tenth of them. ``cpu p95`` is the time of the processor in ms; where it is far below p95, the machine was busy.

Quality is recall@k on the human-feedback file: does a query that says the task in other words find what the person said
about it? The queries are made from the description in the prompt (no code, no example), deterministically:
``as written``; ``words lost`` drops 30 % of the words and shuffles the rest; ``synonyms`` replaces every word of the
table SYNONYMS; ``both`` does the one after the other; ``first test`` is the first assertion of the task's tests and no
word else.
"""

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._json import add_json, printed
from whet.core import Lesson, Run, Task, Use, Verdict, digest
from whet.memory import Memory
from whet.memory.exchange import import_file
from whet.memory.index import Index

Row: TypeAlias = dict[str, float | int | str]

DATA = Path(os.environ.get("WHET_DATA", Path(__file__).parents[2] / "shared" / "data")) / "ilf_mbpp_feedback.jsonl"
QUERIES = 200
K = 8
SYNONYMS: Mapping[str, str] = {
    "find": "locate",
    "list": "array",
    "lists": "arrays",
    "tuple": "record",
    "tuples": "records",
    "string": "text",
    "strings": "texts",
    "number": "integer",
    "numbers": "integers",
    "check": "test",
    "whether": "if",
    "given": "provided",
    "remove": "delete",
    "sum": "total",
    "count": "tally",
    "maximum": "largest",
    "minimum": "smallest",
    "element": "item",
    "elements": "items",
    "sort": "order",
    "convert": "turn",
    "first": "leading",
    "last": "final",
    "character": "letter",
    "characters": "letters",
    "word": "term",
    "words": "terms",
    "calculate": "compute",
    "length": "size",
    "replace": "substitute",
    "occurrences": "appearances",
    "occurrence": "appearance",
    "dictionary": "mapping",
    "matrix": "grid",
    "duplicate": "repeated",
    "common": "shared",
    "position": "index",
    "equal": "identical",
    "even": "divisible by two",
    "divide": "split",
    "extract": "pull out",
    "merge": "combine",
    "pair": "couple",
    "pairs": "couples",
    "using": "with",
    "function": "routine",
    "write": "make",
    "python": "program",
}


# --- latency --------------------------------------------------------------------------------------------------------


def word(rng: random.Random) -> str:
    """Returns a made-up word of two to four syllables."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


def sentences(n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Returns (text, applies_when, task) of ``n`` lessons in clusters of about fifty."""
    rng = random.Random(seed)
    shared = [word(rng) for _ in range(400)]
    topics = [[word(rng) for _ in range(15)] for _ in range(max(n // 50, 1))]

    def phrase(topic: list[str], length: int) -> str:
        # Common words come far more often than rare ones, as in any language.
        common = (shared[min(int(rng.paretovariate(1.1)) - 1, 399)] for _ in range(length // 2))
        return " ".join([*common, *rng.choices(topic, k=length - length // 2)])

    made = (topics[i % len(topics)] for i in range(n))
    return [(phrase(topic, 24), phrase(topic, 6), phrase(topic, 30)) for topic in made]


async def fill(memory: Memory, n: int) -> None:
    """Writes ``n`` lessons, and uses with verdicts for one in a hundred."""
    lessons = [
        Lesson(text=text, applies_when=when, task_text=task, status="active", valid_from=1 + i)
        for i, (text, when, task) in enumerate(sentences(n))
    ]
    for start in range(0, n, 5000):
        await memory.put(*lessons[start : start + 5000])
    records: list[Run | Use | Verdict] = []
    for i, lesson in enumerate(lessons[::100]):
        for kind in ("shown", "withheld"):
            run = Run(task_id="t", agent="a", seed=i)
            score = float((i + (kind == "shown")) % 3 > 0)
            judged = Verdict(run_id=run.id, task_id="t", verifier="v", outcome="pass" if score else "fail", score=score)
            use = Use(run_id=run.id, item=lesson.id, kind="shown" if kind == "shown" else "withheld")
            records += [run, judged, use]
    await memory.put(*records)


async def latency(n: int, share: float) -> Row:
    """Returns the latency of recall in a store of ``n`` lessons, of which the scope holds ``share``."""
    own = int(n * share)
    with tempfile.TemporaryDirectory() as folder:
        if own < n:
            async with await Memory.open(folder, scope="others") as others:
                await fill(others, n - own)
        async with await Memory.open(folder) as memory:
            await fill(memory, own)
            started = time.perf_counter()
            await memory.index.refresh()
            embedded = time.perf_counter() - started
            queries = [task for _, _, task in sentences(own, seed=0)][:: max(own // QUERIES, 1)][:QUERIES]
            queries = [" ".join(query.split()[::2]) for query in queries]
            for query in queries[:40]:
                await memory.recall(query, k=K)
            if (work := memory.index.tidy()) is not None:
                await asyncio.to_thread(work)
            times = [await timed(memory, query) for query in queries]
            bare = await product(memory.index, own, queries)
    p50, p95 = np.percentile([wall for wall, _ in times], [50, 95])
    cpu = np.percentile([cpu for _, cpu in times], 95)
    return {
        "lessons": n,
        "in scope": own,
        "p50 ms": round(1000 * float(p50), 2),
        "p95 ms": round(1000 * float(p95), 2),
        "cpu p95": round(1000 * float(cpu), 2),
        "numpy ms": round(1000 * bare, 2),
        "ratio": round(float(p50) / bare, 1),
        "embedded/s": round(own / max(embedded, 1e-9)),
    }


async def timed(memory: Memory, query: str) -> tuple[float, float]:
    """Returns the seconds of one recall, on the clock and of the processor."""
    started, worked = time.perf_counter(), time.process_time()
    found = await memory.recall(query, k=K)
    assert found
    return time.perf_counter() - started, time.process_time() - worked


async def product(index: Index, n: int, queries: list[str]) -> float:
    """Returns the median seconds of a bare product of two vectors a lesson with a query, and of choosing the best."""
    vectors = await index.embedder.embed(queries)
    rows = np.random.default_rng(0).standard_normal((2 * n, index.embedder.dims), dtype=np.float32)
    times = []
    for vector in vectors[:50]:
        started = time.perf_counter()
        np.argpartition(rows @ vector, -K)[-K:]
        times.append(time.perf_counter() - started)
    return float(np.median(times))


# --- quality --------------------------------------------------------------------------------------------------------


def as_written(text: str, key: str) -> str:
    """Returns the text."""
    return text


def words_lost(text: str, key: str) -> str:
    """Returns seven words in ten, in another order that follows from the key."""
    found = text.split()
    rng = random.Random(digest(key))
    return " ".join(rng.sample(found, k=max(3, round(0.7 * len(found)))))


def synonyms(text: str, key: str) -> str:
    """Returns the text with every word of the table replaced."""
    return re.sub(r"[A-Za-z]+", lambda match: SYNONYMS.get(match.group().lower(), match.group()), text)


def both(text: str, key: str) -> str:
    """Returns the text with synonyms and words lost."""
    return words_lost(synonyms(text, key), key)


PARAPHRASES: Mapping[str, Callable[[str, str], str]] = {
    "as written": as_written,
    "words lost": words_lost,
    "synonyms": synonyms,
    "both": both,
}


def first_test(task: Task) -> str:
    """Returns the first assertion of a task's tests."""
    test = str(task.verifiers[0].params["test"])
    match = re.search(r"assert (.+?)(?:, \"|$)", test, re.MULTILINE)
    return match.group(1) if match else test


async def quality() -> list[Row]:
    """Returns recall@1 and @5 for each kind of query over the lessons of the human-feedback file."""
    with tempfile.TemporaryDirectory() as folder:
        async with await Memory.open(folder) as memory:
            await import_file(memory.store, "ilf", DATA)
            lessons = await memory.find(Lesson)
            runs = {run.id: run.task_id for run in await memory.find(Run)}
            tasks = {task.id: task for task in await memory.find(Task)}
            about = {lesson.id: runs[lesson.derived_from[2]] for lesson in lessons}
            asked = {
                name: {about[each.id]: make(each.applies_when, each.id) for each in lessons}
                for name, make in PARAPHRASES.items()
            }
            asked["first test"] = {task_id: first_test(task) for task_id, task in tasks.items()}
            return [await _quality(memory, name, queries, about) for name, queries in asked.items()]


async def _quality(memory: Memory, name: str, queries: dict[str, str], about: dict[str, str]) -> Row:
    ranks = []
    for task_id, query in queries.items():
        found = [about[each.lesson.id] for each in await memory.recall(query, k=5, statuses=("proposed",))]
        ranks.append(found.index(task_id) + 1 if task_id in found else 0)
    n = len(ranks)
    return {
        "query": name,
        "queries": n,
        "recall@1": round(sum(rank == 1 for rank in ranks) / n, 3),
        "recall@5": round(sum(rank > 0 for rank in ranks) / n, 3),
    }


# --- printing -------------------------------------------------------------------------------------------------------


def table(title: str, rows: list[Row]) -> Table:
    """Returns rows as a table."""
    made = Table(title=title, title_justify="left")
    for name in rows[0]:
        made.add_column(name, justify="left" if name == "query" else "right")
    for row in rows:
        made.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    return made


async def measure(sizes: list[int]) -> dict[str, list[Row]]:
    """Returns all figures."""
    found = {"latency": [await latency(n, share) for n in sizes for share in (1.0, 0.1)]}
    if DATA.exists():
        found["quality"] = await quality()
    else:
        print(f"quality: skipped, {DATA} is absent (set WHET_DATA)", file=sys.stderr)
    return found


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_json(parser)
    parser.add_argument("--quick", action="store_true", help="leave out 100,000 lessons")
    options = parser.parse_args()
    found = asyncio.run(measure([1_000, 10_000] if options.quick else [1_000, 10_000, 100_000]))
    if printed(options.json, found):
        return
    console = Console()
    console.print(table("Memory.recall, k = 8, against a bare NumPy product", found["latency"]))
    if "quality" in found:
        console.print(table("Queries in other words, human-feedback file", found["quality"]))


if __name__ == "__main__":
    main()
