"""Policies that bring an adapter: the run's model is under it, its version is recorded, training gets exact tokens."""

from pathlib import Path

import pytest

from whet.agents import Agent, fork, replay, run_tasks
from whet.core import Message, ModelCall, NotFoundError, Policy, Run, Step, Task, UserError
from whet.core.adapters import AdapterCard, base_digest, pack
from whet.core.models import Limited, ScriptedModel
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS, TinyModel
from whet.core.records import Completion, Sampling
from whet.memory import Memory

TASK = Task(id="zorp", messages=(Message(role="user", content="Write solve(x): zorp."),))
SETTINGS = "temperature = 0\nmax_tokens = 12\n"


async def _put(memory: Memory, folder: Path, **card: str) -> Policy:
    """Returns a policy with an adapter whose blob is in the memory."""
    digest = await memory.put_blob(pack(folder, AdapterCard(**{"base": "tiny", "base_digest": BASE, **card})))
    return Policy.of({"settings.toml": SETTINGS, "adapter": digest})


BASE = base_digest(WEIGHTS)


async def _calls(memory: Memory, run: Run) -> list[tuple[Sampling, Completion]]:
    steps = await memory.find(Step, where={"run_id": run.id})
    return [(s.body.sampling, s.body.completion) for s in steps if isinstance(s.body, ModelCall) and s.body.completion]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return random_adapter(WEIGHTS, tmp_path / "lora")


@pytest.mark.asyncio
async def test_a_run_is_under_the_adapter_of_its_policy(memory: Memory, folder: Path) -> None:
    policy = await _put(memory, folder)
    plain = Policy.of({"settings.toml": SETTINGS})
    async with Agent("refine", Limited(TinyModel(), 2), memory=memory) as agent:
        results = [await agent.arun(TASK, policy=each) for each in (plain, policy, plain)]
    greedy = Sampling(temperature=0, max_tokens=12)
    answers = [TinyModel(each).answer(TASK.messages, greedy).text for each in (None, folder, None)]
    assert [result.answer for result in results] == answers
    assert answers[0] != answers[1]
    assert {result.run.model for result in results} == {"tiny"}  # so that a run is compared by its base
    models = [(await _calls(memory, result.run))[0][1].model for result in results]
    assert models == ["tiny", f"tiny+{policy.adapter[:12]}", "tiny"]


@pytest.mark.asyncio
async def test_the_adapter_is_unpacked_once_beside_the_store(memory: Memory, folder: Path) -> None:
    policy = await _put(memory, folder)
    await memory.policies.commit(policy, reason="by hand", actor="ada")
    agent = Agent("refine", "tiny", memory=memory)
    results = await run_tasks(agent, [TASK], seeds=range(4), concurrency=4)
    assert {(await _calls(memory, result.run))[0][1].model for result in results} == {f"tiny+{policy.adapter[:12]}"}
    assert memory.store.folder is not None
    (unpacked,) = (memory.store.folder / "adapters").iterdir()
    assert unpacked.name == policy.adapter
    inode = unpacked.stat().st_ino
    await agent.arun(TASK)
    assert unpacked.stat().st_ino == inode


@pytest.mark.parametrize(("purpose", "asked"), [("train", True), ("live", True), ("gate", False)])
@pytest.mark.asyncio
async def test_what_training_may_use_has_its_tokens(memory: Memory, purpose: str, asked: bool) -> None:
    async with Agent("refine", Limited(TinyModel(), 2), memory=memory) as agent:
        result = await agent.arun(TASK, purpose=purpose, policy=Policy.of({"settings.toml": SETTINGS}))  # type: ignore[arg-type]
    ((sampling, completion),) = await _calls(memory, result.run)
    assert sampling.logprobs is asked
    assert completion.token_ids
    assert completion.logprobs is not None
    assert len(completion.token_ids) == len(completion.logprobs)


@pytest.mark.asyncio
async def test_a_model_without_weights_is_not_asked_for_tokens(memory: Memory) -> None:
    async with ScriptedModel(["good"]) as model, Agent("refine", model, memory=memory) as agent:
        await agent.arun(TASK)
        assert not model.asked[0].sampling.logprobs


@pytest.mark.asyncio
async def test_what_cannot_be_served_says_the_way_out(memory: Memory, folder: Path) -> None:
    policy = await _put(memory, folder)
    async with Agent("refine", ScriptedModel([]), memory=memory) as agent:
        with pytest.raises(UserError, match="model 'scripted' takes none; use tiny, hf:FOLDER or vllm:FOLDER"):
            await agent.arun(TASK, policy=policy)
    with pytest.raises(UserError, match="the agent has no memory to take it from"):
        await Agent("refine", "tiny").arun(TASK, policy=policy)
    async with Agent("refine", "tiny", memory=memory) as agent:
        with pytest.raises(NotFoundError, match="adapter 'ffffffffffff' is not in this store; bring it with"):
            await agent.arun(TASK, policy=policy.edit({"adapter": "f" * 64}))
        other = await _put(memory, folder, base="llama", base_digest="f" * 64)
        with pytest.raises(UserError, match="was trained on 'llama'"):
            await agent.arun(TASK, policy=other)
        nothing = await memory.put_blob(b"no adapter")
        with pytest.raises(UserError, match="is damaged, or is no adapter"):
            await agent.arun(TASK, policy=policy.edit({"adapter": nothing}))
    assert await memory.count(Run) == 0


@pytest.mark.asyncio
async def test_a_replay_needs_no_adapter_and_a_fork_goes_on_under_it(memory: Memory, folder: Path) -> None:
    policy = await _put(memory, folder)
    async with Agent("refine", "tiny", memory=memory) as agent:
        run = (await agent.arun(TASK, policy=policy)).run
        forked = await fork(agent, run.id, before=0)
        ((sampling, completion),) = await _calls(memory, forked.run)
        assert (completion.model, sampling.logprobs) == (f"tiny+{policy.adapter[:12]}", True)
    async with Agent("refine", ScriptedModel([], name="tiny"), memory=memory) as agent:
        again = await replay(agent, run.id)
        assert (again.run.status, again.answer) == ("done", run.answer)
        with pytest.raises(UserError, match="takes none"):
            await fork(agent, run.id, before=0)
