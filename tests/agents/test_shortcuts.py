"""Shortcuts as tools: several calls as one, stopped where a step fails, replayed and forked like any tool."""

import json
from collections.abc import Mapping

import pytest

from whet.agents import Agent, fork, replay, shell
from whet.core import Message, Policy, Run, Step, Task, ToolResult, UserError
from whet.core.models import ScriptedModel, say_tool
from whet.memory import Memory
from whet.sandboxes import SandboxPool

HEAD = "---\nname: count\ndescription: Count the words of a file.\n---\nCall it.\n"
STEPS = [
    {"tool": "shell", "arguments": {"command": "sort {{file}} > sorted"}, "ends_with": "[exit code 0]"},
    {"tool": "shell", "arguments": {"command": "wc -l < sorted"}, "ends_with": "[exit code 0]"},
]
TASK = Task(id="t", messages=(Message(role="user", content="Go."),), files={"a.txt": "x\ny\n"})


def policy(steps: object = STEPS, name: str = "count", **more: object) -> Policy:
    data = {"parameters": {"file": {"type": "string"}}, "requires": ["{{file}}"], "steps": steps, **more}
    head = HEAD.replace("name: count", f"name: {name}")
    return Policy.of({f"skills/{name}/SKILL.md": head, f"skills/{name}/shortcut.json": json.dumps(data)})


async def called(memory: Memory, arguments: Mapping[str, object], **changes: object) -> tuple[ToolResult, Run]:
    async with SandboxPool(size=1) as pool, ScriptedModel([say_tool("count", arguments), "ok"]) as model:  # type: ignore[arg-type]
        agent = Agent("react", model, tools=[shell], policy=policy(**changes), memory=memory, sandbox=pool)  # type: ignore[arg-type]
        result = await agent.arun(TASK)
    assert result.run.status == "done", result.run.error
    assert [spec.name for spec in model.asked[0].tools] == ["shell", "open_skill", "count"]
    steps = await memory.find(Step, where={"run_id": result.run.id, "kind": "tool_result"})
    (body,) = [step.body for step in steps if isinstance(step.body, ToolResult)]
    return body, result.run


@pytest.mark.asyncio
async def test_steps_run_one_after_the_other_and_give_one_result(memory: Memory) -> None:
    body, run = await called(memory, {"file": "a.txt"})
    assert (body.error, body.content, body.trust) == (None, "[exit code 0]\n2\n[exit code 0]", "tainted")
    executed = await memory.find(Step, where={"run_id": run.id, "kind": "execution"})
    assert len(executed) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"file": "b.txt"}, "nothing was done: there is no 'b.txt' in the workspace"),
        ({}, "wrong arguments: give file, not none"),
        ({"file": 3}, "wrong arguments: file has to be text"),
        ({"file": "a.txt", "more": 1}, "wrong arguments: give file, not file, more"),
    ],
)
async def test_it_does_not_begin_without_what_it_needs(
    memory: Memory, arguments: dict[str, object], error: str
) -> None:
    body, _ = await called(memory, arguments)
    assert (body.error, body.trust) == (error, "trusted")


@pytest.mark.asyncio
async def test_it_stops_where_a_step_ends_otherwise(memory: Memory) -> None:
    failing = [{"tool": "shell", "arguments": {"command": "cat {{file}} && false"}, "ends_with": "[exit code 0]"}]
    body, _ = await called(memory, {"file": "a.txt"}, steps=[*failing, *STEPS])
    assert body.error == "stopped at step 1 of 3 (shell)\nx\ny\n[exit code 1]"


@pytest.mark.asyncio
async def test_a_run_with_a_shortcut_is_replayed_and_forked(memory: Memory) -> None:
    async with SandboxPool(size=1) as pool:
        script = [say_tool("count", {"file": "a.txt"}), say_tool("shell", {"command": "cat sorted"}), "ok"]
        agent = Agent("react", ScriptedModel(script), tools=[shell], policy=policy(), memory=memory, sandbox=pool)
        run = (await agent.arun(TASK)).run
        assert (await replay(agent, run.id)).answer == "ok"
        steps = await memory.find(Step, where={"run_id": run.id})
        second = [step.seq for step in steps if isinstance(step.body, ToolResult)][1]
        live = Agent("react", ScriptedModel(["ok"]), tools=[shell], policy=policy(), memory=memory, sandbox=pool)
        forked = await fork(live, run.id, before=second)
    found = await memory.find(Step, where={"run_id": forked.run.id, "kind": "tool_result"})
    said = [step.body.content for step in found if isinstance(step.body, ToolResult)]
    assert said[-1] == "x\ny\n[exit code 0]", "the workspace was rebuilt by the shortcut"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (policy(name="shell"), "has the name of a tool"),
        (policy(steps=[{"tool": "shell", "arguments": {"command": "{{where}}"}}]), "parameter 'where'"),
        (policy(steps=7), "is no shortcut"),
    ],
)
async def test_what_breaks_the_format_is_refused_in_a_line(changed: Policy, complaint: str) -> None:
    agent = Agent("react", ScriptedModel([]), tools=[shell], policy=changed)
    with pytest.raises(UserError, match=complaint):
        await agent.arun(TASK)


@pytest.mark.asyncio
async def test_a_step_of_a_tool_that_the_agent_lacks_is_not_offered() -> None:
    steps = [{"tool": "browser", "arguments": {"page": "{{file}}"}}]
    async with ScriptedModel(["ok"]) as model:
        await Agent("react", model, tools=[shell], policy=policy(steps=steps)).arun(TASK)
    assert [spec.name for spec in model.asked[0].tools] == ["shell", "open_skill"]
