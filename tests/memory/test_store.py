"""What a memory keeps: every kind of record, found again, never overwritten, in both databases."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from whet.core import (
    Actor,
    BudgetEvent,
    Candidate,
    ConflictError,
    Cost,
    Critique,
    FailureLabel,
    Feedback,
    Grant,
    Job,
    Lesson,
    Message,
    ModelCall,
    NotFoundError,
    Promotion,
    Record,
    RefusedError,
    Run,
    Sampling,
    Step,
    StoreError,
    Task,
    ToolCall,
    ToolResult,
    Use,
    UserError,
    Verdict,
    VerifierSpec,
    digest,
    encode,
)
from whet.memory import Memory, schema
from whet.memory.kinds import KINDS, kind_of

TASK = Task(id="t/1", messages=(Message(role="user", content="Grüße, 世界"),), verifiers=(VerifierSpec(kind="exact"),))
RUN = Run(task_id="t/1", agent="a", meta={"ratio": 0.5, "nested": [{"x": None}]})

EXAMPLES: dict[type[Record], Record] = {
    Actor: Actor(id="ann", kind="person"),
    Task: TASK,
    Run: RUN,
    Step: Step(
        run_id=RUN.id, seq=0, body=ToolResult(call=ToolCall(id="1", name="shell", arguments="{}"), content="ok")
    ),
    Verdict: Verdict(run_id=RUN.id, task_id="t/1", verifier="exact@1", outcome="pass", score=1.0),
    Critique: Critique(run_id=RUN.id, text="off by one", source="checks", verdict_ids=("v1", "v2", "v1")),
    Feedback: Feedback(kind="rating", source="ann", run_id=RUN.id, value=0.5, person="ann"),
    FailureLabel: FailureLabel(run_id=RUN.id, label="loop", source="ann"),
    Lesson: Lesson(text="Check the bounds.", derived_from=(RUN.id,), supports=("v1",)),
    Use: Use(run_id=RUN.id, item="l1", kind="shown"),
    Candidate: Candidate(policy="p", parent="q", learner="tips", evidence=(RUN.id,)),
    Promotion: Promotion(decision="rejected", policy="p", incumbent="q", run_ids=(RUN.id,)),
    Job: Job(kind="learn", inputs=("a",), outputs=("b",)),
    BudgetEvent: BudgetEvent(kind="grant", budget_id="b", grant=Grant(calls=3), cost=Cost(), at=5),
}


def id_of(record: Record) -> str:
    """The id under which a record is stored."""
    return kind_of(type(record)).row(record, "default").id


def test_there_is_an_example_of_every_kind() -> None:
    assert EXAMPLES.keys() == KINDS.keys()


@pytest.mark.asyncio
async def test_every_kind_is_kept_and_found_again(memory: Memory) -> None:
    await memory.put(*EXAMPLES.values(), actor="ann", reason="a test")
    for kind, record in EXAMPLES.items():
        assert await memory.get(kind, id_of(record)) == record
        assert await memory.find(kind) == [record]
        assert await memory.count(kind) == 1
    changes = await memory.changes()
    assert {change.kind for change in changes} == {kind.name for kind in KINDS.values()}
    assert {(change.actor, change.reason, change.batch) for change in changes} == {("ann", "a test", 1)}
    assert await memory.audit() == []


@pytest.mark.asyncio
async def test_putting_the_same_again_changes_nothing(memory: Memory) -> None:
    await memory.put(*EXAMPLES.values())
    before = await memory.changes()
    await memory.put(*EXAMPLES.values(), *EXAMPLES.values())
    assert await memory.changes() == before


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (Run, Job, Actor, Lesson, BudgetEvent)])
async def test_records_never_change(memory: Memory, kind: type[Record]) -> None:
    record = EXAMPLES[kind]
    other = {Step: {"node": "x"}, Task: {"split": "heldout"}, Use: {"version": "2"}, Candidate: {"summary": "x"}}
    fields = other.get(kind) or ({"label": "x"} if kind is FailureLabel else {"at": 1})
    await memory.put(record)
    new = Actor(id="bob", kind="person")
    with pytest.raises(ConflictError, match="never changes"):
        await memory.put(new, msgspec.structs.replace(record, **fields))
    assert await memory.find(kind) == [record]
    assert await memory.count(Actor) == 0, "one transaction: what stood beside it was not written"


@pytest.mark.asyncio
async def test_runs_are_replaced_and_the_log_keeps_what_was(memory: Memory) -> None:
    done = msgspec.structs.replace(RUN, status="done", answer="x" * 10_000)
    await memory.put(RUN)
    await memory.put(done)
    assert await memory.find(Run) == [done]
    newest, oldest = await memory.changes()
    assert (newest.op, oldest.op) == ("replace", "insert")
    assert newest.before_digest == oldest.digest == digest(encode(RUN))


@pytest.mark.asyncio
async def test_a_record_and_its_replacement_in_one_put(memory: Memory) -> None:
    done = msgspec.structs.replace(RUN, status="done")
    await memory.put(RUN, done, RUN)
    assert await memory.find(Run) == [RUN]
    assert await memory.audit() == []


@pytest.mark.asyncio
async def test_a_lesson_changes_by_versions(memory: Memory) -> None:
    first = Lesson(text="one")
    closed = msgspec.structs.replace(first, valid_to=7)
    second = msgspec.structs.replace(first, version=2, text="two")
    await memory.put(first)
    await memory.put(closed, second)
    assert await memory.get(Lesson, first.id) == second
    assert await memory.find(Lesson, {"valid_to": None}) == [second]
    assert await memory.find(Lesson, {"id": first.id, "version": 1}) == [closed]
    for wrong in ({"text": "three"}, {"status": "active"}, {"valid_to": 8}):
        with pytest.raises(ConflictError, match="by a new version"):
            await memory.put(msgspec.structs.replace(closed, **wrong))
    outbox = await memory.query("SELECT op, version FROM index_outbox ORDER BY seq")
    assert [tuple(line.values()) for line in outbox] == [("upsert", 1), ("upsert", 1), ("upsert", 2)]


@pytest.mark.asyncio
async def test_long_records_go_to_the_blobs_and_come_back(memory: Memory) -> None:
    call = ModelCall(messages=(Message(role="user", content="ü" * 9_000),))
    steps = [Step(run_id="r", seq=seq, body=call) for seq in range(3)]
    await memory.put(*steps)
    assert await memory.find(Step, {"run_id": "r"}) == steps
    assert (await memory.query("SELECT count(*) AS n FROM steps WHERE body IS NULL")) == [{"n": 3}]
    assert await memory.get_blob(digest(encode(steps[0]))) == encode(steps[0])
    assert await memory.audit() == []


@pytest.mark.asyncio
async def test_blobs_by_digest(memory: Memory) -> None:
    data = bytes(range(256)) * 100
    name = await memory.put_blob(data)
    assert name == await memory.put_blob(data) == digest(data)
    assert await memory.get_blob(name) == data
    with pytest.raises(NotFoundError, match="no blob"):
        await memory.get_blob("0" * 64)


# --- finding --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_find_by_equality_membership_time_order_and_limit(memory: Memory) -> None:
    runs = [
        Run(id=f"{n:032}", task_id=f"t{n % 3}", agent="a", seed=n, parent_id="p" if n % 2 else None, started_at=n)
        for n in range(10)
    ]
    await memory.put(*reversed(runs))
    assert await memory.find(Run) == runs
    assert await memory.find(Run, {"task_id": "t1"}) == runs[1::3]
    assert await memory.find(Run, where={"task_id": ["t1", "t2"], "seed": (1, 2, 3)}) == runs[1:3]
    assert await memory.find(Run, {"parent_id": None}) == runs[::2]
    assert await memory.find(Run, {"parent_id": ["p", None]}) == runs
    assert await memory.find(Run, {"task_id": []}) == []
    assert await memory.find(Run, since=3, until=5) == runs[3:5]
    assert await memory.find(Run, limit=2, newest_first=True) == [runs[9], runs[8]]
    assert await memory.count(Run, {"task_id": "t1"}, since=2) == 2


@pytest.mark.asyncio
async def test_membership_in_many_values(memory: Memory) -> None:
    runs = [Run(id=f"{n:032}", task_id="t", agent="a", started_at=n) for n in range(3)]
    await memory.put(*runs)
    ids = [f"{n:032}" for n in range(1, 70_000)]
    assert await memory.find(Run, {"id": ids}) == runs[1:]
    assert await memory.find(Run, {"seed": list(range(70_000))}) == runs


@pytest.mark.asyncio
async def test_steps_come_in_the_order_of_their_run(memory: Memory) -> None:
    steps = [Step(run_id="r", seq=seq, at=100 - seq, body=EXAMPLES[Step].body) for seq in range(5)]
    await memory.put(*reversed(steps))
    assert await memory.find(Step, {"run_id": "r"}) == steps
    assert await memory.count(Step, {"kind": "tool_result", "tool": "shell"}) == 5


@pytest.mark.asyncio
async def test_what_cannot_be_filtered_is_refused_with_what_can(memory: Memory) -> None:
    with pytest.raises(UserError, match=r"cannot be filtered by 'answer'; it can be by .*task_id"):
        await memory.find(Run, {"answer": "x"})
    with pytest.raises(UserError, match="'seed' of Run is int, not '3'"):
        await memory.find(Run, {"seed": "3"})
    with pytest.raises(UserError, match="has no time"):
        await memory.find(Task, since=3)
    with pytest.raises(UserError, match="Message is no record that a memory keeps; it keeps Actor, "):
        await memory.find(Message)


@pytest.mark.asyncio
async def test_ids_by_prefix(memory: Memory) -> None:
    await memory.put(*(msgspec.structs.replace(TASK, id=id) for id in ("HumanEval/1", "HumanEval/10", "other%_")))
    assert (await memory.get(Task, "HumanEval/1")).id == "HumanEval/1"
    assert (await memory.get(Task, "HumanEval/10")).id == "HumanEval/10"
    assert (await memory.get(Task, "o")).id == "other%_"
    with pytest.raises(NotFoundError, match="begins several Task ids"):
        await memory.get(Task, "Human")
    for missing in ("%", "humaneval/1", "", "other%_x"):
        with pytest.raises(NotFoundError, match="no Task"):
            await memory.get(Task, missing)


@pytest.mark.asyncio
async def test_scopes_see_only_their_own(url: str) -> None:
    async with await Memory.open(url, scope="one") as one, await Memory.open(url, scope="two") as two:
        await one.put(TASK)
        await two.put(msgspec.structs.replace(TASK, split="heldout"))
        assert (await one.get(Task, "t/1")).split == "train"
        assert (await two.get(Task, "t/1")).split == "heldout"
        assert (await one.get(Task, "t/1")).scope == "one"
        assert len(await one.changes()) == 1
        with pytest.raises(UserError, match="belongs to scope 'one', this memory to 'two'"):
            await two.put(await one.get(Task, "t/1"))
        assert await one.audit() == []


# --- what JSON cannot say -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_could_not_be_read_again_is_refused(memory: Memory) -> None:
    verdict = EXAMPLES[Verdict]
    for wrong in (
        msgspec.structs.replace(verdict, score=float("nan")),
        msgspec.structs.replace(verdict, detail="\ud800"),
        msgspec.structs.replace(RUN, meta={"x": {1, 2}, "y": object()}),
    ):
        with pytest.raises(UserError, match="cannot be kept as JSON"):
            await memory.put(wrong)
        with pytest.raises(UserError, match="cannot be kept as JSON"):
            memory.recorder.record(wrong)


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.none() | st.text(), meta=st.dictionaries(st.text(), json, max_size=4), tags=st.lists(st.text()))
def test_any_text_survives(tmp_path: Path, answer: str | None, meta: dict[str, object], tags: list[str]) -> None:
    run = Run(task_id="t", agent="a", answer=answer, meta=meta, tags=tuple(tags))

    async def there_and_back() -> Run:
        async with await Memory.open(tmp_path) as memory:
            await memory.put(run)
            return await memory.get(Run, run.id)

    assert asyncio.run(there_and_back()) == run


@pytest.mark.asyncio
async def test_a_zero_character_in_a_column_is_kept_or_refused_but_never_lost(memory: Memory) -> None:
    await memory.put(msgspec.structs.replace(RUN, answer="a\0b"))
    assert (await memory.get(Run, RUN.id)).answer == "a\0b"
    with pytest.raises(UserError, match="zero character"):
        await memory.put(Run(task_id="t\0", agent="a"))


@pytest.mark.asyncio
async def test_a_number_that_no_column_holds_is_refused(memory: Memory) -> None:
    await memory.put(Run(task_id="t", agent="a", seed=2**63 - 1))
    with pytest.raises(UserError, match=f"seed={2**63} of Run does not fit 64 bits"):
        await memory.put(Run(task_id="t", agent="a", seed=2**63))


# --- undo -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_undo_takes_a_put_back_whole_and_can_be_undone(memory: Memory) -> None:
    first = Lesson(text="one", derived_from=("r1",))
    closed = msgspec.structs.replace(first, valid_to=7)
    second = msgspec.structs.replace(first, version=2, text="two" * 5_000)
    await memory.put(first)
    await memory.put(closed, second)
    await memory.undo((await memory.changes())[0].id, actor="ann", reason="wrong")
    assert await memory.find(Lesson) == [first]
    assert {change.reason for change in (await memory.changes())[:2]} == {"wrong"}
    for change in (await memory.changes())[:2]:
        await memory.undo(str(change.id))
    assert await memory.find(Lesson) == [closed, second]
    assert await memory.audit() == []


@pytest.mark.asyncio
async def test_undo_refuses_what_would_lose_something(memory: Memory) -> None:
    await memory.put(RUN)
    await memory.put(msgspec.structs.replace(RUN, status="done"))
    with pytest.raises(ConflictError, match="changed again by change 2; undo that one first"):
        await memory.undo(1)
    await memory.put(EXAMPLES[Promotion])
    with pytest.raises(RefusedError, match="only grows"):
        await memory.undo(3)
    with pytest.raises(NotFoundError, match="no change 99"):
        await memory.undo(99)
    with pytest.raises(UserError, match="it is a number"):
        await memory.undo("7f3a")


# --- the log, the edges, the query ----------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("UPDATE changes SET actor = 'mallory' WHERE id = 2", "altered at change 2"),
        ("DELETE FROM changes WHERE id = 2", "altered at change 2"),
        ("UPDATE runs SET body = replace(body, 'done', 'failed')", "has other content than its digest"),
        ("DELETE FROM runs", "in the change log and not in its table"),
        ("UPDATE changes SET digest = 'x' WHERE id = 1", "altered at change 1"),
    ],
)
async def test_the_audit_finds_what_was_altered(memory: Memory, sql: str, found: str) -> None:
    from sqlalchemy import text

    await memory.put(RUN)
    await memory.put(msgspec.structs.replace(RUN, status="done"))
    await memory.put(EXAMPLES[Actor])
    assert await memory.audit() == []
    await memory.store.write(lambda connection: connection.execute(text(sql)))
    assert any(found in problem for problem in await memory.audit())


@pytest.mark.asyncio
async def test_lineage_follows_the_records(memory: Memory) -> None:
    job = EXAMPLES[Job]
    await memory.put(EXAMPLES[Critique], job)
    await memory.put(msgspec.structs.replace(job, outputs=("c",)))
    table = schema.lineage
    edges = await memory.store.read(
        lambda connection: connection.execute(select(table.c.kind, table.c.relation, table.c.target)).all()
    )
    assert sorted(tuple(edge) for edge in edges) == [
        ("critiques", "verdict_ids", "v1"),
        ("critiques", "verdict_ids", "v2"),
        ("jobs", "inputs", "a"),
        ("jobs", "outputs", "c"),
    ]


@pytest.mark.asyncio
async def test_query_reads_and_cannot_write(memory: Memory) -> None:
    await memory.put(RUN)
    assert await memory.query("SELECT id, 'a:b' AS label FROM runs") == [{"id": RUN.id, "label": "a:b"}]
    for sql in ("DELETE FROM runs", "SELECT nonsense", "DROP TABLE runs"):
        with pytest.raises(UserError, match="the database refused the query"):
            await memory.query(sql)
    assert await memory.count(Run) == 1


@pytest.mark.asyncio
async def test_work_that_raises_is_rolled_back_and_its_neighbours_are_not(memory: Memory) -> None:
    def fail(connection: object) -> None:
        connection.execute(insert(schema.policy_tags).values(scope="s", name="n", policy="p", at=0))  # type: ignore[attr-defined]
        raise ZeroDivisionError

    outcomes = await asyncio.gather(memory.put(RUN), memory.store.write(fail), memory.put(TASK), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), ZeroDivisionError, type(None)]
    assert await memory.query("SELECT * FROM policy_tags") == []
    assert (await memory.count(Run), await memory.count(Task)) == (1, 1)


@pytest.mark.asyncio
async def test_many_tasks_put_at_once(memory: Memory) -> None:
    runs = [Run(task_id=f"t{n}", agent="a") for n in range(60)]
    await asyncio.gather(*(memory.put(run) for run in runs))
    assert {run.id for run in await memory.find(Run)} == {run.id for run in runs}
    assert await memory.audit() == []


@pytest.mark.asyncio
async def test_two_memories_write_to_one_store(url: str) -> None:
    async with await Memory.open(url) as one, await Memory.open(url) as two:
        await asyncio.gather(*(m.put(Run(task_id="t", agent="a")) for m in (one, two) * 20))
        assert await one.count(Run) == await two.count(Run) == 40
        assert await one.audit() == []


@pytest.mark.asyncio
async def test_a_read_only_memory_reads_and_refuses_to_write(url: str) -> None:
    async with await Memory.open(url) as memory:
        await memory.put(RUN)
        async with await Memory.open(url, read_only=True) as reader:
            assert await reader.get(Run, RUN.id) == RUN
            with pytest.raises(RefusedError, match="open for reading only"):
                await reader.put(TASK)
            with pytest.raises(RefusedError, match="open for reading only"):
                reader.recorder.record(TASK)


@pytest.mark.asyncio
async def test_a_closed_memory_says_so(new_url: Callable[[str], str]) -> None:
    memory = await Memory.open(new_url("sqlite"))
    await memory.close()
    await memory.close()
    with pytest.raises(StoreError, match="is closed"):
        await memory.put(RUN)
    with pytest.raises(StoreError, match="is closed"):
        await memory.find(Run)


def test_sampling_is_no_row() -> None:
    with pytest.raises(UserError, match="Sampling is no record that a memory keeps"):
        kind_of(Sampling)
