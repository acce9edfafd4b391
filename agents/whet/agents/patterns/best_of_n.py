"""Best of n: n samples side by side, the one its verifiers score highest is the answer.

The baseline that every search at inference time has to beat.
"""

import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from whet.agents.attempts import mean_score
from whet.agents.knobs import MAX_TOKENS, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Message

__all__ = ["best_of_n"]


class Sample(TypedDict):
    """One answer, its number and its score."""

    number: int
    text: str
    score: float


class State(TypedDict):
    """``samples`` come in any order; ``answer`` is the text of the best."""

    messages: list[Message]
    samples: Annotated[list[Sample], operator.add]
    answer: str


class Draw(TypedDict):
    """What one sampling node gets."""

    messages: list[Message]
    number: int


@pattern(n=Knob(4, low=1, high=256), temperature=Knob(0.8, high=5.0), max_tokens=MAX_TOKENS)
def best_of_n() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: ``n`` times sample (which answers and verifies), then choose."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("sample", sample, input_schema=Draw)
    graph.add_node("choose", choose)
    graph.add_conditional_edges(START, spread, ["sample"])
    graph.add_edge("sample", "choose")
    graph.add_edge("choose", END)
    return graph


def spread(state: State, runtime: Runtime[AgentContext]) -> list[Send]:
    """Returns a sampling node for each of the n samples."""
    n = int(runtime.context.knob("n"))
    return [Send("sample", Draw(messages=state["messages"], number=number)) for number in range(n)]


async def sample(state: Draw, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Draws an answer with a seed of its own, and has it judged."""
    context = runtime.context
    completion = await context.ask(state["messages"], sample=state["number"])
    score = mean_score([verdict for verdict in await context.verify(completion.text) if verdict.judged])
    return {"samples": [Sample(number=state["number"], text=completion.text, score=score)]}


def choose(state: State) -> dict[str, object]:
    """Takes the sample of the highest score, the first drawn among equals."""
    best = max(state["samples"], key=lambda sample: (sample["score"], -sample["number"]))
    return {"answer": best["text"]}
