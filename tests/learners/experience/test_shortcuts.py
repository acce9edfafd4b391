"""Shortcuts: mined from what passed, replayed, promoted, and fewer steps at equal success; nothing from noise."""

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from whet.agents import Agent, run_tasks, shell, tool
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import ScriptedModel, say_tool
from whet.core.policy import Policy
from whet.core.records import Completion, Message, Run, Sampling, Step, Task, ToolSpec, Usage, Verdict, VerifierSpec
from whet.learners.conformance import check_learner
from whet.learners.evaluation import evaluator
from whet.learners.experience.shortcuts import ShortcutLearner
from whet.learners.gate import Arm, Gate, GateConfig
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory
from whet.sandboxes import SandboxPool

NOTHING = Arm(policy=Policy())
WORDS = ["ash", "birch", "cedar", "dogwood", "elm", "fir"]


def errand(number: int, split: str = "train") -> Task:
    """How many distinct words are in a file: three commands for who works step by step."""
    rng = random.Random(number)
    lines = rng.choices(WORDS, k=8)
    name = f"{rng.choice(WORDS)}{number}"
    return Task(
        id=f"errand/{split}/{number}",
        messages=(Message(role="user", content=f"Count the distinct words in file {name}.txt."),),
        files={f"{name}.txt": "\n".join(lines) + "\n"},
        verifiers=(VerifierSpec(kind="exact", params={"expected": str(len(set(lines)))}),),
        split=split,  # type: ignore[arg-type]
    )


class Clerk:
    """Works step by step with the shell, forgets a step now and then, and calls a shortcut where it is offered one."""

    name = "clerk"

    def __init__(self, forgets: float = 0.0) -> None:
        self.forgets = forgets

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        file = next(m.content for m in messages if m.role == "user").split()[-1].removesuffix(".txt.")
        seen = [message.content for message in messages if message.role == "tool"]
        short = next((spec for spec in tools if spec.name not in ("shell", "open_skill")), None)
        if short is not None:
            calls = [say_tool(short.name, dict.fromkeys(short.parameters["properties"], file))]  # type: ignore[arg-type]
        else:
            forgetful = random.Random(f"{file}/{self.forgets}").random() < self.forgets
            source = f"{file}.sorted" if forgetful else f"{file}.distinct"
            commands = [
                f"sort {file}.txt > {file}.sorted",
                f"uniq {file}.sorted > {file}.distinct",
                f"wc -l < {source}",
            ]
            calls = [say_tool("shell", {"command": command}) for command in commands]
        usage = Usage(output_tokens=20, calls=1)
        if len(seen) < len(calls):
            return msgspec.structs.replace(calls[len(seen)], usage=usage)
        return Completion(text=seen[-1].split("\n")[-2] if "\n" in seen[-1] else "", usage=usage)


async def work(memory: Memory, pool: SandboxPool, clerk: Clerk, n: int) -> None:
    async with Agent("react", clerk, tools=[shell], memory=memory, sandbox=pool) as agent:
        await run_tasks(agent, [errand(number) for number in range(n)], progress=lambda result: None)


async def proposals(memory: Memory, pool: SandboxPool, incumbent: Arm = NOTHING) -> list[Proposal]:
    return [each async for each in ShortcutLearner(pool).propose(TrainMemory(memory), incumbent, Budget())]


@pytest.mark.asyncio
async def test_fewer_steps_at_equal_success(memory: Memory, pool: SandboxPool) -> None:
    await work(memory, pool, Clerk(), 4)
    (proposal,) = await proposals(memory, pool)
    (name,) = proposal.policy.skill_names()
    assert name == "sort-uniq-wc"
    text = proposal.policy.text(f"skills/{name}/shortcut.json")
    assert '"sort {{file}}.txt > {{file}}.sorted"' in text
    assert '"requires":["{{file}}.txt"]' in text
    assert "Count the distinct words in file FILE.txt." in proposal.policy.text(f"skills/{name}/SKILL.md")
    tasks = [errand(number, "heldout") for number in range(100, 104)]
    calls: dict[str, list[int]] = {}
    for policy in (NOTHING.policy, proposal.policy):
        async with Agent("react", Clerk(), tools=[shell], memory=memory, sandbox=pool, policy=policy) as agent:
            results = await run_tasks(agent, tasks, progress=lambda result: None)
        assert all(result.passed for result in results)
        calls[policy.digest] = [result.run.usage.calls for result in results]
    assert list(calls.values()) == [[4] * 4, [2] * 4]
    assert await proposals(memory, pool, Arm(policy=proposal.policy)) == []


@pytest.mark.asyncio
async def test_the_gate_promotes_what_saves_steps_and_is_no_worse(memory: Memory, pool: SandboxPool) -> None:
    """As many right answers for half the calls: a gate that asks for no loss and less cost lets it through."""
    await work(memory, pool, Clerk(), 4)
    (proposal,) = await proposals(memory, pool)
    heldout = [errand(number, "heldout") for number in range(100, 116)]
    no_worse = Gate(GateConfig(min_effect=-0.3, max_token_ratio=0.6, concurrency=4))
    async with Agent("react", Clerk(), tools=[shell], memory=memory, sandbox=pool) as agent:
        promotion = await no_worse.decide(proposal.arm(NOTHING), NOTHING, heldout, evaluator(agent))
    assert (promotion.decision, promotion.mean) == ("promoted", 0.0)


async def decided(memory: Memory, pool: SandboxPool) -> list[str]:
    heldout = [errand(number, "heldout") for number in range(100, 122)]
    async with Agent("react", Clerk(0.5), tools=[shell], memory=memory, sandbox=pool) as agent:
        return [
            (await Gate().decide(each.arm(NOTHING), NOTHING, heldout, evaluator(agent))).decision
            for each in await proposals(memory, pool)
        ]


@pytest.mark.asyncio
async def test_what_a_forgetful_clerk_does_when_it_passes_is_promoted(memory: Memory, pool: SandboxPool) -> None:
    await work(memory, pool, Clerk(0.5), 12)
    assert await decided(memory, pool) == ["promoted"]


@pytest.mark.asyncio
async def test_from_shuffled_verdicts_nothing_is_promoted(memory: Memory, pool: SandboxPool, tmp_path: Path) -> None:
    """Of the runs that did one thing as many pass as fail, and of those that did the other."""
    await work(memory, pool, Clerk(0.5), 12)
    tasks, runs, steps, verdicts = [await memory.find(kind) for kind in (Task, Run, Step, Verdict)]
    true = sorted(verdicts, key=lambda verdict: verdict.outcome)
    moved = [
        msgspec.structs.replace(verdict, id=f"moved-{number}", outcome="pass" if number % 2 else "fail")
        for number, verdict in enumerate(true)
    ]
    async with await Memory.open(tmp_path / "noise") as noise:
        await noise.put(*tasks, *runs, *steps, *moved)
        assert "promoted" not in await decided(noise, pool)


@pytest.mark.asyncio
async def test_what_cannot_be_replayed_is_not_proposed(memory: Memory, pool: SandboxPool) -> None:
    """The clock shows another time at the replay; a tool outside of the sandbox cannot be run again at all."""

    @tool
    def post(text: str) -> str:
        """Post a text."""
        return "posted"

    for number in range(3):
        name = f"note{number}"
        script = [
            say_tool("shell", {"command": f"date +%N > {name}"}),
            say_tool("shell", {"command": f"cat {name}"}),
            say_tool("post", {"text": f"see {name}"}),
            say_tool("post", {"text": f"again {name}"}),
            "ok",
        ]
        task = Task(
            id=name,
            messages=(Message(role="user", content=f"Post {name}."),),
            verifiers=(VerifierSpec(kind="exact", params={"expected": "ok"}),),
        )
        agent = Agent("react", ScriptedModel(script), tools=[shell, post], memory=memory, sandbox=pool)
        assert (await agent.arun(task)).passed
    assert await proposals(memory, pool) == []


@pytest.mark.asyncio
async def test_a_shortcut_never_has_the_name_of_a_tool(memory: Memory, pool: SandboxPool) -> None:
    for number in range(3):
        commands = [f"shell=sh; ls file{number}", f"shell=sh; cat file{number}"]
        task = Task(
            id=f"t{number}",
            messages=(Message(role="user", content=f"Show file{number}."),),
            files={f"file{number}": "x"},
            verifiers=(VerifierSpec(kind="exact", params={"expected": "ok"}),),
        )
        script = [*(say_tool("shell", {"command": command}) for command in commands), "ok"]
        await Agent("react", ScriptedModel(script), tools=[shell], memory=memory, sandbox=pool).arun(task)
    (proposal,) = await proposals(memory, pool)
    assert proposal.policy.skill_names() == ["shell-2"]


@pytest.mark.asyncio
async def test_a_value_that_only_a_step_finds_out_makes_no_parameter(memory: Memory, pool: SandboxPool) -> None:
    for number in range(3):
        script = [
            say_tool("shell", {"command": "ls"}),
            say_tool("shell", {"command": f"cat secret{number}"}),
            "ok",
        ]
        task = Task(
            id=f"t{number}",
            messages=(Message(role="user", content="Show me what is there."),),
            files={f"secret{number}": "x"},
            verifiers=(VerifierSpec(kind="exact", params={"expected": "ok"}),),
        )
        await Agent("react", ScriptedModel(script), tools=[shell], memory=memory, sandbox=pool).arun(task)
    assert await proposals(memory, pool) == []


@pytest.mark.asyncio
async def test_the_contract_is_kept_and_nonsense_is_refused(memory: Memory, pool: SandboxPool) -> None:
    await work(memory, pool, Clerk(), 3)
    assert await check_learner(ShortcutLearner(pool), memory)
    with pytest.raises(UserError, match="min_tasks=1"):
        ShortcutLearner(min_tasks=1)
