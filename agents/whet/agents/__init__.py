"""Agents: LangGraph graphs that work on tasks under a policy, recorded step by step.

    from whet.agents import Agent

    agent = Agent("refine", "tiny", memory=".whet")        # or any LangGraph graph, or "my_graph.py:graph"
    result = agent.run("Write a function that adds two numbers.")
    print(result.answer, result.run.id)

LangGraph is imported when a name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet.agents.agent import Agent, as_task
    from whet.agents.asking_for_help import ask_person, simulated_person
    from whet.agents.batch import run_tasks
    from whet.agents.chat import AgentChatModel
    from whet.agents.execution import Event, RunResult, Token
    from whet.agents.graphs import Graph, adapt
    from whet.agents.knobs import Knob, Pattern, pattern
    from whet.agents.recording import GraphRecorder, record_graph
    from whet.agents.replaying import fork, replay
    from whet.agents.runtime import AgentContext, current_context
    from whet.agents.tools import guarded, python, shell, tool
    from whet.agents.trace import ListRecorder, Recorder, Trace

_WHERE = {
    "Agent": "agent",
    "AgentChatModel": "chat",
    "AgentContext": "runtime",
    "Event": "execution",
    "Graph": "graphs",
    "GraphRecorder": "recording",
    "Knob": "knobs",
    "ListRecorder": "trace",
    "Pattern": "knobs",
    "Recorder": "trace",
    "RunResult": "execution",
    "Token": "execution",
    "Trace": "trace",
    "adapt": "graphs",
    "as_task": "agent",
    "ask_person": "asking_for_help",
    "current_context": "runtime",
    "fork": "replaying",
    "guarded": "tools",
    "pattern": "knobs",
    "python": "tools",
    "record_graph": "recording",
    "replay": "replaying",
    "run_tasks": "batch",
    "shell": "tools",
    "simulated_person": "asking_for_help",
    "tool": "tools",
}

__all__ = [
    "Agent",
    "AgentChatModel",
    "AgentContext",
    "Event",
    "Graph",
    "GraphRecorder",
    "Knob",
    "ListRecorder",
    "Pattern",
    "Recorder",
    "RunResult",
    "Token",
    "Trace",
    "adapt",
    "as_task",
    "ask_person",
    "current_context",
    "fork",
    "guarded",
    "pattern",
    "python",
    "record_graph",
    "replay",
    "run_tasks",
    "shell",
    "simulated_person",
    "tool",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = found
    return found
