"""The runtime of one run: what a node gets as ``runtime.context``.

    async def answer(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
        completion = await runtime.context.ask(state["messages"])
        verdicts = await runtime.context.verify(completion.text)

Whatever goes through the context is bounded by the run's budget and recorded under the node it happens in.
"""

import asyncio
import hashlib
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, TypeVar

import msgspec
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.types import interrupt

from whet.agents.jobs import Jobs
from whet.agents.recording import GraphRecorder, Place, current_run_id, describe_error
from whet.core import (
    Completion,
    Critique,
    CritiqueGiven,
    Json,
    Message,
    ModelCall,
    ModelError,
    Policy,
    Run,
    Sampling,
    Step,
    StepBody,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    UserError,
    Verdict,
    VerdictGiven,
    digest,
    new_id,
)
from whet.core.models import Model
from whet.feedback import FreshSandboxes
from whet.sandboxes import Sandbox

__all__ = ["ASK_PERSON", "AgentContext", "Criticise", "OpenSandbox", "Tool", "Verify", "current_context"]

Verify: TypeAlias = Callable[[Task, Run], Sequence[Verdict] | Awaitable[Sequence[Verdict]]]
Criticise: TypeAlias = Callable[[Task, Run, Sequence[Verdict]], Sequence[Critique] | Awaitable[Sequence[Critique]]]
OpenSandbox: TypeAlias = Callable[[], AbstractAsyncContextManager[Sandbox]]

Rerun: TypeAlias = Callable[["AgentContext", "Tool", ToolCall], Awaitable[ToolResult]]
Answered: TypeAlias = Callable[[Json], Json]
Arrived: TypeAlias = Callable[[str, list[str]], list[str]]

T = TypeVar("T")

ASK_PERSON = "ask_person"
"""The tool of this name asks a person; what it was asked is kept in the run's ``meta``, as ``questions``."""

_current: ContextVar["AgentContext"] = ContextVar("whet_agent_context")


class Tool(Protocol):
    """What an agent's model may call."""

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it."""
        ...

    @property
    def in_sandbox(self) -> bool:
        """Whether it acts in the run's sandbox only, so that it may be run again to rebuild the workspace."""
        ...

    async def run(self, context: "AgentContext", call: ToolCall) -> ToolResult:
        """Returns what the tool returned, or the error that the model is told.

        Raises:
            SandboxError: the sandbox failed; this is never shown to a model as a tool's output.
        """
        ...


class RecordedCalls:
    """A model whose calls become steps of the run, answered or failed."""

    def __init__(self, model: Model, record: Callable[[StepBody], Step], role: str = "") -> None:
        self._model = model
        self._record = record
        self._role = role

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._model.name

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the model's answer."""
        call = ModelCall(messages=tuple(messages), sampling=sampling, tools=tuple(tools), role=self._role)
        try:
            completion = (await self._model.complete(messages, tools=tools, sampling=sampling)).counted()
        except ModelError as error:
            self._record(msgspec.structs.replace(call, error=describe_error(error)))
            raise
        self._record(msgspec.structs.replace(call, completion=completion))
        return completion


@dataclass(kw_only=True)
class AgentContext:
    """One run's model, tools, policy and record, as its nodes see them.

    ``bounded`` is the model under the run's budget, unrecorded; ``model`` is the same one, recorded. ``further`` are
    the agent's further models by role, under the same budget. ``sandboxes`` lends fresh ones, for what is tried apart
    from the run's own. ``knobs`` are the policy's settings and ``prompts`` its prompts, with the defaults filled in.
    ``attempts`` are the answers judged so far and their verdicts; ``answers`` counts those that models gave, in a
    replay as well. ``logprobs`` asks for logprobs and token ids with every answer, so that training uses exactly what
    was sampled.
    """

    task: Task
    run: Run
    bounded: Model
    policy: Policy
    knobs: Mapping[str, int | float]
    system_message: str
    recorder: GraphRecorder
    tools: Mapping[str, Tool] = field(default_factory=dict)
    open_sandbox: OpenSandbox | None = None
    sandboxes: FreshSandboxes | None = None
    verifier: Verify | None = None
    consult: Verify | None = None
    critic: Criticise | None = None
    further: Mapping[str, Model] = field(default_factory=dict)
    rerun: Rerun | None = None
    answered: Answered | None = None
    arrived: Arrived | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    attempts: "dict[str | None, asyncio.Future[tuple[Verdict, ...]]]" = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    calls: int = 0
    answers: int = 0
    logprobs: bool = False
    jobs: Jobs = field(default_factory=Jobs)
    place: Place | None = None
    _asked: dict[ToolCall, tuple[Message, ...]] = field(default_factory=dict)
    _box: "asyncio.Future[Sandbox] | None" = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def model(self) -> Model:
        """The agent's model; calls are recorded under the node that makes them."""
        return RecordedCalls(self.bounded, self.record)

    @property
    def tool_specs(self) -> tuple[ToolSpec, ...]:
        """The tools as the model sees them."""
        return tuple(tool.spec for tool in self.tools.values())

    def model_of(self, role: str) -> Model:
        """Returns the further model of a role; its calls are recorded as those of ``model``, under its own name.

        Raises:
            UserError: the agent has none of that role.
        """
        if role not in self.further:
            known = ", ".join(sorted(self.further)) or "none"
            raise UserError(
                f"this agent has no model {role!r} (it has: {known}); give Agent(…, models={{{role!r}: …}})"
            )
        return RecordedCalls(self.further[role], self.record, role)

    def knob(self, name: str) -> int | float:
        """Returns the value of a knob of the agent's pattern.

        Raises:
            UserError: the pattern does not declare it, or leaves it open (then ask ``knobs.get``).
        """
        if name not in self.knobs:
            raise UserError(f"the pattern reads the knob {name!r}; set are {', '.join(sorted(self.knobs))}")
        return self.knobs[name]

    def prompt(self, name: str) -> str:
        """Returns the text of one of the pattern's prompts: the policy's, or the default.

        Raises:
            UserError: the pattern does not declare it.
        """
        if name not in self.prompts:
            raise UserError(f"the pattern reads the prompt {name!r}; declared are {', '.join(sorted(self.prompts))}")
        return self.prompts[name]

    def messages(self) -> list[Message]:
        """Returns the conversation before the first answer: the system message, where there is one, and the task's."""
        system = [Message(role="system", content=self.system_message)] if self.system_message else []
        return [*system, *self.task.messages]

    def here(self) -> Place:
        """Returns the node that is running, and its step."""
        return self.place or self.recorder.place(current_run_id(var_child_runnable_config.get()))

    def apart(self) -> "AgentContext":
        """Returns this context for what goes on beside the graph.

        It records where it began, however far the graph has come, and works in a fork of the sandbox, which has the
        task's files already; ``close_sandbox`` ends that.
        """
        task = msgspec.structs.replace(self.task, files={})
        return replace(self, place=self.here(), task=task, open_sandbox=self._fork, _box=None, _stack=AsyncExitStack())

    @asynccontextmanager
    async def _fork(self) -> AsyncIterator[Sandbox]:
        async with await (await self.sandbox()).fork() as box:
            yield box

    def record(self, body: StepBody) -> Step:
        """Records a step under the node that is running, and returns it."""
        self.recall(body)
        place = self.here()
        return self.recorder.trace.record(body, node=place.node, parent_id=place.step_id)

    def recall(self, body: StepBody) -> None:
        """Keeps what a step says that later ones need: on what conversation a model's tool calls followed."""
        if isinstance(body, ModelCall) and body.completion is not None:
            self._asked |= dict.fromkeys(body.completion.tool_calls, body.messages)

    def said_before(self, call: ToolCall) -> tuple[Message, ...]:
        """Returns the conversation on which the model made a tool call."""
        return self._asked.get(call, self.task.messages)

    def sampling(self, sample: int | None = None) -> Sampling:
        """Returns the policy's sampling, with a seed of its own for each call (or ``sample``) of a run's seed."""
        if sample is None:
            sample, self.calls = self.calls, self.calls + 1
        seed = int.from_bytes(hashlib.sha256(f"{self.run.seed}/{sample}".encode()).digest()[:4], "big") >> 1
        temperature, max_tokens = self.knobs.get("temperature"), self.knobs.get("max_tokens")
        return Sampling(
            temperature=temperature,
            max_tokens=None if max_tokens is None else int(max_tokens),
            seed=seed,
            logprobs=self.logprobs,
        )

    async def ask(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        sample: int | None = None,
        role: str | None = None,
    ) -> Completion:
        """Returns the model's answer under the policy's sampling, or that of the further model of a ``role``.

        ``sample`` numbers calls that run side by side.

        Raises:
            UserError: the agent has no model of that role.
            ModelError: the model gave no usable answer.
            BudgetError: the budget does not allow the call.
        """
        asked = self.model if role is None else self.model_of(role)
        completion = await asked.complete(messages, tools=tools, sampling=self.sampling(sample))
        self.answers += 1
        return completion

    def note(self, **meta: Json) -> None:
        """Puts something about the run into its ``meta``, where verifiers and reports find it."""
        self.run = msgspec.structs.replace(self.run, meta={**self.run.meta, **meta})

    async def call_tool(self, call: ToolCall) -> Message:
        """Runs the tool that the model calls, records the result, and returns the message that tells it."""
        tool = self.tools.get(call.name)
        if tool is None:
            known = ", ".join(self.tools) or "none"
            problem = f"there is no tool {call.name!r}; the tools are {known}"
            result = ToolResult(call=call, content="", error=problem, trust="trusted")
            self.record(result)
        else:
            result = await self.use(tool, call)
        return Message(role="tool", content=told(result), tool_call_id=call.id, name=call.name)

    async def use(self, tool: Tool, call: ToolCall) -> ToolResult:
        """Runs a tool, one of the pattern's own included, and returns its result, recorded."""
        result = await self.perform(tool, call)
        self.record(result)
        if call.name == ASK_PERSON and result.error is None:
            asked = self.run.meta.get("questions")
            question: Json = json.loads(call.arguments)["question"]
            self.note(questions=[*(asked if isinstance(asked, list) else []), question])
        return result

    async def perform(self, tool: Tool, call: ToolCall) -> ToolResult:
        """Returns what a tool returns, unrecorded; in a replay what it returned then."""
        return await (tool.run(self, call) if self.rerun is None else self.rerun(self, tool, call))

    def ask_person(self, question: Json) -> Json:
        """Returns a person's answer. The run is interrupted until it is there; a replay has it on its record.

        The node is executed again then, so it should do nothing before it asks that must not be done twice.
        """
        answer: Json = interrupt(question) if self.answered is None else self.answered(question)
        return answer

    async def sandbox(self) -> Sandbox:
        """Returns the run's sandbox, opened at the first call, with the task's files in its workspace.

        Raises:
            SandboxError: it could not be started.
            UserError: the agent was given none.
        """
        if self.open_sandbox is None:
            raise UserError("this agent has no sandbox; make it with Agent(…, sandbox=SandboxSpec())")
        if self._box is None:
            self._box = asyncio.ensure_future(self._open(self.open_sandbox))
        return await asyncio.shield(self._box)

    async def _open(self, opener: OpenSandbox) -> Sandbox:
        box = await self._stack.enter_async_context(opener())
        for path, text in self.task.files.items():
            await box.write(path, text)
        return box

    async def verify(self, answer: str | None) -> tuple[Verdict, ...]:
        """Returns the verdicts that the agent may hear while it works, recorded; an answer is judged once in a run.

        They come from ``consult``: outside training that is not what judges the final answer (``verifier``). The
        verdicts of the n-th answer judged in the run carry ``repetition`` n, from 1; ``repetition`` 0 is left to the
        verdict on the run's final answer.
        """
        if answer not in self.attempts:
            self.attempts[answer] = asyncio.ensure_future(self._judge(self.consult, answer, len(self.attempts) + 1))
        return await asyncio.shield(self.attempts[answer])

    async def verify_final(self, answer: str | None) -> tuple[Verdict, ...]:
        """Returns the verdicts on the run's answer, recorded with ``repetition`` 0; it is not judged a second time."""
        if answer not in self.attempts or self.consult != self.verifier:
            return await self._judge(self.verifier, answer, 0)
        judged = await self.attempts[answer]
        final = tuple(msgspec.structs.replace(verdict, id=new_id(), repetition=0) for verdict in judged)
        return self._give(answer, final)

    async def _judge(self, verifier: Verify | None, answer: str | None, number: int) -> tuple[Verdict, ...]:
        if verifier is None:
            return ()
        run = msgspec.structs.replace(self.run, answer=answer, status="done")
        found = await as_list(verifier(self.task, run))
        return self._give(answer, tuple(msgspec.structs.replace(v, repetition=number, scope=run.scope) for v in found))

    def _give(self, answer: str | None, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
        for verdict in verdicts:
            self.recorder.trace.put(verdict)
            self.record(VerdictGiven(verdict_id=verdict.id, answer=digest(answer or "")))
        return verdicts

    async def critique(self, answer: str | None, verdicts: Sequence[Verdict]) -> tuple[Critique, ...]:
        """Returns critiques of an answer, grounded in its verdicts, and recorded."""
        if self.critic is None:
            return ()
        run = msgspec.structs.replace(self.run, answer=answer)
        found = await as_list(self.critic(self.task, run, verdicts))
        critiques = tuple(msgspec.structs.replace(critique, scope=run.scope) for critique in found)
        for critique in critiques:
            self.recorder.trace.put(critique)
            self.record(CritiqueGiven(critique_id=critique.id, answer=digest(answer or "")))
        return critiques

    async def close(self) -> None:
        """Ends what was begun for this run and closes its sandbox, if one was opened; idempotent."""
        if judging := [future for future in self.attempts.values() if not future.done()]:
            for future in judging:
                future.cancel()
            await asyncio.wait(judging)
        await self.jobs.close()
        await self.close_sandbox()

    async def close_sandbox(self) -> None:
        """Closes the sandbox, if one was opened; idempotent."""
        box, self._box = self._box, None
        if box is not None:
            await asyncio.wait([box])
        await self._stack.aclose()


def current_context() -> AgentContext:
    """Returns the context of the agent's run around the caller; for code that LangGraph hands no runtime.

    Raises:
        UserError: no agent is running around the caller.
    """
    try:
        return _current.get()
    except LookupError:
        raise UserError("no agent is running here; run the graph with Agent(graph, model).arun(task)") from None


def enter_context(context: AgentContext) -> None:
    """Makes ``context`` the one that ``current_context`` returns in this task and what it starts."""
    _current.set(context)


def told(result: ToolResult) -> str:
    """Returns a tool's result as the model is told it."""
    return result.content if result.error is None else f"error: {result.error}"


def current_node() -> str:
    """Returns the path of the node around the caller, the empty text where there is none."""
    return current_context().here().node


async def as_list(value: "Sequence[T] | Awaitable[Sequence[T]]") -> "Sequence[T]":
    """Returns what a synchronous or asynchronous function gave."""
    return await value if inspect.isawaitable(value) else value
