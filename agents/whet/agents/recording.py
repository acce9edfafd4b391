"""Records any LangGraph graph without rewriting it: nodes, sub-graphs, model calls, tools, interrupts, failures.

    graph = record_graph(load_graph("my_graph.py:graph"), memory.recorder, run)
    await graph.ainvoke({"messages": [("user", "Hello")]})     # or invoke, stream, astream

``GraphRecorder`` is a LangChain callback handler: LangGraph reports every node to it, LangChain every call of a chat
model or tool inside a node, each with the id of what it runs in, so the steps form a tree. It is synchronous and runs
inline, since a handler that awaits would cost a task switch at every event, and a synchronous graph could not use it.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableConfig
from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.graph.state import StateGraph
from langgraph.pregel import Pregel

from whet.agents.states import to_json
from whet.agents.trace import Recorder, Trace
from whet.core import (
    Budget,
    BudgetError,
    Cost,
    Interrupted,
    Json,
    Message,
    ModelCall,
    NodeFinished,
    NodeStarted,
    Reservation,
    Run,
    Sampling,
    ToolCall,
    ToolResult,
    ToolSpec,
)
from whet.core.models.langchain import completion_of, messages_of, tools_of
from whet.core.models.pricing import bound_tokens

__all__ = ["BOUNDED", "Builder", "Compiled", "GraphRecorder", "describe_error", "record_graph"]


BOUNDED = "whet"
"""The provider that ``AgentChatModel`` tells LangChain; its calls are bounded and recorded by the run itself."""

Builder: TypeAlias = StateGraph[Any, Any, Any, Any]
Compiled: TypeAlias = Pregel[Any, Any, Any, Any]
"""Any LangGraph graph, before and after it is compiled: its four type parameters are its own affair."""


class Place(msgspec.Struct, frozen=True):
    """Where something runs: the step of the node around it, the node's path, and LangGraph's name for the task."""

    step_id: str | None = None
    node: str = ""
    namespace: str = ""


class Asked(msgspec.Struct):
    """A model call or tool call under way."""

    place: Place
    messages: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    tools: tuple[ToolSpec, ...] = ()
    call: ToolCall | None = None
    reservation: Reservation | None = None
    started: float = 0.0


_ROOT = Place()


def record_graph(graph: Builder | Compiled, recorder: Recorder, run: Run) -> Compiled:
    """Returns the graph, compiled, such that everything it does is recorded as steps of ``run``.

    It can be invoked and streamed, synchronously or not; one run is one invocation (and its resumptions).
    """
    compiled = graph.compile() if isinstance(graph, StateGraph) else graph
    return compiled.with_config(callbacks=[GraphRecorder(Trace(recorder, run))])


def describe_error(error: BaseException) -> str:
    """Returns an exception as one line: its class and the first line of its message."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


class GraphRecorder(GraphCallbackHandler):
    """Turns what LangGraph and LangChain report into steps of a trace.

    ``interrupted`` says whether the graph stopped to ask a person, ``interrupts`` what it asks; ``failed_node`` is the
    innermost node of the last failure. Under a ``budget``, a LangChain model is asked only when the budget allows it.
    A node's path names the sub-graphs around it: ``outer/inner``.
    """

    run_inline = True
    raise_error = True

    def __init__(self, trace: Trace, *, budget: Budget | None = None) -> None:
        self.trace = trace
        self.budget = budget
        self.interrupted = False
        self.interrupts: list[Json] = []
        self.failed_node = ""
        self._failure: BaseException | None = None
        self._places: dict[UUID, Place] = {}
        self._started: dict[UUID, float] = {}
        self._asked: dict[UUID, Asked] = {}
        self._seen: dict[UUID | None, dict[str, object]] = {}
        self._questions: set[str] = set()

    def place(self, run_id: UUID | None) -> Place:
        """Returns where the LangChain run of that id takes place."""
        return self._places.get(run_id, _ROOT) if run_id is not None else _ROOT

    # --- nodes ------------------------------------------------------------------------------------------------------

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **kwargs: object,
    ) -> None:
        """Records the start of a node; other runnables (the graph itself, a chain in a node) only pass on the place."""
        around = self.place(parent_run_id)
        # LangGraph gives each task of a graph a namespace; what runs inside the task inherits it.
        metadata = metadata or {}
        namespace = metadata.get("langgraph_checkpoint_ns", "")
        if namespace == around.namespace or (tags and "langsmith:hidden" in tags):
            self._places[run_id] = around
            return
        path = f"{around.node}/{name}" if around.node else str(name)
        # What is sent to a node (Send, a call of the functional API) is no state of the graph.
        sent = metadata["langgraph_path"][0] == "__pregel_push"
        body = NodeStarted(input=to_json(inputs) if sent else self._news(parent_run_id, inputs))
        step = self.trace.record(body, node=path, parent_id=around.step_id)
        self._places[run_id] = Place(step_id=step.id, node=path, namespace=namespace)
        self._started[run_id] = perf_counter()

    def _news(self, graph: UUID | None, state: object) -> Json:
        """Returns the part of a state that is new to the record, so that a conversation is not stored at every node.

        That is the keys whose value is another than the last node of the graph had, and of a list that grew the items
        that were added. Values are compared by identity: LangGraph hands on the value of an untouched channel itself.
        """
        if type(state) is not dict:
            return to_json(state)
        seen = self._seen.setdefault(graph, {})
        changed = {key: value for key, value in state.items() if key not in seen or seen[key] is not value}
        news = {key: _added(seen.get(key), value) for key, value in changed.items()}
        seen.update(changed)
        return to_json(news)

    def on_chain_end(self, outputs: object, *, run_id: UUID, **kwargs: object) -> None:
        """Records what a node returned."""
        place, seconds = self._leave(run_id)
        if seconds is not None:
            body = NodeFinished(output=to_json(outputs), seconds=seconds)
            self.trace.record(body, node=place.node, parent_id=place.step_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: object) -> None:
        """Records how a node failed, or that it asks a person."""
        place, seconds = self._leave(run_id)
        if isinstance(error, GraphInterrupt):
            self._ask(place, error)
        elif seconds is not None:
            jump = to_json(error.args[0]) if isinstance(error, ParentCommand) else None
            failure = None if isinstance(error, ParentCommand) else describe_error(error)
            if failure is not None and error is not self._failure:
                self._failure, self.failed_node = error, place.node
            body = NodeFinished(output=jump, error=failure, seconds=seconds)
            self.trace.record(body, node=place.node, parent_id=place.step_id)

    def _leave(self, run_id: UUID) -> tuple[Place, float | None]:
        """Returns where the run took place, and for how many seconds if it was a node."""
        self._seen.pop(run_id, None)
        started = self._started.pop(run_id, None)
        return self._places.pop(run_id, _ROOT), None if started is None else perf_counter() - started

    def _ask(self, place: Place, error: GraphInterrupt) -> None:
        """Records each question once, at the node that asked; the graphs around it hear of it as well."""
        for question in error.args[0] if error.args else ():
            if question.id not in self._questions:
                self._questions.add(question.id)
                value = to_json(question.value)
                self.interrupts.append(value)
                self.trace.record(Interrupted(value=value), node=place.node, parent_id=place.step_id)

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """Notes that the graph stopped to ask; a breakpoint set on the graph has no question of its own."""
        self.interrupted = True
        if not event.interrupts and not event.checkpoint_ns:
            self.interrupts.append({"breakpoint": event.status})
            self.trace.record(Interrupted(value={"breakpoint": event.status}))

    # --- models -----------------------------------------------------------------------------------------------------

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Keeps what a chat model is asked until it answers."""
        if (kwargs.get("metadata") or {}).get("ls_provider") != BOUNDED:
            params = kwargs.get("invocation_params") or {}
            self._ask_model(run_id, parent_run_id, messages_of(messages[0]), params)

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Keeps what a text model is asked until it answers."""
        asked = (Message(role="user", content=prompts[0]),)
        self._ask_model(run_id, parent_run_id, asked, kwargs.get("invocation_params") or {})

    def _ask_model(
        self, run_id: UUID, parent: UUID | None, messages: Sequence[Message], params: dict[str, Any]
    ) -> None:
        sampling = Sampling(
            temperature=params.get("temperature"),
            top_p=params.get("top_p"),
            max_tokens=params.get("max_tokens"),
            seed=params.get("seed"),
        )
        tools = tools_of(params.get("tools") or ())
        self._asked[run_id] = Asked(
            place=self.place(parent),
            messages=tuple(messages),
            sampling=sampling,
            tools=tools,
            reservation=self._reserve(messages, tools, sampling),
            started=perf_counter(),
        )

    def _reserve(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling
    ) -> Reservation | None:
        """Sets aside what the call may cost at most, or refuses it before it is made."""
        if self.budget is None:
            return None
        left = self.budget.remaining
        if left.micro_dollars is not None:
            raise BudgetError(
                "the price of a LangChain model is not known, so a budget of money cannot be kept; "
                "ask AgentChatModel in the graph, or give a budget of calls, tokens or seconds"
            )
        tokens = bound_tokens(messages, tools) + (sampling.max_tokens or 0) if left.tokens is not None else 0
        return self.budget.reserve(Cost(calls=1, tokens=tokens))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: object) -> None:
        """Records a model call with its completion and usage."""
        if (asked := self._asked.pop(run_id, None)) is not None:
            completion = completion_of(response, perf_counter() - asked.started)
            if asked.reservation is not None:
                asked.reservation.settle(Cost.of(completion.usage))
            body = ModelCall(messages=asked.messages, sampling=asked.sampling, tools=asked.tools, completion=completion)
            self.trace.record(body, node=asked.place.node, parent_id=asked.place.step_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: object) -> None:
        """Records a model call that failed."""
        if (asked := self._asked.pop(run_id, None)) is not None:
            if asked.reservation is not None:
                asked.reservation.settle(Cost(calls=1))
            body = ModelCall(
                messages=asked.messages, sampling=asked.sampling, tools=asked.tools, error=describe_error(error)
            )
            self.trace.record(body, node=asked.place.node, parent_id=asked.place.step_id)

    # --- tools ------------------------------------------------------------------------------------------------------

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **kwargs: object,
    ) -> None:
        """Keeps a tool call until the tool returns."""
        arguments = msgspec.json.encode(to_json(inputs)).decode() if inputs is not None else input_str
        call = ToolCall(id=tool_call_id or run_id.hex, name=(serialized or {}).get("name", ""), arguments=arguments)
        self._asked[run_id] = Asked(place=self.place(parent_run_id), call=call)

    def on_tool_end(self, output: object, *, run_id: UUID, **kwargs: object) -> None:
        """Records what a tool returned."""
        content = str(output.text) if isinstance(output, BaseMessage) else output
        text = content if isinstance(content, str) else msgspec.json.encode(to_json(content)).decode()
        self._tool_done(run_id, str(text), None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: object) -> None:
        """Records that a tool failed."""
        if isinstance(error, GraphInterrupt):
            self._asked.pop(run_id, None)
        else:
            self._tool_done(run_id, "", describe_error(error))

    def _tool_done(self, run_id: UUID, content: str, error: str | None) -> None:
        asked = self._asked.pop(run_id, None)
        if asked is not None and asked.call is not None:
            body = ToolResult(call=asked.call, content=content, error=error)
            self.trace.record(body, node=asked.place.node, parent_id=asked.place.step_id)


def _added(before: object, after: object) -> object:
    """Returns the items added to a list that grew, or the value itself."""
    if type(before) is list and type(after) is list and 0 < len(before) <= len(after):
        grew = all(old is new for old, new in zip(before, after, strict=False))
        return after[len(before) :] if grew else after
    return after


def current_run_id(config: RunnableConfig | None) -> UUID | None:
    """Returns the id of the LangChain run that a node's config belongs to."""
    manager = (config or {}).get("callbacks")
    return None if manager is None or isinstance(manager, list) else manager.parent_run_id
