"""A LangGraph graph of one's own: recorded node by node as it is, then improved by what it goes through.

    python examples/langgraph_own.py                          # the small model that comes with Whet
    python examples/langgraph_own.py openai/gpt-4o-mini

The graph is plain LangGraph. It asks its model through LangChain, so that the same graph serves every model. What was
learned reaches it as the system message of its `messages`; `runtime.context` has more, here the judges of the task.
"""

import asyncio
import sys

from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime

from whet.agents import Agent, AgentChatModel, AgentContext
from whet.agents.tasksets import load_tasks
from whet.core import Budget, Step, WhetError
from whet.core.prompting import render_retry
from whet.learners.improve import ImproveConfig, improve
from whet.memory import Memory

llm = AgentChatModel()
ATTEMPTS = 4


async def draft(state: MessagesState) -> dict[str, object]:
    """Asks the model for an answer, with what was said about the ones before."""
    return {"messages": [await llm.ainvoke(state["messages"])]}


async def review(state: MessagesState, runtime: Runtime[AgentContext]) -> dict[str, object]:
    """Hears what is wrong with the answer. Outside of training nobody tells, so the first answer counts."""
    answer = state["messages"][-1].text
    verdicts = await runtime.context.verify(str(answer))
    critiques = await runtime.context.critique(str(answer), verdicts)
    return {"messages": [HumanMessage(render_retry([critique.text for critique in critiques]))] if critiques else []}


def after_review(state: MessagesState) -> str:
    """Goes on while the answer was rejected and attempts are left."""
    attempts = sum(message.type == "ai" for message in state["messages"])
    return "draft" if state["messages"][-1].type == "human" and attempts < ATTEMPTS else END


graph = StateGraph(MessagesState, context_schema=AgentContext)
graph.add_node("draft", draft)
graph.add_node("review", review)
graph.add_edge(START, "draft")
graph.add_edge("draft", "review")
graph.add_conditional_edges("review", after_review, ["draft", END])


async def main(model: str) -> None:
    """Runs the graph on one task and prints its steps; then lets it learn from all of them."""
    tasks = load_tasks("world:11?n=200&verbs=8&lengths=1-3")
    async with await Memory.open(".whet") as memory, Agent(graph, model, memory=memory, name="own") as agent:
        async for event in agent.stream(tasks.tasks[0], purpose="train"):
            if isinstance(event, Step):
                print(f"  {event.seq:>2}  {event.node:<8} {type(event.body).__name__}")
        once = ImproveConfig(rounds=1)
        report = await improve(agent, tasks, ["lessons"], memory=memory, budget=Budget(calls=2000), config=once)
    for found in report.promotions:
        gain = "" if found.mean is None else f"{found.mean:+.0%} on {found.n} held-out pairs, "
        print(f"{found.decision}: {gain}{found.reason}")
    print(f"{report.spent.calls} calls. Look further: whet memory list, whet run list, whet policy log")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:] or ["tiny"]))
    except WhetError as error:
        sys.exit(str(error))
