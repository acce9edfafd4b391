"""What a recorded run got from outside, given again: answers of models, results of tools, verdicts, critiques.

    playback = await Playback.read(memory, run)                 # a replay: what is not on the record is refused
    playback = await Playback.read(memory, run, before=12)      # a fork: what came before step 12, then live

A model call is found by its content in a replay. In a fork it is found by its node and order, since under another
policy the same call has another content.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import msgspec
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.types import interrupt

from whet.agents.background import ARRIVALS, Background
from whet.agents.jobs import deliveries
from whet.agents.langchain_playback import ReplayGuard, answering
from whet.agents.precaution import NOT_RUN, Guarded, bare
from whet.agents.recording import GraphRecorder
from whet.agents.runtime import AgentContext, Criticise, Tool, Verify, as_list, current_node
from whet.agents.trace import ListRecorder, Trace
from whet.core import (
    Completion,
    Critique,
    CritiqueGiven,
    Interrupted,
    Json,
    Message,
    ModelCall,
    ModelError,
    RefusedError,
    Run,
    Sampling,
    Step,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
    Verdict,
    VerdictGiven,
    digest,
    encode,
    new_id,
)
from whet.core.models import Model

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["Playback", "rebuild"]


class Playback:
    """The record of a run as something to run against. ``live`` says what happens at a miss: go on, or refuse."""

    def __init__(
        self, run: Run, steps: Sequence[Step], verdicts: Sequence[Verdict], critiques: Sequence[Critique], *, live: bool
    ) -> None:
        self.run = run
        self.live = live
        self._calls: dict[str, deque[ModelCall]] = defaultdict(deque)
        self._said: dict[str, deque[ModelCall]] = defaultdict(deque)
        self.answered = 0
        self._results: dict[tuple[str, str], deque[ToolResult]] = defaultdict(deque)
        self._verdicts: dict[tuple[str, bool], list[Verdict]] = defaultdict(list)
        self._critiques: dict[str, list[Critique]] = defaultdict(list)
        self._answers: dict[bytes, deque[Json]] = defaultdict(deque)
        self._arrived: dict[str, list[str]] = {}
        self._heard: set[str] = set()
        said = {verdict.id: verdict for verdict in verdicts}
        explained = {critique.id: critique for critique in critiques}
        for step in steps:
            match step.body:
                case ModelCall() as call:
                    self._calls[step.node if live else call_key(call.messages, call.tools, call.sampling)].append(call)
                    self._said[call_key(call.messages)].append(call)
                case ToolResult() as result:
                    self._keep(result)
                case VerdictGiven(verdict_id=id, answer=answer) if id in said:
                    # A verdict outside of every node is the one on the run's answer, which no node heard.
                    self._verdicts[answer, not step.node].append(said[id])
                case CritiqueGiven(critique_id=id, answer=answer) if id in explained:
                    self._critiques[answer].append(explained[id])
                case Interrupted(value=question, resumed_with=answered) if answered is not None:
                    self._answers[encode(question)].append(answered)

    @classmethod
    async def read(cls, memory: "Memory", run: Run, *, before: int | None = None) -> Self:
        """Returns the playback of a run's steps, or of those before a step (by its ``seq``)."""
        steps = sorted(await memory.find(Step, where={"run_id": run.id}), key=lambda step: step.seq)
        verdicts = await memory.find(Verdict, where={"run_id": run.id})
        critiques = await memory.find(Critique, where={"run_id": run.id})
        kept = steps if before is None else [step for step in steps if step.seq < before]
        return cls(run, kept, verdicts, critiques, live=before is not None)

    def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling, node: str
    ) -> Completion | None:
        """Returns the recorded answer at no cost, or ``None`` where a fork goes on live.

        Raises:
            ModelError: the recorded call failed; or a replay asks for what is not on the record.
        """
        return self._take(self._calls[node if self.live else call_key(messages, tools, sampling)], messages)

    def complete_langchain(self, messages: Sequence[Message], node: str) -> Completion | None:
        """Returns the recorded answer to a LangChain model's messages, as ``complete`` does."""
        found = self._take(self._calls[node] if self.live else self._said[call_key(messages)], messages)
        self.answered += found is not None
        return found

    def _take(self, waiting: deque[ModelCall], messages: Sequence[Message]) -> Completion | None:
        if not waiting:
            if self.live:
                return None
            last = messages[-1].content[:200] if messages else ""
            raise ModelError(
                f"run {self.run.id!r} never asked this of its model (the last message is {last!r}): the graph has "
                "changed since, or is not deterministic; fork the run to go on live",
                failure="invalid",
            )
        # What ran side by side in a node may come in another order now; what was asked tells it apart.
        call = next((call for call in waiting if call.messages == tuple(messages)), waiting[0])
        waiting.remove(call)
        if call.completion is None:
            raise ModelError(call.error or "the recorded call has no answer")
        return msgspec.structs.replace(call.completion, usage=Usage(), kept=True)

    def attach(self, context: AgentContext) -> None:
        """Puts the record between a run and what is outside of it."""
        named = self.run.meta.get("models")
        recorded = named if isinstance(named, dict) else {}
        context.bounded = PlaybackModel(self, context.bounded, self.run.model)
        context.further = {
            role: PlaybackModel(self, model, str(recorded.get(role, model.name)))
            for role, model in context.further.items()
        }
        context.rerun, context.answered, context.arrived = self.tool, self.ask_person, self.arrived
        if context.consult is not None:
            context.consult = self.verifier(context.consult, final=False)
        if context.verifier is not None:
            context.verifier = self.verifier(context.verifier, final=True)
        context.critic = None if context.critic is None else self.critic(context.critic)

    def answering(self) -> AbstractContextManager[None]:
        """Returns a block in which LangChain's own models answer from the record."""
        return answering(self)

    def guard(self) -> BaseCallbackHandler:
        """Returns the LangChain handler that refuses what cannot be replayed."""
        return ReplayGuard(self)

    async def tool(self, context: AgentContext, tool: Tool, call: ToolCall) -> ToolResult:
        """Returns the recorded result of a tool; what acts in the sandbox is run as well in a fork, for its effects.

        Raises:
            RefusedError: a replay calls a tool that the recorded run did not.
        """
        if isinstance(tool, Guarded | Background):
            # It is reviewed, or begun, again; what it guards or does comes back here.
            return await tool.run(context, call)
        waiting = self._results[call.name, call.arguments]
        if waiting:
            # Jobs end in any order, and are told apart by their names.
            recorded = next((result for result in waiting if result.call.id == call.id), waiting[0])
            waiting.remove(recorded)
            if self.live and tool.in_sandbox:
                await tool.run(context, call)
            return msgspec.structs.replace(recorded, call=call)
        if not self.live:
            raise RefusedError(f"run {self.run.id!r} never called {call.name!r} with these arguments; fork it instead")
        return await tool.run(context, call)

    def _keep(self, result: ToolResult) -> None:
        self._heard |= set(deliveries(result))
        if result.call.id.startswith(ARRIVALS):
            self._arrived[result.call.id] = list(deliveries(result))
        elif not result.pending:
            self._results[result.call.name, result.call.arguments].append(result)

    def arrived(self, moment: str, ready: list[str]) -> list[str]:
        """Returns the jobs whose results arrived at a moment of the run; in a fork, those as well that came since."""
        recorded = self._arrived.get(moment, [])
        return [*recorded, *(name for name in ready if self.live and name not in self._heard)]

    def ask_person(self, question: Json) -> Json:
        """Returns what the person answered then; a question that is not on the record is asked, by an interrupt."""
        waiting = self._answers[encode(question)]
        answer: Json = waiting.popleft() if waiting else interrupt(question)
        return answer

    def verifier(self, live: Verify, *, final: bool) -> Verify:
        """Returns what gives the recorded verdicts, ``final`` or heard on the way, and asks ``live`` where none are."""

        async def verify(task: Task, run: Run) -> list[Verdict]:
            recorded = self._verdicts[digest(run.answer or ""), final]
            if not recorded:
                return list(await as_list(live(task, run)))
            latest = {verdict.verifier: verdict for verdict in recorded}
            return [msgspec.structs.replace(verdict, id=new_id(), run_id=run.id) for verdict in latest.values()]

        return verify

    def critic(self, live: Criticise) -> Criticise:
        """Returns what gives the recorded critiques of an answer, and asks ``live`` on one never criticised."""

        async def criticise(task: Task, run: Run, verdicts: Sequence[Verdict]) -> list[Critique]:
            recorded = self._critiques[digest(run.answer or "")]
            if not recorded:
                return list(await as_list(live(task, run, verdicts)))
            ids = tuple(verdict.id for verdict in verdicts)
            texts = {critique.text: critique for critique in recorded}
            return [
                msgspec.structs.replace(critique, id=new_id(), run_id=run.id, verdict_ids=ids)
                for critique in texts.values()
            ]

        return criticise


class PlaybackModel:
    """A model that answers from a playback. Only a fork that is past the record reaches the live model."""

    def __init__(self, playback: Playback, live: Model, recorded: str) -> None:
        self._playback = playback
        self._live = live
        self._recorded = recorded

    @property
    def name(self) -> str:
        """The name of the live model; in a replay, of the recorded one."""
        return self._live.name if self._playback.live else self._recorded

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the recorded answer, or the live model's.

        Raises:
            ModelError: as recorded, or the call is not on the record of a replay.
        """
        recorded = self._playback.complete(messages, tools, sampling, current_node())
        if recorded is not None:
            return recorded
        return await self._live.complete(messages, tools=tools, sampling=sampling)


async def rebuild(context: AgentContext, steps: Sequence[Step]) -> None:
    """Makes the workspace what it was after these steps: what acted in the sandbox is run again, unrecorded."""
    results = [step.body for step in steps if isinstance(step.body, ToolResult)]
    ran = [result.call for result in results if not (result.error or "").startswith(NOT_RUN)]
    again = [(bare(context.tools[call.name]), call) for call in ran if call.name in context.tools]
    if any(tool.in_sandbox for tool, _ in again):
        await context.sandbox()  # The copy below shares it.
        quiet = replace(context, recorder=GraphRecorder(Trace(ListRecorder(), context.run)))
        for tool, call in again:
            if tool.in_sandbox:
                await tool.run(quiet, call)


def call_key(messages: Sequence[Message], tools: Sequence[ToolSpec] = (), sampling: Sampling | None = None) -> str:
    """Returns the digest of what a model was asked, but for logprobs, which change no answer."""
    asked = None if sampling is None else msgspec.structs.replace(sampling, logprobs=False)
    return digest(encode([tuple(messages), tuple(tools), asked]))
