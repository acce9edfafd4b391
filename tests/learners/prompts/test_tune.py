"""Settings are tuned to where the optimum is known: the embedded model errs when it is hot."""

import sys
from typing import Any

import pytest

from whet.core.errors import UserError
from whet.core.models import load_model
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.learners.learner import load_learner

Bench = Any  # the fixture of conftest.py


async def settle(bench: Bench, world: World, temperature: float) -> None:
    """Lets the embedded model know every verb, sampled at a temperature: cool it is right, hot it mostly babbles."""
    bench.model = load_model("tiny")
    bench.train, bench.heldout = bench.train[:12], bench.heldout[:16]
    known = Policy.of({"prompts/system.md": "\n".join(world.definitions(world.verbs))})
    policy = known.with_settings(temperature=temperature, max_tokens=60)
    await bench.memory.policies.commit(policy, reason="settings of a test", actor="test")


@pytest.mark.asyncio
async def test_the_embedded_model_is_cooled_down(bench: Bench, world: World) -> None:
    await settle(bench, world, 2.0)
    learner = load_learner("tune", ranges="temperature=0:2", runs="36", startup="3")
    (proposal,) = await bench.proposals(learner)
    assert proposal.policy.settings()["temperature"] < 1.0
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_better_than_the_best_is_promoted(bench: Bench, world: World) -> None:
    await settle(bench, world, 0.0)
    learner = load_learner("tune", ranges="temperature=0:2", runs=36, startup=3)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


@pytest.mark.asyncio
@pytest.mark.parametrize("ranges", ["colour=0:1", "rounds=3:1", "rounds=0:99", "rounds,rounds", "rounds=a"])
async def test_ranges_that_cannot_be_are_refused(bench: Bench, ranges: str) -> None:
    with pytest.raises(UserError, match="ranges"):
        await bench.proposals(load_learner("tune", ranges=ranges), graph="refine")


@pytest.mark.asyncio
async def test_without_optuna_one_line_names_the_extra(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"whet\[prompts\]"):
        await bench.proposals(load_learner("tune", ranges="rounds"), graph="refine")


def test_an_option_it_has_no_use_for_is_refused() -> None:
    with pytest.raises(UserError, match="no use for parts"):
        load_learner("tune", parts="reviewer")
