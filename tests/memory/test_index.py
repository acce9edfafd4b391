"""The derived index: vectors in SQL, in memory and in Chroma; it follows, it can be lost, it is never shared."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.core import ConflictError, Feedback, Lesson, ModelError, RefusedError, UserError
from whet.memory import Memory, schema
from whet.memory.chroma import ChromaVectors, installed
from whet.memory.embedders import Embedder, HashedNgrams, RemoteEmbedder, Vectors
from whet.memory.index import Backend
from whet.memory.vectors import Entry, MemoryVectors, VectorStore, VectorTable

needs_chroma = pytest.mark.skipif(not installed(), reason="Chroma is not installed; pip install 'whet[chroma]'")
BACKENDS = ["memory", pytest.param("chroma", marks=needs_chroma)]


def _lesson(text: str, *sources: str) -> Lesson:
    return Lesson(text=text, status="active", task_text=f"Task: {text}", derived_from=sources)


def _vectors(n: int, seed: int = 0, dims: int = 32) -> Vectors:
    """Returns unit vectors in clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(n // 25, 1), dims))
    rows = centres[rng.integers(len(centres), size=n)] + 0.5 * rng.normal(size=(n, dims))
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


# --- embedders ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_default_embedder_is_lexical_and_says_so() -> None:
    embedder = HashedNgrams()
    assert isinstance(embedder, Embedder)
    assert embedder.name == "hashed-ngrams-256"
    sort, sorting, rice, nothing = await embedder.embed(["sort the lists", "sorting a list", "cook rice slowly", ""])
    assert sort @ sorting > 0.6
    assert abs(sort @ rice) < embedder.floor
    assert not nothing.any()
    with pytest.raises(UserError, match="32 or more"):
        HashedNgrams(dims=8)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_embedding_is_deterministic_and_of_unit_length(texts: Sequence[str]) -> None:
    first, second = (asyncio.run(HashedNgrams(64).embed(texts)) for _ in range(2))
    assert first.shape == (len(texts), 64)
    assert np.array_equal(first, second)
    lengths = np.linalg.norm(first, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-4) | (lengths == 0))


# --- the table ------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.booleans()), max_size=30), st.integers(1, 12))
def test_a_table_finds_what_a_full_scan_finds(changes: list[tuple[int, int, bool]], k: int) -> None:
    vectors, table, kept = _vectors(len(changes), dims=8), VectorTable(8), dict[int, tuple[int, Vectors]]()
    for (key, label, added), vector in zip(changes, vectors, strict=True):
        if added:
            table.put(np.array([key]), np.array([label], dtype=np.int16), vector[None])
            kept[key] = (label, vector)
        else:
            table.remove([key])
            kept.pop(key, None)
    query = _vectors(1, seed=1, dims=8)[0]
    found = table.search(query, k, allowed={0, 1}, floor=-0.5)
    expected = sorted(
        (float(query @ vector) for label, vector in kept.values() if label in (0, 1) and query @ vector > -0.5),
        reverse=True,
    )
    assert np.allclose([cosine for _, cosine in found], expected[:k], atol=1e-5)
    assert sorted(table.all_keys()) == sorted(kept)


def test_lists_find_nearly_everything_and_keep_up_with_changes() -> None:
    n = 12_000
    vectors, labels = _vectors(n), (np.arange(n) % 3).astype(np.int16)
    exact = VectorTable(32)
    exact.put(np.arange(n), labels, vectors)
    listed = exact.with_lists()
    queries = vectors[:: n // 50]
    hits = [
        len({key for key, _ in exact.search(q, 10, {0, 1})} & {key for key, _ in listed.search(q, 10, {0, 1})})
        for q in queries
    ]
    assert np.mean(hits) > 9.5
    assert [each[0] for each in listed.search(queries[1], 3)] == [each[0] for each in exact.search(queries[1], 3)]
    listed.put(np.array([n]), np.array([0], dtype=np.int16), queries[3][None])
    assert listed.search(queries[3], 2)[0][1] == pytest.approx(1, abs=1e-5)
    assert n in {key for key, _ in listed.search(queries[3], 2)}
    listed.remove([n])
    assert n not in {key for key, _ in listed.search(queries[3], 5)}
    assert listed.search(queries[0], 5, allowed={9}) == []


# --- both stores of vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_store_of_vectors(backend: str, tmp_path: Path) -> None:
    store: VectorStore = MemoryVectors(32)
    if backend == "chroma":
        store = ChromaVectors(tmp_path, scope="a", embedder="e")
    assert store.seen == -1
    vectors = _vectors(20)
    store.put([Entry(f"l{i}", 1, part, i, i % 2, vectors[i]) for i in range(20) for part in ("text", "task")])
    store.settle(7)
    assert store.seen == 7
    [(row, cosine)] = store.search("text", vectors[4], 1, {0}, 0.5)
    assert row == 4
    assert cosine == pytest.approx(1, abs=1e-4)
    assert store.search("text", vectors[4], 20, {1}, -1)[0][0] % 2 == 1
    assert store.search("none", vectors[4], 1, {0, 1}, -1) == []
    store.remove(["l4", "unknown"])
    assert 4 not in {row for row, _ in store.search("text", vectors[4], 20, {0, 1}, -1)}
    assert len(store.known()) == 38
    store.clear()
    assert store.known() == set()
    store.close()


@needs_chroma
def test_chroma_goes_on_where_it_was_and_starts_anew_under_another_embedder(tmp_path: Path) -> None:
    entries = [Entry(f"l{i}", 1, "text", i, 0, vector) for i, vector in enumerate(_vectors(5))]
    first = ChromaVectors(tmp_path, scope="a", embedder="e")
    with pytest.raises(ConflictError, match="in use"):
        ChromaVectors(tmp_path, scope="b", embedder="e")
    first.put(entries)
    first.settle(5)
    first.close()
    again = ChromaVectors(tmp_path, scope="a", embedder="e")
    assert (again.seen, len(again.known())) == (5, 5)
    again.close()
    other = ChromaVectors(tmp_path, scope="a", embedder="f")
    assert (other.seen, len(other)) == (-1, 0)
    other.close()


# --- an index over a memory -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_index_follows_the_lessons(tmp_path: Path, backend: Backend) -> None:
    async with await Memory.open(tmp_path, index=backend) as memory:
        lessons = [_lesson(text) for text in ("sort a list in place", "parse a date string", "cook rice slowly")]
        await memory.put(*lessons)
        assert [each.lesson for each in await memory.recall("sorting lists", k=1)] == lessons[:1]
        report = await memory.index.verify()
        assert report.ok
        assert (report.backend, report.lessons, report.vectors) == (backend, 3, 6)
        await memory.lessons.revise(lessons[0].id, text="bake bread in an oven", reason="r", actor="ada")
        assert (await memory.recall("baking bread", k=1))[0].lesson.version == 2
        await memory.lessons.retire(lessons[0].id, reason="r", actor="ada")
        assert await memory.recall("baking bread", k=1) == []
        assert (await memory.index.verify()).ok


@pytest.mark.asyncio
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_lost_index_is_made_again(tmp_path: Path, backend: Backend) -> None:
    async with await Memory.open(tmp_path, index=backend) as memory:
        await memory.put(*(_lesson(f"lesson about topic{i} and more") for i in range(30)))
        await memory.index.refresh()
        await memory.store.write(lambda connection: connection.execute(schema.vectors.delete()))
        damaged = await memory.index.verify()
        assert (damaged.ok, damaged.pending, damaged.extra) == (False, 30, 60)
        found = await memory.recall("topic7", k=1, explain=True)
        assert "keywords" in found[0].parts  # words still find it
        report = await memory.index.rebuild()
        assert report.pending == report.stale == 0
        assert (await memory.index.verify()).ok


@pytest.mark.asyncio
async def test_wrong_vectors_are_noticed(memory: Memory) -> None:
    await memory.put(_lesson("sort a list"), _lesson("cook rice"))
    await memory.index.refresh()
    zeros = np.zeros(256, dtype="<f4").tobytes()
    await memory.store.write(lambda connection: connection.execute(schema.vectors.update().values(data=zeros)))
    assert (await memory.index.verify()).wrong == 4


@pytest.mark.asyncio
async def test_embedders_are_never_mixed(url: str) -> None:
    async with await Memory.open(url) as memory:
        await memory.put(_lesson("sort a list"))
        await memory.index.refresh()
    async with await Memory.open(url, embedder=HashedNgrams(64)) as other:
        with pytest.raises(RefusedError, match="whet index rebuild"):
            await other.recall("sort")
        with pytest.raises(RefusedError, match="hashed-ngrams-256"):
            await other.index.verify()
        assert (await other.index.rebuild()).embedder == "hashed-ngrams-64"
        assert len(await other.recall("sort")) == 1


class Unreachable(HashedNgrams):
    """An embedder whose model is away."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises ModelError."""
        raise ModelError("the embedder is away")


@pytest.mark.asyncio
async def test_words_decide_while_the_embedder_is_away(memory: Memory) -> None:
    await memory.put(_lesson("sort a list"), _lesson("cook rice"))
    away = Memory(memory.store, embedder=Unreachable())
    [found] = await away.recall("sorting", explain=True)
    assert found.lesson.text == "sort a list"
    assert set(found.parts) == {"keywords", "bm25", "worth", "recency"}
    with pytest.raises(ModelError):
        await away.index.refresh()


@pytest.mark.asyncio
async def test_a_remote_embedder_that_is_not_there_is_a_model_error() -> None:
    embedder = RemoteEmbedder("openai/none", dims=8, base_url="http://127.0.0.1:9/v1", api_key="x")
    assert embedder.name == "openai/none-8"
    with pytest.raises(ModelError, match="did not answer"):
        await embedder.embed(["a"])


@pytest.mark.asyncio
async def test_a_read_only_store_embeds_for_itself_and_writes_nothing(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path) as memory:
        await memory.put(_lesson("sort a list in place"))
    async with await Memory.open(tmp_path, read_only=True, index="chroma") as reader:
        found = await reader.recall("sorting lists", explain=True)
        assert "cosine_text" in found[0].parts
        assert not (tmp_path / "index").exists()
        assert await reader.query("SELECT count(*) AS n FROM vectors") == [{"n": 0}]


@pytest.mark.asyncio
async def test_many_readers_at_once(memory: Memory) -> None:
    await memory.put(*(_lesson(f"lesson about topic{i} and more") for i in range(50)))
    found = await asyncio.gather(*(memory.recall(f"topic{i}", k=1) for i in range(50)))
    assert [each[0].lesson.text for each in found] == [f"lesson about topic{i} and more" for i in range(50)]


# --- two processes --------------------------------------------------------------------------------------------------

_WRITER = """
    import asyncio, sys
    from whet.core import Lesson
    from whet.memory import Memory

    async def main(folder, name):
        async with await Memory.open(folder, index="chroma") as memory:
            for i in range(15):
                lesson = Lesson(text=f"{name} says word{name}{i} again", status="active")
                await memory.put(lesson)
                found = await memory.recall(f"word{name}{i}", k=1)
                assert found[0].lesson.id == lesson.id, found
            print((await memory.index.status()).backend)

    asyncio.run(main(*sys.argv[1:]))
"""


@needs_chroma
@pytest.mark.asyncio
async def test_two_processes_at_once_never_damage_the_index(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path):
        pass
    script = textwrap.dedent(_WRITER)
    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(tmp_path), name, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in ("a", "b", "c")
    ]
    outputs = [await writer.communicate() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], outputs
    async with await Memory.open(tmp_path, index="chroma") as memory:
        for name in ("a", "b", "c"):
            for i in range(15):
                assert len(await memory.recall(f"word{name}{i}", k=1)) == 1
        report = await memory.index.verify()
        assert (report.backend, report.lessons, report.vectors, report.ok) == ("chroma", 45, 45, True)


@needs_chroma
@pytest.mark.asyncio
async def test_chroma_holds_no_text(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path, index="chroma") as memory:
        await memory.put(_lesson("the quick brown fox jumps over the lazy dog"))
        await memory.recall("quick fox")
        assert (await memory.index.status()).backend == "chroma"
    files = [path for path in (tmp_path / "index").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"brown" in path.read_bytes()]


@needs_chroma
@pytest.mark.asyncio
async def test_forgetting_drops_what_chroma_keeps(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path, index="chroma") as memory:
        said = Feedback(kind="comment", source="web", person="ada", text="I like my tea with two spoons of honey")
        await memory.put(said, _lesson("Ask about honey", said.id), _lesson("Boil the water"))
        assert len(await memory.recall("honey and water", k=3)) == 2
        report = await memory.forget(await memory.forget_plan(person="ada"), "asked")
        assert report.proved
        assert not (tmp_path / "index" / "chroma").exists()
        assert [each.lesson.text for each in await memory.recall("honey and water", k=3)] == ["Boil the water"]
        assert (await memory.index.verify()).ok
