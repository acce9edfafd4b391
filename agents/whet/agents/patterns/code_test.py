"""Programs and tests by the same model, run on each other; a rule chooses, and a person may be asked about tests.

Chen et al. 2022, "CodeT: Code Generation with Generated Tests", arXiv 2207.10397, with the rules of
``whet.agents.choosing``; the questions follow Dong et al. 2024, "ConAIR", arXiv 2411.15587.
"""

import ast
import operator
from collections.abc import Iterator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from whet.agents.attempts import CALLS, Draw, Sample, draw_sample, judge, may_ask, role, texts_of
from whet.agents.behaviour import behaviours, failed, program_of
from whet.agents.choosing import RULES, agree, choose, next_question
from whet.agents.knobs import MAX_TOKENS, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.core import Json, Message

__all__ = ["code_test"]

_TESTS = """Write tests for the function that the task asks for: one assert on a line, such as
assert solve([3, 1, 2]) == [1, 2, 3], for ordinary inputs and for those at the edges. Write nothing else."""


class State(TypedDict):
    """``passes`` says which program passes which test; ``answers`` what a person said, by the test's text."""

    messages: list[Message]
    tests: list[str]
    samples: Annotated[list[Sample], operator.add]
    passes: list[list[bool]]
    answers: dict[str, bool]
    answer: str


@pattern(
    prompts={"tests": _TESTS},
    asks=True,
    n=Knob(8, low=1, high=256),
    tests=Knob(16, low=1, high=256),
    rule=Knob(0, low=0, high=len(RULES) - 1),
    questions=Knob(0, low=0, high=64),
    calls=CALLS,
    temperature=Knob(0.8, high=5.0),
    max_tokens=MAX_TOKENS,
)
def code_test() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: tests → ``n`` times code → run → ask → run … → choose."""
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("tests", write_tests)
    graph.add_node("code", draw_sample, input_schema=Draw)
    graph.add_node("run", run)
    graph.add_node("ask", ask)
    graph.add_node("choose", choose_code)
    graph.add_edge(START, "tests")
    graph.add_conditional_edges("tests", spread, ["code"])
    graph.add_edge("code", "run")
    graph.add_conditional_edges("run", after_run, ["ask", "choose"])
    graph.add_edge("ask", "run")
    graph.add_edge("choose", END)
    return graph


async def write_tests(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks for tests, once; at most ``tests`` of them are kept, each once."""
    context = runtime.context
    if not may_ask(context, 2):
        return {"tests": []}
    reply = await context.ask([*state["messages"], role(context, "tests")])
    return {"tests": list(dict.fromkeys(asserts(reply.text)))[: int(context.knob("tests"))]}


def spread(state: State, runtime: Runtime[AgentContext]) -> list[Send]:
    """Returns a sampling node for each of the ``n`` programs."""
    numbers = range(int(runtime.context.knob("n")))
    allowed = [number for number in numbers if may_ask(runtime.context, number + 1)]
    return [Send("code", Draw(messages=state["messages"], number=number)) for number in allowed]


async def run(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Runs every program on every test."""
    context = runtime.context
    programs = [program_of(context.task, text) for text in texts_of(state["samples"])]
    did = await behaviours(context, programs, state["tests"])
    return {"passes": [[not failed(outcome) for outcome in row] for row in did]}


def after_run(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go: to a person while questions are left and an answer could change the choice."""
    asked = len(state.get("answers", {}))
    more = asked < runtime.context.knob("questions") and _question(state) is not None
    return "ask" if more else "choose"


def ask(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks a person whether a test is right; an ``assert`` as the answer takes the place of a wrong one."""
    number = _question(state)
    assert number is not None, "the way here leads past after_run"
    test = state["tests"][number]
    person, shown = runtime.context.ask_person, {"test": test, "answer": "yes, no, or a right assert in its place"}
    said = _answer(person({"question": "Is this test right?", **shown}))
    while said is None:
        said = _answer(person({"question": "Please answer yes, no, or with a right assert.", **shown}))
    known = {**state.get("answers", {}), test: said is True}
    if isinstance(said, str):
        return {"tests": list(dict.fromkeys([*state["tests"], said])), "answers": {**known, said: True}}
    return {"answers": known}


async def choose_code(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Takes the program that the rule ranks highest among those that do best on public checks and a person's tests."""
    context = runtime.context
    texts, (programs, tests) = texts_of(state["samples"]), agree(state["passes"], _known(state))
    scores = [(await judge(context, texts[number]))["score"] for number in programs]
    best = [number for number, score in zip(programs, scores, strict=True) if score == max(scores)]
    rule = RULES[int(context.knob("rule"))]
    ranked = rule([[row[test] for test in tests] for row in state["passes"]])
    return {"answer": texts[best[choose(ranked[best])]]}


def asserts(text: str) -> Iterator[str]:
    """Yields the lines of a reply that are an assert."""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("assert ") and _parses(line):
            yield line


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _answer(said: Json) -> bool | str | None:
    """Returns what a person said: yes, no, or the right assert; ``None`` for anything else."""
    if isinstance(said, bool):
        return said
    text = said.strip() if isinstance(said, str) else ""
    return {"yes": True, "no": False}.get(text.lower(), next(asserts(text), None))


def _known(state: State) -> dict[int, bool]:
    """Returns what a person said of the tests, by their numbers."""
    said = state.get("answers", {})
    return {number: said[test] for number, test in enumerate(state["tests"]) if test in said}


def _question(state: State) -> int | None:
    return next_question(state["passes"], _known(state)) if state["tests"] else None
