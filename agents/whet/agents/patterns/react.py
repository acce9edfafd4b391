"""ReAct: the model answers or calls tools, sees what they return, and goes on until it answers.

Yao et al. 2023, "ReAct: Synergizing Reasoning and Acting in Language Models".
"""

import asyncio
import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.knobs import MAX_TOKENS, TEMPERATURE, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Message

__all__ = ["react"]


class State(TypedDict):
    """``messages`` is the conversation, ``turns`` counts the model's answers."""

    messages: Annotated[list[Message], operator.add]
    turns: Annotated[int, operator.add]
    answer: str


@pattern(max_turns=Knob(20, low=1, high=1000), temperature=TEMPERATURE, max_tokens=MAX_TOKENS)
def react() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: model ⇄ tools. In the last of ``max_turns`` the model gets no tools, so that it answers."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("model", call_model)
    graph.add_node("tools", call_tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", route, ["tools", END])
    graph.add_edge("tools", "model")
    return graph


async def call_model(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks the model, with the tools while there are turns left to use what they return."""
    context = runtime.context
    last = state.get("turns", 0) + 1 >= context.knob("max_turns")
    completion = await context.ask(state["messages"], tools=() if last else context.tool_specs)
    calls = () if last else completion.tool_calls
    said = Message(role="assistant", content=completion.text, tool_calls=calls)
    return {"messages": [said], "turns": 1, "answer": completion.text}


async def call_tools(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Runs the tools the model called, side by side, and answers in the order of the calls."""
    calls = state["messages"][-1].tool_calls
    return {"messages": list(await asyncio.gather(*(runtime.context.call_tool(call) for call in calls)))}


def route(state: State) -> str:
    """Returns where to go from the model: to the tools it called, or to the end."""
    return "tools" if state["messages"][-1].tool_calls else END
