"""PrefPO: the loser of two prompts is rewritten: with verifiers heard, by criteria only, and by other tasks' checks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from whet.agents import Agent
from whet.core.budget import Budget
from whet.core.records import Completion, Message, Sampling, Task, ToolSpec
from whet.learners.adoption import incumbent_arm
from whet.learners.learner import load_learner
from whet.learners.prompts.testing import Colleague, in_a_fence
from whet.learners.view import TrainMemory
from whet.memory import Memory

Bench = Any  # the fixture of conftest.py


def prefers(known: Mapping[str, str], asked: str) -> str:
    """Prefers the prompt whose answers passed more often, and rewrites like a colleague."""
    if "rewrite it by your feedback" in asked.lower() or "another version" in asked:
        return in_a_fence(known, asked)
    first, _, second = asked.partition("# Answers of prompt 2")
    passed = [text.count("Feedback: passed") for text in (first, second)]
    return json.dumps({"preferred": 1 + (passed[1] > passed[0]), "feedback": "Define the verbs."})


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    (proposal,) = await bench.check(load_learner("prefpo", model=Colleague(prefers), runs=300))
    assert "Define the verbs." in proposal.candidate.config["notes"]
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    for proposal in await bench.proposals(load_learner("prefpo", model=Colleague(prefers), runs=120), shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


class Parrot:
    """Answers with its instructions."""

    name = "parrot"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        return Completion(text=messages[0].content if messages[0].role == "system" else "No.", model=self.name)


def polite(known: Mapping[str, str], asked: str) -> str:
    """Knows the criteria only: prefers answers that say please, and adds a word to what it rewrites."""
    if "# Answers of prompt 2" not in asked:
        return "```\nHello.\n```"
    if "Rewrite it" in asked:
        assert "passed" not in asked, "without labels no verifier is heard"
        return "```\nPlease sit down.\n```"
    second = asked.partition("# Answers of prompt 2")[2]
    return json.dumps({"preferred": 2 if "Please" in second else 1, "feedback": "Say please."})


@pytest.mark.asyncio
async def test_without_labels_the_criteria_are_enough(memory: Memory) -> None:
    tasks = [Task(id=f"t{n}", messages=(Message(role="user", content=f"Ask guest {n}."),)) for n in range(12)]
    learner = load_learner(
        "prefpo", model=Colleague(polite), criteria="Say please.", labels="false", steps="6", runs=100
    )
    async with Agent("react", Parrot(), memory=memory) as agent:
        view, incumbent = TrainMemory(memory, agent, tasks), await incumbent_arm(memory)
        (proposal,) = [each async for each in learner.propose(view, incumbent, Budget(calls=500))]
    assert proposal.policy.text("prompts/system.md") == "Please sit down."
    assert proposal.candidate.evidence


@pytest.mark.asyncio
async def test_an_answer_without_a_preference_changes_nothing(bench: Bench) -> None:
    def undecided(known: Mapping[str, str], asked: str) -> str:
        return "Both are fine." if "Which answers" in asked else in_a_fence({}, asked) + "\nBe careful."

    assert await bench.proposals(load_learner("prefpo", model=Colleague(undecided), runs=80, steps=3)) == []
