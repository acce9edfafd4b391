"""One run from first step to last record: drive the graph, judge the answer, leave a record whatever happens."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command, Interrupt, StateSnapshot

from whet.agents.checkpoints import saver_of
from whet.agents.graphs import Graph
from whet.agents.recording import Compiled, describe_error
from whet.agents.runtime import AgentContext, enter_context
from whet.agents.states import to_json
from whet.core import (
    Budget,
    BudgetError,
    Critique,
    Interrupted,
    Json,
    Run,
    RunStatus,
    Step,
    StoreError,
    Use,
    UserError,
    Verdict,
    now_ms,
)
from whet.feedback.judges import judging_under

if TYPE_CHECKING:
    from whet.agents.playback import Playback
    from whet.memory import Memory

__all__ = ["Event", "Execution", "RunResult", "Token"]

Durability: TypeAlias = Literal["exit", "async", "sync"]

# A pattern is bounded by its own knobs (turns, rounds), so LangGraph's limit only has to be out of their way.
_RECURSION_LIMIT = 10_000


@dataclass(frozen=True)
class RunResult:
    """What a run came to. ``verdicts`` are those on the answer; ``interrupts`` are what the graph asks a person."""

    run: Run
    answer: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    critiques: tuple[Critique, ...] = ()
    interrupts: tuple[Json, ...] = ()
    state: object = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        """Whether at least one verdict judged the answer and all that judged it passed."""
        judged = [verdict for verdict in self.verdicts if verdict.judged]
        return bool(judged) and all(verdict.outcome == "pass" for verdict in judged)

    @property
    def score(self) -> float | None:
        """The mean score of the verdicts that judged, ``None`` where none did."""
        scores = [verdict.score for verdict in self.verdicts if verdict.judged]
        return sum(scores) / len(scores) if scores else None


@dataclass(frozen=True)
class Token:
    """A piece of text as a LangChain model streams it, and the node it comes from."""

    node: str
    text: str


Event: TypeAlias = Step | Token


@dataclass(kw_only=True)
class Execution:
    """A graph bound to one run's context. ``durability`` says when LangGraph's checkpoints are written."""

    graph: Graph
    context: AgentContext
    memory: "Memory | None" = None
    uses: tuple[Use, ...] = ()
    durability: Durability = "exit"
    budget: Budget | None = None
    listener: "Callable[[Event], None] | None" = None
    playback: "Playback | None" = None
    saver: BaseCheckpointSaver[str] | None = None

    def __post_init__(self) -> None:
        # Where a pattern asks no person, there is nothing to resume at its exit.
        if self.durability != "exit" or not self.graph.native or self.graph.asks or self.context.tools:
            self._save()

    def _save(self) -> None:
        if self.memory is not None and self.graph.compiled.checkpointer is None:
            self.saver = saver_of(self.memory)

    async def start(self) -> RunResult:
        """Returns the result of the run, begun at the graph's entry."""
        return await self._run(lambda: self.graph.start(self.context.task, self.context.system_message))

    async def resume(self, answer: Json) -> RunResult:
        """Returns the result of the run, gone on with from its last checkpoint.

        ``answer`` goes to the question the graph asked; it is not used where the graph was cut off otherwise. Where
        several nodes asked at once, it is a list of answers in the order of ``interrupts``.

        Raises:
            UserError: the run has no checkpoint to go on from, or there are not as many answers as questions.
        """
        self._save()
        snapshot = await self._bound().aget_state(self._config())
        if not snapshot.next:
            raise UserError(
                f"run {self.context.run.id!r} has no checkpoint to go on from; "
                "it ended, or ran without a memory, or was cut off before a checkpoint under durability 'exit'"
            )
        asked = [question for task in snapshot.tasks for question in task.interrupts]
        answers = dict(zip((question.id for question in asked), _answers(asked, answer), strict=True))
        self._note(snapshot, answers)
        return await self._run(lambda: Command(resume=answers) if asked else None)

    def _note(self, snapshot: StateSnapshot, answers: dict[str, Json]) -> None:
        for task in snapshot.tasks:
            for question in task.interrupts:
                body = Interrupted(value=to_json(question.value), resumed_with=to_json(answers[question.id]))
                self.context.recorder.trace.record(body, node=task.name)

    async def _run(self, given: Callable[[], object]) -> RunResult:
        """Drives, judges and records; even a cancelled run's record is durable before the caller hears of it."""
        enter_context(self.context)
        for record in (self.context.run, *self.uses):
            self.context.recorder.trace.put(record)
        try:
            with judging_under(self.budget):
                result = await self._judged(*await self._drive(given))
        except BaseException as error:
            await asyncio.shield(self._end(RunResult(self._closed("cancelled", None, describe_error(error)))))
            raise
        return await self._end(result)

    async def _drive(self, given: Callable[[], object]) -> tuple[RunStatus, str | None, str | None, object]:
        """Returns status, answer, error and final state. The boundary at which a node's failure becomes a record."""
        recorder = self.context.recorder
        try:
            state = await self._in_time(given())
            if recorder.interrupted:
                return "interrupted", None, None, state
            return "done", self.graph.answer(state), None, state
        except BudgetError as error:
            return "cancelled", None, f"budget: {error}", None
        except Exception as error:
            where = f"node {recorder.failed_node!r}: " if recorder.failed_node else ""
            return "failed", None, where + describe_error(error), None

    async def _in_time(self, given: object) -> object:
        """Returns the final state; a graph that asks no model ends with the budget's deadline all the same."""
        budget = self.budget or Budget()
        with budget.reserve(), nullcontext() if self.playback is None else self.playback.answering():
            try:
                async with asyncio.timeout(budget.remaining.seconds) as deadline:
                    return await self._invoke(given)
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise BudgetError("the deadline passed while the graph was running", unit="seconds") from error

    async def _judged(self, status: RunStatus, answer: str | None, error: str | None, state: object) -> RunResult:
        if status == "interrupted":
            # A person takes longer than a job, whose result then waits for the run to go on.
            await self.context.jobs.settle((self.budget or Budget()).remaining.seconds)
        # Before the verifiers ask for sandboxes: a pool of limited size must not wait for what this run holds.
        await self.context.close()
        run = self._closed(status, answer, error)
        if status != "done":
            return RunResult(run, answer, interrupts=tuple(self.context.recorder.interrupts), state=state)
        verdicts: tuple[Verdict, ...] = ()
        critiques: tuple[Critique, ...] = ()
        try:
            verdicts = await self.context.verify_final(answer)
            if any(verdict.outcome == "fail" for verdict in verdicts):
                critiques = await self.context.critique(answer, verdicts)
        except StoreError:
            raise
        except Exception as failure:  # a boundary: what judges may be anyone's code, and the run is done without it
            error = f"not judged: {describe_error(failure)}"
        return RunResult(self._closed(status, answer, error), answer, verdicts, critiques, state=state)

    def _closed(self, status: RunStatus, answer: str | None, error: str | None) -> Run:
        ended = None if status == "interrupted" else now_ms()
        usage = self.context.recorder.trace.usage
        return msgspec.structs.replace(
            self.context.run, status=status, answer=answer, error=error, usage=usage, ended_at=ended
        )

    async def _end(self, result: RunResult) -> RunResult:
        """Closes the sandbox and returns the result once its record is durable."""
        try:
            await self.context.close()
        finally:
            self.context.recorder.trace.put(result.run)
            if self.saver is not None and result.run.status == "done":
                await self.saver.adelete_thread(result.run.id)
            if self.memory is not None:
                await self.memory.recorder.flush()
        return result

    # --- LangGraph --------------------------------------------------------------------------------------------------

    def _bound(self) -> Compiled:
        """Returns the graph with the memory's checkpointer, where it needs one and was compiled without."""
        if self.saver is None:
            return self.graph.compiled
        return self.graph.compiled.copy({"checkpointer": self.saver})

    def _config(self) -> RunnableConfig:
        config = RunnableConfig(callbacks=self._callbacks(), configurable={"thread_id": self.context.run.id})
        if self.graph.native:
            config["recursion_limit"] = _RECURSION_LIMIT
        return config

    def _callbacks(self) -> list[BaseCallbackHandler]:
        return [self.context.recorder] if self.playback is None else [self.context.recorder, self.playback.guard()]

    async def _invoke(self, given: object) -> object:
        bound = self._bound()
        context = self.context if bound.context_schema in (None, AgentContext) else self.graph.context
        durability = self.durability if bound.checkpointer else None
        if self.listener is None:
            return await bound.ainvoke(given, self._config(), context=context, durability=durability)
        state: object = None
        modes: list[Literal["values", "messages"]] = ["values", "messages"]
        stream = bound.astream(
            given, self._config(), context=context, durability=durability, stream_mode=modes, subgraphs=True
        )
        async for namespace, mode, chunk in stream:
            if mode == "messages":
                self._tell_token(*chunk)
            elif not namespace:
                state = chunk
        return state

    def _tell_token(self, message: object, metadata: dict[str, Any]) -> None:
        if self.listener is not None and isinstance(message, BaseMessage) and message.text:
            self.listener(Token(node=str(metadata.get("langgraph_node", "")), text=str(message.text)))


def _answers(asked: Sequence[Interrupt], answer: Json) -> list[Json]:
    """Returns an answer for each question."""
    if len(asked) < 2:
        return [answer] * len(asked)
    if not isinstance(answer, list) or len(answer) != len(asked):
        raise UserError(f"{len(asked)} questions wait for an answer; resume the run with a list of {len(asked)}")
    return answer
