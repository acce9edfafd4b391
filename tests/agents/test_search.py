"""What holds for every pattern of search: bounded by knob and budget, resumed where it was cut off, replayed."""

from collections.abc import Sequence

import pytest

from whet.agents import Agent, replay
from whet.agents.runtime import Verify
from whet.core import (
    Budget,
    Completion,
    Message,
    ModelCall,
    ModelError,
    Policy,
    Sampling,
    Step,
    ToolSpec,
    Usage,
    digest,
)
from whet.memory import Memory
from whet.sandboxes import SandboxPool

SEARCH = ("iad", "self_consistency", "rethink", "swe_search", "code_tree", "map_elites", "code_test")


class Colleague:
    """Plays every role badly: a list of two, a test, a low score, a critic who refines; alike to the same question."""

    name = "colleague"

    def __init__(self, dies_at: int = -1) -> None:
        self.asked = 0
        self.dies_at = dies_at

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        self.asked += 1
        if self.asked == self.dies_at:
            raise ModelError("gone")
        mark = digest("".join(message.content for message in messages) + str(sampling.seed))[:6]
        text = f"1. good {mark}\n2. two\nassert {mark!r}\nDecision: refine\nScore: 5"
        return Completion(text=text, model=self.name, usage=Usage(calls=1))


def settings(**knobs: float) -> Policy:
    return Policy.of({"settings.toml": "".join(f"{name} = {value}\n" for name, value in knobs.items())})


@pytest.mark.asyncio
@pytest.mark.parametrize("graph", SEARCH)
async def test_calls_are_bounded_by_the_knob_with_an_answer_and_by_the_budget_without(
    graph: str, wants_good: Verify
) -> None:
    async with SandboxPool(size=1) as pool:
        for limit in (1, 2, 4, 7):
            model = Colleague()
            agent = Agent(graph, model, verify=wants_good, policy=settings(calls=limit), sandbox=pool)
            result = await agent.arun("Do it.")
            assert (result.run.status, model.asked <= limit) == ("done", True)
            assert result.answer, "with one call there is an answer"
            model = Colleague()
            agent = Agent(graph, model, verify=wants_good, sandbox=pool)
            result = await agent.arun("Do it.", budget=Budget(calls=limit))
            assert model.asked <= limit
            assert result.run.status == "cancelled" or result.answer


async def answered(memory: Memory, run_id: str) -> int:
    """How many calls of a run are on record with an answer."""
    steps = await memory.find(Step, where={"run_id": run_id})
    return sum(isinstance(step.body, ModelCall) and step.body.completion is not None for step in steps)


@pytest.mark.asyncio
@pytest.mark.parametrize("graph", SEARCH)
async def test_a_search_that_was_cut_off_goes_on_where_it_was_and_can_be_replayed(
    graph: str, wants_good: Verify, memory: Memory
) -> None:
    def agent(model: Colleague) -> Agent:
        policy = settings(calls=9)
        return Agent(graph, model, verify=wants_good, policy=policy, memory=memory, durability="sync")

    cut = (await agent(Colleague(dies_at=4)).arun("Do it.")).run
    assert (cut.status, "gone" in str(cut.error)) == ("failed", True)
    before, rest = await answered(memory, cut.id), Colleague()
    result = await agent(rest).resume(cut.id)
    assert (result.run.status, result.run.error) == ("done", None)
    assert result.answer
    assert 0 < before < await answered(memory, cut.id) == before + rest.asked <= 9, "and what was answered is not asked"
    whole = await agent(Colleague()).arun("Do it.")
    again = await replay(agent(Colleague(dies_at=1)), whole.run.id)
    assert (again.run.status, again.answer) == ("done", whole.answer)
