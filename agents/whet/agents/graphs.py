"""Finds a graph: a pattern by name, a function that returns a graph, a LangGraph object, or ``path/file.py:graph``."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage
from langgraph.channels.base import BaseChannel
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.pregel import Pregel

from whet.agents.knobs import Knob, Pattern
from whet.agents.recording import Builder, Compiled
from whet.core import Message, Task, UserError, digest
from whet.core.loading import is_dotted_path, load_object
from whet.core.models.langchain import to_langchain

__all__ = ["PATTERNS", "Graph", "GraphLike", "adapt", "find_graph", "load_graph"]

GraphLike: TypeAlias = "str | Pattern | Graph | Builder | Compiled | Callable[[], object]"

PATTERNS = {
    "best_of_n": "whet.agents.patterns.best_of_n:best_of_n",
    "code_test": "whet.agents.patterns.code_test:code_test",
    "code_tree": "whet.agents.patterns.code_tree:code_tree",
    "hierarchy": "whet.agents.patterns.hierarchy:hierarchy",
    "iad": "whet.agents.patterns.iad:iad",
    "map_elites": "whet.agents.patterns.map_elites:map_elites",
    "react": "whet.agents.patterns.react:react",
    "refine": "whet.agents.patterns.refine:refine",
    "rethink": "whet.agents.patterns.rethink:rethink",
    "reviewed": "whet.agents.patterns.reviewed:reviewed",
    "self_consistency": "whet.agents.patterns.self_consistency:self_consistency",
    "swe_search": "whet.agents.patterns.swe_search:swe_search",
    "test_driven": "whet.agents.patterns.test_driven:test_driven",
}
"""Short name to dotted path."""


Enter: TypeAlias = Callable[[Task, str], object]
Leave: TypeAlias = Callable[[Any], str]


@dataclass(frozen=True)
class Graph:
    """A compiled graph, its name, knobs and prompts, and how a task goes in and an answer comes out.

    ``enter`` makes the graph's input of a task and the system message; without it the graph needs a ``messages``
    channel (system message and task as LangChain messages) or one channel of text; an entrypoint of the functional API
    gets the text. ``leave`` makes the answer of the final state; without it that is ``answer``, or the last message
    that is no person's. ``context`` is what the graph's nodes get as ``runtime.context`` where its context schema is
    not ``AgentContext``. A ``native`` graph (a pattern) takes Whet's own messages.
    ``roles`` are the further models that it asks. One that ``asks`` may stop to ask a person; other patterns never do.
    """

    name: str
    compiled: Compiled
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    enter: Enter | None = None
    leave: Leave | None = None
    context: object = None
    native: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    asks: bool = False

    def start(self, task: Task, system: str) -> object:
        """Returns the graph's input for a task.

        Raises:
            UserError: the graph does not say how a task goes in.
        """
        if self.enter is not None:
            return self.enter(task, system)
        messages = [Message(role="system", content=system), *task.messages] if system else list(task.messages)
        if self.native:
            return {"messages": messages}
        text = "\n\n".join(message.content for message in messages)
        if not isinstance(self.compiled, CompiledStateGraph):
            return text
        channels = self.compiled.builder.schemas[self.compiled.builder.input_schema]
        if "messages" in channels:
            return {"messages": [to_langchain(message) for message in messages]}
        texts = [
            name for name, channel in channels.items() if isinstance(channel, BaseChannel) and channel.ValueType is str
        ]
        if len(texts) == 1:
            return {texts[0]: text}
        raise UserError(
            f"graph {self.name!r} takes {', '.join(channels)}: no 'messages', and not one text alone; "
            "say how a task goes in with adapt(graph, enter=lambda task, system: {…})"
        )

    def source(self) -> str:
        """Returns the Python source of the graph's nodes, each under its name; of those that are plain functions."""
        builder = self.compiled.builder if isinstance(self.compiled, CompiledStateGraph) else None
        found = []
        for name, spec in ({} if builder is None else builder.nodes).items():
            held = vars(spec.runnable)
            if inspect.isfunction(function := held.get("func") or held.get("afunc")):
                with suppress(OSError):  # Typed into a terminal: it has no file.
                    found.append(f"# node {name}\n{inspect.getsource(function)}")
        return "\n".join(found)

    def answer(self, state: object) -> str:
        """Returns the answer in the final state.

        Raises:
            UserError: the state holds none, and the graph does not say how to find it.
        """
        if self.leave is not None:
            return _plain(self.leave(state), "leave")
        if isinstance(state, str):
            return _plain(state, "state")
        found = state if isinstance(state, Mapping) else vars(state)
        if isinstance(answer := found.get("answer"), str):
            return _plain(answer, "answer")
        messages = found.get("messages")
        said = (
            [message for message in messages if isinstance(message, BaseMessage)] if isinstance(messages, list) else []
        )
        if said:
            return str(next((message for message in reversed(said) if message.type != "human"), said[-1]).text)
        raise UserError(
            f"graph {self.name!r} ended with {', '.join(map(str, found)) or 'nothing'}: no 'answer' and no 'messages'; "
            "say where the answer is with adapt(graph, leave=lambda state: …)"
        )


def _plain(text: object, where: str) -> str:
    """Returns exactly a ``str``: LangChain's texts are of a class of their own, which no record takes."""
    if not isinstance(text, str):
        raise UserError(f"the graph's {where} gives {type(text).__name__} {text!r:.80}; the answer has to be a text")
    return str(text)


def adapt(
    graph: GraphLike,
    *,
    name: str | None = None,
    knobs: Mapping[str, Knob] | None = None,
    enter: Enter | None = None,
    leave: Leave | None = None,
    context: object = None,
    prompts: Mapping[str, str] | None = None,
    roles: tuple[str, ...] = (),
) -> Graph:
    """Returns a graph with what it says about itself added to: see ``Graph``.

    Raises:
        UserError: there is no such graph, or what was found is none.
    """
    found = find_graph(graph)
    return Graph(
        name=name or found.name,
        compiled=found.compiled,
        knobs={**found.knobs, **(knobs or {})},
        enter=enter or found.enter,
        leave=leave or found.leave,
        context=found.context if context is None else context,
        native=found.native,
        prompts={**found.prompts, **(prompts or {})},
        roles=(*found.roles, *roles),
        asks=found.asks,
    )


def find_graph(graph: GraphLike) -> Graph:
    """Returns the graph, compiled.

    Raises:
        UserError: there is no such graph, or what was found is none.
    """
    found = load_graph(graph) if isinstance(graph, str) else graph
    if isinstance(found, Graph):
        return found
    if isinstance(found, Pattern):
        return Graph(
            found.name,
            found().compile(),
            found.knobs,
            native=True,
            prompts=found.prompts,
            roles=found.roles,
            asks=found.asks,
        )
    made = found() if callable(found) and not isinstance(found, StateGraph | Pregel) else found
    if isinstance(made, Graph):
        return made
    name = graph.rpartition(":")[2] if isinstance(graph, str) else _name(found, made)
    if isinstance(made, StateGraph):
        return Graph(name, made.compile())
    if isinstance(made, Pregel):
        return Graph(name, made)
    raise UserError(
        f"{graph!r} is no graph but a {type(made).__name__}; give a pattern ({', '.join(PATTERNS)}), a LangGraph "
        "StateGraph or compiled graph, a function returning one, or 'path/file.py:graph'"
    )


def _name(found: object, made: object) -> str:
    if isinstance(made, Pregel) and made.name != "LangGraph":
        return made.name
    return found.__name__ if callable(found) and hasattr(found, "__name__") else "graph"


def load_graph(spec: str) -> object:
    """Returns what a pattern's name, ``path/file.py:name`` or ``package.module:name`` stands for.

    Raises:
        UserError: there is no such pattern, file or name.
    """
    if spec in PATTERNS:
        return load_object(PATTERNS[spec], what=f"graph {spec!r}")
    file, colon, name = spec.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_file(Path(file), name)
    if colon and is_dotted_path(spec):
        return load_object(spec, what=f"graph {spec!r}")
    raise UserError(
        f"there is no graph {spec!r}; give {', '.join(PATTERNS)}, 'path/file.py:graph' or 'package.module:graph'"
    )


def _from_file(path: Path, name: str) -> object:
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r}; a graph is given as path/file.py:graph")
    # Named by its place, so that two files of one name do not replace each other among the modules.
    module_name = f"{path.stem}_{digest(str(path.resolve()))[:8]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{str(path)!r} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    names = vars(sys.modules[module_name])
    if name not in names:
        graphs = [key for key, value in names.items() if isinstance(value, StateGraph | Pregel | Pattern)]
        raise UserError(f"{str(path)!r} has no {name!r}; its graphs are {', '.join(graphs) or 'none'}")
    return names[name]
