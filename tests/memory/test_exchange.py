"""Import and export: every row accounted for, nothing lost on the way round."""

import os
from collections.abc import Coroutine
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from whet.agents.tasksets.registry import load_tasks
from whet.core import (
    ConflictError,
    Execution,
    Feedback,
    Json,
    Lesson,
    Message,
    ModelCall,
    NotFoundError,
    Policy,
    Run,
    Step,
    Task,
    ToolResult,
    UserError,
    Verdict,
    digest,
    encode,
)
from whet.core.adapters import AdapterCard, adapter_version, pack
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS
from whet.memory import Memory
from whet.memory.exchange import FORMATS, ImportReport, export_file, format_named, import_file
from whet.memory.exchange.importing import Importer
from whet.memory.exchange.residue import residue, restore, same
from whet.memory.schema import quarantine

DATA = Path(os.environ.get("WHET_DATA", Path(__file__).parents[3] / "shared" / "data"))
ILF = DATA / "ilf_mbpp_feedback.jsonl"
TRAJECTORIES = DATA / "trajectories"
needs_data = pytest.mark.skipif(not ILF.exists(), reason=f"the data files are not at {DATA}; set WHET_DATA")

TOOL_CALL: Json = {"id": "c1", "type": "function", "function": {"name": "sh", "arguments": '{"cmd": "ls"}'}}
CHAT: dict[str, Json] = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "List "}, {"type": "text", "text": "files"}]},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL], "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
        {"role": "assistant", "content": "One: a.txt", "weight": 0},
        {"role": "user", "content": "Thanks"},
    ],
    "tools": [{"type": "function", "function": {"name": "sh", "parameters": {"type": "object"}, "strict": True}}],
    "custom": [1, 1.0, None, {"ü": "\u0000"}],
}
ATIF: dict[str, Json] = {
    "schema_version": "ATIF-v1.5",
    "session_id": "s-1",
    "agent": {"name": "harbor-agent", "version": "1.0", "model_name": "m", "extra": {"k": 1}},
    "steps": [
        {"step_id": 1, "timestamp": "2025-10-16T14:30:00Z", "source": "user", "message": "Find the bug"},
        {
            "step_id": 2,
            "timestamp": "2025-10-16T14:30:05.250Z",
            "source": "agent",
            "message": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [{"tool_call_id": "t1", "function_name": "read", "arguments": {"path": "a.py"}}],
            "observation": {"results": [{"source_call_id": "t1", "content": "x = 1"}]},
            "metrics": {"prompt_tokens": 10, "completion_tokens": 4, "cached_tokens": 2, "cost_usd": 0.0125},
        },
        {"step_id": 3, "source": "agent", "message": "Line 1.", "metrics": {"logprobs": [-0.5, -0.25]}},
    ],
    "final_metrics": {"total_prompt_tokens": 10, "extra": {"seconds": 3}},
    "notes": "kept",
}


def _imported(memory: Memory, name: str, document: Json, path: Path) -> Coroutine[None, None, ImportReport]:
    path.write_bytes(encode(document))
    return import_file(memory.store, name, path, at=1_000)


def _digest(path: Path) -> str:
    return digest(encode(msgspec.json.decode(path.read_bytes())))


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "document"), [("openai", CHAT), ("atif", ATIF)])
async def test_a_document_comes_back_as_it_was(memory: Memory, tmp_path: Path, name: str, document: Json) -> None:
    first = await _imported(memory, name, document, tmp_path / "in.json")
    assert (first.rows, first.runs, first.quarantined) == (1, 1, ())
    assert await export_file(memory.store, name, tmp_path / "out.jsonl") == 1
    assert msgspec.json.decode((tmp_path / "out.jsonl").read_bytes()) == document
    async with await Memory.open(tmp_path / "second") as second:
        again = await import_file(second.store, name, tmp_path / "out.jsonl", at=1_000)
        assert again.digest == first.digest
        assert await second.find(Run) == await memory.find(Run)
        assert await second.find(Step) == await memory.find(Step)
        assert await second.find(Task) == await memory.find(Task)


@pytest.mark.asyncio
async def test_a_chat_becomes_steps(memory: Memory, tmp_path: Path) -> None:
    await _imported(memory, "openai", CHAT, tmp_path / "in.json")
    [run], [task] = await memory.find(Run), await memory.find(Task)
    assert [message.role for message in task.messages] == ["system", "user"]
    assert task.prompt == "List files"
    assert (run.answer, run.trust, run.purpose) == ("One: a.txt", "tainted", "import")
    first, second, third = [step.body for step in await memory.find(Step, {"run_id": run.id})]
    assert isinstance(first, ModelCall)
    assert first.tools[0].name == "sh"
    assert isinstance(second, ToolResult)
    assert (second.call.name, second.content, second.trust) == ("sh", "a.txt", "tainted")
    assert isinstance(third, ModelCall)
    assert len(third.messages) == 4


@pytest.mark.asyncio
async def test_atif_metrics_and_times_are_understood(memory: Memory, tmp_path: Path) -> None:
    await _imported(memory, "atif", ATIF, tmp_path / "in.json")
    [run] = await memory.find(Run)
    steps = await memory.find(Step, {"run_id": run.id})
    assert (run.usage.input_tokens, run.usage.micro_dollars, run.model) == (10, 12_500, "m")
    assert run.started_at == 1_760_625_000_000
    assert steps[0].at == 1_760_625_005_250
    last = steps[-1].body
    assert isinstance(last, ModelCall)
    assert last.completion is not None
    assert last.completion.logprobs == (-0.5, -0.25)


@pytest.mark.asyncio
async def test_verdicts_travel_in_extra_and_later_ones_show(memory: Memory, tmp_path: Path) -> None:
    await _imported(memory, "atif", ATIF, tmp_path / "in.json")
    [run] = await memory.find(Run)
    verdict = Verdict(run_id=run.id, task_id=run.task_id, verifier="tests", outcome="pass", score=1.0, at=5)
    await memory.put(verdict)
    await export_file(memory.store, "atif", tmp_path / "out.json")
    document = msgspec.json.decode((tmp_path / "out.json").read_bytes())
    assert document["notes"] == "kept"
    assert document["extra"]["whet"]["verdicts"][0]["outcome"] == "pass"
    async with await Memory.open(tmp_path / "second") as second:
        report = await import_file(second.store, "atif", tmp_path / "out.json")
        assert report.verdicts == 1
        assert await second.find(Verdict) == [verdict]
        assert [found.id for found in await second.find(Run)] == [run.id]


@pytest.mark.asyncio
async def test_a_run_of_our_own_keeps_its_identity_through_atif(memory: Memory, tmp_path: Path) -> None:
    task = Task(id="t1", messages=(Message(role="user", content="2+2?"),), reference="4")
    run = Run(task_id="t1", agent="react", policy="p", seed=7, status="done", answer="4", started_at=9, ended_at=9)
    await memory.put(task, run, Verdict(run_id=run.id, task_id="t1", verifier="exact", outcome="pass", score=1.0))
    await export_file(memory.store, "atif", tmp_path / "out.json", run_ids=[run.id])
    async with await Memory.open(tmp_path / "second") as second:
        await import_file(second.store, "atif", tmp_path / "out.json")
        [again] = await second.find(Run)
        assert msgspec.structs.replace(again, meta={}) == run
        assert await second.find(Task) == [task]
        assert await second.find(Verdict) == await memory.find(Verdict)


@needs_data
@pytest.mark.asyncio
async def test_the_feedback_file_goes_in_and_comes_out(memory: Memory, tmp_path: Path) -> None:
    report = await import_file(memory.store, "ilf", ILF, at=1_000)
    counts = (report.rows, report.tasks, report.runs, report.feedback, report.lessons, report.verdicts)
    assert counts == (124, 124, 124, 248, 124, 0)
    assert report.quarantined == ()
    await export_file(memory.store, "ilf", tmp_path / "out.jsonl")
    rows = [msgspec.json.decode(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert rows == [msgspec.json.decode(line) for line in ILF.read_bytes().splitlines()]
    again = await import_file(memory.store, "ilf", tmp_path / "out.jsonl")
    assert (again.digest, again.known, again.runs) == (report.digest, 124, 0)
    assert await memory.count(Feedback) == 248


@needs_data
@pytest.mark.asyncio
async def test_imported_tasks_are_those_of_the_task_set(memory: Memory) -> None:
    await import_file(memory.store, "ilf", ILF)
    loaded = {task.id: task for task in load_tasks(f"ilf:{ILF}").tasks}
    assert {task.id: task for task in await memory.find(Task)} == loaded


@needs_data
@pytest.mark.asyncio
async def test_what_people_said_becomes_proposed_lessons(memory: Memory) -> None:
    await import_file(memory.store, "ilf", ILF)
    lessons = await memory.find(Lesson)
    assert {lesson.status for lesson in lessons} == {"proposed"}
    comments = {each.id: each.text.strip() for each in await memory.find(Feedback, {"kind": "comment"})}
    assert all(comments[lesson.derived_from[0]] == lesson.text for lesson in lessons)


@needs_data
@pytest.mark.asyncio
async def test_trajectories_come_back_as_they_were(memory: Memory, tmp_path: Path) -> None:
    report = await import_file(memory.store, "mini-swe", TRAJECTORIES)
    assert (report.rows, report.runs, report.quarantined) == (2, 2, ())
    assert await export_file(memory.store, "mini-swe", tmp_path / "out") == 2
    written = {_digest(path) for path in (tmp_path / "out").iterdir()}
    assert written == {_digest(path) for path in TRAJECTORIES.iterdir()}
    [run] = [run for run in await memory.find(Run) if run.answer == "" or "diff" in (run.answer or "")][:1]
    executed = [step.body for step in await memory.find(Step, {"run_id": run.id}) if isinstance(step.body, Execution)]
    assert executed
    assert all(body.command for body in executed)


@pytest.mark.asyncio
async def test_malformed_rows_are_quarantined_with_their_reason(memory: Memory, tmp_path: Path) -> None:
    bad = [b"{not json", b'{"messages": "no list"}', b'{"messages": [{"role": "king", "content": ""}]}', b"\xff\xfe"]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join([*bad, b"", encode(CHAT), b"[" * 5000]))
    report = await import_file(memory.store, "openai", path)
    assert (report.rows, report.runs) == (6, 1)
    assert [each.row for each in report.quarantined] == [1, 2, 3, 4, 7]
    reasons = [each.reason for each in report.quarantined]
    assert "not JSON" in reasons[0]
    assert "$.messages" in reasons[1]
    assert "role" in reasons[2]
    assert "too deeply" in reasons[4]
    again = await import_file(memory.store, "openai", path)
    assert again.known == 1
    kept = await memory.store.read(lambda c: c.execute(select(quarantine.c.data).order_by(quarantine.c.line)).all())
    assert [bytes(line.data) for line in kept[:4]] == bad


@pytest.mark.asyncio
async def test_equal_rows_are_two_runs(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(encode(CHAT) + b"\n" + encode(CHAT))
    assert (await import_file(memory.store, "openai", path)).runs == 2
    assert await export_file(memory.store, "openai", tmp_path / "out.jsonl") == 2


@pytest.mark.asyncio
async def test_bad_files_and_names_are_refused(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no file"):
        await import_file(memory.store, "openai", tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"there is openai, atif, mini-swe, ilf"):
        format_named("csv")
    with pytest.raises(NotFoundError, match=r"no run 'ffff'"):
        await export_file(memory.store, "openai", tmp_path / "out.jsonl", run_ids=["ffff"])
    path = tmp_path / "in.jsonl"
    path.write_bytes(encode(CHAT) + b"\n" + encode(CHAT))
    await import_file(memory.store, "openai", path)
    with pytest.raises(UserError, match=r"2 runs of format 'atif' do not fit"):
        await export_file(memory.store, "atif", path.rename(tmp_path / "in.json"))


@pytest.mark.asyncio
async def test_everything_goes_out_and_comes_back(memory: Memory, tmp_path: Path) -> None:
    await _imported(memory, "atif", ATIF, tmp_path / "in.json")
    lesson = (await memory.lessons.add(Lesson(text="Back off on 429", derived_from=("r",)))).lesson
    await memory.lessons.approve(lesson.id, reason="ok", actor="ada")
    await memory.policies.commit(Policy.of({"prompts/system.md": "a\n"}), reason="first", actor="ada")
    adapter = pack(random_adapter(WEIGHTS, tmp_path / "lora"), AdapterCard(base="tiny"))
    policy = Policy.of({"prompts/system.md": "b\n", "adapter": await memory.put_blob(adapter)})
    await memory.policies.commit(policy, reason="2", actor="ada")
    await memory.policies.tag("v1", "head~1")
    await memory.put(Run(task_id="t", agent="a", answer="long " * 3000))
    await memory.put_blob(b"weights\xff")
    assert await export_file(memory.store, "store", tmp_path / "one.jsonl") == 2
    async with await Memory.open(tmp_path / "second") as second:
        report = await import_file(second.store, "store", tmp_path / "one.jsonl")
        assert (report.tasks, report.runs, report.lessons, report.known, report.quarantined) == (1, 2, 2, 0, ())
        await export_file(second.store, "store", tmp_path / "two.jsonl")
        assert await second.policies.log() == await memory.policies.log()
        assert (await second.policies.get("v1")).text("prompts/system.md") == "a\n"
        assert adapter_version(await second.adapter((await second.policies.head()).adapter)) == digest(adapter)
        again = await import_file(second.store, "store", tmp_path / "two.jsonl")
        assert (again.runs, again.digest) == (0, report.digest)
        assert await second.audit() == []
        await second.policies.commit(Policy(), reason="other", actor="ada")
        with pytest.raises(ConflictError, match="empty scope"):
            await import_file(second.store, "store", tmp_path / "one.jsonl")
    assert sorted((tmp_path / "one.jsonl").read_bytes().splitlines()) == sorted(
        (tmp_path / "two.jsonl").read_bytes().splitlines()
    )


@pytest.mark.asyncio
async def test_bad_lines_of_a_store_are_quarantined(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    bad = ['{"type":"blob","data":"*"}', '{"type":"record","kind":"runs","record":{}}', '{"type":"new"}', "x"]
    path.write_text("\n".join(bad))
    report = await import_file(memory.store, "store", path)
    assert (report.rows, [each.row for each in report.quarantined]) == (4, [1, 2, 3, 4])


# --- properties -----------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values, values)
def test_a_residue_restores_any_document(rendered: Json, original: Json) -> None:
    assert same(restore(rendered, residue(rendered, original)), original)


@given(values)
def test_equal_documents_leave_no_residue(document: Json) -> None:
    assert residue(document, document) is None


calls = st.builds(
    lambda id, name, arguments: {"id": id, "function": {"name": name, "arguments": arguments}}, texts, texts, texts
)
contents = texts | st.none() | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=2)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]), "content": contents},
    optional={"tool_calls": st.lists(calls, max_size=2), "tool_call_id": texts, "name": texts, "extra": values},
)
chats = st.fixed_dictionaries({"messages": st.lists(messages, max_size=6)}, optional={"model": texts, "more": values})
observations = st.fixed_dictionaries(
    {"results": st.lists(st.fixed_dictionaries({}, optional={"content": texts}), max_size=2)}
)
atif_calls = st.fixed_dictionaries({"function_name": texts, "arguments": st.dictionaries(texts, values, max_size=2)})
atif_steps = st.fixed_dictionaries(
    {"step_id": st.integers(0, 9), "source": st.sampled_from(["system", "user", "agent"]), "message": contents},
    optional={"tool_calls": st.lists(atif_calls, max_size=2), "observation": observations, "extra": values},
)
trajectories = st.fixed_dictionaries(
    {
        "schema_version": st.sampled_from(["ATIF-v1.2", "ATIF-v1.7"]),
        "agent": st.fixed_dictionaries({"name": texts}, optional={"version": texts, "extra": values}),
        "steps": st.lists(atif_steps, max_size=5),
    },
    optional={"notes": texts, "session_id": texts, "final_metrics": values},
)
swe = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}), max_size=6
)


def _round_trip(name: str, document: Json) -> None:
    importer = Importer(FORMATS[name](), "default", at=1_000, trust="trusted")
    [found] = importer.read(encode(document))
    assert isinstance(found, tuple), found
    bundle, _ = found
    source = bundle.run.meta["source"]
    assert isinstance(source, dict)
    written = restore(FORMATS[name]().write(bundle), source.get("residue"))
    assert same(written, msgspec.json.decode(encode(document)))


@given(chats)
def test_any_chat_comes_back(document: Json) -> None:
    _round_trip("openai", document)


@given(trajectories)
def test_any_atif_comes_back(document: Json) -> None:
    _round_trip("atif", document)


@given(
    swe
    | st.builds(lambda messages, info: {"messages": messages, "info": info, "x": 1}, swe, st.just({"submission": "d"}))
)
def test_any_mini_swe_trajectory_comes_back(document: Json) -> None:
    _round_trip("mini-swe", document)
