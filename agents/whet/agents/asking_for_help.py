"""Asking for help: one tool, ``ask_person``, behind which a person is waited for, or a simulated one answers.

    agent = Agent("react", model, tools=[shell, ask_person], memory=memory)      # the run is interrupted until resumed
    agent = Agent("react", model, tools=[shell, simulated_person()])             # answers from the task's blockers

The questions are kept in ``run.meta["questions"]``; the verifier ``asking`` judges them (Ask-F1, HiL-Bench, 2025).
"""

from collections.abc import Callable
from typing import TypeAlias

from whet.agents.runtime import AgentContext
from whet.agents.tools import FunctionTool, tool
from whet.core import Json, Task
from whet.feedback.verifiers.asking import blockers_of

__all__ = ["Person", "answer_from_blockers", "ask_person", "simulated_person"]

Person: TypeAlias = Callable[[Task, str], str]

NOTHING_TO_ADD = "I have nothing to add to what the task says."


def answer_from_blockers(task: Task, question: str) -> str:
    """Returns what a person who knows the task says: the answers to the blockers that the question is about."""
    met = [blocker.answer for blocker in blockers_of(task) if blocker.met_by(question)]
    return "\n".join(met) or NOTHING_TO_ADD


def _asking(reply: Callable[[AgentContext, str], Json]) -> FunctionTool:
    # Whoever answers, the tool looks the same to the model, so what is learned with one holds with the other.
    @tool(trust="trusted")
    async def ask_person(question: str, context: AgentContext) -> str:
        """Ask the person who gave the task. Ask only what the task and the tools cannot settle: what is missing,
        ambiguous or contradictory. One question at a time, naming exactly what it is about."""
        return str(reply(context, question))

    return ask_person


ask_person = _asking(lambda context, question: context.ask_person({"question": question}))
"""Interrupts the run with the question; ``agent.resume(run_id, answer)`` goes on with the answer."""


def simulated_person(person: Person = answer_from_blockers) -> FunctionTool:
    """Returns the tool with a simulated person behind it, for tests, benchmarks and training."""
    return _asking(lambda context, question: person(context.task, question))
