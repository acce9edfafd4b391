"""Self-consistency: the answer that most samples agree on; programs agree that do the same on the same calls.

Wang et al. 2022, arXiv 2203.11171; for programs Shi et al. 2022, arXiv 2204.11454; stopping as soon as the majority is
decided follows Aggarwal et al. 2023, arXiv 2305.11860.
"""

import operator
from collections.abc import Hashable, Sequence
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from whet.agents.attempts import CALLS, Draw, Sample, draw_sample, may_ask, role, texts_of
from whet.agents.behaviour import behaviours, code_spec, failed, program_of, public_calls
from whet.agents.knobs import MAX_TOKENS, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Message

__all__ = ["self_consistency"]

_INPUTS = """Write calls of the function that the task asks for, with inputs that tell right programs from wrong ones:
ordinary ones, and those at the edges. One call on a line, such as solve([3, 1, 2]), and nothing else."""


class State(TypedDict):
    """``samples`` come in any order; ``groups`` holds the numbers of samples that agree, the largest first."""

    messages: list[Message]
    calls: list[str]
    samples: Annotated[list[Sample], operator.add]
    groups: list[list[int]]
    answer: str


@pattern(
    prompts={"inputs": _INPUTS},
    n=Knob(8, low=1, high=256),
    width=Knob(4, low=1, high=256),
    inputs=Knob(0, low=0, high=64),
    calls=CALLS,
    temperature=Knob(0.8, high=5.0),
    max_tokens=MAX_TOKENS,
)
def self_consistency() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: inputs → ``width`` times sample → count → sample …, until no sample could change the vote."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("inputs", inputs)
    graph.add_node("sample", draw_sample, input_schema=Draw)
    graph.add_node("count", count)
    graph.add_edge(START, "inputs")
    graph.add_conditional_edges("inputs", spread, ["sample"])
    graph.add_edge("sample", "count")
    graph.add_conditional_edges("count", spread, ["sample", END])
    return graph


async def inputs(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Collects the calls on which programs are compared: those of the public tests, and ``inputs`` by the model."""
    context = runtime.context
    wanted = int(context.knob("inputs"))
    if code_spec(context.task) is None:
        return {"calls": []}
    found = public_calls(context.task)
    if wanted and may_ask(context, 2):
        reply = await context.ask([*state["messages"], role(context, "inputs")])
        found += [line.strip() for line in reply.text.splitlines() if line.strip().endswith(")")][:wanted]
    return {"calls": list(dict.fromkeys(found))}


def spread(state: State, runtime: Runtime[AgentContext]) -> list[Send] | str:
    """Returns the sampling nodes of the next round, or the end where the vote is decided."""
    drawn = len(state.get("samples", []))
    left = int(runtime.context.knob("n")) - drawn
    width = min(left, int(runtime.context.knob("width")))
    batch = [drawn + count for count in range(width) if may_ask(runtime.context, count + 1)]
    if not batch or decided([len(group) for group in state.get("groups", [])], left):
        return END
    return [Send("sample", Draw(messages=state["messages"], number=number)) for number in batch]


async def count(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Groups the samples that agree; the answer is the first one of the largest group."""
    context = runtime.context
    texts = texts_of(state["samples"])
    votes: list[Hashable]
    if code_spec(context.task) is None:
        votes = [plain_answer(text) for text in texts]
    else:
        programs = [program_of(context.task, text) for text in texts]
        did = await behaviours(context, programs, state["calls"])
        votes = [behaviour or program for behaviour, program in zip(did, programs, strict=True)]
    groups = group(votes)
    return {"groups": groups, "answer": texts[groups[0][0]]}


def group(votes: Sequence[Hashable]) -> list[list[int]]:
    """Returns the numbers of equal votes, the largest group first, then the earliest.

    Programs that do nothing but raise agree on nothing: they come last, whatever their number.
    """
    found: dict[Hashable, list[int]] = {}
    for number, vote in enumerate(votes):
        found.setdefault(vote, []).append(number)

    def rank(vote: Hashable) -> tuple[bool, int]:
        broken = isinstance(vote, tuple) and all(map(failed, vote))
        return broken, -len(found[vote])

    return [found[vote] for vote in sorted(found, key=rank)]


def decided(sizes: Sequence[int], left: int) -> bool:
    """Returns whether the first group keeps the majority whatever the samples that are left say."""
    return bool(sizes) and sizes[0] > max(sizes[1:], default=0) + left


def plain_answer(text: str) -> str:
    """Returns what a text answers: its last line that is not empty, without case, spaces, a title or a full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1].rpartition(":")[2] if lines else ""
    return " ".join(last.casefold().rstrip(".").split())
