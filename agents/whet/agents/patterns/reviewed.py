"""Reviewed: one model answers, a model of another family accepts the answer or says what is wrong, in bounded rounds.

A model does not see its own mistakes, and its kin make the same ones; so the reviewer has to be of another family. A
reviewer can be wrong as well: how often a correct answer was changed into a wrong one is counted (WAFER-QA, 2025, arXiv
2506.03332).
"""

import operator
from itertools import pairwise
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import Attempt, best_of, judge, role
from whet.agents.knobs import MAX_TOKENS, TEMPERATURE, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Json, Message, UserError
from whet.core.models.families import are_kin
from whet.core.prompting import render_retry

__all__ = ["reviewed"]

REVIEWER = """\
Another model answered the task below. Check the answer against the task, step by step. What checks have found is a
fact. A mistaken objection does harm, since a correct answer is changed because of it. If nothing is wrong, reply with
the one word ACCEPT. Otherwise say what is wrong, where, and how you know. Do not write the corrected answer."""


class State(TypedDict):
    """``messages``: task, attempt, objection, attempt, …; ``answer`` is the best attempt, the later of two equals."""

    messages: Annotated[list[Message], operator.add]
    attempts: Annotated[list[Attempt], operator.add]
    answer: str
    accepted: bool


@pattern(
    prompts={"reviewer": REVIEWER},
    roles=("reviewer",),
    rounds=Knob(2, low=1, high=20),
    same_family=Knob(0, high=1),
    temperature=TEMPERATURE,
    max_tokens=MAX_TOKENS,
)
def reviewed() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: answer ⇄ review; ``rounds`` is how many reviews there are at most."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("answer", answer)
    graph.add_node("review", review)
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", after_answer, ["review", END])
    graph.add_conditional_edges("review", after_review, ["answer", END])
    return graph


async def answer(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks for an attempt, with the earlier ones and the objections to them in the conversation, and has it judged."""
    context = runtime.context
    refuse_kin(context)
    completion = await context.ask(state["messages"])
    attempt = await judge(context, completion.text)
    attempts = [*state.get("attempts", []), attempt]
    context.note(flips=count_flips(attempts))
    said = Message(role="assistant", content=completion.text)
    return {"messages": [said], "attempts": [attempt], "answer": best_of(reversed(attempts))["text"]}


async def review(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the last attempt reviewed; an objection goes into the conversation."""
    context, attempt = runtime.context, state["attempts"][-1]
    found = "All checks passed." if attempt["passed"] else "\n".join(attempt["critiques"])
    parts = [f"# Task\n{context.task.prompt}", f"# Answer\n{attempt['text']}", f"# Checks\n{found}" if found else ""]
    completion = await context.ask([role(context, "reviewer", *context.policy.rubrics(), *parts)], role="reviewer")
    if accepts(completion.text):
        return {"accepted": True}
    return {"accepted": False, "messages": [Message(role="user", content=render_retry([completion.text]))]}


def after_answer(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go from an attempt: to its review, or to the end after the last round."""
    return "review" if len(state["attempts"]) <= runtime.context.knob("rounds") else END


def after_review(state: State) -> str:
    """Returns where to go from a review: to the end when it accepts."""
    return END if state["accepted"] else "answer"


def accepts(review: str) -> bool:
    """Returns whether a review accepts: it begins with that word."""
    return review.strip().strip("*_`#. ").upper().startswith("ACCEPT")


def count_flips(attempts: list[Attempt]) -> dict[str, Json]:
    """Returns how often a revision made a passing attempt fail (``to_wrong``), and a failing one pass (``to_right``).

    Only attempts that the run had judged on the way count: by all verifiers in training, else by the public ones.
    """
    pairs = [(before["passed"], after["passed"]) for before, after in pairwise(attempts)]
    return {"to_wrong": pairs.count((True, False)), "to_right": pairs.count((False, True))}


def refuse_kin(context: AgentContext) -> None:
    """Raises ``UserError`` when the reviewer is of the agent's own family, unless the policy allows it."""
    mine, other = context.bounded.name, context.model_of("reviewer").name
    if not context.knob("same_family") and are_kin(mine, other):
        raise UserError(
            f"the reviewer {other!r} is of the family of the agent's model {mine!r}, and would share its mistakes; "
            "take a reviewer of another family, or allow it with same_family = 1 in the policy's settings.toml"
        )
