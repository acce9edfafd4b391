"""MIPROv2: an instruction or demonstrations with the verbs in them are found among the combinations."""

from collections.abc import Callable
from typing import Any

import pytest

from whet.core.records import Task
from whet.learners.learner import load_learner
from whet.learners.prompts.testing import Colleague

Bench = Any  # the fixture of conftest.py


@pytest.fixture
def bench(bench: Bench, world_tasks: Callable[..., list[Task]]) -> Bench:
    """Training tasks of one verb each, which a guess solves now and then; what is held out has longer chains too."""
    bench.train = [task for draw in range(1, 6) for task in world_tasks(6, lengths=(1,), draw=draw)]
    return bench


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    model = Colleague()
    learner = load_learner(
        "mipro", model=model, runs=400, rounds=12, steps=8, minibatch=6, validation=8, candidates=4, demos=8
    )
    (proposal,) = await bench.proposals(learner)
    assert len(model.asked) == 3, "instructions are written once, before the search"
    assert "def " in proposal.policy.text("prompts/system.md")
    assert proposal.candidate.evidence
    decision = await bench.decide(proposal, token_ratio=8.0)  # the prompt was empty before
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("mipro", model=Colleague(), runs=120, steps=5, minibatch=6, validation=8, candidates=4)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"
