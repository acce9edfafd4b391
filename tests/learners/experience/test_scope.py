"""Scope: an exception is learned where a lesson does harm, in scope nothing changes; from noise nothing is learned."""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent, run_tasks
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.core.records import (
    Completion,
    Lesson,
    Message,
    Run,
    Sampling,
    Task,
    ToolSpec,
    Usage,
    Use,
    Verdict,
    VerifierSpec,
)
from whet.learners.adoption import incumbent_arm, take_in
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.experience.scope import ScopeLearner
from whet.learners.gate import Arm, Gate, GateConfig
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory

HALF = Policy.of({"settings.toml": "withhold_rate = 0.5"})
GREETING = Lesson(id="greeting", text="Sign letters with Cheers.", applies_when="letters", status="active")
NAMES = ["Ash", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel", "Iris", "Juniper"]


class Clerk:
    """Signs with what it is told, and else as the rules want it: notices with Regards, the rest anyhow."""

    name = "clerk"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        told = re.search(r"Sign letters with (\w+)", messages[0].content)
        task = messages[-1].content
        text = told[1] if told else "Regards" if "notice" in task else "Bye"
        return Completion(text=text, usage=Usage(output_tokens=5, calls=1))


def letter(number: int, split: str = "train") -> Task:
    """Every other letter is a near miss: a letter, but a legal notice."""
    near_miss = number % 2
    what = "a letter with a legal notice" if near_miss else "a letter with kind thanks"
    return Task(
        id=f"{split}/{number}",
        messages=(Message(role="user", content=f"Write {what} to {NAMES[number % 10]}."),),
        verifiers=(VerifierSpec(kind="exact", params={"expected": "Regards" if near_miss else "Cheers"}),),
        split=split,  # type: ignore[arg-type]
    )


async def work(memory: Memory, n: int = 60) -> None:
    await memory.put(GREETING)
    async with Agent("react", Clerk(), memory=memory, policy=HALF) as agent:
        await run_tasks(agent, [letter(number) for number in range(n)], progress=lambda result: None)


async def proposals(memory: Memory, incumbent: Arm) -> list[Proposal]:
    return [each async for each in ScopeLearner().propose(TrainMemory(memory), incumbent, Budget())]


async def decide(memory: Memory) -> list[str]:
    incumbent = await incumbent_arm(memory)
    heldout = [letter(number, "heldout") for number in range(100, 124)]
    decisions = []
    async with Agent("react", Clerk(), memory=memory) as agent:
        for proposal in await proposals(memory, incumbent):
            arm = (await take_in(memory, proposal)).arm(incumbent)
            gate = Gate(GateConfig(concurrency=8))
            decisions.append((await gate.decide(arm, incumbent, heldout, evaluator(agent))).decision)
    return decisions


@pytest.mark.asyncio
async def test_harm_becomes_an_exception_that_the_gate_promotes(memory: Memory) -> None:
    await work(memory)
    (proposal,) = await proposals(memory, await incumbent_arm(memory))
    (lesson,) = proposal.lessons
    assert (lesson.text, lesson.not_when) == (GREETING.text, "legal notice")
    assert proposal.retires == (GREETING.id,)
    assert await decide(memory) == ["promoted"]
    stored = (await take_in(memory, proposal)).lessons
    assert [each.text for each in stored] == [GREETING.text], "told in these runs, but with other exceptions"
    await memory.lessons.approve(stored[0].id, reason="x", actor="x")
    await memory.lessons.retire(GREETING.id, reason="x", actor="x")
    told = [[found.lesson.id for found in await memory.recall(letter(number).prompt)] for number in (0, 1)]
    assert told == [[stored[0].id], []], "in scope and near miss"


@pytest.mark.asyncio
async def test_from_shuffled_verdicts_nothing_is_promoted(memory: Memory, tmp_path: Path) -> None:
    """Of the notices as many pass as fail with the lesson, and as many without it; and so of the other letters."""
    await work(memory)
    tasks, runs, verdicts, uses = [await memory.find(kind) for kind in (Task, Run, Verdict, Use)]
    told = {use.run_id: use.kind for use in uses}
    alike = sorted(verdicts, key=lambda verdict: (told[verdict.run_id], int(verdict.task_id.split("/")[1]) % 2))
    moved = [
        msgspec.structs.replace(verdict, id=f"m-{number}", outcome="pass" if number % 2 else "fail")
        for number, verdict in enumerate(alike)
    ]
    async with await Memory.open(tmp_path / "noise") as noise:
        await noise.put(GREETING, *tasks, *runs, *moved, *uses)
        assert "promoted" not in await decide(noise)


@pytest.mark.asyncio
async def test_too_few_runs_tell_nothing(memory: Memory) -> None:
    await work(memory, n=6)
    assert await proposals(memory, await incumbent_arm(memory)) == []
    with pytest.raises(UserError, match="min_harm"):
        ScopeLearner(min_harm=0)


@pytest.mark.asyncio
async def test_the_contract_is_kept(memory: Memory) -> None:
    await work(memory)
    assert await check_learner(ScopeLearner(), memory)
