"""An ensemble: the budget goes to the engine that gains, and the best of all is proposed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from whet.core.errors import UserError
from whet.core.records import Run
from whet.learners.learner import load_learner
from whet.learners.prompts.archive import Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner
from whet.learners.prompts.methods.ensemble import Ensemble, Tally, next_engine
from whet.learners.prompts.testing import Colleague

Bench = Any  # the fixture of conftest.py


@dataclass(kw_only=True)
class Chatter(PromptLearner):
    """Drafts what cannot help."""

    name: ClassVar[str] = "chatter"
    unused: ClassVar[tuple[str, ...]] = ("model",)

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        return [Draft(parts={"system": f"Please! {lab.left}"}, parents=(parents[0],))]


@pytest.mark.asyncio
async def test_the_engine_that_gains_gets_the_budget_and_the_gate_promotes(bench: Bench) -> None:
    good = load_learner("textgrad", model=Colleague(), validation=4, minibatch=4)
    learner = Ensemble(engines=[Chatter(validation=4), good], runs=400, share=24, validation=10)
    (proposal,) = await bench.proposals(learner)
    told = proposal.candidate.config["engines"]
    assert told["textgrad"]["gain"] > 0 == told["chatter"]["gain"]
    assert told["textgrad"]["runs"] > told["chatter"]["runs"]
    assert proposal.candidate.config["runs"] <= 400
    assert "textgrad: system" in proposal.candidate.config["notes"][0]
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("ensemble", engines="textgrad, exemplars", model=Colleague(), runs=150, validation=10)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


@pytest.mark.asyncio
async def test_the_runs_of_engines_count_against_one_limit(bench: Bench) -> None:
    await bench.proposals(Ensemble(engines=[Chatter(validation=5)], runs=70, share=30, validation=10))
    assert 50 < await bench.memory.count(Run) <= 70


def test_each_engine_once_then_by_gain_per_run() -> None:
    tallies = {"a": Tally(parts=1, runs=60, gain=0.1), "b": Tally(parts=1, runs=20, gain=0.1), "c": Tally()}
    assert next_engine(tallies, share=60, explore=0.5) == "c"
    tallies["c"] = Tally(parts=1, runs=60)
    assert next_engine(tallies, share=60, explore=0.1) == "b"
    tallies["b"] = Tally(parts=50, runs=1000, gain=5.0)
    assert next_engine(tallies, share=60, explore=5.0) in ("a", "c"), "what was tried least is uncertain"


@pytest.mark.parametrize("engines", ["", "lessons", "ensemble", "nobody"])
def test_what_is_no_engine_is_refused(engines: str) -> None:
    with pytest.raises(UserError, match=r"engines|no learner"):
        load_learner("ensemble", engines=engines)
