"""ReAct: the model answers or calls tools, sees what they return, and goes on until it answers.

Yao et al. 2023, "ReAct: Synergizing Reasoning and Acting in Language Models".
"""

import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from whet.agents.background import arrivals
from whet.agents.knobs import MAX_TOKENS, TEMPERATURE, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Message, ToolCall

__all__ = ["call_tool", "react", "to_tools"]


class State(TypedDict):
    """``messages`` is the conversation, ``turns`` counts the model's answers."""

    messages: Annotated[list[Message], operator.add]
    turns: Annotated[int, operator.add]
    answer: str


class Call(TypedDict):
    """What one tool node gets."""

    call: ToolCall


@pattern(max_turns=Knob(20, low=1, high=1000), temperature=TEMPERATURE, max_tokens=MAX_TOKENS)
def react() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: model ⇄ tools. In the last of ``max_turns`` the model gets no tools, so that it answers."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("model", call_model)
    graph.add_node("tools", call_tool, input_schema=Call)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", route, ["tools", END])
    graph.add_edge("tools", "model")
    return graph


async def call_model(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks the model, with the tools while there are turns left to use what they return."""
    context = runtime.context
    last = state.get("turns", 0) + 1 >= context.knob("max_turns")
    arrived = await arrivals(context)
    completion = await context.ask([*state["messages"], *arrived], tools=() if last else context.tool_specs)
    calls = () if last else completion.tool_calls
    said = Message(role="assistant", content=completion.text, tool_calls=calls)
    return {"messages": [*arrived, said], "turns": 1, "answer": completion.text}


async def call_tool(state: Call, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Runs one tool that the model called."""
    return {"messages": [await runtime.context.call_tool(state["call"])]}


def route(state: State) -> list[Send] | str:
    """Returns where to go from the model: to the tools it called, or to the end."""
    return to_tools(state["messages"][-1]) or END


def to_tools(said: Message) -> list[Send]:
    """Returns a node for each tool call of a message; what they return comes in the order of the calls.

    Each has its own, since a node that asks a person is executed again when the answer is there, and no other tool
    may be run twice for that.
    """
    return [Send("tools", Call(call=call)) for call in said.tool_calls]
