"""A coding agent edits the policy's folder in a real sandbox; a scripted colleague plays the model that calls tools."""

from collections.abc import Sequence
from typing import Any

import pytest

from whet.core.errors import UserError
from whet.core.models import ScriptedModel, say_tool
from whet.core.records import Completion, Message, Sampling, ToolSpec, Usage
from whet.learners.learner import load_learner
from whet.learners.prompts.testing import conclude, definitions
from whet.sandboxes import SandboxPool

Bench = Any  # the fixture of conftest.py


def write(text: str, path: str = "prompts/system.md") -> Completion:
    """Returns the call that writes a file of the policy."""
    return say_tool("shell", {"command": f"cat > policy/{path} <<'END'\n{text}\nEND"})


class Coder:
    """Evaluates, writes what it concludes from all it has seen, and so on for some turns."""

    name = "coder"

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.told = ""

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        self.told = "\n\n".join(message.content for message in messages if message.role == "tool")
        turn = sum(message.role == "assistant" for message in messages)
        if turn >= self.turns:
            said = Completion(text="I defined the verbs.")
        else:
            said = say_tool("evaluate", {"tasks": 10}) if turn % 2 == 0 else write(definitions(conclude(self.told)))
        return Completion(text=said.text, tool_calls=said.tool_calls, usage=Usage(calls=1), finish_reason="stop")


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes_and_sees_no_task_that_is_held_out(
    bench: Bench, pool: SandboxPool
) -> None:
    coder = Coder(12)
    learner = load_learner("coding-agent", model=coder, sandboxes=pool, runs=100, validation=10)
    (proposal,) = await bench.proposals(learner)
    assert proposal.candidate.config["notes"] == ["I defined the verbs."]
    assert proposal.candidate.evidence
    assert proposal.candidate.config["runs"] <= 100
    assert "Mean score" in coder.told
    assert not any(f"{task.prompt}\n" in coder.told for task in bench.heldout)
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench, pool: SandboxPool) -> None:
    learner = load_learner("coding-agent", model=Coder(8), sandboxes=pool, runs=80, validation=10)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


@pytest.mark.asyncio
async def test_runs_are_counted_and_a_broken_folder_is_told_and_not_proposed(bench: Bench, pool: SandboxPool) -> None:
    script = [
        say_tool("evaluate", {"tasks": 99}),
        write("colour = 1", "settings.toml"),
        say_tool("evaluate"),
        "I could not.",
    ]
    async with ScriptedModel(script) as model:
        learner = load_learner("coding-agent", model=model, sandboxes=pool, runs=25, validation=10)
        assert await bench.proposals(learner) == []
        told = [asked.messages[-1].content for asked in model.asked]
    assert told[1].startswith("5 runs are left, 20 are needed")
    assert "'colour', which this agent does not have" in told[3]


@pytest.mark.asyncio
async def test_a_model_that_calls_no_tools_is_said(bench: Bench, pool: SandboxPool) -> None:
    with pytest.raises(UserError, match="give it a model that calls tools"):
        await bench.proposals(load_learner("coding-agent", model="tiny", sandboxes=pool, runs=30, validation=5))
