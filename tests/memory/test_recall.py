"""Recall: filter first, fused rankings, worth, recency, no two alike."""

import asyncio
import os
from pathlib import Path

import pytest

from whet.core import Lesson, LessonKind, LessonStatus, Outcome, Run, Use, Verdict
from whet.memory import Memory
from whet.memory.exchange import import_file

DATA = Path(os.environ.get("WHET_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ilf_mbpp_feedback.jsonl"


def _lesson(
    text: str, when: str = "", task: str = "", status: LessonStatus = "active", kind: LessonKind = "lesson"
) -> Lesson:
    return Lesson(text=text, applies_when=when, task_text=task, status=status, kind=kind)


async def _texts(memory: Memory, query: str, k: int = 8) -> list[str]:
    return [found.lesson.text for found in await memory.recall(query, k=k)]


@pytest.mark.asyncio
async def test_the_text_the_task_and_when_it_applies_are_found(memory: Memory) -> None:
    await memory.put(
        _lesson("Index from zero"),
        _lesson("Use a set", when="removing duplicates from a list"),
        _lesson("Mind leap years", task="Compute the number of days between two dates"),
    )
    assert (await _texts(memory, "indexing from zero"))[0] == "Index from zero"
    assert (await _texts(memory, "remove the duplicates"))[0] == "Use a set"
    assert (await _texts(memory, "how many days lie between the dates"))[0] == "Mind leap years"
    assert await _texts(memory, "zebra quilting") == []
    assert await _texts(memory, "  ") == []
    assert await _texts(memory, "indexing from zero", k=0) == []


@pytest.mark.asyncio
async def test_only_active_lessons_of_the_scope_are_recalled(url: str) -> None:
    async with await Memory.open(url, scope="a") as a, await Memory.open(url, scope="b") as b:
        statuses: tuple[LessonStatus, ...] = ("proposed", "active", "quarantined", "retired")
        await a.put(*(_lesson(f"sort the list, says {status}", status=status) for status in statuses))
        await b.put(_lesson("sort the list, says another scope"))
        assert await _texts(a, "sort the list") == ["sort the list, says active"]
        wider = await a.recall("sort the list", statuses=("proposed", "quarantined"))
        assert {found.lesson.status for found in wider} == {"proposed", "quarantined"}


@pytest.mark.asyncio
async def test_kinds_filter(memory: Memory) -> None:
    kinds: tuple[LessonKind, ...] = ("case", "lesson", "negative")
    await memory.put(*(_lesson(f"sort the list, a {kind}", kind=kind) for kind in kinds))
    found = await memory.recall("sort the list", kinds=("negative", "case"))
    assert {each.lesson.kind for each in found} == {"negative", "case"}
    assert await memory.recall("sort the list", kinds=("fact",)) == []


@pytest.mark.asyncio
async def test_a_hit_of_words_alone_survives(memory: Memory) -> None:
    # One rare word in a long text about other things: the cosine is far below the floor.
    long = " ".join(f"filler{i} matter{i}" for i in range(200))
    await memory.put(_lesson(f"{long} xyzzyplugh {long}"), _lesson("nothing to see here"))
    [found] = await memory.recall("what does xyzzyplugh mean to a gardener", explain=True)
    assert set(found.parts) == {"keywords", "bm25", "worth", "recency"}


@pytest.mark.asyncio
async def test_a_hit_of_spelling_alone_survives(memory: Memory) -> None:
    await memory.put(_lesson("Concatenate the strings"), _lesson("Boil the potatoes"))
    [found] = await memory.recall("concatenatng strngs", explain=True)
    assert found.lesson.text == "Concatenate the strings"
    assert found.parts["cosine_text"] > 0
    assert "keywords" not in found.parts


@pytest.mark.asyncio
async def test_explain_adds_up(memory: Memory) -> None:
    await memory.put(_lesson("sort a list in place", task="sort my list"), _lesson("sort by key"))
    for found in await memory.recall("sort the list in place", explain=True):
        shares = [found.parts.get(name, 0.0) for name in ("text_vector", "task_vector", "keywords", "worth", "recency")]
        assert found.score == pytest.approx(sum(shares))
    best = (await memory.recall("sort the list in place", explain=True))[0]
    assert sum(best.parts[name] for name in ("text_vector", "task_vector", "keywords")) == pytest.approx(1)
    assert (await memory.recall("sort the list in place"))[0].parts == {}


async def _judged(memory: Memory, item: str, *, shown: Outcome, withheld: Outcome, n: int = 12) -> None:
    for kind, outcome in (("shown", shown), ("withheld", withheld)):
        for seed in range(n):
            run = Run(task_id="t", agent="a", seed=seed)
            score = float(outcome == "pass")
            await memory.put(
                run,
                Use(run_id=run.id, item=item, kind="shown" if kind == "shown" else "withheld"),
                Verdict(run_id=run.id, task_id="t", verifier="v", outcome=outcome, score=score),
            )


@pytest.mark.asyncio
async def test_proven_worth_moves_a_lesson_up_and_down(memory: Memory) -> None:
    lessons = [_lesson(f"sort the list by method {name}") for name in ("alpha", "beta", "gamma")]
    await memory.put(*lessons)
    await _judged(memory, lessons[0].id, shown="fail", withheld="pass")
    await _judged(memory, lessons[1].id, shown="pass", withheld="fail")
    found = await memory.recall("sort the list by a method", explain=True)
    assert [each.lesson.id for each in found] == [lessons[1].id, lessons[2].id, lessons[0].id]
    worth = {each.lesson.id: each.parts["worth"] for each in found}
    assert worth[lessons[0].id] < 0 == worth[lessons[2].id] < worth[lessons[1].id]


@pytest.mark.asyncio
async def test_no_two_alike_come_first(memory: Memory) -> None:
    same = "sort the list of numbers in place with the built-in method"
    await memory.put(
        *(_lesson(f"{same}{dots}") for dots in (".", "!", "?")), _lesson("keep a copy of the list you sort")
    )
    assert "keep a copy of the list you sort" in await _texts(memory, "sort the list of numbers in place", k=2)


@pytest.mark.asyncio
async def test_what_is_put_is_found_at_once_and_across_processes(url: str) -> None:
    async with await Memory.open(url) as one, await Memory.open(url) as other:
        await one.put(_lesson("sort the list"))
        assert await _texts(other, "sort the list") == ["sort the list"]
        await other.put(_lesson("sort the tuple"))
        assert set(await _texts(one, "sort the tuple")) == {"sort the list", "sort the tuple"}


@pytest.mark.skipif(not DATA.exists(), reason=f"the data file is not at {DATA}; set WHET_DATA")
@pytest.mark.asyncio
@pytest.mark.parametrize(("every", "least"), [(1, 0.95), (3, 0.9)])
async def test_what_people_said_is_found_for_a_task_in_other_words(memory: Memory, every: int, least: float) -> None:
    """The words of the task backwards, and then without every third of them."""
    await import_file(memory.store, "ilf", DATA)
    lessons = (await memory.find(Lesson))[::4]
    hits = 0
    for lesson in lessons:
        said = lesson.applies_when.split()[::-1]
        query = " ".join(word for i, word in enumerate(said) if every == 1 or i % every)
        found = await memory.recall(query, k=5, statuses=("proposed",))
        hits += lesson.id in {each.lesson.id for each in found}
    assert hits / len(lessons) >= least


@pytest.mark.asyncio
async def test_many_may_search_at_once_for_words_nobody_asked_for_before(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path) as memory:
        await memory.put(*(Lesson(text=f"word{i} means {i}", status="active") for i in range(200)))
        queries = [f"word{i} word{i + 1} word{(7 * i) % 200}" for i in range(199)]
        found = await asyncio.gather(*(memory.recall(query) for query in queries))
    assert all(found)
