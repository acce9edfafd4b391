"""Tools: schemas from signatures, a real sandbox behind shell and python, errors told to the model or to the host."""

import asyncio
from typing import Literal

import pytest
from langchain_core.tools import tool as langchain_tool

from whet.agents import Agent, AgentContext, ListRecorder, Trace, python, shell, tool
from whet.agents.recording import GraphRecorder
from whet.agents.tools import FunctionTool, describe_execution, toolbox
from whet.core import (
    ExecResult,
    Execution,
    Message,
    Policy,
    Run,
    SandboxError,
    Step,
    Task,
    ToolCall,
    ToolResult,
    UserError,
)
from whet.core.models import ScriptedModel, say_tool
from whet.sandboxes import FakeSandbox, SandboxPool


@tool
async def lookup(word: str, times: int = 1, mode: Literal["fast", "slow"] = "fast") -> dict[str, object]:
    """Look a word up."""
    return {"word": word * times, "mode": mode}


async def call(which: FunctionTool, arguments: str) -> ToolResult:
    run = Run(task_id="t", agent="a")
    context = AgentContext(
        task=Task(id="t", messages=()),
        run=run,
        bounded=ScriptedModel([]),
        policy=Policy(),
        knobs={},
        system_message="",
        recorder=GraphRecorder(Trace(ListRecorder(), run)),
    )
    return await which.run(context, ToolCall(id="1", name=which.spec.name, arguments=arguments))


def test_the_schema_is_that_of_the_signature() -> None:
    assert lookup.spec.description == "Look a word up."
    assert lookup.spec.parameters["required"] == ["word"]
    properties = lookup.spec.parameters["properties"]
    assert isinstance(properties, dict)
    assert properties["mode"] == {"default": "fast", "enum": ["fast", "slow"], "title": "Mode", "type": "string"}


def test_the_context_is_hidden_from_the_model() -> None:
    assert shell.spec.parameters["properties"] == {"command": {"title": "Command", "type": "string"}}


@pytest.mark.asyncio
async def test_arguments_are_checked_before_the_call() -> None:
    assert (await call(lookup, '{"word": "ab", "times": 2}')).content == '{"mode":"fast","word":"abab"}'
    wrong = await call(lookup, '{"word": 3, "tims": 2}')
    assert wrong.error is not None
    assert wrong.error.startswith("wrong arguments: word: Input should be a valid string; tims: Extra inputs")
    assert (await call(lookup, "not json")).error is not None


@pytest.mark.asyncio
async def test_a_tool_that_fails_tells_the_model() -> None:
    @tool
    def fails() -> str:
        """Fail."""
        raise FileNotFoundError("no such file: a.txt")

    result = await call(fails, "")
    assert result.error == "FileNotFoundError: no such file: a.txt"


@pytest.mark.asyncio
async def test_a_tool_that_hangs_times_out() -> None:
    @tool(seconds=0.05)
    async def hangs() -> str:
        """Hang."""
        await asyncio.sleep(60)
        return ""

    assert (await call(hangs, "")).error == "timed out after 0.05 seconds"


@pytest.mark.asyncio
async def test_long_output_keeps_head_and_tail() -> None:
    @tool
    def talks() -> str:
        """Talk."""
        return "a" * 20_000 + "z" * 20_000

    content = (await call(talks, "")).content
    assert content.startswith("aaa")
    assert content.endswith("zzz")
    assert "[24000 characters left out]" in content
    assert len(content) < 17_000


def test_what_is_no_tool_is_refused() -> None:
    def undocumented(x: int) -> str:
        return ""

    def unannotated(x) -> str:  # type: ignore[no-untyped-def]
        """Do."""
        return ""

    with pytest.raises(UserError, match="no docstring"):
        toolbox([undocumented])
    with pytest.raises(UserError, match="parameter 'x' of the tool 'unannotated'"):
        toolbox([unannotated])
    with pytest.raises(UserError, match="two tools are named 'lookup'"):
        toolbox([lookup, lookup])


@pytest.mark.asyncio
async def test_langchain_tools_are_tools() -> None:
    @langchain_tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    script = [say_tool("add", {"a": 1, "b": 2}), say_tool("add", {"a": "x"}), "Done."]
    async with ScriptedModel(script) as model:
        agent = Agent("react", model, tools=[add])
        steps = [event async for event in agent.stream("Add.") if isinstance(event, Step)]
    results = [step.body for step in steps if isinstance(step.body, ToolResult)]
    assert len(results) == 2, "each call is recorded once"
    assert results[0].content == "3"
    assert results[1].error is not None
    assert "b" in results[1].error


# --- the sandbox ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_shell_and_python_share_the_workspace_of_the_run() -> None:
    task = Task(id="t", messages=(Message(role="user", content="Work."),), files={"in/a.txt": "one\ntwo\n"})
    script = [
        say_tool("shell", {"command": "wc -l < in/a.txt | tr -d ' ' > n.txt; id -u"}),
        say_tool("python", {"code": "print(int(open('n.txt').read()) * 21)"}),
        say_tool("shell", {"command": "echo out; echo err >&2; exit 3"}),
        "42",
    ]
    async with ScriptedModel(script) as model:
        agent = Agent("react", model, tools=[shell, python])
        steps = [event async for event in agent.stream(task) if isinstance(event, Step)]
    told = [message.content for message in model.asked[-1].messages if message.role == "tool"]
    assert told[0].splitlines()[0] != "0", "never root"
    assert told[1] == "42\n[exit code 0]"
    assert told[2] == "out\n[stderr]\nerr\n[exit code 3]"
    executions = [step for step in steps if isinstance(step.body, Execution)]
    assert [step.node for step in executions] == ["tools"] * 3
    assert {step.body.trust for step in steps if isinstance(step.body, ToolResult)} == {"tainted"}


@pytest.mark.asyncio
async def test_each_run_has_a_workspace_of_its_own() -> None:
    script = [say_tool("shell", {"command": "cat left.txt; echo mine > left.txt"}), "ok"] * 2
    async with ScriptedModel(script) as model, SandboxPool(size=0) as pool:
        agent = Agent("react", model, tools=[shell], sandbox=pool)
        await agent.arun("First.")
        await agent.arun("Second.")
    assert "No such file" in model.asked[-1].messages[-1].content


@pytest.mark.asyncio
async def test_a_broken_sandbox_is_never_shown_to_the_model() -> None:
    async with ScriptedModel([say_tool("shell", {"command": "ls"})]) as model:
        agent = Agent("react", model, tools=[shell], sandbox=FakeSandbox([SandboxError("the zygote is gone")]))
        result = await agent.arun("Look.")
    assert result.run.status == "failed"
    assert result.run.error == "node 'tools': SandboxError: the zygote is gone"
    assert result.verdicts == ()


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (ExecResult(status="ok", exit_code=0, stdout="hi\n"), "hi\n[exit code 0]"),
        (ExecResult(status="signal", signal=11), "[killed by signal 11]"),
        (ExecResult(status="timeout", seconds=30.2, stdout="a"), "a\n[timed out after 30 seconds]"),
        (ExecResult(status="oom"), "[killed: out of memory]"),
        (
            ExecResult(status="output_limit", stdout="a", truncated=True),
            "a\n[the output is truncated]\n[killed: too much output]",
        ),
        (ExecResult(status="disk_full"), "[failed: the disk is full]"),
    ],
)
def test_how_a_command_ended_is_told(result: ExecResult, told: str) -> None:
    assert describe_execution(result) == told
