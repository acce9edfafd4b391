"""Hierarchy: who sees what, what a failure leads to, when it ends; it resumes, replays and keeps its budget."""

from collections.abc import Callable

import pytest

from whet.agents import Agent, ask_person, replay, shell, tool
from whet.core import Budget, Message, ModelCall, Policy, Step, Task
from whet.core.models import ScriptedModel, say_tool
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]


@tool
def look(where: str) -> str:
    """Look somewhere."""
    return "nothing" if where == "cellar" else "the key"


def last(model: ScriptedModel, number: int) -> str:
    return model.asked[number].messages[-1].content


@pytest.mark.asyncio
async def test_a_task_goes_through_all_roles(memory: Memory) -> None:
    script = [
        "1. Find the key.\n2. Tell where it is.\nNEXT: Find the key.",
        say_tool("look", {"where": "attic"}),
        "A: The key was found.",
        "The key is in the attic.",
        "I found it.",
        "DONE: In the attic.",
    ]
    async with ScriptedModel(script) as model:
        result = await Agent("hierarchy", model, tools=[look], memory=memory).arun("Where is the key?")
    assert result.answer == "In the attic."
    steps = sorted(await memory.find(Step, where={"run_id": result.run.id}), key=lambda step: step.seq)
    asked = [step.node for step in steps if isinstance(step.body, ModelCall)]
    assert asked == ["manager", "operator", "reflector", "notetaker", "operator", "manager"]
    assert [len(request.tools) for request in model.asked] == [0, 1, 0, 0, 1, 0], "only the operator has tools"
    assert "# Subgoal\nFind the key." in last(model, 1)
    assert last(model, 2).endswith('# Act\nassistant: \ncalls look({"where":"attic"})\n\ntool look: the key'), (
        "the reflector sees the act and its result"
    )
    assert "# Notes\nThe key is in the attic." in last(model, 4)
    assert "=> it succeeded: The key was found." in last(model, 4)
    assert "report: I found it." in last(model, 5)


@pytest.mark.asyncio
async def test_repeated_failures_go_up_to_the_manager() -> None:
    script = [
        "NEXT: Search the cellar.",
        *[say_tool("look", {"where": "cellar"}), "C: Nothing was there."] * 2,
        "The cellar is empty.\nNEXT: Search the attic.",
        say_tool("look", {"where": "attic"}),
        "B: The door broke.",
        say_tool("look", {"where": "attic"}),
        "A. Found.",
        "In the attic.",
        "There.",
        "DONE: Attic.",
    ]
    async with ScriptedModel(script) as model:
        result = await Agent("hierarchy", model, tools=[look]).arun("Where is the key?")
    assert result.answer == "Attic."
    assert last(model, 5).count("=> it had no effect: Nothing was there.") == 2, "the manager hears of both"
    assert "# Subgoal\nSearch the attic." in last(model, 6)
    assert "=> it went wrong: The door broke." in last(model, 8), "one failure more, counted anew, stays below"


@pytest.mark.asyncio
async def test_after_its_steps_it_answers_whatever_the_state(settings: Settings) -> None:
    script = ["NEXT: Look.", say_tool("look", {"where": "cellar"}), "no idea", "I do not know."]
    async with ScriptedModel(script) as model:
        agent = Agent("hierarchy", model, tools=[look], policy=settings(max_steps=1))
        result = await agent.arun("Where is the key?")
    assert (result.run.status, result.answer) == ("done", "I do not know.")
    assert "No steps are left" in last(model, 3)
    assert "=> it had no effect: the reflector gave no letter" in last(model, 3)


@pytest.mark.asyncio
async def test_a_manager_who_knows_answers_at_once() -> None:
    async with ScriptedModel(["**DONE:** 4"]) as model:
        assert (await Agent("hierarchy", model).arun("2 + 2?")).answer == "4"


@pytest.mark.asyncio
async def test_the_roles_words_are_the_policys() -> None:
    policy = Policy.of({"prompts/manager.md": "Manage.", "prompts/system.md": "Be kind."})
    async with ScriptedModel(["DONE: 4"]) as model:
        await Agent("hierarchy", model, policy=policy).arun("2 + 2?")
    assert [message.content for message in model.asked[0].messages] == ["Be kind.", "2 + 2?", "Manage."]


@pytest.mark.asyncio
async def test_a_person_is_asked_in_the_middle_and_it_is_replayed(memory: Memory, pool: SandboxPool) -> None:
    script = [
        "NEXT: Find out.",
        say_tool("shell", {"command": "echo kept > a.txt"}),
        "A: Done.",
        "a.txt is there.",
        say_tool("ask_person", {"question": "Which?"}),
        "A: Answered.",
        "The red one.",
        say_tool("shell", {"command": "cat a.txt"}),
        "A: Done.",
        "kept",
        "All done.",
        "DONE: The red one.",
    ]
    task = Task(id="t", messages=(Message(role="user", content="Which one?"),))
    tools = [shell, ask_person]
    async with ScriptedModel(script) as model:
        agent = Agent("hierarchy", model, tools=tools, memory=memory, sandbox=pool)
        asked = await agent.arun(task)
        assert asked.interrupts == ({"question": "Which?"},)
        done = await agent.resume(asked.run.id, "The red one.")
    assert done.answer == "The red one."
    assert "tool ask_person: The red one." in last(model, 5)
    assert "tool shell: kept" in last(model, 8)
    again = await replay(Agent("hierarchy", ScriptedModel([]), tools=tools, memory=memory), asked.run.id)
    assert (again.answer, again.run.error) == ("The red one.", None)


@pytest.mark.asyncio
async def test_the_budget_ends_it() -> None:
    async with ScriptedModel(["NEXT: Look.", say_tool("look", {"where": "attic"})]) as model:
        result = await Agent("hierarchy", model, tools=[look]).arun("Where?", budget=Budget(calls=2))
    assert result.run.status == "cancelled"
