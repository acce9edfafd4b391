"""Quality and diversity: a grid over the space of answers that keeps the best answer of every kind.

Bradley et al. 2023, "Quality-Diversity through AI Feedback", arXiv 2310.13032, on MAP-Elites (Mouret and Clune 2015,
arXiv 1504.04909). Another descriptor makes another pattern:

    def politeness(text: str) -> tuple[float, ...]:         # coordinates in [0, 1)
        return (min(text.count("please") / 4, 0.99),)

    polite = elites_by(politeness)                           # Agent(polite, model)
"""

import math
import operator
import random
import re
from collections.abc import Callable
from typing import Annotated, TypeAlias, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import CALLS, judge, may_ask, rate, role, section
from whet.agents.knobs import MAX_TOKENS, Knob, Pattern, pattern
from whet.agents.runtime import AgentContext
from whet.core import Message
from whet.feedback.answers import extract_code

__all__ = ["Descriptor", "elites_by", "map_elites", "shape"]

Descriptor: TypeAlias = Callable[[str], tuple[float, ...]]
"""Says of an answer what kind it is: coordinates in [0, 1); each axis has ``bins`` bins."""

_VARY = """Below are good answers to the task, of different kinds. Write another good one that is of a different kind
again. Answer as the task asks for, with the answer alone."""
_QUALITY = "How good is this answer to the task? End with a line such as Score: 80, from 0 to 100."

_BRANCHES = re.compile(r"\b(?:if|elif|for|while|try|case|lambda)\b")
_LONG = 2_000  # characters: an answer this long is in the last bin


class Elite(TypedDict):
    """An answer, its bin and its quality in [0, 1]; ``solved`` where it passes its checks."""

    text: str
    bin: list[int]
    quality: float
    solved: bool


class State(TypedDict):
    """``seen`` are all answers in order; ``elites`` the best of each bin, ``qd`` the sum of their qualities."""

    messages: list[Message]
    draft: str
    seen: Annotated[list[Elite], operator.add]
    elites: list[Elite]
    qd: float
    answer: str


def shape(text: str) -> tuple[float, float]:
    """Returns how long an answer's code (or text) is, on a logarithmic scale, and how many branches it has a line."""
    code, _ = extract_code(text)
    lines = [line for line in code.splitlines() if line.strip()]
    length = math.log1p(min(len(code), _LONG)) / math.log1p(_LONG)
    branches = len(_BRANCHES.findall(code)) / max(1, len(lines))
    return min(length, 0.999), min(branches, 0.999)


def elites_by(descriptor: Descriptor) -> Pattern:
    """Returns the pattern with a descriptor of one's own. Name it with ``Agent(…, name=…)`` where runs are compared."""

    async def place(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
        """Judges the draft and puts it into its bin, where it is better than what is there."""
        context, text = runtime.context, state["draft"]
        attempt = await judge(context, text)
        quality = attempt["score"]
        if not attempt["passed"] and not attempt["critiques"] and may_ask(context):
            asked = [*state["messages"], role(context, "quality", section("Answer", [text]))]
            quality = (await rate(context, asked, (0, 100)))[0] / 100
        bins = int(context.knob("bins"))
        at = [min(bins - 1, max(0, int(axis * bins))) for axis in descriptor(text)]
        new = Elite(text=text, bin=at, quality=quality, solved=attempt["passed"])
        elites = best_of_each([*state.get("elites", []), new])
        best = max(elites, key=lambda elite: (elite["solved"], elite["quality"]))
        qd = sum(elite["quality"] for elite in elites)
        return {"seen": [new], "elites": elites, "qd": qd, "answer": best["text"]}

    @pattern(
        prompts={"vary": _VARY, "quality": _QUALITY},
        tries=Knob(16, low=1, high=10_000),
        start=Knob(4, low=1, high=1000),
        parents=Knob(3, low=1, high=20),
        bins=Knob(5, low=1, high=100),
        fill=Knob(1, low=1, high=10_000),
        calls=CALLS,
        temperature=Knob(0.8, high=5.0),
        max_tokens=MAX_TOKENS,
    )
    def map_elites() -> StateGraph[State, AgentContext, State, State]:
        graph = StateGraph(State, context_schema=AgentContext)
        graph.add_node("vary", vary)
        graph.add_node("place", place)
        graph.add_edge(START, "vary")
        graph.add_edge("vary", "place")
        graph.add_conditional_edges("place", after_place, ["vary", END])
        return graph

    return map_elites


async def vary(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Draws an answer: the first ``start`` from the task alone, later ones with a few elites of other bins in view."""
    context, elites = runtime.context, state.get("elites", [])
    drawn = len(state.get("seen", []))
    asked: list[Message] = []
    if drawn >= context.knob("start"):
        rng = random.Random(f"{context.run.seed}/{drawn}")
        few = rng.sample(elites, min(len(elites), int(context.knob("parents"))))
        asked = [role(context, "vary", *(section(f"Answer {n}", [elite["text"]]) for n, elite in enumerate(few, 1)))]
    return {"draft": (await context.ask([*state["messages"], *asked])).text}


def after_place(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go: to the end once ``fill`` bins hold an answer that passes its checks, or nothing is left."""
    context = runtime.context
    solved = sum(elite["solved"] for elite in state["elites"])
    over = solved >= context.knob("fill") or len(state["seen"]) >= context.knob("tries")
    return END if over or not may_ask(context) else "vary"


def best_of_each(elites: list[Elite]) -> list[Elite]:
    """Returns the elite of every bin, the first of equals, in the order of the bins."""
    found: dict[tuple[int, ...], Elite] = {}
    for elite in elites:
        at = tuple(elite["bin"])
        if at not in found or elite["quality"] > found[at]["quality"]:
            found[at] = elite
    return [found[at] for at in sorted(found)]


map_elites = elites_by(shape)
