"""What ``whet run`` and ``whet improve`` build: an agent from the settings, and the tasks a word stands for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.apps.cli.commands.rows import run_rows
from whet.apps.cli.output import Row
from whet.apps.cli.session import load_settings
from whet.core import Budget, Message, NotFoundError, Run, Task, UserError, digest

if TYPE_CHECKING:
    from whet.agents import Agent
    from whet.memory import Memory

__all__ = ["Plan", "fork_run", "make_agent", "replay_run", "run_plan", "tasks_of"]

SPECS = ("humaneval:", "ilf:", "jsonl:", "world:")


@dataclass(frozen=True)
class Plan:
    """What to run: a task set, a task id in the memory or a prompt; by which agent; under which policy."""

    task: str
    model: str = ""
    graph: str = "refine"
    split: str = ""
    limit: int = 0
    seed: int = 0
    policy: str = "head"
    concurrency: int = 4


def make_agent(memory: "Memory", *, model: str = "", graph: str = "refine", name: str | None = None) -> "Agent":
    """Returns an agent on the project's memory.

    Raises:
        UserError: no such graph or model; the message lists what there is.
    """
    from whet.agents import Agent, python, shell

    settings = load_settings()
    tools = (shell, python) if graph == "react" else ()
    chosen = settings.load_model(model)
    return Agent(graph, chosen, sandbox=settings.sandbox, tools=tools, memory=memory, name=name)


async def tasks_of(memory: "Memory", word: str) -> list[Task]:
    """Returns the tasks a word stands for: a task set, a task of the memory by its id, or the word as a prompt."""
    from whet.agents.tasksets import load_tasks

    if word.startswith(SPECS):
        return list(load_tasks(word).tasks)
    try:
        return [await memory.get(Task, word)]
    except NotFoundError as error:
        if " " not in word.strip():
            raise NotFoundError(f"{word!r} is no task set ({', '.join(s + '…' for s in SPECS)}) and {error}") from None
    return [Task(id=f"text-{digest(word)[:16]}", messages=(Message(role="user", content=word),), task_set="text")]


async def run_plan(memory: "Memory", plan: Plan, budget: Budget) -> list[Row]:
    """Runs the plan under the budget and returns a row for each run."""
    from whet.agents import run_tasks

    tasks = await tasks_of(memory, plan.task)
    chosen = [task for task in tasks if plan.split in ("", task.split)][: plan.limit or None]
    if not chosen:
        raise UserError(f"no task of split {plan.split!r} in {plan.task!r}; there are train, heldout and sealed")
    agent = make_agent(memory, model=plan.model, graph=plan.graph)
    policy = await memory.policies.get(plan.policy)
    results = await run_tasks(
        agent, chosen, seeds=(plan.seed,), concurrency=plan.concurrency, budget=budget, policy=policy, purpose="live"
    )
    return await run_rows(memory, [result.run for result in results])


async def _maker(memory: "Memory", id: str, model: str = "") -> "tuple[Run, Agent]":
    run = await memory.get(Run, id)
    graph = run.meta.get("graph")
    return run, make_agent(memory, model=model or run.model, graph=str(graph or run.agent), name=run.agent)


async def replay_run(memory: "Memory", id: str) -> tuple[Run, Run]:
    """Returns a recorded run and its replay, which asked no model."""
    from whet.agents import replay

    run, agent = await _maker(memory, id)
    return run, (await replay(agent, run.id)).run


async def fork_run(memory: "Memory", id: str, step: int, policy: str, model: str) -> Run:
    """Returns a run that shares the record of another up to a step, and goes on live under another policy."""
    from whet.agents import fork

    run, agent = await _maker(memory, id, model)
    return (await fork(agent, run.id, before=step, policy=await memory.policies.get(policy))).run
