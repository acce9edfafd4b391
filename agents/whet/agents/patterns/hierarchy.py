"""Hierarchy: a manager plans, an operator acts with tools, a reflector judges each act, a notetaker keeps what matters.

The roles of Mobile-Agent-E (Wang et al. 2025, arXiv 2501.11733). The operator sees its subgoal, the notes and its last
acts, not all that ever was said, so a long task does not fill its context. An act that failed is known as such, and
after a few failures in a row the manager plans anew.
"""

import operator as op
import re
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from whet.agents.attempts import role
from whet.agents.background import arrivals
from whet.agents.knobs import MAX_TOKENS, TEMPERATURE, Knob, pattern
from whet.agents.patterns.react import Call, call_tool, to_tools
from whet.agents.precaution import transcript
from whet.agents.runtime import AgentContext
from whet.core import Message

__all__ = ["hierarchy"]

MANAGER = """\
You are the manager of this task. An operator with tools does the work, one subgoal at a time. Look at what was done. If
the task is fulfilled, reply
DONE: the answer to the task, complete, since nobody sees anything else
Otherwise reply with the plan of what is left, a line for each subgoal, and at the end
NEXT: the subgoal to work on now, with all the operator has to know
Where acts failed again and again, choose another way."""

OPERATOR = """\
You are the operator. Work on the subgoal with the tools, a step at a time. Do not repeat what failed. When the subgoal
is reached, or cannot be, say so in a sentence and call no tool."""

REFLECTOR = """\
Judge whether the operator's last act did what the subgoal needs. Reply with one letter and a sentence that says why:
A: it did
B: it went wrong; things are now other than they should be
C: it had no effect"""

NOTETAKER = """\
Keep the notes of the task: facts that later steps or the answer need, as short as they can be without losing a number
or a name. Reply with the whole notes, the old ones included where they still matter."""

_OUTCOMES = {"A": "it succeeded", "B": "it went wrong", "C": "it had no effect"}
_RECENT = 5  # acts that manager and operator see


class Act(TypedDict):
    """What the operator did, and how it was judged; nobody judges its reports and the results that came later."""

    text: str
    judged: str


class State(TypedDict):
    """``said`` is the operator's last message, ``results`` what tools returned, in order."""

    messages: list[Message]
    plan: str
    subgoal: str
    notes: str
    said: Message
    results: Annotated[list[Message], op.add]
    acts: Annotated[list[Act], op.add]
    steps: Annotated[int, op.add]
    failures: int
    answer: str
    done: bool


@pattern(
    prompts={"manager": MANAGER, "operator": OPERATOR, "reflector": REFLECTOR, "notetaker": NOTETAKER},
    max_steps=Knob(20, low=1, high=1000),
    patience=Knob(2, low=1, high=20),
    temperature=TEMPERATURE,
    max_tokens=MAX_TOKENS,
)
def hierarchy() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: manager → operator → tools → reflector → notetaker → operator …

    After ``patience`` failures in a row the manager plans anew; after ``max_steps`` turns of the operator it answers.
    """
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("manager", manager)
    graph.add_node("operator", operator)
    graph.add_node("tools", use_tool, input_schema=Call)
    graph.add_node("reflector", reflector)
    graph.add_node("notetaker", notetaker)
    graph.add_edge(START, "manager")
    graph.add_conditional_edges("manager", after_manager, ["operator", END])
    graph.add_conditional_edges("operator", after_operator, ["tools", "manager"])
    graph.add_edge("tools", "reflector")
    graph.add_conditional_edges("reflector", after_reflector, ["notetaker", "operator", "manager"])
    graph.add_conditional_edges("notetaker", after_act, ["operator", "manager"])
    return graph


async def manager(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the plan made or revised, or the answer given; what is said after the last step is the answer in any case."""
    context, last = runtime.context, is_spent(state, runtime)
    more = "No steps are left: answer now, with DONE." if last else ""
    parts = [part("Plan so far", state.get("plan", "")), part("Notes", state.get("notes", "")), recent(state), more]
    said = (await context.ask([*state["messages"], role(context, "manager", *parts)])).text
    found = re.search(r"^\W*DONE\W*?:\**(.*)", said, re.MULTILINE | re.DOTALL)
    if found or last:
        return {"done": True, "answer": (found[1] if found else said).strip()}
    following = re.findall(r"^\W*NEXT\W*?:\**(.*)", said, re.MULTILINE)
    return {"done": False, "failures": 0, "plan": said, "subgoal": (following[-1] if following else said).strip()}


async def operator(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the next step taken: tool calls, or a report that goes to the manager."""
    context = runtime.context
    arrived = await arrivals(context)
    parts = [part("Plan", state["plan"]), part("Subgoal", state["subgoal"]), part("Notes", state.get("notes", ""))]
    asked = [*state["messages"], *arrived, role(context, "operator", *parts, recent(state))]
    completion = await context.ask(asked, tools=context.tool_specs)
    said = Message(role="assistant", content=completion.text, tool_calls=completion.tool_calls)
    texts = [*(message.content for message in arrived), *([] if said.tool_calls else [f"report: {said.content}"])]
    return {"said": said, "steps": 1, "acts": [Act(text=text, judged="") for text in texts]}


async def use_tool(state: Call, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Runs one tool that the operator called."""
    return {"results": (await call_tool(state, runtime))["messages"]}


async def reflector(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the act judged: A, B or C. An answer that is none of them counts as no effect."""
    context, said = runtime.context, state["said"]
    act = transcript([said, *state["results"][-len(said.tool_calls) :]])
    completion = await context.ask([role(context, "reflector", part("Subgoal", state["subgoal"]), part("Act", act))])
    found = re.match(r"\W*([ABC])\b\W*(.*)", completion.text, re.DOTALL)
    letter, why = (found[1], found[2]) if found else ("C", "the reflector gave no letter")
    failures = 0 if letter == "A" else state["failures"] + 1
    return {"failures": failures, "acts": [Act(text=act, judged=f"=> {_OUTCOMES[letter]}: {why}")]}


async def notetaker(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the notes brought up to date with what the act brought."""
    context, parts = runtime.context, [part("Notes", state.get("notes", "")), part("Act", state["acts"][-1]["text"])]
    return {"notes": (await context.ask([*state["messages"], role(context, "notetaker", *parts)])).text}


def after_manager(state: State) -> str:
    """Returns where to go from the manager: to the operator, or to the end with the answer."""
    return END if state["done"] else "operator"


def after_operator(state: State) -> list[Send] | str:
    """Returns where to go from the operator: to the tools it called, or with its report to the manager."""
    return to_tools(state["said"]) or "manager"


def after_reflector(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go from a judged act: notes of a good one; after failures in a row, to the manager."""
    if not state["failures"]:
        return "notetaker"
    return "manager" if state["failures"] >= runtime.context.knob("patience") else after_act(state, runtime)


def after_act(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go on: to the operator while it has steps left."""
    return "manager" if is_spent(state, runtime) else "operator"


def is_spent(state: State, runtime: Runtime[AgentContext]) -> bool:
    """Returns whether the operator has had all its steps."""
    return state.get("steps", 0) >= runtime.context.knob("max_steps")


def part(title: str, text: str) -> str:
    """Returns a part of a prompt under its title, the empty text where there is nothing to say."""
    return f"# {title}\n{text}" if text else ""


def recent(state: State) -> str:
    """Returns the last acts, and how they were judged."""
    acts = state.get("acts", [])[-_RECENT:]
    return part("Done last", "\n\n".join(f"{act['text']}\n{act['judged']}".rstrip() for act in acts))
