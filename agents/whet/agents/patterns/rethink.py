"""Tree search over thoughts, in which a thought whose program fails is rewritten where it stands.

Li et al. 2024, "RethinkMCTS: Refining Erroneous Thoughts in Monte Carlo Tree Search for Code Generation", arXiv
2409.09584; the trace of a failing call by blocks follows Zhong et al. 2024, "LDB", arXiv 2402.16906.
"""

import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import CALLS, ask_list, judge, may_ask, rate, role, section
from whet.agents.behaviour import code_spec, program_of, run_guest
from whet.agents.knobs import MAX_TOKENS, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.agents.tree import Node, Tree, note
from whet.core import Message

__all__ = ["rethink"]

_THINK = """Do not solve the task yet. Write thoughts that could come next on the way to a solution: different ones,
each on a numbered line of its own, nothing else."""
_WRITE = "Now solve the task, following these thoughts."
_RETHINK = """The answer below, which follows these thoughts, is wrong. Find the block that goes wrong, and from it what
is wrong with the last thought. Write a better one in its place on the last line, as: Thought: …"""
_APPRAISE = """How likely is this answer right for every input, beyond the checks that it passed? End with a line such
as Score: 80, from 0 to 100."""

_PASSED = 0.8  # of the value are the checks, the rest is the model's own score


class Thought(Node):
    """A thought, the answer written from the path to it (with its score by the checks), and what was found wrong.

    Until there is a judged answer, ``score`` is below 0.
    """

    thought: str
    answer: str
    score: float
    rejected: bool
    memory: list[str]
    rewrites: int


class State(TypedDict):
    """``current`` is the thought under way; ``nodes`` and ``rewards`` make the tree (see ``whet.agents.tree``)."""

    messages: list[Message]
    nodes: Annotated[list[Thought], operator.add]
    rewards: Annotated[list[tuple[int, float]], operator.add]
    current: int | None
    written: Annotated[int, operator.add]
    answer: str


@pattern(
    prompts={"think": _THINK, "write": _WRITE, "rethink": _RETHINK, "appraise": _APPRAISE},
    tries=Knob(16, low=1, high=1000),
    width=Knob(3, low=1, high=20),
    depth=Knob(3, low=1, high=20),
    rethinks=Knob(2, low=0, high=20),
    enough=Knob(_PASSED, high=1.0),
    exploration=Knob(0.5, high=100.0),
    calls=CALLS,
    temperature=Knob(0.8, high=5.0),
    max_tokens=MAX_TOKENS,
)
def rethink() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: think → write → check → (appraise, or rethink → write) → select → think or write …"""
    graph = StateGraph(State, context_schema=AgentContext)
    for name, node in (("think", think), ("write", write), ("check", check), ("appraise", appraise)):
        graph.add_node(name, node)
    graph.add_node("rethink", rewrite)
    graph.add_node("select", select)
    graph.add_edge(START, "think")
    graph.add_edge("think", "write")
    graph.add_edge("write", "check")
    graph.add_conditional_edges("check", after_check, ["appraise", "rethink", "select"])
    graph.add_edge("appraise", "select")
    graph.add_edge("rethink", "write")
    graph.add_conditional_edges("select", after_select, ["think", "write", END])
    return graph


async def think(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks for the thoughts that could follow the current one, what was found wrong on the way in view."""
    context, root = runtime.context, state.get("nodes") or [_thought(0, None, "")]
    tree, at = Tree(root), state.get("current") or 0
    memory = dict.fromkeys(found for node in tree.path(at) for found in node["memory"])
    shown = [section("Thoughts so far", _thoughts(tree, at)), section("Found wrong", memory)]
    asked = [*state["messages"], role(context, "think", *shown)]
    texts = await ask_list(context, asked, int(context.knob("width")))
    first = len(tree.nodes)
    children = [_thought(first + number, at, text) for number, text in enumerate(texts)]
    return {"nodes": [*([] if state.get("nodes") else root), *children], "current": first}


async def write(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks for the answer that follows the thoughts on the way to the current one."""
    context, (tree, node) = runtime.context, _at(state)
    thoughts = _thoughts(tree, node["id"])
    asked = [role(context, "write", section("Thoughts", thoughts))] if thoughts else []
    completion = await context.ask([*state["messages"], *asked])
    return {"nodes": [Thought(**{**node, "answer": completion.text, "score": -1.0})], "written": 1}


async def check(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Judges the answer: its value is its score by the checks, or 0.8 where none rejects it."""
    context, (tree, node) = runtime.context, _at(state)
    attempt = await judge(context, node["answer"])
    rejected = bool(attempt["critiques"])
    value = attempt["score"] if rejected else _PASSED
    step = note(context, _above(tree, node)["step"], {"id": node["id"], "thought": node["thought"], "value": value})
    memory = list(dict.fromkeys([*node["memory"], *attempt["critiques"]]))
    found = {"score": attempt["score"], "value": value, "rejected": rejected, "memory": memory, "step": step}
    judged = Thought(**{**node, **found})  # type: ignore[typeddict-item]  # the keys are right above
    return {"nodes": [judged], "answer": _best_answer([*state["nodes"], judged])}


async def appraise(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Adds the model's own score of an answer that no check rejects: 0.2 of the value."""
    context, (_, node) = runtime.context, _at(state)
    shown = [*state["messages"], role(context, "appraise", section("Answer", [node["answer"]]))]
    score, _ = await rate(context, shown, (0, 100))
    valued = Thought(**{**node, "value": _PASSED + (1 - _PASSED) * score / 100})
    return {"nodes": [valued], "answer": _best_answer([*state["nodes"], valued])}


async def rewrite(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the current thought rewritten in place, from what each block of its program did on a failing check."""
    context, (tree, node) = runtime.context, _at(state)
    shown = [
        section("Thoughts", _thoughts(tree, node["id"])),
        section("Answer", [node["answer"]]),
        section("Found wrong", node["memory"]),
        section("What its blocks did", await _trace(context, node["answer"])),
    ]
    reply = (await context.ask([*state["messages"], role(context, "rethink", *shown)])).text
    thought = reply.rpartition("Thought:")[2].strip() or node["thought"]
    return {"nodes": [Thought(**{**node, "thought": thought, "rewrites": node["rewrites"] + 1})]}


def select(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Rewards the current thought with its value, and goes down the tree by UCT to the next one to work on."""
    context, (_, node) = runtime.context, _at(state)
    reward = (node["id"], node["value"])
    tree, depth = Tree(state["nodes"], [*state.get("rewards", []), reward]), context.knob("depth")

    def is_open(node: Thought) -> bool:
        return not tree.children(node["id"]) and (node["score"] < 0 or tree.depth(node["id"]) < depth)

    found = tree.descend(lambda node: tree.uct(node["id"], context.knob("exploration")), is_open)
    return {"rewards": [reward], "current": None if found is None else found["id"]}


def after_check(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go: to the model's own score where it could matter, to a rewriting, or on."""
    context, (_, node) = runtime.context, _at(state)
    if not node["rejected"]:
        return "appraise" if node["value"] < context.knob("enough") and may_ask(context) else "select"
    again = node["rewrites"] < context.knob("rethinks") and _may_write(state, context, 2)
    return "rethink" if again else "select"


def after_select(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go: to the end where an answer is good enough or nothing more may be tried, or to a thought."""
    context, tree = runtime.context, Tree(state["nodes"])
    enough = any(not node["rejected"] and node["value"] >= context.knob("enough") for node in tree.nodes.values())
    if enough or state["current"] is None or not _may_write(state, context, 1):
        return END
    return "write" if tree.nodes[state["current"]]["score"] < 0 else "think"


async def _trace(context: AgentContext, answer: str) -> list[str]:
    """Returns what each block of a program did on the first check that it fails; nothing for other answers."""
    checks = [check for verdict in await context.verify(answer) for check in verdict.checks]
    call = next((check.call for check in checks if check.call and not check.passed), "")
    if code_spec(context.task) is None or not call:
        return []
    told = await run_guest(context, "blocks", {"program": program_of(context.task, answer), "call": call})
    return [str(block) for block in told] if isinstance(told, list) else []


def _thought(id: int, parent: int | None, text: str) -> Thought:
    return Thought(
        id=id,
        parent=parent,
        value=0.0,
        step="",
        thought=text,
        answer="",
        score=-1.0,
        rejected=True,
        memory=[],
        rewrites=0,
    )


def _at(state: State) -> tuple[Tree[Thought], Thought]:
    """Returns the tree and the thought under way."""
    tree = Tree(state["nodes"])
    return tree, tree.nodes[state["current"] or 0]


def _above(tree: Tree[Thought], node: Thought) -> Thought:
    return tree.nodes[node["parent"] or 0]


def _thoughts(tree: Tree[Thought], id: int) -> list[str]:
    return [node["thought"] for node in tree.path(id) if node["thought"]]


def _best_answer(log: list[Thought]) -> str:
    """Returns the answer of the highest score by the checks, then value; rewritten thoughts' earlier answers count."""
    return max(log, key=lambda node: (node["score"], node["value"]))["answer"]


def _may_write(state: State, context: AgentContext, calls: int) -> bool:
    """Returns whether another answer may be written, with so many calls."""
    return state["written"] < context.knob("tries") and may_ask(context, calls)
