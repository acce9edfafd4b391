"""Iterative agent decoding: each sample is drawn with the worst and the best attempt so far in view; the best is kept.

Chakraborty et al. 2025, "Review, Refine, Repeat: Understanding Iterative Decoding of AI Agents with Dynamic Evaluation
and Selection", arXiv 2504.01931.
"""

import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import CALLS, Attempt, best_of, judge, may_ask
from whet.agents.knobs import MAX_TOKENS, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Message
from whet.core.prompting import render_retry

__all__ = ["iad"]


class State(TypedDict):
    """``attempts`` in the order drawn; ``answer`` is the best of them."""

    messages: list[Message]
    draft: str
    attempts: Annotated[list[Attempt], operator.add]
    answer: str


@pattern(
    prompts={"worst": "The worst attempt so far.", "best": "The best attempt so far."},
    n=Knob(4, low=1, high=256),
    show=Knob(1, low=0, high=16),
    calls=CALLS,
    temperature=Knob(0.8, high=5.0),
    max_tokens=MAX_TOKENS,
)
def iad() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: sample → review → sample …; ``show`` of the worst and of the best attempts are in view."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("sample", sample)
    graph.add_node("review", review)
    graph.add_edge(START, "sample")
    graph.add_edge("sample", "review")
    graph.add_conditional_edges("review", after_review, ["sample", END])
    return graph


async def sample(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Draws an answer, with the worst attempts, then the best ones in the conversation, each with its critiques."""
    context = runtime.context
    worst, best = extremes(state.get("attempts", []), int(context.knob("show")))
    shown = [*_turns(worst, context.prompt("worst")), *_turns(best, context.prompt("best"))]
    completion = await context.ask([*state["messages"], *shown])
    return {"draft": completion.text}


async def review(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Judges the draft and keeps the best attempt, the first of equals."""
    attempt = await judge(runtime.context, state["draft"])
    return {"attempts": [attempt], "answer": best_of([*state.get("attempts", []), attempt])["text"]}


def after_review(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go: to another sample until no check rejects it or ``n`` are drawn."""
    drawn = state["attempts"]
    more = bool(drawn[-1]["critiques"]) and len(drawn) < runtime.context.knob("n") and may_ask(runtime.context)
    return "sample" if more else END


def extremes(attempts: list[Attempt], show: int) -> tuple[list[Attempt], list[Attempt]]:
    """Returns the ``show`` worst and the ``show`` best of the distinct attempts, none twice, the very best last.

    Of equal attempts the later ones are the better: what is shown keeps changing while nothing scores.
    """
    ranked = sorted({attempt["text"]: attempt for attempt in attempts}.values(), key=lambda attempt: attempt["score"])
    best = ranked[max(0, len(ranked) - show) :]
    return ranked[: min(show, len(ranked) - len(best))], best


def _turns(attempts: list[Attempt], title: str) -> list[Message]:
    """Returns attempts as a conversation, worded as any rejected attempt is."""
    return [
        message
        for attempt in attempts
        for message in (
            Message(role="assistant", content=attempt["text"]),
            Message(role="user", content="\n".join(filter(None, [title, render_retry(attempt["critiques"])]))),
        )
    ]
