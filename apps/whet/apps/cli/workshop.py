"""What ``whet run`` and ``whet improve`` build: an agent from the settings, and the tasks a word stands for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.apps.cli.commands.rows import run_rows
from whet.apps.cli.output import Row
from whet.apps.cli.session import load_settings
from whet.core import Budget, Message, NotFoundError, Run, Task, UserError, digest

if TYPE_CHECKING:
    from whet.agents import Agent, RunResult
    from whet.agents.tools import FunctionTool
    from whet.core.models import Model
    from whet.memory import Memory

__all__ = ["Plan", "fork_run", "further_models", "make_agent", "replay_run", "resume_run", "run_plan", "tasks_of"]

SPECS = ("asking:", "humaneval:", "ilf:", "jsonl:", "world:")
_WITH_TOOLS = ("hierarchy", "react", "swe_search")


@dataclass(frozen=True)
class Plan:
    """What to run: a task set, a task id in the memory or a prompt; by which agent; under which policy."""

    task: str
    model: str = ""
    graph: str = "refine"
    models: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    split: str = ""
    limit: int = 0
    seed: int = 0
    policy: str = "head"
    concurrency: int = 4
    resume: bool = False


def make_agent(
    memory: "Memory",
    *,
    model: "str | Model" = "",
    graph: str = "refine",
    name: str | None = None,
    models: "Mapping[str, str | Model] | None" = None,
    tools: Sequence[str] = (),
) -> "Agent":
    """Returns an agent on the project's memory; its model is the settings' one where none is given.

    ``models`` are further models by role; those of the settings are taken where the graph asks them. Without ``tools``
    a graph that uses tools gets ``shell`` and ``python``.

    Raises:
        UserError: no such graph, model or tool; the message lists what there is.
    """
    from whet.agents import Agent
    from whet.agents.graphs import find_graph

    settings = load_settings()
    roles = find_graph(graph).roles
    named_models = {role: name for role, name in settings.models.items() if role in roles} | dict(models or {})
    further = {role: settings.load_model(m) if isinstance(m, str) else m for role, m in named_models.items()}
    chosen = settings.load_model(model) if isinstance(model, str) else model
    named = tools or (("shell", "python") if graph in _WITH_TOOLS else ())
    return Agent(
        graph,
        chosen,
        sandbox=settings.sandbox,
        tools=[_tool(word) for word in named],
        memory=memory,
        name=name,
        models=further,
    )


def _tool(name: str) -> "FunctionTool":
    from whet.agents import ask_person, python, shell, simulated_person

    tools = {"ask_person": ask_person, "python": python, "shell": shell, "simulated_person": simulated_person()}
    if name not in tools:
        raise UserError(
            f"whet run knows no tool {name!r}; its tools are {', '.join(tools)}; give others to Agent(…) in Python"
        )
    return tools[name]


def further_models(pairs: Sequence[str]) -> dict[str, str]:
    """Returns further models by role, as ``ROLE=NAME`` says.

    Raises:
        UserError: a pair of another form.
    """
    split = [pair.partition("=") for pair in pairs]
    if wrong := [pair for pair, (role, _, name) in zip(pairs, split, strict=True) if not (role and name)]:
        raise UserError(f"--models {wrong[0]!r} does not say which model for what; write --models reviewer=NAME")
    return {role: name for role, _, name in split}


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
    """Runs the plan under the budget and returns a row for each task, those included that were done before."""
    from whet.agents import run_tasks

    tasks = await tasks_of(memory, plan.task)
    chosen = [task for task in tasks if plan.split in ("", task.split)][: plan.limit or None]
    if not chosen:
        raise UserError(f"no task of split {plan.split!r} in {plan.task!r}; there are train, heldout and sealed")
    agent = make_agent(memory, model=plan.model, graph=plan.graph, models=further_models(plan.models), tools=plan.tools)
    policy = await memory.policies.get(plan.policy)
    runs = await _done(memory, agent, policy.digest, plan.seed) if plan.resume else {}
    left = [task for task in chosen if task.id not in runs]
    results = await run_tasks(
        agent, left, seeds=(plan.seed,), concurrency=plan.concurrency, budget=budget, policy=policy, purpose="live"
    )
    runs |= {result.run.task_id: result.run for result in results}
    asked = {result.run.id: list(result.interrupts) for result in results}
    rows = await run_rows(memory, [runs[task.id] for task in chosen])
    return [{**row, "interrupts": asked.get(str(row["id"]), [])} for row in rows]


async def _done(memory: "Memory", agent: "Agent", policy: str, seed: int) -> dict[str, Run]:
    """Returns the newest finished live run of every task, by this agent under this policy and seed."""
    same = {"agent": agent.name, "model": agent.model.name, "policy": policy, "purpose": "live", "status": "done"}
    further = {role: model.name for role, model in agent.models.items()}
    found = [run for run in await memory.find(Run, where=same) if run.seed == seed]
    return {run.task_id: run for run in found if run.meta.get("models", {}) == further}


async def _agent_of(memory: "Memory", run: Run, model: "str | Model", graph: str) -> "Agent":
    """Returns the agent that made a run, with this model (the settings' one where it is empty), and its tools.

    Its further models are those of the run; in a replay nobody asks them.
    """
    from whet.core.models import ScriptedModel

    named = graph or str(run.meta.get("graph") or run.agent)
    models, tools = run.meta.get("models"), run.meta.get("tools")
    further = {role: str(name) for role, name in models.items()} if isinstance(models, dict) else {}
    return make_agent(
        memory,
        model=model,
        graph=named,
        name=run.agent,
        models=further if isinstance(model, str) else {role: ScriptedModel([], name=n) for role, n in further.items()},
        tools=[str(name) for name in tools] if isinstance(tools, list) else (),
    )


async def replay_run(memory: "Memory", id: str, graph: str) -> tuple[Run, Run]:
    """Returns a recorded run and its replay, which has no model to ask."""
    from whet.agents import replay
    from whet.core.models import ScriptedModel

    run = await memory.get(Run, id)
    agent = await _agent_of(memory, run, ScriptedModel([], name=run.model), graph)
    return run, (await replay(agent, run.id)).run


async def fork_run(memory: "Memory", id: str, step: int, policy: str, model: str, graph: str) -> Run:
    """Returns a run that shares the record of another up to a step, and goes on live under another policy."""
    from whet.agents import fork

    run = await memory.get(Run, id)
    agent = await _agent_of(memory, run, model, graph)
    return (await fork(agent, run.id, before=step, policy=await memory.policies.get(policy))).run


async def resume_run(memory: "Memory", id: str, answer: str | None, model: str, graph: str) -> "RunResult":
    """Returns the result of a run that went on from its checkpoint with a person's answer."""
    run = await memory.get(Run, id)
    agent = await _agent_of(memory, run, model, graph)
    return await agent.resume(run.id, answer)
