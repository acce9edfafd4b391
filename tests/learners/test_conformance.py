"""The learners of the package keep to the contract, and the check notices those that do not."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from whet.core.budget import Budget
from whet.core.policy import Policy
from whet.core.records import Candidate, Lesson, Task
from whet.learners.conformance import check_learner
from whet.learners.gate import Arm
from whet.learners.learner import Learner, Proposal
from whet.learners.lessons import LessonLearner
from whet.learners.skills import SkillLearner
from whet.learners.view import TrainMemory
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Tasks = Callable[..., list[Task]]
Live = Callable[[Memory, Sequence[Task]], Awaitable[None]]


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [LessonLearner, SkillLearner])
async def test_the_learners_of_the_package_keep_the_contract(
    make: Callable[[SandboxPool], Learner], memory: Memory, pool: SandboxPool, world_tasks: Tasks, live: Live
) -> None:
    await live(memory, world_tasks(16))
    assert await check_learner(make(pool), memory)


class Careless:
    """A learner that breaks one rule."""

    def __init__(self, rule: str) -> None:
        self.name, self.rule = "careless", rule

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        digest, rule = incumbent.policy.digest, self.rule
        policy = incumbent.policy if rule == "nothing" else Policy.of({"principles.md": rule})
        candidate = Candidate(
            policy="0" * 64 if rule == "digest" else policy.digest,
            parent="" if rule == "parent" else digest,
            learner="me" if rule == "name" else self.name,
        )
        text = "quokka" if rule == "leak" else "x"
        lessons = (Lesson(text=text, trust="tainted" if rule == "taint" else "trusted"),)
        yield Proposal(candidate=candidate, policy=policy, lessons=() if rule == "nothing" else lessons)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("nothing", "changes nothing"),
        ("digest", "another policy"),
        ("parent", "not the incumbent"),
        ("name", "says learner 'me'"),
        ("leak", "held-out task"),
        ("taint", "tainted lesson"),
    ],
)
async def test_a_careless_learner_is_noticed(memory: Memory, rule: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        await check_learner(Careless(rule), memory)
    assert await check_learner(Careless("none"), memory)
