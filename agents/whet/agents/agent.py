"""``Agent``: a graph that works on tasks under a policy, in a sandbox, with everything it does recorded.

    agent = Agent("refine", load_model("tiny"), memory=".whet")
    result = agent.run("Write a function that adds two numbers.")     # in async code: await agent.arun(…)
    print(result.answer)

A run that fails is a record (``result.run.status``, ``result.run.error``), not an exception.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import msgspec
from langchain_core.tools import BaseTool

from whet.agents import precaution
from whet.agents.briefing import Briefing, brief
from whet.agents.execution import Durability, Event, Execution, RunResult, Token
from whet.agents.graphs import Graph, GraphLike, find_graph
from whet.agents.knobs import Knob, resolve_knobs, resolve_prompts
from whet.agents.recording import GraphRecorder
from whet.agents.resources import Resources, SandboxLike
from whet.agents.runtime import AgentContext, Criticise, Verify
from whet.agents.shortcuts import with_skills
from whet.agents.tools import Function, Tool, toolbox
from whet.agents.trace import ListRecorder, Trace
from whet.core import (
    Budget,
    Critique,
    Json,
    Message,
    ModelCall,
    Policy,
    Run,
    Step,
    Task,
    Usage,
    UserError,
    Verdict,
    digest,
)
from whet.core.models import Budgeted, Model, adaptable, as_model
from whet.feedback import verify_all
from whet.sandboxes import SandboxSpec

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from whet.agents.playback import Playback
    from whet.memory import Memory

__all__ = ["Agent", "Purpose", "RunResult", "Token"]

Purpose: TypeAlias = Literal["train", "gate", "live"]

KNOBS = {"recall_k": Knob(8, low=0, high=100), "withhold_rate": Knob(0.05, high=1.0)}
"""What the policy of every agent may set: how many lessons are recalled, how often each is withheld at random."""


class Agent:
    """A graph bound to a model, a policy, tools, a sandbox and a memory.

    Args:
        graph: a pattern (``react``, ``refine``, ``best_of_n``), a LangGraph graph or a function returning one,
            ``path/file.py:graph``, or what ``adapt`` returns.
        model: a model, a name for ``load_model``, or any LangChain chat model.
        sandbox: what the tools work in: a back end's name, a spec or a pool (a new sandbox for each run), or an open
            one. A default one unless given; none is opened before a tool asks for it.
        tools: functions, ``@tool`` tools or LangChain tools that the model may call.
        policy: the policy to run under; without it the head of the memory's policy history.
        memory: an open ``Memory``, or where one is (then it is opened while the agent is in use).
        name: how runs name the agent; the graph's name unless given.
        verify: judges answers in place of the task's own verifiers.
        critique: explains verdicts in place of the critic that names the failing checks.
        models: further models by role, for a graph that asks them: ``{"reviewer": …}``. All share the run's budget.
        durability: when checkpoints are written: at the ``exit`` of the graph (which an interrupt is), ``async`` with
            the next step, or ``sync`` before it, so that a run that is killed goes on where it was.

    Raises:
        UserError: no such graph or model, a knob that does not exist, tools of one name, or a further model that the
            graph needs and has not, or has and never asks.
    """

    def __init__(
        self,
        graph: GraphLike,
        model: "Model | BaseChatModel | str",
        *,
        sandbox: SandboxLike | None = None,
        tools: Sequence[Tool | BaseTool | Function] = (),
        policy: Policy | None = None,
        memory: "Memory | str | Path | None" = None,
        name: str | None = None,
        verify: Verify | None = None,
        critique: Criticise | None = None,
        models: "Mapping[str, Model | BaseChatModel | str] | None" = None,
        durability: Durability = "exit",
    ) -> None:
        self.graph: Graph = find_graph(graph)
        self.name = name or self.graph.name
        self.model: Model = as_model(model)
        self.policy = policy
        self.tools = toolbox(tools)
        self.models = self._further(models or {})
        self.durability: Durability = durability
        self.resources = Resources(memory, SandboxSpec() if sandbox is None else sandbox)
        self._verify = verify
        self._critique = critique
        if policy is not None:
            self.knobs(policy)
            self.prompts(policy)

    def _further(self, models: "Mapping[str, Model | BaseChatModel | str]") -> dict[str, Model]:
        if missing := [role for role in self.graph.roles if role not in models]:
            raise UserError(
                f"graph {self.graph.name!r} asks a further model {(role := missing[0])!r}; "
                f"give Agent(…, models={{{role!r}: …}}), whet run --models {role}=NAME, or [models] in whet.toml"
            )
        roles = [*self.graph.roles, *([precaution.ROLE] if self._guards() else [])]
        if unknown := [role for role in models if role not in roles]:
            raise UserError(
                f"graph {self.graph.name!r} never asks a model {unknown[0]!r}; the further models it asks: "
                f"{', '.join(roles) or 'none'}"
            )
        return {role: as_model(model) for role, model in models.items()}

    def _made_of(self) -> dict[str, Json]:
        models: dict[str, Json] = {role: model.name for role, model in self.models.items()}
        made: dict[str, Json] = {"models": models, "tools": list(self.tools)}
        return {key: value for key, value in made.items() if value}

    def knobs(self, policy: Policy) -> dict[str, int | float]:
        """Returns the value of every knob of this agent under a policy.

        Raises:
            UserError: the policy sets a knob the agent does not have, or a value it does not take.
        """
        return resolve_knobs(policy, self.settings)

    @property
    def settings(self) -> dict[str, Knob]:
        """Every knob that its policy may set, with default and range."""
        return {**KNOBS, **(precaution.KNOBS if self._guards() else {}), **self.graph.knobs}

    def prompts(self, policy: Policy) -> dict[str, str]:
        """Returns the text of every prompt of this agent under a policy: ``system``, and those that its graph reads.

        Raises:
            UserError: the policy has a prompt that the agent does not read.
        """
        guards = precaution.PROMPTS if self._guards() else {}
        return resolve_prompts(policy, {"system": "", **guards, **self.graph.prompts})

    def _guards(self) -> bool:
        return any(isinstance(tool, precaution.Guarded) for tool in self.tools.values())

    async def __aenter__(self) -> Self:
        """Keeps memory and sandboxes open until the block ends; without it every run opens and closes them."""
        await self.resources.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.resources.__aexit__(*exc)

    # --- running ----------------------------------------------------------------------------------------------------

    async def arun(
        self,
        task: Task | str,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        purpose: Purpose | None = None,
        policy: Policy | None = None,
        lessons: Collection[str] | None = None,
        tags: Sequence[str] = (),
        listener: "Callable[[Event], None] | None" = None,
    ) -> RunResult:
        """Returns the result of one run, once its record is durable.

        ``purpose`` is ``live`` for a text and ``train`` for a task unless given; for ``gate`` nothing is withheld.
        ``lessons`` are the ids of those that may be recalled, proposed ones included; without it all active ones may.
        ``listener`` hears of each step as it happens.

        Raises:
            UserError: the policy does not fit the agent. What goes wrong later is in ``result.run``.
        """
        async with self.resources:
            given = self.resources.in_scope(as_task(task))
            current = policy or await self.current_policy()
            self.knobs(current)
            self.prompts(current)
            run = Run(
                task_id=given.id,
                agent=self.name,
                policy=await self.resources.remember(current, given),
                model=self.model.name,
                seed=seed,
                purpose=purpose or ("live" if isinstance(task, str) else "train"),
                tags=tuple(tags),
                scope=given.scope,
            )
            execution = await self.begin(given, run, current, budget=budget, listener=listener, lessons=lessons)
            return await execution.start()

    def run(self, task: Task | str, *, seed: int = 0, budget: Budget | None = None) -> RunResult:
        """Returns the result of one run, for programs that are not asynchronous: ``asyncio.run`` around ``arun``.

        Raises:
            UserError: an event loop is running already (as in a notebook), or the memory was opened in another one.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self.resources.borrowed:
                raise UserError(
                    "an open Memory belongs to the event loop that opened it; give the agent its path, or await arun()"
                ) from None
            return asyncio.run(self.arun(task, seed=seed, budget=budget))
        raise UserError("an event loop is running here (a notebook?); write `await agent.arun(task)`")

    async def stream(
        self, task: Task | str, *, seed: int = 0, budget: Budget | None = None, purpose: Purpose | None = None
    ) -> AsyncIterator[Event | RunResult]:
        """Yields each step as it is recorded, each token that a LangChain model streams, and last the result.

        Leaving the loop early cancels the run.
        """
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        work = self.arun(task, seed=seed, budget=budget, purpose=purpose, listener=events.put_nowait)
        running = asyncio.create_task(work)
        running.add_done_callback(lambda done: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await running
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def resume(self, run_id: str, answer: Json = None, *, budget: Budget | None = None) -> RunResult:
        """Returns the result of a run that goes on from its last checkpoint, in this process or after a restart.

        A run that was interrupted to ask a person goes on with ``answer`` (a list of them where several nodes asked
        at once); one that was cut off goes on without. What tools did in the sandbox is done again in a new one, unless
        the agent was given an open sandbox.

        Raises:
            NotFoundError: there is no such run.
            UserError: the agent has no memory, is another one than the run's, or the run has no checkpoint.
        """
        from whet.agents.playback import rebuild

        async with self.resources:
            memory = self.memory_for("resume a run")
            run = await memory.get(Run, run_id)
            self.refuse_another(run)
            task, policy = await memory.get(Task, run.task_id), await memory.policies.get(run.policy)
            steps = sorted(await memory.find(Step, where={"run_id": run.id}), key=lambda step: step.seq)
            run = msgspec.structs.replace(run, usage=_used(steps))
            execution = await self.begin(task, run, policy, budget=budget, first=len(steps))
            execution.context.calls = sum(isinstance(step.body, ModelCall) for step in steps)
            for step in steps:
                execution.context.recall(step.body)
            execution.context.jobs.restore(execution.context, steps)
            if not self.resources.keeps_workspace:
                await rebuild(execution.context, steps)
            return await execution.resume(answer)

    def refuse_another(self, run: Run, *, model: bool = True) -> None:
        """Raises ``UserError`` when another agent made the run, or one with another model where that matters."""
        mine = {"agent": self.name, "graph": self.graph.name, "model": self.model.name, **self._made_of()}
        theirs = {"graph": self.graph.name, **run.meta, "agent": run.agent, "model": run.model}
        compared = ("agent", "graph", *(("model", "models") if model else ()))
        if different := [key for key in compared if mine.get(key) != theirs.get(key)]:
            said = ", ".join(f"{key} {theirs.get(key)!r} (this agent: {mine.get(key)!r})" for key in different)
            raise UserError(f"run {run.id!r} was made by another agent: {said}; use the same one")

    async def begin(
        self,
        task: Task,
        run: Run,
        policy: Policy,
        *,
        budget: Budget | None = None,
        listener: "Callable[[Event], None] | None" = None,
        first: int = 0,
        lessons: Collection[str] | None = None,
        playback: "Playback | None" = None,
    ) -> Execution:
        """Returns the run bound to all that it needs, for ``start`` or ``resume``; the agent has to be entered.

        A run that was briefed before (it is resumed or replayed) is told what it was told then. The model is the
        agent's under the policy's adapter; a replay asks none, so it needs no adapter.

        Raises:
            UserError: the policy does not fit the agent, or its adapter does not fit the model.
        """
        memory = self.resources.memory
        live = playback is None or playback.live
        model = await self.resources.adapted(self.model, policy) if live else self.model
        briefing = await self._brief(task, run, policy, lessons)
        run = msgspec.structs.replace(
            run,
            status="running",
            ended_at=None,
            meta={**run.meta, "graph": self.graph.name, "system": briefing.system, **self._made_of()},
        )
        trace = Trace(ListRecorder() if memory is None else memory.recorder, run, first=first, listener=listener)
        context = self._context(task, run, policy, model, GraphRecorder(trace, budget=budget))
        if playback is not None:
            playback.attach(context)
        return Execution(
            graph=self.graph,
            context=context,
            memory=memory,
            uses=briefing.uses,
            durability=self.durability,
            budget=budget,
            listener=listener,
            playback=playback,
        )

    def _context(self, task: Task, run: Run, policy: Policy, model: Model, recorder: GraphRecorder) -> AgentContext:
        budget = recorder.budget
        return AgentContext(
            task=task,
            run=run,
            bounded=_within(budget, model),
            further={role: _within(budget, other) for role, other in self.models.items()},
            policy=policy,
            knobs=self.knobs(policy),
            prompts=self.prompts(policy),
            system_message=str(run.meta["system"]),
            recorder=recorder,
            calls=run.usage.calls,
            answers=run.usage.calls,
            logprobs=run.purpose in ("train", "live") and adaptable(model) is not None,
            tools=with_skills(self.tools, policy),
            open_sandbox=self.resources.workspace,
            sandboxes=self.resources.sandboxes,
            verifier=self._verify or self._verify_by_task,
            consult=self._verify or self._consulted(task, run),
            critic=self._critique or _criticise,
        )

    async def _brief(self, task: Task, run: Run, policy: Policy, lessons: Collection[str] | None) -> Briefing:
        knobs = self.knobs(policy)
        if isinstance(told := run.meta.get("system"), str):
            return Briefing(system=told)
        return await brief(
            policy,
            task,
            run,
            self.resources.memory,
            recall=int(knobs["recall_k"]),
            withhold_rate=0.0 if run.purpose == "gate" else float(knobs["withhold_rate"]),
            can_open=bool(self.tools),
            only=lessons,
        )

    async def current_policy(self) -> Policy:
        """Returns the policy that a run begins under now: the agent's own, or the head of the memory's history."""
        if self.policy is not None:
            return self.policy
        return Policy() if self.resources.memory is None else await self.resources.memory.policies.head()

    def memory_for(self, purpose: str) -> "Memory":
        """Returns the open memory.

        Raises:
            UserError: the agent has none, and so cannot do this.
        """
        if self.resources.memory is None:
            raise UserError(f"without a memory the agent cannot {purpose}; make it with Agent(…, memory='.whet')")
        return self.resources.memory

    def _consulted(self, task: Task, run: Run) -> Verify:
        practice = run.purpose == "train" and task.split == "train"
        return self._verify_by_task if practice else self._verify_publicly

    async def _verify_publicly(self, task: Task, run: Run) -> Sequence[Verdict]:
        public = tuple(spec for spec in task.verifiers if spec.public)
        return await self._verify_by_task(msgspec.structs.replace(task, verifiers=public), run)

    async def _verify_by_task(self, task: Task, run: Run) -> Sequence[Verdict]:
        return await verify_all(task, run, self.resources.sandboxes) if task.verifiers else ()


def as_task(task: Task | str) -> Task:
    """Returns a task; a text becomes one whose id is its digest, so the same text is the same task."""
    if isinstance(task, Task):
        return task
    return Task(id=f"text-{digest(task)[:16]}", messages=(Message(role="user", content=task),), task_set="text")


def _within(budget: Budget | None, model: Model) -> Model:
    return model if budget is None else Budgeted(model, budget)


def _used(steps: Sequence[Step]) -> Usage:
    """Returns what the model calls among the steps used; a run that was killed could not say it itself."""
    calls = [step.body for step in steps if isinstance(step.body, ModelCall)]
    return sum((call.completion.usage for call in calls if call.completion is not None), Usage())


async def _criticise(task: Task, run: Run, verdicts: Sequence[Verdict]) -> Sequence[Critique]:
    from whet.feedback import CheckCritic

    return await CheckCritic().critique(task, run, verdicts)
