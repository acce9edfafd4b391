"""Settings by rankings only: a dial is turned to where more tasks are solved, whoever ranks."""

import io
import random
from typing import Any, TypedDict

import numpy as np
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents import AgentContext, Knob, pattern
from whet.core.errors import UserError
from whet.core.records import Run, Task
from whet.feedback.judge import Comparison
from whet.learners.learner import load_learner
from whet.learners.prompts.duels import Person
from whet.learners.prompts.methods.zo_ranksgd import rank_gradient
from whet.learners.prompts.terminal import Terminal

Bench = Any  # the fixture of conftest.py
OPTIMUM = 0.7


class State(TypedDict):
    messages: list[Any]
    answer: str


@pattern(dial=Knob(0.1, low=0, high=1))
def dialled() -> StateGraph[State, AgentContext, State, State]:
    """Solves a task where the dial is near enough to 0.7; how near that is differs from task to task."""

    def answer(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
        context = runtime.context
        away = abs(context.knob("dial") - OPTIMUM)
        solved = away < random.Random(context.task.id).uniform(0, 0.8)
        return {"answer": context.task.reference if solved else f"# {away:.3f} away"}

    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


class Nearer:
    """Prefers, of two answers, the one that says it is nearer."""

    name = "nearer"

    async def compare(self, task: Task, first: Run, second: Run) -> Comparison:
        one, other = (
            float((run.answer or "")[2:7]) if (run.answer or "#")[0] == "#" else 0.0 for run in (first, second)
        )
        winner = "first" if one < other else "second" if other < one else "tie"
        return Comparison(winner=winner, first_run_id=first.id, second_run_id=second.id, judge=self.name)


@pytest.mark.asyncio
async def test_rankings_by_verifiers_turn_the_dial(bench: Bench) -> None:
    learner = load_learner("zo-ranksgd", ranges="dial", runs=200, steps=4, minibatch=6, validation=10)
    (proposal,) = await bench.proposals(learner, graph=dialled)
    assert abs(proposal.policy.settings()["dial"] - OPTIMUM) < 0.15
    decision = await bench.decide(proposal, graph=dialled)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("zo-ranksgd", ranges="dial", runs=90, steps=4, minibatch=6, validation=10)
    for proposal in await bench.proposals(learner, graph=dialled, shuffled=True):
        assert (await bench.decide(proposal, graph=dialled)).decision != "promoted"


@pytest.mark.asyncio
async def test_somebody_who_only_compares_is_enough(bench: Bench) -> None:
    learner = load_learner("zo-ranksgd", ranges="dial", by=Nearer(), runs=200, steps=4, minibatch=1)
    (proposal,) = await bench.proposals(learner, graph=dialled)
    assert abs(proposal.policy.settings()["dial"] - OPTIMUM) < 0.3
    assert (await bench.decide(proposal, graph=dialled)).decision == "promoted"


def test_the_gradient_points_from_the_worse_to_the_better_and_is_zero_without_an_order() -> None:
    noise = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert rank_gradient(noise, [2.0, 0.0, 1.0])[0] > 0
    assert rank_gradient(noise, [2.0, 1.0, 1.0]).tolist() == [1.5, -0.5]
    assert rank_gradient(noise, [1.0, 1.0, 1.0]).tolist() == [0.0, 0.0]


@pytest.mark.asyncio
async def test_a_person_answers_until_it_can_be_read_and_a_closed_terminal_is_said(bench: Bench) -> None:
    shown = io.StringIO()
    person = Person(Terminal(io.StringIO("x\n2\n"), shown))
    one, other = (Run(task_id="t", agent="a", answer=text) for text in ("first", "second"))
    assert (await person.compare(bench.train[0], one, other)).winner == "second"
    assert "--- 2 ---\nsecond" in shown.getvalue()
    with pytest.raises(UserError, match="run this in a terminal"):
        await person.compare(bench.train[0], one, other)
    with pytest.raises(UserError, match="by='nobody'"):
        load_learner("zo-ranksgd", by="nobody")
