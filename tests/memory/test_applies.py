"""Scope: a lesson is told where it applies, and kept back from near misses and from other people's tasks."""

import pytest

from whet.agents import Agent
from whet.core import Lesson, Message, Policy, Task
from whet.core.models import ScriptedModel
from whet.memory import Memory
from whet.memory.applies import about_person, applies, exceptions, for_person

LETTERS = Lesson(
    text="Answer letters in German.",
    applies_when="letters to customers",
    not_when="the task mentions a legal notice; the tax office\nan invoice",
    status="active",
)


@pytest.mark.asyncio
async def test_in_scope_and_near_miss(memory: Memory) -> None:
    await memory.put(LETTERS)
    told = {
        "Write a letter to a customer about the new opening hours.": True,
        "Write a letter to a customer about a notice.": True,
        "Write a letter to a customer: a notice, and a legal one.": False,
        "Write a letter to the tax office.": False,
        "Write a letter that goes with an INVOICE.": False,
        "Write a letter to a customer about the task at hand.": True,
    }
    assert {task: applies(LETTERS, task) for task in told} == told
    assert {task: await memory.recall(task) != [] for task in told} == told


def test_an_exception_of_common_words_excludes_nothing() -> None:
    assert exceptions("when the task is such a text; ;\n") == []
    assert exceptions("Legal, notice") == [{"legal", "notice"}]


@pytest.mark.asyncio
async def test_what_is_about_a_person_is_told_in_their_tasks_only(memory: Memory) -> None:
    likes = Lesson(text="Prefers tables to prose.", applies_when=for_person("ana", "reports"), status="active")
    await memory.put(likes)
    assert about_person(likes) == "ana"
    assert about_person(LETTERS) is None
    question = "How warm was it in June?"
    assert [found.lesson for found in await memory.recall(question, person="ana")] == [likes]
    assert await memory.recall(question, person="bo") == []
    assert await memory.recall("Prefers tables to prose in reports") == []
    for person, told in (("ana", True), ("bo", False)):
        task = Task(id=person, messages=(Message(role="user", content=question),), meta={"person": person})
        async with ScriptedModel(["ok"]) as model:
            policy = Policy.of({"settings.toml": "withhold_rate = 0.0"})
            await Agent("react", model, policy=policy, memory=memory).arun(task)
        assert ("Prefers tables" in model.asked[0].messages[0].content) == told


@pytest.mark.asyncio
async def test_the_model_hears_of_exceptions(memory: Memory) -> None:
    await memory.put(LETTERS)
    async with ScriptedModel(["ok"]) as model:
        policy = Policy.of({"settings.toml": "withhold_rate = 0.0"})
        await Agent("react", model, policy=policy, memory=memory).arun("Write a letter to a customer.")
    system = model.asked[0].messages[0].content
    assert "Answer letters in German.\nNot when: the task mentions a legal notice; the tax office" in system
