"""APOHF: the prompt that a person likes best is found by few duels, though the person errs now and then."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.agents.tasksets.world import judge_answer
from whet.core.errors import UserError
from whet.core.models import ScriptedModel
from whet.core.policy import Policy
from whet.core.records import Run, Task
from whet.feedback.judge import Comparison
from whet.feedback.simulated import Annotator, Persona
from whet.learners.learner import load_learner
from whet.learners.prompts.duels import Person
from whet.learners.prompts.methods.apohf import Duel, fit_preferences, next_pair, read_pool
from whet.learners.prompts.terminal import Terminal

Bench = Any  # the fixture of conftest.py


class Simulated:
    """Somebody who knows what is right and errs one time in ten; ``shuffled``, who thinks of another task."""

    name = "simulated"

    def __init__(self, bench: Bench, *, shuffled: bool = False) -> None:
        tasks = [*bench.train[1:], *bench.train[:1]] if shuffled else bench.train
        self.meant = dict(zip([task.id for task in bench.train], tasks, strict=True))
        self.annotator = Annotator(Persona(flip=0.1), seed=3)

    async def compare(self, task: Task, first: Run, second: Run) -> Comparison:
        one, other = (judge_answer(self.meant[task.id], run.answer or "")[0].score for run in (first, second))
        if one == other:
            return Comparison(winner="tie", first_run_id=first.id, second_run_id=second.id, judge=self.name)
        keys = [f"{task.id}/{run.answer}" for run in (first, second)]  # ids differ from time to time
        said = self.annotator.preference(*keys, score=one, other=other)
        winner = "first" if said.run_id == keys[0] else "second"
        return Comparison(winner=winner, first_run_id=first.id, second_run_id=second.id, judge=self.name)


@pytest.fixture
def pool(bench: Bench) -> list[str]:
    """Prompts that define more and more of the verbs, in no order."""
    verbs = bench.world.verbs
    texts = ["\n".join(bench.world.definition(verb) for verb in verbs[:count]) for count in (2, 6, 0, 4, 1, 5, 3)]
    return [f"You write Python.\n{text}" for text in texts]


@pytest.mark.asyncio
async def test_the_preferred_prompt_is_promoted(bench: Bench, pool: list[str]) -> None:
    learner = load_learner("apohf", pool=pool, by=Simulated(bench), steps=30)
    (proposal,) = await bench.proposals(learner)
    assert proposal.policy.text("prompts/system.md").count("def ") >= 5
    assert " duels" in proposal.candidate.summary
    assert proposal.candidate.evidence
    decision = await bench.decide(proposal, token_ratio=8.0)  # the prompt was empty before
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_preferences_nothing_is_promoted(bench: Bench, pool: list[str]) -> None:
    best = Policy.of({"prompts/system.md": pool[1]})  # noise could only promote what is worse
    await bench.memory.policies.commit(best, reason="the best of the pool", actor="test")
    learner = load_learner("apohf", pool=pool, by=Simulated(bench, shuffled=True), steps=15)
    for proposal in await bench.proposals(learner):
        assert (await bench.decide(proposal, token_ratio=8.0)).decision != "promoted"


@pytest.mark.asyncio
async def test_a_person_at_the_terminal_decides_between_two_at_a_time(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "pool.txt"
    file.write_text(f"Be brief.\n---\n{bench.world.definition(bench.world.verbs[0])}\n")
    shown = io.StringIO()
    person = Person(Terminal(io.StringIO("1\n" * 40), shown))
    await bench.proposals(load_learner("apohf", pool=str(file), by=person, steps="5", startup="2"))
    assert "--- 1 ---" in shown.getvalue()


@pytest.mark.asyncio
async def test_without_a_pool_the_model_writes_one(bench: Bench, pool: list[str]) -> None:
    async with ScriptedModel([json.dumps(pool)]) as model:
        learner = load_learner("apohf", model=model, by="simulated", steps=20)
        (proposal,) = await bench.proposals(learner)
    assert proposal.policy.text("prompts/system.md") in pool
    assert (await bench.decide(proposal, token_ratio=8.0)).decision == "promoted"
    with pytest.raises(UserError, match="pool=FILE"):
        await bench.proposals(load_learner("apohf", model=ScriptedModel(["Hm."]), by="verifiers"))


def test_a_pool_is_a_json_list_or_divided_texts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["one", "two"]')
    (tmp_path / "b.txt").write_text("one\nmore\n---\n\n---\ntwo\n")
    (tmp_path / "c.json").write_text('{"a": 1}')
    assert read_pool(str(tmp_path / "a.json")) == ["one", "two"]
    assert read_pool(str(tmp_path / "b.txt")) == ["one\nmore", "two"]
    for wrong in ("c.json", "missing.txt"):
        with pytest.raises(UserError, match="pool="):
            read_pool(str(tmp_path / wrong))


def test_preferences_are_fitted_and_what_is_unknown_is_tried() -> None:
    vectors = np.eye(4)
    duels = [Duel(first=0, second=1, won=1.0)] * 5 + [Duel(first=1, second=2, won=1.0)] * 5
    weights = fit_preferences(vectors, duels, 0.1)
    assert weights[0] > weights[1] > weights[2]
    assert weights[3] == 0.0
    assert next_pair(vectors, duels, weights, ridge=0.1, explore=0.0) == (0, 1)
    assert next_pair(vectors, duels, weights, ridge=0.1, explore=9.0) == (0, 3), "never shown before"
    assert not fit_preferences(vectors, [Duel(first=0, second=1, won=0.5)], 0.1).any()
