"""OPTO: a prompt and a setting that only help together are changed together."""

import json
from collections.abc import Mapping
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents import AgentContext, Knob, pattern
from whet.core.models import ScriptedModel
from whet.core.policy import Policy
from whet.learners.learner import load_learner
from whet.learners.prompts.parts import read_parts, write_parts
from whet.learners.prompts.testing import Colleague, definitions
from whet.learners.view import TrainMemory

Bench = Any  # the fixture of conftest.py


class State(TypedDict):
    messages: list[Any]
    answer: str


@pattern(care=Knob(1, low=0, high=5))
def careless() -> StateGraph[State, AgentContext, State, State]:
    """Answers, and loses the last line where the care is below 3."""

    async def answer(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
        said = (await runtime.context.ask(state["messages"])).text
        return {"answer": said if runtime.context.knob("care") >= 3 else f"{said}\n!"}

    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


def suggestion(known: Mapping[str, str], asked: str) -> str:
    """Answers as the learner asks for it: the definitions, and care as soon as the code shows what it is for."""
    care = {"care": 5} if 'knob("care")' in asked and "care = 1 (a whole number from 0 to 5)" in asked else {}
    changed = {"system": definitions(known)} if known else {}
    return json.dumps({"reasoning": "Define the verbs, take care.", "suggestion": {**changed, **care}})


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    model = Colleague(suggestion)
    learner = load_learner("opto", model=model, runs=300, steps=25, validation=8, minibatch=4)
    (proposal,) = await bench.proposals(learner, graph=careless)
    assert proposal.policy.settings() == {"care": 5}
    assert "def " in proposal.policy.text("prompts/system.md")
    assert "answer: " in model.asked[0].partition("# Trace")[2], "it sees what the nodes gave out"
    decision = await bench.decide(proposal, graph=careless)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("opto", model=Colleague(suggestion), runs=150, steps=25, validation=8, minibatch=4)
    for proposal in await bench.proposals(learner, graph=careless, shuffled=True):
        assert (await bench.decide(proposal, graph=careless)).decision != "promoted"


@pytest.mark.asyncio
async def test_an_answer_that_cannot_be_used_is_asked_for_once_more_and_then_counted(bench: Bench) -> None:
    answers = ["Hm.", '{"suggestion": {"sistem": "x"}}', '{"suggestion": {"care": 9}}', '{"suggestion": {"care": 4}}']
    async with ScriptedModel([*answers, "TERMINATE"]) as model:
        learner = load_learner("opto", model=model, runs=200, validation=8)
        assert await bench.proposals(learner, graph=careless) == []
        told = [asked.messages[0].content.rpartition("could not be used\n")[2] for asked in model.asked]
    assert "no JSON object" in told[1]
    assert "from 0 to 5, not 9" in told[3]


@pytest.mark.asyncio
async def test_unreadable_answers_are_on_record(bench: Bench) -> None:
    known = {verb: bench.world.meaning(verb) for verb in bench.world.verbs}
    good = json.dumps({"suggestion": {"system": definitions(known), "care": 5}})
    async with ScriptedModel(["Hm.", "Hm.", good]) as model:
        (proposal,) = await bench.proposals(load_learner("opto", model=model, validation=8), graph=careless)
    assert proposal.candidate.config["unreadable"] == 1


def test_the_script_of_a_skill_is_a_variable_and_its_instructions_are_not(bench: Bench) -> None:
    policy = Policy.of({"skills/verbs/SKILL.md": "…", "skills/verbs/scripts/verbs.py": "x = 1\n"})
    view = TrainMemory(bench.memory, bench.agent(), bench.train)
    parts = read_parts(view, policy)
    assert parts["skills/verbs/scripts/verbs.py"] == "x = 1\n"
    assert "skills/verbs/SKILL.md" not in parts
    changed = write_parts(policy, {"skills/verbs/scripts/verbs.py": "x = 2\n"})
    assert changed.skill("verbs")["scripts/verbs.py"] == b"x = 2\n"
