"""Verified runs become demonstrations: what was solved once by luck is solved ever after."""

from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents import AgentContext, pattern
from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.core.records import Message, Task
from whet.learners.learner import load_learner
from whet.learners.prompts.demos import Demo, instruction_of, show_demos

Bench = Any  # the fixture of conftest.py


@pytest.fixture
def bench(bench: Bench, world_tasks: Callable[..., list[Task]]) -> Bench:
    """Training tasks of one verb each, which a guess solves now and then; what is held out has longer chains too."""
    bench.train = [task for draw in range(1, 6) for task in world_tasks(6, lengths=(1,), draw=draw)]
    return bench


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    learner = load_learner("exemplars", runs=250, steps=40, validation=6, demos=6)
    (proposal,) = await bench.proposals(learner)
    assert "# Verified examples" in proposal.policy.text("prompts/system.md")
    assert proposal.candidate.evidence
    decision = await bench.decide(proposal, token_ratio=8.0)  # the prompt was empty before
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("exemplars", runs=80, steps=40, validation=6, demos=6)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


class State(TypedDict):
    messages: list[Message]
    answer: str


@pattern(prompts={"solver": "You solve one thing."})
def with_solver() -> StateGraph[State, AgentContext, State, State]:
    """Asks a node of its own, under a prompt of its own."""

    async def solve(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
        asked = Message(role="user", content=f"The task. {state['messages'][-1].content}")
        told = Message(role="system", content=runtime.context.prompt("solver"))
        return {"answer": (await runtime.context.ask([told, asked])).text}

    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("solve", solve)
    graph.add_edge(START, "solve")
    graph.add_edge("solve", END)
    return graph


@pytest.mark.asyncio
async def test_the_prompt_of_a_node_gets_what_that_node_was_asked_and_answered(bench: Bench) -> None:
    learner = load_learner("exemplars", parts="solver", runs=70, validation=6)
    (proposal,) = await bench.proposals(learner, graph=with_solver)
    text = proposal.policy.text("prompts/solver.md")
    assert text.startswith("You solve one thing.\n\n# Verified examples\n\nTask:\nThe task. Write solve(x)")


@pytest.mark.asyncio
async def test_what_passed_before_is_taken_from_the_memory(bench: Bench) -> None:
    known = "\n".join(bench.world.definitions(bench.world.verbs))
    async with bench.agent() as agent:
        for task in bench.train:
            await agent.arun(task, policy=Policy.of({"prompts/system.md": known}))
    learner = load_learner("exemplars", runs=40, validation=6, steps=3, demos=12)
    (proposal,) = await bench.proposals(learner)
    assert proposal.policy.text("prompts/system.md").count("Task:\n") == 12


def test_demonstrations_are_replaced_and_leave_the_instruction_as_it_was() -> None:
    demo = Demo(task_id="t", asked="Add.", answer="def add", evidence=("r",))
    text = show_demos("Write Python.", [demo])
    assert text == "Write Python.\n\n# Verified examples\n\nTask:\nAdd.\nAnswer:\ndef add"
    assert show_demos(instruction_of(text), [demo]) == text
    assert show_demos(instruction_of(text), []) == "Write Python."


def test_a_model_is_refused() -> None:
    with pytest.raises(UserError, match="no use for model"):
        load_learner("exemplars", model="tiny")
