"""The history of policies: log, show, diff, blame, tag, rollback, folders, and two hands at once."""

import asyncio
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core import Candidate, ConflictError, NotFoundError, Policy, Promotion, UserError, digest
from whet.core.adapters import AdapterCard, pack
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS
from whet.memory import Memory
from whet.memory.blame import blame, unified
from whet.memory.rederive import without

SYSTEM = "prompts/system.md"


def _policy(text: str) -> Policy:
    return Policy.of({SYSTEM: text})


async def _promote(memory: Memory, policy: Policy, reason: str = "") -> Promotion:
    await memory.policies.put(policy)
    head = await memory.policies.head_digest()
    promotion = Promotion(decision="promoted", policy=policy.digest, incumbent=head, reason=reason)
    await memory.policies.promote(promotion)
    return promotion


@pytest.mark.asyncio
async def test_the_head_moves_and_the_log_grows(memory: Memory) -> None:
    policies = memory.policies
    assert (await policies.head()).files == {}
    first = await policies.commit(_policy("a\n"), reason="first", actor="ada")
    second = await _promote(memory, _policy("a\nb\n"), "second")
    rejected = Promotion(decision="rejected", policy=_policy("z").digest, incumbent=second.policy)
    await policies.promote(rejected)
    assert await policies.head_digest() == second.policy
    assert await policies.log() == [rejected, second, first]
    assert await policies.log(limit=1) == [rejected]
    assert (await policies.get("head~1")).text(SYSTEM) == "a\n"
    assert (await policies.get("head~2")).files == {}
    with pytest.raises(NotFoundError, match="the head moved 2 times"):
        await policies.get("head~3")


@pytest.mark.asyncio
async def test_rollback_is_another_promotion(memory: Memory) -> None:
    first = await memory.policies.commit(_policy("a\n"), reason="first", actor="ada")
    await _promote(memory, _policy("b\n"))
    back = await memory.policies.rollback("head~1", reason="worse", actor="ada")
    assert (back.decision, back.policy, back.reason, back.actor) == ("rolled_back", first.policy, "worse", "ada")
    assert await memory.policies.head() == _policy("a\n")
    assert len(await memory.policies.log()) == 3
    with pytest.raises(UserError, match="in force already"):
        await memory.policies.rollback(first.policy, reason="again", actor="ada")
    with pytest.raises(UserError, match="needs a reason"):
        await memory.policies.rollback("head~1", reason=" ", actor="ada")


@pytest.mark.asyncio
async def test_only_one_of_two_promotions_against_the_same_head_wins(url: str) -> None:
    async with await Memory.open(url) as one, await Memory.open(url) as other:
        await one.policies.commit(_policy("a\n"), reason="first", actor="ada")
        head = await one.policies.head_digest()
        rivals = [_policy("b\n"), _policy("c\n")]
        for rival in rivals:
            await one.policies.put(rival)
        moves = [
            memory.policies.promote(Promotion(decision="promoted", policy=rival.digest, incumbent=head))
            for memory, rival in zip((one, other), rivals, strict=True)
        ]
        outcomes = await asyncio.gather(*moves, return_exceptions=True)
        assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 1
        assert sum(outcome is None for outcome in outcomes) == 1
        assert len(await one.policies.log()) == 2
        assert await one.policies.head_digest() == await other.policies.head_digest()


@pytest.mark.asyncio
async def test_a_policy_is_stored_before_it_is_promoted(memory: Memory) -> None:
    promotion = Promotion(decision="promoted", policy="f" * 64, incumbent=await memory.policies.head_digest())
    with pytest.raises(NotFoundError, match="put it before"):
        await memory.policies.promote(promotion)
    assert await memory.policies.log() == []


@pytest.mark.asyncio
async def test_references(memory: Memory) -> None:
    policies = memory.policies
    first = await policies.commit(_policy("a\n"), reason="first", actor="ada")
    await _promote(memory, _policy("b\n"))
    assert await policies.tag("v1", "head~1") == first.policy
    assert await policies.get("v1") == _policy("a\n")
    assert await policies.resolve(first.policy[:8]) == first.policy
    assert await policies.tag("v1", "head") == _policy("b\n").digest
    assert await policies.tags() == {"v1": _policy("b\n").digest}
    for bad in ("head", "head~1", "abcd", "1x", ""):
        with pytest.raises(UserError, match="cannot name a policy"):
            await policies.tag(bad)
    for unknown in ("ffffffff", "nothing", "head~9"):
        with pytest.raises(NotFoundError):
            await policies.get(unknown)


@pytest.mark.asyncio
async def test_scopes_have_heads_of_their_own(url: str) -> None:
    async with await Memory.open(url, scope="a") as a, await Memory.open(url, scope="b") as b:
        await a.policies.commit(_policy("a\n"), reason="first", actor="ada")
        assert await b.policies.head() == Policy()
        assert await b.policies.log() == []


@pytest.mark.asyncio
async def test_blame_names_the_promotion_of_each_line(memory: Memory) -> None:
    first = await memory.policies.commit(_policy("one\ntwo\n"), reason="first", actor="ada")
    second = await _promote(memory, _policy("one\nnew\ntwo\n"))
    third = await _promote(memory, _policy("one\nnew\n2\n"))
    lines = await memory.policies.blame(SYSTEM)
    assert lines == [(first, "one"), (second, "new"), (third, "2")]
    await memory.policies.rollback("head~1", reason="worse", actor="ada")
    assert await memory.policies.blame(SYSTEM) == [(first, "one"), (second, "new"), (first, "two")]
    assert await memory.policies.blame(SYSTEM, "head~3") == [(first, "one"), (first, "two")]
    with pytest.raises(NotFoundError, match=r"it has prompts/system\.md"):
        await memory.policies.blame("principles.md")


@pytest.mark.asyncio
async def test_a_promotion_counts_where_it_was_appended_not_when_it_was_begun(memory: Memory) -> None:
    await memory.policies.commit(_policy("a\n"), reason="first", actor="ada")
    late = Promotion(decision="promoted", policy=_policy("b\n").digest, incumbent=_policy("a\n").digest, at=5)
    await memory.policies.put(_policy("b\n"))
    await memory.policies.promote(late)
    assert (await memory.policies.log())[0] == late
    assert await memory.policies.get("head~1") == _policy("a\n")


@pytest.mark.asyncio
async def test_diff_is_unified(memory: Memory) -> None:
    await memory.policies.commit(_policy("a\nb"), reason="first", actor="ada")
    changed = Policy.of({SYSTEM: "a\nc", "principles.md": "p\n"})
    await memory.policies.commit(changed, reason="second", actor="ada")
    diff = await memory.policies.diff("head~1", "head")
    assert diff == (
        "--- /dev/null\n+++ b/principles.md\n@@ -0,0 +1 @@\n+p\n"
        "--- a/prompts/system.md\n+++ b/prompts/system.md\n@@ -1,2 +1,2 @@\n a\n"
        "-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n"
    )
    assert await memory.policies.diff("head", "head") == ""


def test_bytes_that_are_no_text_differ_without_lines() -> None:
    old, new = Policy.of({"skills/x/a.bin": b"\xff"}), Policy.of({"skills/x/a.bin": b"\xfe"})
    assert unified(old, new, "a", "b") == "Binary files a/skills/x/a.bin and b/skills/x/a.bin differ\n"


@pytest.mark.asyncio
async def test_a_folder_and_back_is_the_same_policy(memory: Memory, tmp_path: Path) -> None:
    policy = Policy.of(
        {SYSTEM: "a\r\nü", "skills/x/SKILL.md": "s", "skills/x/scripts/run.py": b"\x00\xff", "settings.toml": "k = 1"}
    )
    await memory.policies.put(policy)
    folder = await memory.policies.export(policy.digest, tmp_path / "out")
    assert (await memory.policies.import_folder(folder)).digest == policy.digest
    with pytest.raises(UserError, match="not an empty folder"):
        await memory.policies.export(policy.digest, folder)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"'notes.txt' is no part of a policy"):
        await memory.policies.import_folder(folder)
    (folder / "notes.txt").unlink()
    (folder / "skills" / "x" / "link.md").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        await memory.policies.import_folder(folder)


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path: Path) -> bytes:
    return pack(random_adapter(WEIGHTS, tmp_path / "lora"), AdapterCard(method="rft", base="tiny"))


@pytest.mark.asyncio
async def test_an_adapter_has_to_be_here_before_it_is_in_force(memory: Memory, adapter: bytes) -> None:
    policy = Policy.of({SYSTEM: "a\n", "adapter": digest(adapter) + "\n"})
    with pytest.raises(NotFoundError, match=f"names adapter '{digest(adapter)[:12]}', which is not in this store"):
        await memory.policies.commit(policy, reason="first", actor="ada")
    with pytest.raises(NotFoundError, match="which is not in this store"):
        await _promote(memory, policy)
    assert await memory.policies.log() == []
    await memory.put_blob(adapter)
    await memory.policies.commit(policy, reason="first", actor="ada")
    await memory.policies.commit(policy.edit({"adapter": None}), reason="without", actor="ada")
    back = await memory.policies.rollback("head~1", reason="better with", actor="ada")
    assert (await memory.policies.head()).adapter == digest(adapter)
    assert await memory.policies.blame("adapter") == [((await memory.policies.log())[-1], digest(adapter))]
    assert f"+{digest(adapter)}" in await memory.policies.diff("head~1", "head")
    assert back.policy == policy.digest


@pytest.mark.asyncio
async def test_a_folder_carries_an_adapter_to_another_store(memory: Memory, adapter: bytes, tmp_path: Path) -> None:
    policy = Policy.of({SYSTEM: "a\n", "adapter": await memory.put_blob(adapter)})
    await memory.policies.put(policy)
    folder = await memory.policies.export(policy.digest, tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"prompts", "adapter", "adapter.safetensors"}
    async with await Memory.open(tmp_path / "other") as other:
        imported = await other.policies.import_folder(folder)
        assert imported == policy
        await other.policies.commit(imported, reason="from elsewhere", actor="ada")
        assert await other.get_blob(policy.adapter) == adapter
        (folder / "adapter").unlink()
        assert await other.policies.import_folder(folder) == policy  # the weights say which they are
        (folder / "adapter").write_text("f" * 64)
        with pytest.raises(UserError, match=r"is adapter '.*', and the file 'adapter' names 'ffffffffffff'"):
            await other.policies.import_folder(folder)
        (folder / "adapter.safetensors").write_bytes(b"no weights")
        with pytest.raises(UserError, match="is damaged, or is no adapter"):
            await other.policies.import_folder(folder)


@pytest.mark.asyncio
async def test_a_policy_whose_adapter_is_not_here_cannot_be_carried(memory: Memory, tmp_path: Path) -> None:
    policy = Policy.of({"adapter": "f" * 64})
    await memory.policies.put(policy)
    with pytest.raises(NotFoundError, match="which is not in this store"):
        await memory.policies.export(policy.digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.asyncio
async def test_the_candidate_that_brought_an_adapter_is_found(memory: Memory, adapter: bytes) -> None:
    base = _policy("a\n")
    trained = base.edit({"adapter": await memory.put_blob(adapter)})
    edited = trained.edit({SYSTEM: "b\n"})
    first = Candidate(policy=trained.digest, parent=base.digest, learner="weights")
    later = Candidate(policy=edited.digest, parent=trained.digest, learner="prompts")
    for policy in (base, trained, edited):
        await memory.policies.put(policy)
    await memory.put(later, first)
    assert await memory.policies.brought(trained.adapter) == first
    assert await memory.policies.brought("f" * 64) is None


# --- properties -----------------------------------------------------------------------------------------------------

texts = st.lists(st.sampled_from(["a", "b", "c", "d", "", "x y"]), max_size=6).map(
    lambda lines: "".join(f"{line}\n" for line in lines)
)


def _history(versions: list[str]) -> tuple[list[Promotion], dict[str, Policy]]:
    policies = [Policy(), *map(_policy, versions)]
    promotions = [
        Promotion(decision="committed", policy=new.digest, incumbent=old.digest)
        for old, new in pairwise(policies)
        if new != old
    ]
    return promotions, {policy.digest: policy for policy in policies}


@given(st.lists(texts, min_size=1, max_size=6))
def test_blame_covers_every_line_of_the_file(versions: list[str]) -> None:
    promotions, known = _history(versions)
    head = _policy(versions[-1])
    lines = blame(promotions, head.digest, SYSTEM, known.__getitem__)
    assert [line for _, line in lines] == versions[-1].split("\n")[:-1]
    assert all(owner in promotions for owner, _ in lines)


@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_what_is_left_without_a_promotion_is_what_others_brought_in(versions: list[str], data: st.DataObject) -> None:
    promotions, known = _history(versions)
    unwanted = data.draw(st.sets(st.sampled_from([promotion.id for promotion in promotions]))) if promotions else set()
    head = _policy(versions[-1])
    lines = blame(promotions, head.digest, SYSTEM, known.__getitem__)
    kept = [line for owner, line in lines if owner is None or owner.id not in unwanted]
    clean = without(promotions, head.digest, unwanted, known.__getitem__)
    assert clean.text(SYSTEM).split("\n")[: len(kept)] == kept
    assert clean.text(SYSTEM).count("\n") == len(kept)


def test_a_skill_goes_back_as_a_whole() -> None:
    first = Policy.of({"skills/x/SKILL.md": "old", "adapter": "w1"})
    second = first.edit({"skills/x/SKILL.md": "new", "skills/x/run.py": "1", "skills/y/SKILL.md": "y", "adapter": "w2"})
    third = second.edit({"principles.md": "p\n"})
    known = {policy.digest: policy for policy in (Policy(), first, second, third)}
    chain = [Policy(), first, second, third]
    promotions = [
        Promotion(decision="promoted", policy=new.digest, incumbent=old.digest) for old, new in pairwise(chain)
    ]
    clean = without(promotions, third.digest, {promotions[1].id}, known.__getitem__)
    assert clean.files == {**first.files, "principles.md": b"p\n"}
    assert msgspec.structs.asdict(clean)["files"]["adapter"] == b"w1"
