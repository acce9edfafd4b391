"""Test-driven: tests first, from the requirement alone; then the program; what fails comes back as a repair report.

TDDev (2025). Tests that were written before the program cannot bend to it. They are the model's own and may be wrong,
so they choose and repair, and are never evidence: they leave no verdicts, and the task's verifiers judge the answer.
"""

import operator
from typing import Annotated, TypedDict

import msgspec
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from whet.agents.attempts import Attempt, best_of, judge, role
from whet.agents.behaviour import program_of
from whet.agents.knobs import MAX_TOKENS, TEMPERATURE, Knob, pattern
from whet.agents.runtime import AgentContext
from whet.agents.tools import tool
from whet.core import Message, Task, ToolCall, VerifierSpec, decode, encode
from whet.core.prompting import render_retry
from whet.feedback import CheckCritic, verify_all
from whet.feedback.answers import extract_code

__all__ = ["test_driven"]

TESTER = """\
Write the acceptance tests of the task below, before anybody solves it. Take them from the requirement alone: the
examples it gives, the plain case, the borders. Each test is one assert statement at the top level of a Python module
that calls the function by the name the task gives, like: assert add(1, 2) == 3. Leave out what the requirement does
not settle. Reply with one Python block and nothing else."""

HIDDEN, SHOWN, STEPWISE = range(3)


class State(TypedDict):
    """``tests`` is what was written first; ``attempts`` are scored by them and by the task's public verifiers."""

    messages: Annotated[list[Message], operator.add]
    tests: str
    attempts: Annotated[list[Attempt], operator.add]
    answer: str


@pattern(
    prompts={"tester": TESTER, "requirement": "The answer has to pass these tests:"},
    repairs=Knob(3, low=0, high=20),
    enforcement=Knob(SHOWN, low=HIDDEN, high=STEPWISE),
    temperature=TEMPERATURE,
    max_tokens=MAX_TOKENS,
)
def test_driven() -> StateGraph[State, AgentContext, State, State]:
    """Returns the graph: specify → answer ⇄ check.

    ``repairs`` is how many repairs are allowed. ``enforcement`` is how the tests reach the one who writes the program:
    0, only through reports of all that failed; 1, they are seen from the start; 2, through the first that failed, one
    at a time.
    """
    graph = StateGraph(State, context_schema=AgentContext)
    graph.add_node("specify", specify)
    graph.add_node("answer", answer)
    graph.add_node("check", check)
    graph.add_edge(START, "specify")
    graph.add_edge("specify", "answer")
    graph.add_edge("answer", "check")
    graph.add_conditional_edges("check", after_check, ["answer", END])
    return graph


async def specify(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Has the tests written; the one who writes the program hears of them as the enforcement says."""
    context = runtime.context
    completion = await context.ask([role(context, "tester", f"# Task\n{context.task.prompt}")])
    tests = extract_code(completion.text)[0]
    if context.knob("enforcement") != SHOWN:
        return {"tests": tests}
    asked = role(context, "requirement", f"```python\n{tests.strip()}\n```")
    return {"tests": tests, "messages": [asked]}


async def answer(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Asks for a program, with those that failed and their reports in the conversation."""
    completion = await runtime.context.ask(state["messages"])
    return {"messages": [Message(role="assistant", content=completion.text)]}


async def check(state: State, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Runs the tests on the program, keeps the best one, and reports what failed."""
    context, text = runtime.context, state["messages"][-1].content
    attempt = add_tests(await judge(context, text), await run_own(context, state["tests"], text))
    if attempt["critiques"] and context.knob("enforcement") == STEPWISE:
        attempt["critiques"] = attempt["critiques"][:1]
    attempts = [*state.get("attempts", []), attempt]
    kept: dict[str, object] = {"attempts": [attempt], "answer": best_of(reversed(attempts))["text"]}
    if attempt["critiques"]:
        kept["messages"] = [Message(role="user", content=render_retry(attempt["critiques"]))]
    return kept


def after_check(state: State, runtime: Runtime[AgentContext]) -> str:
    """Returns where to go from the tests: to a repair while some fail and repairs are left."""
    left = len(state["attempts"]) <= runtime.context.knob("repairs")
    return "answer" if left and state["attempts"][-1]["critiques"] else END


class Report(msgspec.Struct, frozen=True):
    """What the model's own tests found: the share that passed (``None``: they could not be run), and what failed."""

    score: float | None
    failures: tuple[str, ...] = ()


def add_tests(attempt: Attempt, report: Report) -> Attempt:
    """Returns an attempt, judged by the task's public verifiers, with what the model's own tests found."""
    if report.score is None:
        return attempt
    judged = attempt["passed"] or bool(attempt["critiques"])
    score = (attempt["score"] + report.score) / 2 if judged else report.score
    critiques = [*attempt["critiques"], *report.failures]
    return Attempt(text=attempt["text"], score=score, passed=not critiques, critiques=critiques)


async def run_own(context: AgentContext, tests: str, text: str) -> Report:
    """Returns what the tests find in an answer, from the record where the run is replayed."""
    arguments = encode({"program": program_of(context.task, text), "tests": tests}).decode()
    result = await context.use(run_tests, ToolCall(id="run_tests", name="run_tests", arguments=arguments))
    return decode(result.content, Report) if result.error is None else Report(None)


@tool
async def run_tests(program: str, tests: str, context: AgentContext) -> str:
    """Run asserts on a program in a sandbox of its own."""
    spec = VerifierSpec(kind="python_tests", params={"form": "asserts", "test": tests})
    task, run = Task(id=context.task.id, messages=(), verifiers=(spec,)), context.run
    tried = msgspec.structs.replace(run, answer=program, status="done")
    (verdict,) = await verify_all(task, tried, context.sandboxes)
    critiques = await CheckCritic().critique(task, tried, [verdict])
    blamed = verdict.outcome != "infra_error"
    return encode(Report(verdict.score if blamed else None, tuple(critique.text for critique in critiques))).decode()
