"""TextGrad: the verbs get into the prompt by criticism, and from the feedback of other tasks nothing is promoted."""

from typing import Any

import pytest

from whet.learners.learner import load_learner
from whet.learners.prompts.testing import Colleague

Bench = Any  # the fixture of conftest.py


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    learner = load_learner("textgrad", model=Colleague(), runs=400, steps=30)
    (proposal,) = await bench.proposals(learner)
    assert "def " in proposal.policy.text("prompts/system.md")
    assert proposal.candidate.evidence
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("textgrad", model=Colleague(), runs=400, steps=30)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"
