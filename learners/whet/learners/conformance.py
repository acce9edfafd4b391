"""What any learner has to keep, as one check that a stranger can run against theirs.

    await check_learner(MyLearner(), memory)       # AssertionError says what was not kept

The memory is one in which the learner finds something to learn: with judged runs on training tasks.
"""

import msgspec

from whet.core.budget import Budget
from whet.core.errors import RefusedError
from whet.core.records import Message, Run, Task, Verdict
from whet.learners.adoption import incumbent_arm
from whet.learners.gate import Arm
from whet.learners.learner import Learner, Proposal
from whet.learners.view import TrainMemory
from whet.memory import Memory

__all__ = ["check_learner"]

SECRET = "quokka"


async def check_learner(learner: Learner, memory: Memory, view: TrainMemory | None = None) -> list[Proposal]:
    """Returns what the learner proposed, after checking that it kept to the contract.

    A learner that runs the agent needs a ``view`` that can practise; others get one of the memory.
    It must have a name; say what each proposal changes, by digests that are right; rest trusted proposals on nothing
    tainted; show no trace of a held-out task (one is planted); and leave promoting to the gate.

    Raises:
        AssertionError: it did not; the message says what.
    """
    assert isinstance(learner, Learner), "a learner has a name and propose(view, incumbent, budget)"
    assert learner.name, "a learner's name is recorded with its candidates, so it cannot be empty"
    await _plant(memory)
    incumbent = await incumbent_arm(memory)
    proposals = [each async for each in learner.propose(view or TrainMemory(memory), incumbent, Budget(calls=5000))]
    for proposal in proposals:
        _check(proposal, incumbent, learner.name)
    assert await memory.policies.head() == incumbent.policy, "only the gate promotes; a learner proposes"
    return proposals


def _check(proposal: Proposal, incumbent: Arm, name: str) -> None:
    candidate = proposal.candidate
    assert candidate.learner == name, f"the candidate says learner {candidate.learner!r}, not {name!r}"
    assert candidate.policy == proposal.policy.digest, "the candidate names another policy than the proposal has"
    assert candidate.parent == incumbent.policy.digest, "the candidate's parent is not the incumbent"
    changed = proposal.policy != incumbent.policy or proposal.lessons or proposal.retires
    assert changed, "a proposal that changes nothing wastes a use of the held-out set"
    assert SECRET.encode() not in msgspec.json.encode(proposal), "something of a held-out task is in the proposal"
    tainted = [lesson for lesson in proposal.lessons if lesson.trust == "tainted"]
    assert not tainted or candidate.trust == "tainted", "a trusted proposal holds a tainted lesson"


async def _plant(memory: Memory) -> None:
    """Puts a held-out task with a telling run into the memory."""
    task = Task(id=f"held/{SECRET}", messages=(Message(role="user", content=f"Write {SECRET}."),), split="heldout")
    run = Run(task_id=task.id, agent="x", status="done", answer=f"def {SECRET}(x): return x")
    verdict = Verdict(run_id=run.id, task_id=task.id, verifier=SECRET, outcome="pass", score=1.0)
    await memory.put(task, run, verdict)
    try:
        await TrainMemory(memory).run(run.id)
    except RefusedError:
        return
    raise AssertionError("the view shows a held-out run")
