"""Replay a run from its record, with no model; fork it at any step, under another policy.

    same = await replay(agent, run_id)                             # the same graph, every answer from the record
    other = await fork(agent, run_id, before=12, policy=candidate) # the record up to step 12, then live

Both are runs of their own, with ``parent_id`` the run they come from. The graph's code is executed again and what came
from outside is given from the record. So a graph that changed meanwhile or is not deterministic is noticed: it asks
for what is not on the record, and the run fails saying so.
"""

from typing import Literal

import msgspec

from whet.agents.agent import Agent, Purpose
from whet.agents.execution import RunResult
from whet.agents.playback import Playback
from whet.core import Budget, Json, Policy, Run, Step, Task, UserError

__all__ = ["fork", "replay"]


async def replay(agent: Agent, run_id: str) -> RunResult:
    """Returns the result of the run done again from its record: no model is asked, no tool is run.

    A LangChain tool that the graph runs itself is refused, as its result cannot be given again.

    Raises:
        NotFoundError: there is no such run.
        UserError: the agent has no memory, or is another one than the run's.
    """
    async with agent:
        memory = agent.memory_for("replay a run")
        run = await memory.get(Run, run_id)
        agent.refuse_another(run, model=False)
        playback = await Playback.read(memory, run)
        again = _child(run, "replay", {**_told(run), "replay_of": run.id})
        task, policy = await memory.get(Task, run.task_id), await memory.policies.get(run.policy)
        return await (await agent.begin(task, again, policy, playback=playback)).start()


async def fork(
    agent: Agent,
    run_id: str,
    *,
    before: int,
    policy: Policy | None = None,
    seed: int | None = None,
    budget: Budget | None = None,
) -> RunResult:
    """Returns the result of a run that repeats the record up to step ``before`` (its ``seq``) and goes on live.

    ``policy`` is the one to go on under (the run's own unless given). What the model answered before the step is kept
    even where the new policy would have asked differently; commands in the sandbox are run again for their effects.

    Raises:
        NotFoundError: there is no such run.
        UserError: the run has no such step, the agent has no memory, or is another one than the run's.
    """
    async with agent:
        memory = agent.memory_for("fork a run")
        run = await memory.get(Run, run_id)
        agent.refuse_another(run, model=False)
        if not 0 <= before <= (count := await memory.count(Step, where={"run_id": run.id})):
            raise UserError(f"run {run.id!r} has {count} steps; fork it before a step from 0 to {count}")
        playback = await Playback.read(memory, run, before=before)
        task = await memory.get(Task, run.task_id)
        current = policy or await memory.policies.get(run.policy)
        # Under its own policy the run is told what it was told; under another it is briefed anew.
        told = _told(run) if policy is None else {}
        meta: dict[str, Json] = {**told, "fork_of": run.id, "forked_before": before}
        again = msgspec.structs.replace(
            _child(run, run.purpose, meta),
            model=agent.model.name,
            seed=run.seed if seed is None else seed,
            policy=await agent.resources.remember(current, task),
        )
        return await (await agent.begin(task, again, current, budget=budget, playback=playback)).start()


def _told(run: Run) -> dict[str, Json]:
    return {key: run.meta[key] for key in ("graph", "system") if key in run.meta}


def _child(run: Run, purpose: Purpose | Literal["replay", "import"], meta: dict[str, Json]) -> Run:
    """Returns a new run of the same task, not yet begun, that comes from ``run``."""
    return Run(
        task_id=run.task_id,
        agent=run.agent,
        policy=run.policy,
        model=run.model,
        seed=run.seed,
        parent_id=run.id,
        purpose=purpose,
        meta=meta,
        scope=run.scope,
    )
