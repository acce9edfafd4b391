"""A LangGraph graph of one's own, recorded node by node as it is, then improved from what went wrong.

    python examples/langgraph_own.py                          # the small model that comes with Whet
    python examples/langgraph_own.py openai/gpt-4o-mini

The graph below is plain LangGraph. It knows of Whet only its chat model, so that the same graph serves every model.
What is learned reaches it as the system message of its `messages`.
"""

import asyncio
import sys

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from whet.agents import Agent, AgentChatModel
from whet.agents.tasksets import load_tasks
from whet.core import Budget, Step, WhetError
from whet.learners import improve
from whet.memory import Memory

llm = AgentChatModel()


async def draft(state: MessagesState) -> dict[str, object]:
    """Asks the model."""
    return {"messages": [await llm.ainvoke(state["messages"])]}


def tidy(state: MessagesState) -> dict[str, object]:
    """Takes the code out of its fence, if there is one."""
    text = state["messages"][-1].text
    inside = text.partition("```python\n")[2].partition("```")[0]
    return {"messages": [AIMessage(inside or text)]}


graph = StateGraph(MessagesState)
graph.add_node("draft", draft)
graph.add_node("tidy", tidy)
graph.add_edge(START, "draft")
graph.add_edge("draft", "tidy")
graph.add_edge("tidy", END)


async def main(model: str) -> None:
    """Runs the graph on one task and prints its steps; then lets it learn from all of them."""
    tasks = load_tasks("world:11")
    async with await Memory.open(".whet") as memory, Agent(graph, model, memory=memory, name="own") as agent:
        async for event in agent.stream(tasks.tasks[0]):
            if isinstance(event, Step):
                print(f"  {event.seq}  {event.node:<8} {type(event.body).__name__}")
        report = await improve(agent, tasks, ["lessons"], memory=memory, budget=Budget(calls=2000))
    for number, rate in enumerate(report.pass_rates):
        print(f"round {number}: {rate:.0%} of the training tasks pass")
    for promotion in report.promotions:
        print(f"{promotion.decision}: {promotion.reason}")
    print(f"{report.spent.calls} calls; {report.stopped}")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:] or ["tiny"]))
    except WhetError as error:
        sys.exit(str(error))
