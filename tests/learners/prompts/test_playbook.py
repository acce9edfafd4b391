"""ACE: bullets are added by what failed, and those that do harm are counted out."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from whet.core.models.tiny.world import OPERATIONS, read_definitions
from whet.core.policy import Policy
from whet.core.records import Run, Task
from whet.learners.learner import load_learner
from whet.learners.prompts.archive import Evidence
from whet.learners.prompts.bullets import (
    Bullet,
    Operation,
    count,
    fit,
    operate,
    read_bullets,
    show_bullets,
    without_doubles,
)
from whet.learners.prompts.methods.playbook import used_in
from whet.learners.prompts.testing import Colleague
from whet.memory.embedders import HashedNgrams

Bench = Any  # the fixture of conftest.py

_ONE = re.compile(r"Write solve\(x\): (\w+)\.\nAnswer:\n.*?\nFeedback: (\w+)", re.DOTALL)


def curate(known: Mapping[str, str], asked: str) -> str:
    """Reflects: the bullets on the verb of a task with one verb helped or did harm. Curates: adds what is not there."""
    _, bullets = read_bullets(asked.partition("# Text")[2].partition("\n")[2].partition("\n# ")[0])
    about = {verb: each.id for each in bullets for verb in read_definitions(each.text)}
    if '"tags"' in asked:
        outcomes = {verb: outcome for verb, outcome in _ONE.findall(asked) if verb in about}
        tags = {about[verb]: "helpful" if each == "passed" else "harmful" for verb, each in outcomes.items()}
        return json.dumps({"insight": "The verbs have to be known.", "tags": tags})
    texts = [f"{verb} is a verb.\ndef {verb}(x): return {means}" for verb, means in known.items() if verb not in about]
    return json.dumps([{"op": "add", "text": text} for text in texts])


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    learner = load_learner("playbook", model=Colleague(curate), runs=300, steps=25, validation=8, minibatch=4)
    (proposal,) = await bench.proposals(learner)
    assert read_bullets(proposal.policy.text("principles.md"))[1]
    decision = await bench.decide(proposal, token_ratio=8.0)  # the file was empty before
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("playbook", model=Colleague(curate), runs=150, steps=12, validation=8, minibatch=4)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal, token_ratio=8.0)).decision != "promoted"


@pytest.mark.asyncio
async def test_a_bullet_that_does_harm_is_retired_and_replaced(
    bench: Bench, world_tasks: Callable[..., list[Task]]
) -> None:
    bench.train = [task for draw in (1, 2, 3) for task in world_tasks(6, lengths=(1,), draw=draw)]
    verb = bench.train[0].meta["verbs"][0]
    means = bench.world.meaning(verb)
    wrong = next(each for each in OPERATIONS if each != means)
    text = show_bullets("", [Bullet(id="p1", harmful=2, text=f"{verb} is a verb.\ndef {verb}(x): return {wrong}")])
    await bench.memory.policies.commit(Policy.of({"principles.md": text}), reason="wrong", actor="test")
    learner = load_learner("playbook", model=Colleague(curate), steps=20, minibatch=9, runs=300)
    (proposal,) = await bench.proposals(learner)
    learned = read_definitions(proposal.policy.text("principles.md"))
    assert learned[verb] == means


def test_who_is_cited_is_counted_by_the_outcome_and_only_the_others_by_tags(bench: Bench) -> None:
    cited = [("By [p1] and [p2].", 1.0), ("By [p2], so [p2].", 0.0), (None, 0.0)]
    runs = [Run(task_id="t", agent="a", answer=answer) for answer, _ in cited]
    on = [
        Evidence(task=bench.train[0], run=run, verdicts=(), score=score)
        for run, (_, score) in zip(runs, cited, strict=True)
    ]
    tags = {"p1": "harmful", "p3": "helpful", "p4": "harmful", "p5": "neutral"}
    assert used_in(on, tags) == (["p1", "p2", "p3"], ["p2", "p4"])


def test_the_four_operations_and_their_counters() -> None:
    old = [Bullet(id="p1", text="a", helpful=2), Bullet(id="p2", text="b", harmful=1), Bullet(id="p3", text="c")]
    operations = [
        Operation(op="add", text="d"),
        Operation(op="update", ids=("p3",), text="C"),
        Operation(op="merge", ids=("p1", "p2"), text="a and b"),
        Operation(op="retire", ids=("p3",)),
        Operation(op="retire", ids=("p9",)),
        Operation(op="merge", ids=("p1",), text="x"),
        Operation(op="update", ids=("p1",)),
    ]
    new, refused = operate(old, operations)
    assert new == [Bullet(id="p1", text="a and b", helpful=2, harmful=1), Bullet(id="p4", text="d")]
    assert refused == ["retire: there is no bullet 'p9'", "merge: 1 ids", "update: no text"]


def test_what_is_shown_is_read_again() -> None:
    bullets = [Bullet(id="p1", text="one"), Bullet(id="p12", text="two:\ndef f(x): return x", helpful=3, harmful=1)]
    assert read_bullets(show_bullets("# Rules\nBe kind.", bullets)) == ("# Rules\nBe kind.", bullets)
    assert read_bullets(show_bullets("", bullets)) == ("", bullets)


def test_harm_has_to_be_shown_and_the_least_certain_go_first() -> None:
    often, seldom, new = (
        Bullet(id="p1", text="x" * 40, helpful=9),
        Bullet(id="p2", text="y" * 40, helpful=1),
        Bullet(id="p3", text="z" * 40),
    )
    assert fit([new, often, seldom], 20) == [often, seldom]
    assert fit([new, often, seldom], 10) == [often]
    assert not Bullet(id="p1", text="", harmful=2).does_harm
    assert Bullet(id="p1", text="", harmful=3).does_harm
    assert count([new], ["p3", "p3"], ["p3"])[0].helpful == 2


@pytest.mark.asyncio
async def test_what_says_the_same_is_merged_and_code_that_differs_is_not() -> None:
    same = [
        Bullet(id="p1", text="Say the unit of every number.", helpful=1),
        Bullet(id="p2", text="Say the unit of every number", helpful=2),
    ]
    assert await without_doubles(same, HashedNgrams(), 0.9) == [Bullet(id="p1", text=same[0].text, helpful=3)]
    code = [Bullet(id="p1", text="def f(x): return x[1:]"), Bullet(id="p2", text="def f(x): return x[:1]")]
    assert len(await without_doubles(code, HashedNgrams(), 0.9)) == 2
