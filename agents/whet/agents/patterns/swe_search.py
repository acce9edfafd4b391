"""Tree search over actions: each node is a tool call with the workspace it left, valued and explained by the model.

Antoniades et al. 2024, "SWE-Search: Enhancing Software Agents with Monte Carlo Tree Search and Iterative Refinement",
arXiv 2410.20285.
"""

import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import CALLS, judge, may_ask, rate, role, section
from whet.agents.knobs import MAX_TOKENS, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.agents.tree import Node, Tree, note
from whet.core import Json, Message
from whet.feedback.judges.rubric import read_rating
from whet.sandboxes import Snapshot

__all__ = ["swe_search", "worth"]

_VALUE = """Judge the last step above: how much closer does it bring a solution of the task? First explain what is right
or wrong about it and what would be better; then end with a line such as Score: 60, from -100 (harm) to 100 (solved)."""
_AGAIN = "From here the steps below were tried before. Take a different one that heeds what was said of them."
_DISCRIMINATE = """Several solutions of the task are below. Say which one is most likely right, and argue against the
others and against earlier opinions where they are wrong. End with a line such as Score: 2, the solution's number."""

_GOOD, _BETTER, _SOLVED = 55, 75, 100


class Action(Node):
    """What the model said and what its tools returned, the workspace afterwards, the answer if it gave one, and why.

    ``box`` is the digest of the workspace's snapshot; ``why`` explains the value.
    """

    said: list[Message]
    box: str
    answer: str | None
    passed: bool
    why: str


class State(TypedDict):
    """``current`` is the node to go on from; ``boxes`` holds snapshots' archives by their digests."""

    messages: list[Message]
    nodes: Annotated[list[Action], operator.add]
    rewards: Annotated[list[tuple[int, float]], operator.add]
    boxes: Annotated[dict[str, bytes], operator.or_]
    current: int | None
    answer: str


@pattern(
    prompts={"value": _VALUE, "again": _AGAIN, "discriminate": _DISCRIMINATE},
    expansions=Knob(20, low=1, high=1000),
    width=Knob(3, low=1, high=20),
    depth=Knob(20, low=1, high=200),
    finished=Knob(3, low=1, high=50),
    debaters=Knob(3, low=0, high=20),
    exploration=Knob(1.0, high=1000.0),
    calls=CALLS,
    temperature=Knob(0.8, high=5.0),
    max_tokens=MAX_TOKENS,
)
def swe_search() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: act → value → select → act …, and at the end discriminate."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("act", act)
    graph.add_node("value", value)
    graph.add_node("select", select)
    graph.add_node("discriminate", discriminate)
    graph.add_edge(START, "act")
    graph.add_edge("act", "value")
    graph.add_edge("value", "select")
    graph.add_conditional_edges("select", after_select, ["act", "discriminate"])
    graph.add_edge("discriminate", END)
    return graph


async def act(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Takes another step from the current node, in the workspace as it was there; the last one is an answer."""
    context, new = runtime.context, dict[str, bytes]()
    root = state.get("nodes") or [_action(0, None, [], await _snapshot(context, new))]
    tree = Tree(root)
    above = tree.nodes[state.get("current") or 0]
    await _restore(context, above["box"], {**state.get("boxes", {}), **new})
    tools = () if _is_last(tree, above, context) else context.tool_specs
    completion = await context.ask([*_conversation(state, tree, above), *_hindsight(context, tree, above)], tools=tools)
    calls = completion.tool_calls if tools else ()
    said = [Message(role="assistant", content=completion.text, tool_calls=calls)]
    said += [await context.call_tool(call) for call in calls]
    box = await _snapshot(context, new) if calls else above["box"]
    taken = _action(len(tree.nodes), above["id"], said, box, None if calls else completion.text)
    return {"nodes": [*([] if state.get("nodes") else root), taken], "boxes": new, "current": taken["id"]}


async def value(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Values the step just taken: an answer by its checks, where they may be heard, all else by the model."""
    context, tree = runtime.context, Tree(state["nodes"])
    node = tree.nodes[state["current"] or 0]
    score, passed, why = 0.0, False, ""
    attempt = None if node["answer"] is None else await judge(context, node["answer"])
    if attempt is not None and (attempt["passed"] or attempt["critiques"]):
        score, passed, why = 200 * attempt["score"] - 100, attempt["passed"], "\n".join(attempt["critiques"])
    elif may_ask(context):
        score, why = await rate(context, [*_conversation(state, tree, node), role(context, "value")], (-100, 100))
    told: dict[str, Json] = {"id": node["id"], "action": _describe(node), "value": score, "box": node["box"]}
    step = note(context, tree.nodes[node["parent"] or 0]["step"], told)
    valued = Action(**{**node, "value": score, "passed": passed, "why": why, "step": step})
    found: dict[str, object] = {"nodes": [valued], "rewards": [(node["id"], score)]}
    if done := _finished(Tree([*state["nodes"], valued])):
        found["answer"] = max(done, key=lambda node: (node["passed"], node["value"]))["answer"]
    return found


def select(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Chooses the node to go on from: the open one of the highest worth; none where the search is over."""
    context, tree = runtime.context, Tree(state["nodes"], state["rewards"])
    done = _finished(tree)
    over = any(node["passed"] for node in done) or len(done) >= context.knob("finished")
    if over or len(tree.nodes) > context.knob("expansions") or not may_ask(context):
        return {"current": None}
    width, depth = context.knob("width"), context.knob("depth")
    found = [
        node
        for node in tree.nodes.values()
        if node["answer"] is None and len(tree.children(node["id"])) < width and tree.depth(node["id"]) < depth
    ]
    scored = [worth(tree, node, context.knob("exploration")) for node in found]
    return {"current": found[scored.index(max(scored))]["id"] if found else None}


def worth(tree: Tree[Action], node: Action, exploration: float) -> float:
    """Returns UCT over values from -100 to 100, with the bonuses and penalties of the paper's release.

    + 20 for a good node (55) not yet expanded; + 5·(v - child) for a good node whose one child called a tool and is not
    good; - 5 with a child of 75; - 50 above an answer of 100; + 200·e^0.8 at the root; - 0.8·√depth.
    """
    id, depth, v = node["id"], tree.depth(node["id"]), node["value"]
    children = tree.children(id)
    score = tree.uct(id, exploration) - 0.8 * math.sqrt(depth)
    if depth == 0:
        score += 200 * math.exp(0.8)
    if not children and v >= _GOOD:
        score += 20
    if len(children) == 1 and children[0]["answer"] is None and children[0]["value"] < _GOOD <= v:
        score += 5 * (v - children[0]["value"])
    if any(child["value"] >= _BETTER for child in children):
        score -= 5
    if any(done["value"] >= _SOLVED and node in tree.path(done["id"]) for done in _finished(tree)):
        score -= 50
    return score


def after_select(state: State) -> str:
    """Returns where to go: to another step, or to the choice among what was finished."""
    return "discriminate" if state["current"] is None else "act"


async def discriminate(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Chooses among the answers that no check decides by a debate: the majority of ``debaters``, then the value."""
    context, tree = runtime.context, Tree(state["nodes"])
    done = sorted(_finished(tree), key=lambda node: (node["passed"], node["value"]), reverse=True)
    votes = Counter(await _debate(state, context, done))
    chosen = done[max(range(len(done)), key=lambda number: (votes[number], -number))]
    await _restore(context, chosen["box"], state["boxes"])
    return {"answer": chosen["answer"]}


async def _debate(state: State, context: AgentContext, done: Sequence[Action]) -> list[int]:
    """Returns the number of the answer that each debater holds for right, having read those before."""
    opinions: list[str] = []
    votes: list[int] = []
    solutions = [section(f"Solution {number}", [str(node["answer"])]) for number, node in enumerate(done, 1)]
    for _ in range(int(context.knob("debaters"))):
        if len(done) < 2 or done[0]["passed"] or not may_ask(context):
            break
        asked = role(context, "discriminate", *solutions, section("Earlier opinions", opinions))
        opinions.append((await context.ask([*state["messages"], asked])).text)
        if (rating := read_rating(opinions[-1], (1, len(done)))) is not None:
            votes.append(int(rating.value) - 1)
    return votes


def _is_last(tree: Tree[Action], above: Action, context: AgentContext) -> bool:
    """Returns whether the next step has to be an answer: by depth, or since nothing is finished and nothing is left."""
    left = context.knob("expansions") - (len(tree.nodes) - 1)
    spent = not _finished(tree) and (left <= 1 or not may_ask(context, 3))
    return spent or tree.depth(above["id"]) + 1 >= context.knob("depth")


def _conversation(state: State, tree: Tree[Action], node: Action) -> list[Message]:
    return [*state["messages"], *(message for each in tree.path(node["id"]) for message in each["said"])]


def _hindsight(context: AgentContext, tree: Tree[Action], above: Action) -> list[Message]:
    """Returns what was tried from here before and what was said of it."""
    tried = [f"{_describe(child)}\n{child['why']}".strip() for child in tree.children(above["id"])]
    return [role(context, "again", section("Tried before", tried))] if tried else []


def _describe(node: Action) -> str:
    first = node["said"][0]
    return "\n".join(filter(None, [first.content, *(f"{call.name} {call.arguments}" for call in first.tool_calls)]))


def _finished(tree: Tree[Action]) -> list[Action]:
    return [node for node in tree.nodes.values() if node["answer"] is not None]


def _action(id: int, parent: int | None, said: list[Message], box: str, answer: str | None = None) -> Action:
    return Action(id=id, parent=parent, value=0.0, step="", said=said, box=box, answer=answer, passed=False, why="")


async def _snapshot(context: AgentContext, boxes: dict[str, bytes]) -> str:
    """Puts the workspace into ``boxes``, and returns its digest; the empty text for an agent without tools."""
    if not context.tools:
        return ""
    snapshot = await (await context.sandbox()).snapshot()
    boxes[snapshot.digest] = snapshot.archive
    return snapshot.digest


async def _restore(context: AgentContext, digest: str, boxes: dict[str, bytes]) -> None:
    if digest:
        await (await context.sandbox()).restore(Snapshot(digest=digest, archive=boxes[digest]))
