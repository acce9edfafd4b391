"""What an agent is told: prompt, principles, skills, lessons; what is withheld, how often, and that it is on record."""

import pytest

from whet.agents import Agent, run_tasks
from whet.core import Lesson, Message, Policy, Task, Use
from whet.core.models import ScriptedModel
from whet.core.prompting import render_system
from whet.memory import Memory

SKILL = """---
name: sorting
description: How to sort lists and tuples. Use for tasks that sort.
metadata:
  keywords: sort sorted
---
Use sorted().
"""
OTHER = """---
name: letters
description: How to write letters.
---
Use mail().
"""
POLICY = Policy.of(
    {"prompts/system.md": "You write Python.", "principles.md": "Be brief.", "skills/sorting/SKILL.md": SKILL}
)


async def lesson(memory: Memory, text: str, **fields: object) -> Lesson:
    made = Lesson(text=text, task_text="Sort the list.", applies_when="sorting a list", status="active", **fields)  # type: ignore[arg-type]
    await memory.put(made)
    return made


def never_withheld(policy: Policy) -> Policy:
    return policy.edit({"settings.toml": "withhold_rate = 0.0"})


async def told(policy: Policy, memory: Memory | None, prompt: str = "Sort the list.", **options: object) -> str:
    async with ScriptedModel(["ok"]) as model:
        await Agent("react", model, policy=policy, memory=memory, **options).arun(prompt)  # type: ignore[arg-type]
    first = model.asked[0].messages[0]
    return first.content if first.role == "system" else ""


@pytest.mark.asyncio
async def test_prompt_principles_skills_and_lessons_are_told_in_the_wording_of_the_training_data(
    memory: Memory,
) -> None:
    await lesson(memory, "sorted() returns a new list.")
    system = await told(never_withheld(POLICY), memory)
    body = "\nUse sorted().\n"
    assert system == render_system(
        "You write Python.", "Be brief.", [("sorting", body)], ["sorted() returns a new list."]
    )


@pytest.mark.asyncio
async def test_the_rubrics_of_the_policy_are_told_after_its_principles() -> None:
    rubrics = {
        "rubrics/b.md": "# Rubric: b\n\n## Tone\nBe kind.\n",
        "rubrics/a.md": "# Rubric: a\n\n## Units\nGive them.",
    }
    system = await told(POLICY.edit(rubrics), None, "Count to three.")
    assert system == "You write Python.\n\nBe brief.\n\n" + "\n\n".join(rubrics[p].strip() for p in sorted(rubrics))


@pytest.mark.asyncio
async def test_with_nothing_to_say_there_is_no_system_message(memory: Memory) -> None:
    assert await told(Policy(), memory) == ""


@pytest.mark.asyncio
async def test_a_skill_is_opened_when_the_task_calls_for_it() -> None:
    policy = never_withheld(POLICY)
    assert "Use sorted()." in await told(policy, None)
    assert "Use sorted()." not in await told(policy, None, "Write a poem.")


@pytest.mark.asyncio
async def test_an_agent_with_tools_sees_the_other_skills_and_can_open_them() -> None:
    def noop() -> str:
        """Do nothing."""
        return ""

    policy = never_withheld(POLICY).edit({"skills/letters/SKILL.md": OTHER})
    system = await told(policy, None, tools=[noop])
    assert "- letters: How to write letters." in system
    assert "letters" not in await told(policy, None)
    from whet.core.models import say_tool

    async with ScriptedModel([say_tool("open_skill", {"name": "letters"}), "ok"]) as model:
        await Agent("react", model, policy=policy, tools=[noop]).arun("Sort the list.")
    assert "Use mail()." in model.asked[1].messages[-1].content


@pytest.mark.asyncio
async def test_an_agent_with_tools_can_run_the_scripts_of_a_skill() -> None:
    from whet.agents import shell
    from whet.core.models import say_tool

    policy = never_withheld(POLICY)
    scripted = policy.edit(
        {"skills/letters/SKILL.md": OTHER, "skills/letters/scripts/say.py": "import sys; print(sys.argv)"}
    )
    calls = [
        {"name": "letters", "script": "scripts/say.py", "arguments": ["hello"]},
        {"name": "gone", "script": "x.py"},
    ]
    async with ScriptedModel([*(say_tool("run_skill", each) for each in calls), "ok"]) as model:
        await Agent("react", model, policy=scripted, tools=[shell]).arun("Sort the list.")
    assert [spec.name for spec in model.asked[0].tools] == ["shell", "open_skill", "run_skill"]
    assert "['scripts/say.py', 'hello']\n[exit code 0]" in model.asked[1].messages[-1].content
    assert "there is no skill 'gone'" in model.asked[2].messages[-1].content
    async with ScriptedModel(["ok"]) as model:
        await Agent("react", model, policy=policy, tools=[shell]).arun("Sort the list.")
    assert "run_skill" not in [spec.name for spec in model.asked[0].tools]


@pytest.mark.asyncio
async def test_lessons_that_are_not_active_are_not_told(memory: Memory) -> None:
    await memory.put(Lesson(text="Unproven.", task_text="Sort the list."))
    assert await told(never_withheld(Policy()), memory) == ""


@pytest.mark.asyncio
async def test_recall_k_bounds_what_is_told(memory: Memory) -> None:
    for number in range(5):
        await lesson(memory, f"Lesson {number} on sorting a list.")
    policy = Policy.of({"settings.toml": "withhold_rate = 0.0\nrecall_k = 2"})
    assert (await told(policy, memory)).count("\nLesson") == 2
    assert await told(policy.edit({"settings.toml": "recall_k = 0"}), memory) == ""


@pytest.mark.asyncio
async def test_uses_are_recorded_and_withheld_ones_are_not_told(memory: Memory) -> None:
    kept = await lesson(memory, "sorted() returns a new list.")
    policy = POLICY.edit({"settings.toml": "withhold_rate = 1.0"})
    system = await told(policy, memory)
    assert system == "You write Python.\n\nBe brief."
    uses = await memory.find(Use)
    assert {(use.item, use.kind) for use in uses} == {(kept.id, "withheld"), ("skill:sorting", "withheld")}
    assert {use.version for use in uses if use.item == kept.id} == {"1"}


@pytest.mark.asyncio
async def test_the_gate_withholds_nothing(memory: Memory) -> None:
    await lesson(memory, "sorted() returns a new list.")
    policy = POLICY.edit({"settings.toml": "withhold_rate = 1.0"})
    async with ScriptedModel(["ok"]) as model:
        await Agent("react", model, policy=policy, memory=memory).arun("Sort the list.", purpose="gate")
    assert "sorted() returns" in model.asked[0].messages[0].content
    assert {use.kind for use in await memory.find(Use)} == {"shown"}


@pytest.mark.asyncio
async def test_the_default_rate_withholds_about_one_in_twenty(memory: Memory) -> None:
    kept = await lesson(memory, "sorted() returns a new list.")
    tasks = [Task(id=f"t{n}", messages=(Message(role="user", content="Sort the list."),)) for n in range(300)]
    async with ScriptedModel(["ok"] * 300) as model:
        await run_tasks(Agent("react", model, memory=memory), tasks, concurrency=8)
    uses = await memory.find(Use, where={"item": kept.id})
    withheld = sum(use.kind == "withheld" for use in uses)
    assert len(uses) == 300
    assert 3 <= withheld <= 36, "outside of this with a probability below 1e-4 at a rate of 0.05"
