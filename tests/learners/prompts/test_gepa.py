"""GEPA: several prompts of one graph at once, hard limits, a perfect parent, and nothing from other tasks' feedback."""

import asyncio
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents import AgentContext
from whet.agents.knobs import pattern
from whet.core.budget import Budget
from whet.core.errors import ModelError, UserError
from whet.core.models.tiny.world import read_definitions
from whet.core.policy import Policy
from whet.core.records import Message, Run, Task
from whet.learners.learner import load_learner
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.methods.gepa import Bridge, _Adapter
from whet.learners.prompts.parts import write_parts
from whet.learners.prompts.testing import Colleague
from whet.learners.view import TrainMemory

MIDDLE = "p"  # of the alphabet: which node answers

Bench = Any  # the fixture of conftest.py


class State(TypedDict):
    messages: list[Message]
    answer: str


@pattern(prompts={"early": "You know the early verbs.", "late": "You know the late verbs."})
def experts() -> StateGraph[State, AgentContext, State, State]:
    """Two nodes, each with a prompt of its own: which of them answers depends on the task's verb."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("early", early)
    graph.add_node("late", late)
    graph.add_conditional_edges(START, route, ["early", "late"])
    graph.add_edge("early", END)
    graph.add_edge("late", END)
    return graph


def route(state: State) -> str:
    return "early" if verbs_of(state["messages"][-1].content)[0] < MIDDLE else "late"


def verbs_of(prompt: str) -> list[str]:
    return prompt.partition("solve(x): ")[2].partition(".")[0].split(", then ")


async def early(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    return await ask("early", state, runtime)


async def late(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    return await ask("late", state, runtime)


async def ask(part: str, state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    told = Message(role="system", content=runtime.context.prompt(part))
    completion = await runtime.context.ask([told, *state["messages"]])
    return {"answer": completion.text}


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path.cwd().iterdir())
    (proposal,) = await bench.check(load_learner("gepa", model=Colleague(), runs=300))
    made = await bench.memory.find(Run, where={"purpose": "train", "agent": "react"})
    assert proposal.candidate.config["runs"] == len(made) < 300
    assert {each.id for each in made} & set(proposal.candidate.evidence)
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason
    assert capfd.readouterr().out == "", "the library prints"
    assert sorted(Path.cwd().iterdir()) == before, "the library leaves files"


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    for proposal in await bench.proposals(load_learner("gepa", model=Colleague(), runs=150), shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


@pytest.mark.parametrize("runs", [7, 60])
@pytest.mark.asyncio
async def test_it_never_makes_more_runs_than_granted(bench: Bench, runs: int) -> None:
    proposals = await bench.proposals(load_learner("gepa", model=Colleague(), runs=runs))
    made = await bench.memory.find(Run, where={"purpose": "train"})
    assert len(made) <= runs
    assert len(proposals) == (runs > 40), "what was found within the limit stands"


@pytest.mark.asyncio
async def test_a_perfect_prompt_stops_the_spending(bench: Bench, world: Any) -> None:
    known = "\n".join(world.definition(verb) for verb in world.verbs)
    await bench.in_force({"prompts/system.md": known})
    assert await bench.proposals(load_learner("gepa", model=Colleague(), runs=400)) == []
    assert len(await bench.memory.find(Run, where={"purpose": "train"})) == 15, "the validation tasks, once"


@pytest.mark.asyncio
async def test_two_prompts_of_a_graph_each_get_what_their_node_lacks(
    bench: Bench, world: Any, world_tasks: Callable[..., list[Task]]
) -> None:
    found = world_tasks(60, lengths=(1, 2, 3))
    bench.heldout = []
    bench.train = [task for task in found if len({verb < MIDDLE for verb in verbs_of(task.prompt)}) == 1]
    learner = load_learner("gepa", model=Colleague(), parts="early,late", runs=400)
    (proposal,) = await bench.proposals(learner, graph=experts)
    for part, mine in (("early", lambda verb: verb < MIDDLE), ("late", lambda verb: verb >= MIDDLE)):
        learned = read_definitions(proposal.policy.text(f"prompts/{part}.md"))
        assert set(learned) == {verb for verb in world.verbs if mine(verb)}
        assert all(meaning == world.meaning(verb) for verb, meaning in learned.items())


@pytest.mark.asyncio
async def test_a_merged_candidate_rests_on_what_both_parents_rest_on(bench: Bench) -> None:
    async with bench.agent(graph=experts) as agent:
        view = TrainMemory(bench.memory, agent, bench.train)
        lab = Lab(view, bench.train, model=None, budget=Budget(), runs=50, validation=4)
        texts = ({"early": "a", "late": "b"}, {"early": "c", "late": "b"}, {"early": "a", "late": "d"})
        for parts, parents, evidence in zip(texts, ((), (0,), (0,)), ((), ("run-1",), ("run-2",)), strict=True):
            lab.archive.add(write_parts(Policy(), parts), parts, parents=parents, evidence=evidence)
        merged: Any = {"candidate_idx": 3, "candidate": {"early": "c", "late": "d"}, "parent_ids": [1, 2]}
        await asyncio.to_thread(_Adapter(lab, Bridge()).on_valset_evaluated, merged)
    node = lab.archive.nodes[3]
    assert (node.parents, node.note, node.evidence) == ((1, 2), "merged", ("run-1", "run-2"))
    assert len(lab.archive.scores(node)) == 4
    assert node.policy.text("prompts/late.md") == "d"


@pytest.mark.asyncio
async def test_a_failing_model_is_not_swallowed_by_the_library(bench: Bench) -> None:
    class Down(Colleague):
        async def complete(self, *args: Any, **kwargs: Any) -> Any:
            self.asked.append("once")
            raise ModelError("the provider is down")

    model = Down()
    with pytest.raises(ModelError, match="the provider is down"):
        await bench.proposals(load_learner("gepa", model=model, runs=100))
    assert model.asked == ["once"], "the library asks again after a failure"
    with pytest.raises(UserError, match="needs a model that can write"):
        await bench.proposals(load_learner("gepa", runs=100))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(UserError, match=r"learner 'gepa' needs 'gepa'.* pip install 'whet\[prompts\]'"):
        load_learner("gepa")


@pytest.mark.asyncio
async def test_cancelled_it_leaves_no_thread_behind(bench: Bench) -> None:
    asked = asyncio.Event()

    class Slow(Colleague):
        async def complete(self, *args: Any, **kwargs: Any) -> Any:
            asked.set()
            await asyncio.sleep(3600)

    proposing = asyncio.create_task(bench.proposals(load_learner("gepa", model=Slow(), runs=400)))
    await asked.wait()
    proposing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await proposing
    for _ in range(100):
        stacks = [traceback.extract_stack(frame) for frame in sys._current_frames().values()]
        if not any("gepa/core" in call.filename for stack in stacks for call in stack):
            return
        await asyncio.sleep(0.1)
    pytest.fail("a thread goes on")
