"""Deciding on a candidate that waits: one that ``whet learn`` left, or that a person kept back.

promotion = await decide(memory, agent, candidate_id, load_tasks("world:7"), budget=Budget(calls=500))
"""

from collections.abc import Callable, Sequence

from whet.agents import Agent
from whet.core.budget import Budget
from whet.core.errors import ConflictError, RefusedError
from whet.core.records import Candidate, Lesson, Promotion, Task, TaskSet
from whet.feedback.verifiers.registry import judges_of
from whet.learners.adoption import adopt, incumbent_arm, named_ids
from whet.learners.evaluation import evaluator
from whet.learners.gate import Gate, Progress
from whet.learners.judging import refuse_unheard
from whet.learners.learner import Proposal
from whet.learners.ledger import StoredLedger
from whet.learners.stages import Stage, first_objection
from whet.memory import Memory

__all__ = ["decide"]


async def decide(
    memory: Memory,
    agent: Agent,
    candidate_id: str,
    tasks: TaskSet,
    *,
    gate: Gate | None = None,
    probes: Sequence[Task] = (),
    stages: Sequence[Stage | str] = ("lint",),
    budget: Budget | None = None,
    tainted: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Promotion:
    """Returns the gate's decision on a stored candidate, after it was logged and carried out.

    ``probes``: held-out tasks of other task sets, on which the candidate must not be worse. ``stages``:
    what looks at it before it may use the held-out set, or names of such stages. ``tainted``: a person
    looked at a candidate that rests on what strangers wrote, and lets the gate decide.

    Raises:
        NotFoundError: there is no such candidate.
        RefusedError: it rests on what strangers wrote, and nobody looked at it; or a judge of the tasks is not heard.
        ConflictError: it was made from another policy than the one in force.
        UserError: the task set has no held-out tasks.
    """
    candidate = await memory.get(Candidate, candidate_id)
    if candidate.trust == "tainted" and not tainted:
        raise RefusedError(
            f"candidate {candidate.id!r} rests on what strangers wrote; look at it, then decide with --tainted"
        )
    gate, incumbent = gate or Gate(), await incumbent_arm(memory)
    if candidate.parent != incumbent.policy.digest:
        raise ConflictError(
            f"candidate {candidate.id!r} was made from policy {candidate.parent[:12]!r}, in force is "
            f"{incumbent.policy.digest[:12]!r}; let its learner propose again: whet learn {candidate.learner}"
        )
    proposal = await _proposal(memory, candidate)
    heldout = [task for task in tasks.tasks if task.split == "heldout"]
    if objection := await first_objection(stages, proposal, incumbent, budget or Budget()):
        await adopt(memory, proposal, objection)
        return objection
    judges = {judge for task in (*heldout, *probes) for judge in judges_of(task)}
    await refuse_unheard(memory, judges, gate.config.min_trust)
    async with agent:
        promotion = await gate.decide(
            proposal.arm(incumbent),
            incumbent,
            heldout,
            evaluator(agent, budget, tags=(f"candidate:{candidate.id}",), min_trust=gate.config.min_trust),
            budget=budget,
            ledger=StoredLedger(memory),
            candidate_id=candidate.id,
            probes=probes,
            on_progress=on_progress,
        )
    await adopt(memory, proposal, promotion)
    return promotion


async def _proposal(memory: Memory, candidate: Candidate) -> Proposal:
    """Returns what was proposed, from what the store holds of it."""
    lessons = [await memory.get(Lesson, id) for id in named_ids(candidate.config, "lessons")]
    policy = await memory.policies.get(candidate.policy)
    return Proposal(
        candidate=candidate,
        policy=policy,
        lessons=tuple(lessons),
        retires=tuple(named_ids(candidate.config, "retires")),
    )
