"""Forgetting: the plan finds what holds or rests on the data, applying removes it, the bytes of the files prove it."""

from pathlib import Path

import msgspec
import pytest

from whet.core import (
    Candidate,
    Completion,
    ConflictError,
    Feedback,
    Lesson,
    Message,
    ModelCall,
    NotFoundError,
    Policy,
    Promotion,
    Run,
    Step,
    Task,
    UserError,
    Verdict,
)
from whet.core.adapters import AdapterCard, pack
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS
from whet.memory import Memory
from whet.memory.forget import ForgetPlan
from whet.memory.proof import marks_of, search_files

SECRET = "My sister Quintessa lives at 17 Larkspur Crescent and hates being called before noon."
ANSWER = "Dear Quintessa, we will call you at Larkspur Crescent after twelve, as you have asked us to."
SYSTEM = "prompts/system.md"


async def _lived(memory: Memory) -> dict[str, str]:
    """A task, a run on it, what ada said about it, and all that was learned from it; returns ids by name."""
    task = Task(id="call", messages=(Message(role="user", content="Plan the calls for today, please."),))
    run, other = Run(task_id="call", agent="a", status="done", answer=ANSWER), Run(task_id="call", agent="a")
    said = Feedback(kind="comment", source="web", person="ada", run_id=run.id, text=SECRET)
    step = Step(run_id=run.id, seq=0, body=ModelCall(messages=task.messages, completion=Completion(text=ANSWER)))
    verdict = Verdict(run_id=run.id, task_id="call", verifier="v", outcome="fail")
    elsewhere = Verdict(run_id=other.id, task_id="call", verifier="v", outcome="pass", score=1.0)
    await memory.put(task, run, other, said, step, verdict, elsewhere)
    mine = (await memory.lessons.add(Lesson(text=f"Remember: {SECRET}", derived_from=(said.id,)))).lesson
    both = (await memory.lessons.add(Lesson(text="Never call early", derived_from=(said.id, other.id)))).lesson
    both = await memory.lessons.approve(both.id, reason="ok", actor="bob")
    base = Policy.of({SYSTEM: "You plan calls.\n"})
    await memory.policies.commit(base, reason="first", actor="bob")
    learned = base.edit({SYSTEM: f"You plan calls.\n{SECRET}\n", "skills/late/SKILL.md": "Call late."})
    await memory.policies.put(learned)
    candidate = Candidate(policy=learned.digest, parent=base.digest, learner="tips", evidence=(mine.id,))
    await memory.put(candidate)
    moved = Promotion(decision="promoted", policy=learned.digest, incumbent=base.digest, candidate_id=candidate.id)
    await memory.policies.promote(moved)
    await memory.policies.commit(learned.edit({"principles.md": "Be kind.\n"}), reason="third", actor="bob")
    await memory.index.refresh()
    return {
        "run": run.id,
        "other": other.id,
        "said": said.id,
        "mine": mine.id,
        "both": both.id,
        "candidate": candidate.id,
        "moved": moved.id,
        "learned": learned.digest,
    }


def _touched(plan: ForgetPlan, action: str) -> set[tuple[str, str]]:
    return {(item.kind, item.id) for item in plan.items if item.action == action}


@pytest.mark.asyncio
async def test_the_plan_finds_all_that_rests_on_what_a_person_said(memory: Memory) -> None:
    ids = await _lived(memory)
    plan = await memory.forget_plan(person="ada")
    purged = {("feedback", ids["said"]), ("lessons", ids["mine"]), ("candidates", ids["candidate"])}
    assert _touched(plan, "purge") == purged
    assert _touched(plan, "rederive") == {("lessons", ids["both"])}
    assert plan.policy.promotions == (ids["moved"],)
    assert (SYSTEM, SECRET) in plan.policy.lines
    assert ("skills/late/SKILL.md", "Call late.") in plan.policy.lines
    assert f"-{SECRET}" in plan.policy.diff
    assert plan.vectors == 1
    assert plan.marks
    assert await memory.count(Feedback) == 1  # nothing is done yet


@pytest.mark.asyncio
async def test_forgetting_a_person_is_proved_on_the_disk(memory: Memory) -> None:
    ids = await _lived(memory)
    report = await memory.forget(await memory.forget_plan(person="ada"), "ada asked for it", actor="bob")
    assert report.left == ()
    assert report.purged == {"feedback": 1, "lessons": 1, "candidates": 1}
    assert report.rederived == (ids["both"],)
    head = await memory.policies.head()
    assert head == Policy.of({SYSTEM: "You plan calls.\n", "principles.md": "Be kind.\n"})
    assert head.digest == report.head
    newest = await memory.policies.log(limit=1)
    assert (newest[0].decision, newest[0].actor) == ("committed", "bob")
    with pytest.raises(NotFoundError):
        await memory.policies.get(ids["learned"])
    both = await memory.get(Lesson, ids["both"])
    assert (both.status, both.derived_from, both.text) == ("proposed", (ids["other"],), "Never call early")
    assert await memory.find(Lesson, {"id": ids["mine"]}) == []
    assert await memory.audit() == []
    assert await memory.index.refresh() == 1
    assert (await memory.index.verify()).ok
    assert await memory.recall("sister Quintessa Larkspur", statuses=("proposed", "active")) == []


@pytest.mark.asyncio
async def test_the_files_of_a_folder_are_searched_and_have_nothing(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path / ".whet") as memory:
        await _lived(memory)
        files = sorted((tmp_path / ".whet").iterdir())
        plan = await memory.forget_plan(person="ada")
        assert search_files(files, plan.marks)  # the search finds what is there
        report = await memory.forget(plan, "asked")
        assert report.proved
        assert {Path(name).name for name, _ in report.searched} >= {"whet.db", "whet.db-wal"}
        assert (
            search_files((tmp_path / ".whet").iterdir(), [*plan.marks, "Quintessa lives", "Larkspur Crescent and"])
            == []
        )


@pytest.mark.asyncio
async def test_forgetting_a_run_takes_what_belongs_to_it(memory: Memory) -> None:
    ids = await _lived(memory)
    plan = await memory.forget_plan(run_ids=[ids["run"][:30]])
    kinds = {kind for kind, _ in _touched(plan, "purge")}
    assert kinds == {"runs", "steps", "verdicts", "feedback", "lessons", "candidates"}
    assert ("tasks", "call") not in _touched(plan, "purge")  # another run works on it
    report = await memory.forget(plan, "asked")
    assert report.left == ()
    assert [run.id for run in await memory.find(Run)] == [ids["other"]]
    assert await memory.count(Step) == 0


@pytest.mark.asyncio
async def test_a_task_that_came_with_a_run_goes_with_it(memory: Memory) -> None:
    task = Task(id="own", messages=(Message(role="user", content=SECRET),))
    run = Run(task_id="own", agent="a", purpose="live", actor="ada", answer=ANSWER)
    fork = Run(task_id="own", agent="a", purpose="live", parent_id=run.id, answer="Another answer altogether, I think.")
    await memory.put(task, run, fork)
    plan = await memory.forget_plan(person="ada")
    assert _touched(plan, "purge") == {("tasks", "own"), ("runs", run.id), ("runs", fork.id)}
    assert (await memory.forget(plan, "asked")).left == ()
    assert await memory.count(Task) == 0


@pytest.mark.asyncio
async def test_copies_go_and_what_shares_words_is_named(memory: Memory) -> None:
    said = Feedback(kind="comment", source="web", person="ada", text=SECRET)
    copy = Feedback(kind="comment", source="import", text=f"As ada wrote: {SECRET}")
    partly = Feedback(kind="comment", source="import", text=SECRET[:60])
    await memory.put(said, copy, partly)
    plan = await memory.forget_plan(feedback_ids=[said.id])
    assert _touched(plan, "purge") == {("feedback", said.id), ("feedback", copy.id)}
    assert _touched(plan, "look") == {("feedback", partly.id)}
    assert (await memory.forget(plan, "asked")).left == ()
    assert [each.id for each in await memory.find(Feedback)] == [partly.id]


@pytest.mark.asyncio
async def test_long_records_are_gone_from_the_blobs(memory: Memory) -> None:
    said = Feedback(kind="comment", source="web", person="ada", text=f"{SECRET} " * 200)
    run = Run(task_id="t", agent="a", actor="ada", answer=f"{ANSWER} " * 200)
    await memory.put(said, run)
    await memory.put(msgspec.structs.replace(run, status="done"))  # the log keeps the one before
    report = await memory.forget(await memory.forget_plan(person="ada"), "asked")
    assert report.left == ()
    assert await memory.query("SELECT count(*) AS n FROM blobs") == [{"n": 0}]


@pytest.mark.asyncio
async def test_other_scopes_keep_what_is_theirs(url: str) -> None:
    async with await Memory.open(url, scope="a") as a, await Memory.open(url, scope="b") as b:
        await a.put(Feedback(kind="comment", source="web", person="ada", text=SECRET))
        await b.put(Feedback(kind="comment", source="web", person="ada", text="Something quite different, really"))
        assert (await a.forget(await a.forget_plan(person="ada"), "asked")).left == ()
        assert await b.count(Feedback) == 1


@pytest.mark.asyncio
async def test_a_plan_that_is_out_of_date_is_refused(memory: Memory) -> None:
    ids = await _lived(memory)
    plan = await memory.forget_plan(person="ada")
    await memory.put(Feedback(kind="comment", source="web", person="ada", run_id=ids["other"], text="One thing more"))
    with pytest.raises(ConflictError, match="make a new plan"):
        await memory.forget(plan, "asked")
    assert await memory.count(Feedback) == 2


@pytest.mark.asyncio
async def test_carrying_a_plan_out_again_only_searches_again(memory: Memory) -> None:
    await _lived(memory)
    plan = await memory.forget_plan(person="ada")
    await memory.forget(plan, "asked")
    changes = len(await memory.changes())
    assert (await memory.forget(plan, "asked")).left == ()
    assert len(await memory.changes()) == changes


@pytest.mark.asyncio
async def test_nothing_unknown_and_no_reason(memory: Memory) -> None:
    with pytest.raises(UserError, match="say what to forget"):
        await memory.forget_plan()
    with pytest.raises(NotFoundError, match="nothing of person 'eve'"):
        await memory.forget_plan(person="eve")
    with pytest.raises(NotFoundError):
        await memory.forget_plan(run_ids=["ffff"])
    await _lived(memory)
    with pytest.raises(UserError, match="needs a reason"):
        await memory.forget(await memory.forget_plan(person="ada"), " ")


@pytest.mark.asyncio
async def test_what_cannot_be_searched_for_is_not_called_proved(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path) as memory:
        await memory.put(Feedback(kind="comment", source="web", person="ada", text="no"))
        report = await memory.forget(await memory.forget_plan(person="ada"), "asked")
        assert (report.purged, report.left, report.proved) == ({"feedback": 1}, (), False)
        assert "nothing to search for" in report.note


# --- adapters -------------------------------------------------------------------------------------------------------


def _packed(folder: Path, seed: int, **card: object) -> bytes:
    return pack(random_adapter(WEIGHTS, folder / f"lora-{seed}", seed=seed), AdapterCard(base="tiny", **card))  # type: ignore[arg-type]


async def _trained(memory: Memory, folder: Path) -> dict[str, str]:
    """Adapters in the head one after the other, from bob's run, ada's run and that one again; returns ids by name."""
    task = Task(id="call", messages=(Message(role="user", content="Plan the calls for today, please."),))
    bob, ada = (Run(task_id="call", agent="a", status="done", answer=each) for each in ("Call at nine.", ANSWER))
    verdict = Verdict(run_id=ada.id, task_id="call", verifier="v", outcome="pass", score=1.0)
    await memory.put(task, bob, ada, verdict)
    first = await memory.put_blob(_packed(folder, 1, sources=(bob.id,)))
    second = await memory.put_blob(_packed(folder, 2, sources=(bob.id, ada.id, verdict.id), parent=first))
    third = await memory.put_blob(_packed(folder, 3, sources=(bob.id,), parent=second))
    policy = Policy.of({SYSTEM: "You plan calls.\n"})
    await memory.policies.commit(policy, reason="first", actor="bob")
    for adapter, evidence in ((first, (bob.id,)), (second, (bob.id, verdict.id))):
        better = policy.edit({"adapter": adapter})
        await memory.policies.put(better)
        candidate = Candidate(policy=better.digest, parent=policy.digest, learner="weights", evidence=evidence)
        await memory.put(candidate)
        moved = Promotion(decision="promoted", policy=better.digest, incumbent=policy.digest, candidate_id=candidate.id)
        await memory.policies.promote(moved)
        policy = better
    await memory.policies.commit(policy.edit({"principles.md": "Be kind.\n"}), reason="third", actor="bob")
    proposed = policy.edit({"adapter": third})
    await memory.policies.put(proposed)
    await memory.put(Candidate(policy=proposed.digest, parent=policy.digest, learner="weights", evidence=(bob.id,)))
    return {"ada": ada.id, "bob": bob.id, "first": first, "second": second, "third": third}


@pytest.mark.asyncio
async def test_an_adapter_goes_with_the_run_it_was_trained_on(memory: Memory, tmp_path: Path) -> None:
    ids = await _trained(memory, tmp_path)
    folders = {name: await memory.adapter(ids[name]) for name in ("first", "second", "third")}
    plan = await memory.forget_plan(run_ids=[ids["ada"]])
    assert {(item.id, item.why) for item in plan.items if item.kind == "adapters"} == {
        (ids["second"], "trained on what goes"),
        (ids["third"], "trained from an adapter that goes"),
    }
    assert f"-{ids['second']}" in plan.policy.diff
    report = await memory.forget(plan, "ada asked for it", actor="bob")
    assert report.left == ()
    assert report.purged == {"runs": 1, "verdicts": 1, "candidates": 1, "adapters": 2}
    head = await memory.policies.head()
    assert head == Policy.of({SYSTEM: "You plan calls.\n", "principles.md": "Be kind.\n", "adapter": ids["first"]})
    assert (await memory.policies.log(limit=1))[0].decision == "committed"
    for name in ("second", "third"):
        with pytest.raises(NotFoundError, match="is not in this store"):
            await memory.adapter(ids[name])
    assert {name: path.exists() for name, path in folders.items()} == {"first": True, "second": False, "third": False}
    assert await memory.query("SELECT count(*) AS n FROM blobs WHERE size > 50000") == [{"n": 1}]
    assert await memory.audit() == []


@pytest.mark.asyncio
async def test_the_weights_are_searched_for_on_the_disk(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path / ".whet") as memory:
        ids = await _trained(memory, tmp_path)
        unpacked = await memory.adapter(ids["second"])
        plan = await memory.forget_plan(run_ids=[ids["ada"]])
        files = [path for path in (tmp_path / ".whet").rglob("*") if path.is_file()]
        assert len(plan.weights) >= 8
        found = {path for path, _ in search_files(files, plan.weights)}
        assert found >= {unpacked / "adapter_model.safetensors"}
        assert {path.name for path in found} & {"whet.db", "whet.db-wal"}  # the search finds what is there
        copy = tmp_path / ".whet" / "kept.safetensors"
        copy.write_bytes((unpacked / "adapter_model.safetensors").read_bytes())
        report = await memory.forget(plan, "asked")
        assert {name for name, _ in report.left} == {str(copy)}
        assert not report.proved
        copy.unlink()
        assert (await memory.forget(plan, "asked")).proved
        files = [path for path in (tmp_path / ".whet").rglob("*") if path.is_file()]
        assert search_files(files, plan.weights) == []
        assert search_files(files, [ids["ada"].encode()])  # the log keeps that there was a run


@pytest.mark.asyncio
async def test_an_adapter_that_a_person_committed_goes_by_its_card(memory: Memory, tmp_path: Path) -> None:
    ids = await _trained(memory, tmp_path)
    own = await memory.put_blob(_packed(tmp_path, 4, sources=(ids["bob"],)))
    policy = (await memory.policies.head()).edit({"adapter": own})
    await memory.policies.commit(policy, reason="made elsewhere", actor="eve")
    plan = await memory.forget_plan(run_ids=[ids["bob"]])
    assert {item.id for item in plan.items if item.kind == "adapters"} == {
        own,
        *(ids[n] for n in ("first", "second", "third")),
    }
    assert (await memory.forget(plan, "asked")).left == ()
    assert "adapter" not in (await memory.policies.head()).files
    assert await memory.query("SELECT count(*) AS n FROM blobs WHERE size > 50000") == [{"n": 0}]


@pytest.mark.asyncio
async def test_an_adapter_stays_when_a_line_of_its_policy_goes(memory: Memory, tmp_path: Path) -> None:
    ids = await _trained(memory, tmp_path)
    said = Feedback(kind="comment", source="web", person="ada", text=SECRET)
    await memory.put(said)
    head = await memory.policies.head()
    await memory.policies.commit(head.edit({SYSTEM: f"You plan calls.\n{SECRET}\n"}), reason="x", actor="bob")
    plan = await memory.forget_plan(person="ada")
    assert not plan.weights
    assert (await memory.forget(plan, "asked")).left == ()
    assert await memory.policies.head() == head
    assert (await memory.adapter(ids["second"])).is_dir()


@pytest.mark.asyncio
async def test_what_another_scope_serves_is_named_and_left(url: str, tmp_path: Path) -> None:
    async with await Memory.open(url, scope="a") as a, await Memory.open(url, scope="b") as b:
        ids = await _trained(a, tmp_path)
        served = Policy.of({SYSTEM: "You plan calls.\n", "adapter": ids["second"]})
        await b.policies.commit(served, reason="taken over", actor="bob")
        plan = await a.forget_plan(run_ids=[ids["ada"]])
        assert ("adapters", ids["second"]) in _touched(plan, "look")
        assert (await a.forget(plan, "asked")).left == ()
        assert (await a.policies.head()).adapter == ids["first"]
        assert await b.policies.head() == served
        assert (await b.adapter(ids["second"])).is_dir()


def test_marks_are_pieces_that_json_leaves_alone() -> None:
    marks = marks_of(['He said "this is quite a long piece of text"\nand then another line, long enough'])
    assert marks
    assert all('"' not in mark and "\n" not in mark for mark in marks)
    assert marks_of(["short"]) == ()
