"""A tree of programs: strategies by a thinker, programs by a solver, fixes by a debugger, all judged by a critic.

Li et al. 2024, "CodeTree: Agent-guided Tree Search for Code Generation with Large Language Models", arXiv 2411.04329.
"""

import operator
import re
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import CALLS, ask_list, judge, may_ask, rate, role, section
from whet.agents.knobs import MAX_TOKENS, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.agents.tree import Node, Tree, note
from whet.core import Message

__all__ = ["code_tree"]

_STRATEGIES = """Do not solve the task yet. List different strategies for solving it, the most promising first, each
on a numbered line of its own, nothing else."""
_FIXES = """The answer below was reviewed. List different ways to correct it, the most promising first, each on a
numbered line of its own, nothing else."""
_SOLVER = "Now solve the task by this strategy."
_DEBUGGER = "Correct the answer below in this way. Write the whole corrected answer."
_CRITIC = """Review the answer below: does it do what the task asks for, also for inputs that no check covers? Say what
to change. End with two lines such as
Score: 7
Decision: refine
The score is from 0 to 10; the decision is accept (nothing to change), refine, or abandon (a wrong way)."""

_DECISION = re.compile(r"\bdecision\W{1,4}(accept|refine|abandon)\b", re.IGNORECASE)


class Program(Node):
    """What to do (a strategy, or a fix of the program above), the answer, what is wrong with it, the critic's word."""

    plan: str
    answer: str
    wrong: list[str]
    review: str
    decision: str


class State(TypedDict):
    """``stack`` holds the programs still to write, the next one last; ``current`` is the one under way."""

    messages: list[Message]
    nodes: Annotated[list[Program], operator.add]
    stack: list[int]
    current: int
    tries: Annotated[int, operator.add]
    answer: str


@pattern(
    prompts={"strategies": _STRATEGIES, "fixes": _FIXES, "solver": _SOLVER, "debugger": _DEBUGGER, "critic": _CRITIC},
    tries=Knob(20, low=1, high=1000),
    width=Knob(10, low=1, high=50),
    depth=Knob(3, low=1, high=20),
    calls=CALLS,
    temperature=Knob(0.8, high=5.0),
    max_tokens=MAX_TOKENS,
)
def code_tree() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: think → solve → review → think (deeper) or solve (the next on the stack) … depth first."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("think", think)
    graph.add_node("solve", solve)
    graph.add_node("review", review)
    graph.add_edge(START, "think")
    graph.add_edge("think", "solve")
    graph.add_edge("solve", "review")
    graph.add_conditional_edges("review", after_review, ["think", "solve", END])
    return graph


async def think(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks for strategies, or for ways to correct the current program; the first is the next to be tried."""
    context, root = runtime.context, state.get("nodes") or [_program(0, None, "")]
    above = Tree(root).nodes[state.get("current", 0)]
    asked = role(context, "fixes", *_shown(above)) if above["answer"] else role(context, "strategies")
    plans = await ask_list(context, [*state["messages"], asked], int(context.knob("width")))
    first = len(Tree(root).nodes)
    children = [_program(first + number, above["id"], plan) for number, plan in enumerate(plans)]
    stack = [*state.get("stack", []), *(child["id"] for child in reversed(children))]
    return {"nodes": [*([] if state.get("nodes") else root), *children], "stack": stack}


async def solve(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the program on top of the stack written: by its strategy, or by correcting the one above."""
    context, tree = runtime.context, Tree(state["nodes"])
    *stack, current = state["stack"]
    node = tree.nodes[current]
    above, plan = tree.nodes[node["parent"] or 0], section("Way", [node["plan"]] if node["plan"] else [])
    if above["answer"]:
        asked = [role(context, "debugger", *_shown(above), plan)]
    else:
        asked = [role(context, "solver", plan)] if plan else []
    completion = await context.ask([*state["messages"], *asked])
    written = Program(**{**node, "answer": completion.text})
    return {"nodes": [written], "stack": stack, "current": current, "tries": 1}


async def review(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Judges the program and asks the critic: value = score by the checks + critic/15 + 5/15 if none rejects it.

    A critic that may not be asked any more has nothing to change.
    """
    context, tree = runtime.context, Tree(state["nodes"])
    node = tree.nodes[state["current"]]
    attempt = await judge(context, node["answer"])
    rated, said = 0.0, "Decision: accept"
    if may_ask(context):
        about = [section("Answer", [node["answer"]]), section("Checks", attempt["critiques"] or ["None rejects it."])]
        rated, said = await rate(context, [*state["messages"], role(context, "critic", *about)], (0, 10))
    decision = [match.lower() for match in _DECISION.findall(said)] or ["refine"]
    value = attempt["score"] + rated / 15 + (0 if attempt["critiques"] else 5 / 15)
    told = {"id": node["id"], "plan": node["plan"], "value": value, "decision": decision[-1]}
    step = note(context, tree.nodes[node["parent"] or 0]["step"], told)
    found = {"value": value, "wrong": attempt["critiques"], "review": said, "decision": decision[-1], "step": step}
    judged = Program(**{**node, **found})  # type: ignore[typeddict-item]  # the keys are right above
    best = max([*state["nodes"], judged], key=lambda node: node["value"])
    return {"nodes": [judged], "answer": best["answer"]}


def after_review(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go: to the end where the critic agrees with the checks, deeper, or to the next on the stack.

    A program is worked on unless the critic abandons it or it is worth less than the one above.
    """
    context, tree = runtime.context, Tree(state["nodes"])
    node = tree.nodes[state["current"]]
    accepted = node["decision"] == "accept" and not node["wrong"]
    if accepted or state["tries"] >= context.knob("tries") or not may_ask(context):
        return END
    worse = node["value"] < tree.nodes[node["parent"] or 0]["value"]
    if not worse and node["decision"] != "abandon" and tree.depth(node["id"]) < context.knob("depth"):
        return "think"
    return "solve" if state["stack"] else END


def _shown(node: Program) -> list[str]:
    """Returns a program and what was said of it, as its debugger is shown them."""
    return [section("Answer", [node["answer"]]), section("Checks", node["wrong"]), section("Review", [node["review"]])]


def _program(id: int, parent: int | None, plan: str) -> Program:
    return Program(id=id, parent=parent, value=-1.0, step="", plan=plan, answer="", wrong=[], review="", decision="")
