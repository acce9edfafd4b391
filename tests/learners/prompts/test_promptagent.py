"""PromptAgent: the tree grows where it promises most; it learns, and from the feedback of other tasks it does not."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from whet.core.policy import Policy
from whet.core.records import Message, Run, Task
from whet.learners.learner import load_learner
from whet.learners.prompts.archive import Archive, Evidence, Node
from whet.learners.prompts.methods.promptagent import PromptAgent
from whet.learners.prompts.testing import Colleague

Bench = Any  # the fixture of conftest.py


@pytest.mark.asyncio
async def test_it_learns_what_the_gate_promotes(bench: Bench) -> None:
    colleague = Colleague()
    (proposal,) = await bench.check(load_learner("promptagent", model=colleague, width="2", runs=300))
    assert any("# Earlier versions, the oldest first\nnone" not in asked for asked in colleague.asked), "no lineage"
    decision = await bench.decide(proposal)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
async def test_from_shuffled_feedback_nothing_is_promoted(bench: Bench) -> None:
    learner = load_learner("promptagent", model=Colleague(), width=2, runs=120)
    for proposal in await bench.proposals(learner, shuffled=True):
        assert (await bench.decide(proposal)).decision != "promoted"


@dataclass
class Desk:
    """What ``select`` needs of a lab."""

    archive: Archive = field(default_factory=Archive)

    def grow(self, name: str, score: float, parents: Sequence[Node] = ()) -> Node:
        node = self.archive.add(Policy.of({"principles.md": name}), {}, parents=[each.number for each in parents])
        task = Task(id="t", messages=(Message(role="user", content="x"),))
        run = Run(task_id="t", agent="x")
        self.archive.record(node, [Evidence(task=task, run=run, verdicts=(), score=score)])
        return node


def test_a_path_goes_on_with_the_best_child_and_the_next_one_with_the_least_tried() -> None:
    desk, learner = Desk(), PromptAgent(depth=2, min_depth=1, iterations=3)
    lab: Any = desk
    root = desk.grow("root", 0.2)
    assert learner.select(lab) == (root,)
    low, high = desk.grow("low", 0.3, [root]), desk.grow("high", 0.4, [root])
    assert learner.select(lab) == (high,)
    desk.grow("leaf", 0.5, [high])
    # The first path is at its depth limit. Of the two children, one was visited once (Q 0.9) and one never (Q 0.3):
    # 0.9 + 2.5 √(ln 2 / 1) is more than 0.3 + 2.5 √(ln 2 / 1), so the second path is the first again; then n is 2.
    assert learner.select(lab) == (low,)
    assert learner._returns[high.number] == [0.9, 0.9]
    assert learner.choose(desk.archive).policy.text("principles.md") == "leaf"


def test_a_poor_node_ends_a_path_and_so_does_the_best_so_far() -> None:
    desk, learner = Desk(), PromptAgent(min_depth=0, iterations=9)
    root = desk.grow("root", 0.2)
    poor, good = desk.grow("poor", 0.1, [root]), desk.grow("good", 0.3, [root])
    assert not learner._ends(root, desk.archive)
    assert learner._ends(poor, desk.archive)
    assert not learner._ends(good, desk.archive)
    learner._records.add(good.number)
    assert learner._ends(good, desk.archive)
