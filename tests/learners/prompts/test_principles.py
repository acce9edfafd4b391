"""Principles: a rewriting becomes one conditional principle, kept to what it was meant for."""

import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from whet.core.errors import UserError
from whet.core.models import ScriptedModel
from whet.core.models.tiny.world import OPERATIONS
from whet.core.policy import Policy
from whet.core.records import Completion, Message, Sampling, Task, ToolSpec, Usage
from whet.feedback import feedback
from whet.learners.conformance import check_learner
from whet.learners.learner import load_learner
from whet.learners.prompts.methods.principles import Principle, Principles
from whet.learners.prompts.terminal import Terminal

Bench = Any  # the fixture of conftest.py


class Writer:
    """Draws from a rewritten answer what the verb of the request means, and knows which requests mention it."""

    name = "writer"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        asked = messages[0].content
        if "in_scope" in asked:
            verb = re.search(r"mentions (\w+)", asked)[1]
            lines = asked.partition("# Requests\n")[2].splitlines()
            inside = [number for number, line in enumerate(lines) if verb in line]
            outside = [number for number, line in enumerate(lines) if verb not in line]
            said = {"in_scope": inside, "near_miss": outside}
        else:
            verb = re.search(r"# Request\nWrite solve\(x\): (\w+)", asked)[1]
            means = re.search(r"# Feedback\ndef solve\(x\): return (.+)", asked)[1]
            when = f"the task mentions {verb}"
            said = {"text": f"{verb} is a verb.\ndef {verb}(x): return {means}", "applies_when": when}
        return Completion(text=json.dumps(said), usage=Usage(calls=1))


@pytest.fixture
def bench(bench: Bench, world_tasks: Callable[..., list[Task]]) -> Bench:
    """Tasks of one verb each, of two verbs."""
    two = bench.world.verbs[:2]
    drawn = [world_tasks(6, lengths=(1,), draw=draw) for draw in range(1, 20)]
    found = [
        task for tasks in drawn for task in sorted(tasks, key=lambda task: task.prompt) if task.meta["verbs"][0] in two
    ]
    bench.train = found[:6]
    bench.heldout = [msgspec.structs.replace(task, split="heldout") for task in found[6:]]
    return bench


async def rewrite(bench: Bench, *, shuffled: bool = False) -> None:
    """Lets the agent answer, and a person rewrite what it said; shuffled, as if it had been the other task."""
    async with bench.agent() as agent:
        for task, other in zip(bench.train[:2], bench.train[1::-1], strict=True):
            (verb,) = (other if shuffled else task).meta["verbs"]
            run = (await agent.arun(task)).run
            said = feedback.correction("ana", run_id=run.id, text=f"def solve(x): return {bench.world.meaning(verb)}")
            await bench.memory.put(said)


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    await rewrite(bench)
    first, second = await bench.proposals(load_learner("principles", model=Writer(), limit="2"))
    assert first.candidate.summary.startswith("- When the task mentions ")
    assert first.candidate.config["scope"]["in_scope"][1] == 1.0
    assert {first.candidate.config["kind"], second.candidate.config["kind"]} == {"correction"}
    decision = await bench.decide(first, token_ratio=8.0)  # the file was empty before
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    await rewrite(bench, shuffled=True)
    for proposal in await bench.proposals(load_learner("principles", model=Writer(), limit=2), shuffled=True):
        assert (await bench.decide(proposal, token_ratio=8.0)).decision != "promoted"


@pytest.mark.asyncio
async def test_what_harms_near_misses_is_narrowed_or_dropped(bench: Bench) -> None:
    await rewrite(bench)
    mine, others = (bench.train[1].meta["verbs"][0], bench.train[0].meta["verbs"][0])
    known = Policy.of({"prompts/system.md": f"Verbs:\n{bench.world.definition(others)}"})
    await bench.memory.policies.commit(known, reason="one verb is known", actor="test")
    wrong = next(each for each in OPERATIONS if each != bench.world.meaning(others))
    narrow = f"{mine} is a verb.\n{bench.world.definition(mine)}"
    broad = f"{narrow}\ndef {others}(x): return {wrong}"
    scope = json.dumps({"in_scope": [], "near_miss": [0]})
    first, second = json.dumps({"text": broad}), json.dumps({"text": narrow, "not_when": f"it is {others}"})
    async with ScriptedModel([first, scope, second, scope]) as model:
        (proposal,) = await bench.proposals(Principles(model=model))
        assert "Where it did harm\n## Example 1" in model.asked[2].messages[0].content
    assert f"(not when it is {others})" in Principle(text="x", applies_when="y", not_when=f"it is {others}").show()
    assert proposal.candidate.config["scope"]["near_miss"] == [1.0, 1.0]
    async with ScriptedModel([first, scope, first, scope]) as model:
        assert await bench.proposals(Principles(model=model)) == []


@pytest.mark.asyncio
async def test_a_person_accepts_rewords_or_skips(bench: Bench) -> None:
    await rewrite(bench)
    shown = io.StringIO()
    person = Terminal(io.StringIO("\nSay it plainly.\ns\n"), shown)
    for expected in (["def "], ["Say it plainly."], []):
        learner = Principles(model=Writer(), accept="ask", terminal=person)
        found = [each.policy.text("principles.md") for each in await bench.proposals(learner)]
        assert len(found) == len(expected)
        assert all(text in said for text, said in zip(expected, found, strict=True))
    assert "Enter to accept" in shown.getvalue()
    with pytest.raises(UserError, match="run this in a terminal"):
        await bench.proposals(Principles(model=Writer(), accept="ask", terminal=person))


@pytest.mark.asyncio
async def test_without_an_agent_it_waits_untested_and_the_contract_is_kept(bench: Bench) -> None:
    await rewrite(bench)
    (proposal,) = await check_learner(Principles(model=Writer()), bench.memory)
    assert proposal.candidate.config["scope"] == {"in_scope": None, "near_miss": None}
    run_id = proposal.candidate.evidence[1]
    await bench.memory.put(feedback.correction("x", run_id=run_id, text="def solve(x): return x", trust="tainted"))
    (tainted,) = await check_learner(Principles(model=Writer()), bench.memory)
    assert tainted.candidate.trust == "tainted", "a stranger said it"
    with pytest.raises(UserError, match="accept='maybe'"):
        Principles(accept="maybe")
    with pytest.raises(UserError, match="limit is 0"):
        load_learner("principles", limit="0")
