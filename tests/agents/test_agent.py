"""The agent: what it records, how it fails, how it is cancelled, whose graphs it runs."""

import asyncio
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime

from whet.agents import Agent, AgentChatModel, AgentContext, Token, adapt, current_context, replay
from whet.agents.knobs import Knob
from whet.agents.runtime import Criticise, Verify
from whet.core import (
    Budget,
    Critique,
    Message,
    ModelCall,
    NodeFinished,
    Policy,
    Run,
    Step,
    Task,
    UserError,
    Verdict,
    VerifierError,
    VerifierSpec,
)
from whet.core.models import ScriptedModel
from whet.memory import Memory

TASK = Task(
    id="add",
    messages=(Message(role="user", content="Write add(a, b)."),),
    verifiers=(VerifierSpec(kind="python_tests", params={"form": "asserts", "test": "assert add(1, 2) == 3"}),),
)


def one_node(node: Any) -> StateGraph[MessagesState]:
    graph = StateGraph(MessagesState)
    graph.add_node("answer", node)
    graph.add_edge(START, "answer")
    return graph


# --- what is recorded -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_run_is_in_the_memory_with_all_that_belongs_to_it(
    memory: Memory, wants_good: Verify, says_why: Criticise
) -> None:
    policy = Policy.of({"prompts/system.md": "Be good."})
    async with ScriptedModel(["bad", "good"]) as model:
        agent = Agent("refine", model, policy=policy, memory=memory, verify=wants_good, critique=says_why)
        result = await agent.arun("Do it.", seed=7, tags=["x"])
    run = await memory.get(Run, result.run.id)
    assert run == result.run
    assert (run.status, run.answer, run.seed, run.purpose, run.tags) == ("done", "good", 7, "live", ("x",))
    assert run.usage.calls == 2
    assert run.ended_at is not None
    assert await memory.policies.get(run.policy) == policy
    assert (await memory.get(Task, run.task_id)).prompt == "Do it."
    steps = await memory.find(Step, where={"run_id": run.id})
    assert [step.seq for step in steps] == list(range(len(steps)))
    assert [step.node for step in steps if isinstance(step.body, ModelCall)] == ["answer", "answer"]
    verdicts = await memory.find(Verdict, where={"run_id": run.id})
    assert [(verdict.repetition, verdict.outcome) for verdict in verdicts] == [(1, "fail"), (2, "pass"), (0, "pass")]
    [critique] = await memory.find(Critique, where={"run_id": run.id})
    assert critique.verdict_ids == (verdicts[0].id,)


@pytest.mark.asyncio
async def test_a_task_is_judged_by_its_own_verifiers_in_a_sandbox(memory: Memory) -> None:
    async with ScriptedModel(["def add(a, b):\n    return a - b\n", "def add(a, b):\n    return a + b\n"]) as model:
        result = await Agent("refine", model, memory=memory).arun(TASK)
    assert result.passed
    assert result.verdicts[0].kind == "execution"
    retry = model.asked[1].messages[-1].content
    assert retry.startswith("Rejected.\n")
    assert "expected 3" in retry


@pytest.mark.asyncio
async def test_an_agent_without_a_policy_runs_under_the_head(memory: Memory) -> None:
    head = Policy.of({"prompts/system.md": "I am the head."})
    await memory.policies.commit(head, reason="test", actor="test")
    async with ScriptedModel(["ok"]) as model:
        result = await Agent("react", model, memory=memory).arun("Hello")
    assert result.run.policy == head.digest
    assert model.asked[0].messages[0].content == "I am the head."


@pytest.mark.asyncio
async def test_a_memory_of_another_scope_takes_the_task(tmp_path: Path) -> None:
    async with await Memory.open(tmp_path / "store", scope="team") as memory, ScriptedModel(["ok"]) as model:
        result = await Agent("react", model, memory=memory, verify=lambda task, run: []).arun(TASK)
        assert result.run.scope == "team"
        assert await memory.count(Run) == 1


def test_run_opens_the_memory_at_a_path(tmp_path: Path) -> None:
    agent = Agent("react", ScriptedModel(["one", "two"]), memory=tmp_path / "store")
    assert agent.run("Hello").answer == "one"
    assert agent.run("Hello").answer == "two"

    async def count() -> int:
        async with await Memory.open(tmp_path / "store") as memory:
            return await memory.count(Run)

    assert asyncio.run(count()) == 2


@pytest.mark.asyncio
async def test_run_says_what_to_do_where_a_loop_is_running() -> None:
    with pytest.raises(UserError, match=r"await agent\.arun\(task\)"):
        Agent("react", ScriptedModel([])).run("Hello")


def test_run_refuses_a_memory_of_another_loop(tmp_path: Path) -> None:
    memory = asyncio.run(Memory.open(tmp_path / "store"))
    with pytest.raises(UserError, match="give the agent its path"):
        Agent("react", ScriptedModel([]), memory=memory).run("Hello")
    asyncio.run(memory.close())


# --- failure ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_node_that_fails_is_a_failed_run(memory: Memory) -> None:
    def fails(state: MessagesState) -> dict[str, object]:
        raise KeyError("missing")

    result = await Agent(one_node(fails), ScriptedModel([]), memory=memory).arun("Hello")
    assert (result.run.status, result.run.error) == ("failed", "node 'answer': KeyError: 'missing'")
    stored = await memory.get(Run, result.run.id)
    assert stored.status == "failed"
    [finished] = [s.body for s in await memory.find(Step) if isinstance(s.body, NodeFinished)]
    assert finished.error == "KeyError: 'missing'"


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [VerifierError("no such metric"), ZeroDivisionError("division by zero")])
async def test_a_judge_that_fails_leaves_the_answer(memory: Memory, error: Exception) -> None:
    def verify(task: Task, run: Run) -> list[Verdict]:
        raise error

    async with ScriptedModel(["42"]) as model:
        result = await Agent("react", model, memory=memory, verify=verify).arun("What is 6 * 7?")
    assert (result.run.status, result.answer, result.score) == ("done", "42", None)
    assert result.run.error == f"not judged: {type(error).__name__}: {error}"


@pytest.mark.asyncio
async def test_a_spent_budget_cancels_the_run_with_the_reason(memory: Memory, wants_good: Verify) -> None:
    budget = Budget(calls=1)
    model = ScriptedModel(["bad", "good"])
    agent = Agent("refine", model, memory=memory, verify=wants_good)
    result = await agent.arun("Do it.", budget=budget)
    assert result.run.status == "cancelled"
    assert result.run.error is not None
    assert result.run.error.startswith("budget: the budget of 1 calls does not allow 1 calls more")
    assert model.leftovers == 1
    assert (await memory.get(Run, result.run.id)).usage.calls == 1


@pytest.mark.asyncio
async def test_a_deadline_ends_a_graph_that_asks_no_model(memory: Memory) -> None:
    async def sleeps(state: MessagesState) -> None:
        await asyncio.sleep(600)

    agent = Agent(one_node(sleeps), ScriptedModel([]), memory=memory)
    result = await agent.arun("Hello", budget=Budget(seconds=2))
    assert result.run.status == "cancelled"
    assert (result.run.error or "").startswith("budget: the ")


@pytest.mark.asyncio
async def test_a_cancelled_run_is_durable_before_the_cancellation_arrives(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def waits(state: MessagesState) -> None:
        started.set()
        await asyncio.sleep(60)

    async with await Memory.open(tmp_path / "store") as memory:
        running = asyncio.create_task(Agent(one_node(waits), ScriptedModel([]), memory=memory).arun("Hello"))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with await Memory.open(tmp_path / "store", read_only=True) as other:
            [run] = await other.find(Run)
    assert (run.status, run.error) == ("cancelled", "CancelledError")
    assert run.ended_at is not None


@pytest.mark.asyncio
async def test_leaving_a_stream_early_cancels_the_run(memory: Memory) -> None:
    async def waits(state: MessagesState) -> None:
        await asyncio.sleep(60)

    stream = Agent(one_node(waits), ScriptedModel([]), memory=memory).stream("Hello")
    assert isinstance(await anext(stream), Step)
    await stream.aclose()  # type: ignore[attr-defined]
    [run] = await memory.find(Run)
    assert run.status == "cancelled"


# --- other people's graphs --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_graph_of_messages_needs_nothing_else() -> None:
    async def echo(state: MessagesState) -> dict[str, object]:
        return {"messages": [AIMessage(" | ".join(f"{m.type}: {m.text}" for m in state["messages"]))]}

    policy = Policy.of({"prompts/system.md": "Echo."})
    result = await Agent(one_node(echo).compile(), ScriptedModel([]), policy=policy).arun("Hello")
    assert result.answer == "system: Echo. | human: Hello"


@pytest.mark.asyncio
async def test_the_answer_is_what_the_model_said_last() -> None:
    async def talk(state: MessagesState) -> dict[str, object]:
        return {"messages": [AIMessage("first"), HumanMessage("and?"), AIMessage("last"), HumanMessage("Rejected.")]}

    assert (await Agent(one_node(talk), ScriptedModel([])).arun("Hello")).answer == "last"


class Question(TypedDict):
    question: str
    answer: str


@pytest.mark.asyncio
async def test_a_graph_of_one_text_needs_nothing_else() -> None:
    class Input(TypedDict):
        question: str

    graph = StateGraph(Question, input_schema=Input)
    graph.add_node("answer", lambda state: {"answer": state["question"].upper()})
    graph.add_edge(START, "answer")
    assert (await Agent(graph, ScriptedModel([])).arun("hello")).answer == "HELLO"


@pytest.mark.asyncio
async def test_any_other_graph_says_how_a_task_goes_in_and_out() -> None:
    class Sum(TypedDict):
        numbers: list[int]
        total: int

    graph = StateGraph(Sum)
    graph.add_node("add", lambda state: {"total": sum(state["numbers"])})
    graph.add_edge(START, "add")
    failed = await Agent(graph, ScriptedModel([])).arun("1 2 3")
    assert "adapt(graph, enter=" in (failed.run.error or "")
    adapted = adapt(
        graph,
        enter=lambda task, system: {"numbers": [int(n) for n in task.prompt.split()]},
        leave=lambda state: str(state["total"]),
    )
    assert (await Agent(adapted, ScriptedModel([])).arun("1 2 3")).answer == "6"


@pytest.mark.asyncio
async def test_an_answer_is_a_plain_text(memory: Memory) -> None:
    async def echo(state: MessagesState) -> dict[str, object]:
        return {"messages": [AIMessage("said")]}

    accessor = adapt(one_node(echo), leave=lambda state: state["messages"][-1].text)
    assert (await Agent(accessor, ScriptedModel([]), memory=memory, name="a").arun("Hello")).answer == "said"
    number = adapt(one_node(echo), leave=lambda state: 3)  # type: ignore[arg-type,return-value]
    failed = await Agent(number, ScriptedModel([]), memory=memory, name="b").arun("Hello")
    assert failed.run.error == "UserError: the graph's leave gives int 3; the answer has to be a text"


@pytest.mark.asyncio
async def test_nodes_get_the_context_and_ask_through_it() -> None:
    async def answer(state: MessagesState, runtime: Runtime[AgentContext]) -> dict[str, object]:
        context = runtime.context
        completion = await context.ask(context.messages())
        return {"messages": [AIMessage(f"{completion.text} {context.knob('width')}")]}

    graph = adapt(one_node(answer), knobs={"width": Knob(3)}, name="mine")
    async with ScriptedModel(["said"]) as model:
        agent = Agent(graph, model, policy=Policy.of({"settings.toml": "width = 5"}))
        events = [event async for event in agent.stream("Hello")]
    assert events[-1].answer == "said 5"  # type: ignore[union-attr]
    [call] = [event for event in events if isinstance(event, Step) and isinstance(event.body, ModelCall)]
    assert call.node == "answer"


@pytest.mark.asyncio
async def test_a_graph_keeps_its_own_context_schema() -> None:
    class Mine(TypedDict):
        user: str

    async def answer(state: MessagesState, runtime: Runtime[Mine]) -> dict[str, object]:
        assert current_context().task.prompt == "Hello"
        return {"messages": [AIMessage(runtime.context["user"])]}

    graph = StateGraph(MessagesState, context_schema=Mine)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    agent = Agent(adapt(graph, context={"user": "Ada"}), ScriptedModel([]))
    assert (await agent.arun("Hello")).answer == "Ada"


@pytest.mark.asyncio
@pytest.mark.parametrize("synchronous", [True, False])
async def test_the_agents_model_answers_langchain(synchronous: bool) -> None:
    llm = AgentChatModel()

    def ask(state: MessagesState) -> dict[str, object]:
        return {"messages": [llm.invoke(state["messages"])]}

    async def ask_later(state: MessagesState) -> dict[str, object]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    budget = Budget(calls=1)
    async with ScriptedModel(["Hello."]) as model:
        agent = Agent(one_node(ask if synchronous else ask_later), model)
        events = [event async for event in agent.stream("Hi", budget=budget)]
    calls = [event for event in events if isinstance(event, Step) and isinstance(event.body, ModelCall)]
    assert [call.node for call in calls] == ["answer"], "recorded once"
    result = events[-1]
    assert result.answer == "Hello."  # type: ignore[union-attr]
    assert result.run.usage.calls == budget.spent.calls == 1  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_langchain_chat_model_is_a_model_of_an_agent() -> None:
    result = await Agent("react", FakeListChatModel(responses=["Bonjour."])).arun("Hello")
    assert result.answer == "Bonjour."
    assert result.run.model == "langchain:FakeListChatModel"


@pytest.mark.asyncio
async def test_tokens_of_langchain_models_are_streamed() -> None:
    llm = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))

    async def ask(state: MessagesState) -> dict[str, object]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    events = [event async for event in Agent(one_node(ask), ScriptedModel([])).stream("Count.")]
    tokens = [event for event in events if isinstance(event, Token)]
    assert len(tokens) > 1
    assert "".join(token.text for token in tokens) == "one two three"
    assert {token.node for token in tokens} == {"answer"}


FILE = """
from langgraph.graph import START, MessagesState, StateGraph

def answer(state: MessagesState):
    return {"messages": [("ai", "from a file")]}

def build():
    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph

graph = build()
compiled = graph.compile()
nothing = 3
"""


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["graph", "compiled", "build"])
async def test_a_graph_is_given_as_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "my_graph.py"
    path.write_text(FILE)
    agent = Agent(f"{path}:{name}", ScriptedModel([]))
    assert agent.name == name
    assert (await agent.arun("Hello")).answer == "from a file"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("reflect", "there is no graph 'reflect'; give best_of_n, "),
        ("{path}:grap", "has no 'grap'; its graphs are graph, compiled"),
        ("{path}:nothing", "is no graph but a int"),
        ("{path}x.py:graph", "there is no file"),
        ("nowhere.module:graph", "no module 'nowhere.module' can be imported"),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, spec: str, problem: str) -> None:
    path = tmp_path / "my_graph.py"
    path.write_text(FILE)
    with pytest.raises(UserError, match=problem):
        Agent(spec.format(path=path), ScriptedModel([]))


def test_outside_of_a_run_there_is_no_context() -> None:
    with pytest.raises(UserError, match="no agent is running here"):
        AgentChatModel().invoke([HumanMessage("Hello")])


# --- what an agent may hear while it works ---------------------------------------------------------------------------


def judged_by(*, public: bool, split: str = "train") -> Task:
    spec = VerifierSpec(kind="exact", params={"expected": "good"}, public=public)
    return Task(
        id=f"{split}{public}", messages=(Message(role="user", content="Be good."),), verifiers=(spec,), split=split
    )  # type: ignore[arg-type]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("purpose", "split", "public", "hears"),
    [
        ("train", "train", False, True),
        ("gate", "train", False, False),
        ("train", "heldout", False, False),
        ("live", "train", False, False),
        ("gate", "heldout", True, True),
    ],
)
async def test_hidden_verifiers_are_heard_only_in_training(
    memory: Memory, purpose: Any, split: str, public: bool, hears: bool
) -> None:
    async with ScriptedModel(["bad", "good"] if hears else ["bad"]) as model:
        agent = Agent("refine", model, memory=memory)
        result = await agent.arun(judged_by(public=public, split=split), purpose=purpose)
    assert result.passed is hears
    assert [verdict.outcome for verdict in result.verdicts] == ["pass" if hears else "fail"], "the answer is judged"
    again = await replay(Agent("refine", ScriptedModel([], name="scripted"), memory=memory), result.run.id)
    assert (again.run.error, again.answer, again.passed) == (None, result.answer, result.passed)
