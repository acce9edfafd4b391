"""Refine: answer, verify, critique, revise, for a bounded number of rounds, with every rejected attempt in view.

Madaan et al. 2023, "Self-Refine", with a verifier in the place of self-judgement: what limits refinement is finding
the error, not mending it (RefineBench 2025).

Against answers that come back in spite of feedback (Feedback Friction, Jiang et al. 2025, arXiv 2506.11930), ``heat``
is added to the temperature with every round, and ``forbid`` lists the rejected answers and forbids them.
"""

import operator
from typing import Annotated, TypedDict

import msgspec
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import mean_score
from whet.agents.knobs import MAX_TOKENS, TEMPERATURE, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Message, Sampling
from whet.core.prompting import render_retry

__all__ = ["refine"]

HOTTEST = 2.0  # what providers take


class State(TypedDict):
    """``messages``: task, attempt, what was wrong, attempt, …; ``answer`` is the best attempt, ``attempt`` the last."""

    messages: Annotated[list[Message], operator.add]
    attempt: str
    round: Annotated[int, operator.add]
    answer: str
    best: float
    rejected: bool


@pattern(
    rounds=Knob(2, low=0, high=20),
    heat=Knob(0.0, high=2.0),
    forbid=Knob(0, high=1),
    temperature=TEMPERATURE,
    max_tokens=MAX_TOKENS,
)
def refine() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: answer → verify → critique → answer …; ``rounds`` is how many revisions are allowed."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("answer", answer)
    graph.add_node("verify", verify)
    graph.add_node("critique", critique)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", "verify")
    graph.add_conditional_edges("verify", after_verify, ["critique", END])
    graph.add_edge("critique", "answer")
    return graph


async def answer(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks for an attempt, with the rejected ones and their critiques in the conversation."""
    context = runtime.context
    sampling = heated(context.sampling(), state.get("round", 0) * context.knob("heat"))
    completion = await context.model.complete(state["messages"], sampling=sampling)
    said = Message(role="assistant", content=completion.text)
    return {"messages": [said], "attempt": completion.text, "round": 1}


async def verify(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Judges the attempt and keeps the best one, the later of two equals."""
    judged = [verdict for verdict in await runtime.context.verify(state["attempt"]) if verdict.judged]
    score = mean_score(judged)
    rejected = any(verdict.outcome == "fail" for verdict in judged)
    if score < state.get("best", 0.0):
        return {"rejected": rejected}
    return {"rejected": rejected, "best": score, "answer": state["attempt"]}


async def critique(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Says what was wrong with the attempt, and asks for a corrected one."""
    verdicts = await runtime.context.verify(state["attempt"])
    critiques = await runtime.context.critique(state["attempt"], verdicts)
    tried = [message.content for message in state["messages"] if message.role == "assistant"]
    forbidden = tried[-int(state["round"]) :] if runtime.context.knob("forbid") else []
    text = render_retry([critique.text for critique in critiques], forbidden)
    return {"messages": [Message(role="user", content=text)]}


def heated(sampling: Sampling, degrees: float) -> Sampling:
    """Returns the sampling at a higher temperature, 2 at most; one that is left open counts as 1."""
    if not degrees:
        return sampling
    start = 1.0 if sampling.temperature is None else sampling.temperature
    return msgspec.structs.replace(sampling, temperature=min(start + degrees, max(start, HOTTEST)))


def after_verify(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go after a verdict: to a revision while the attempt is rejected and rounds are left."""
    return "critique" if state["rejected"] and state["round"] <= runtime.context.knob("rounds") else END
