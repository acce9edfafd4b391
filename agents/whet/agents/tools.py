"""Tools: plain functions a model may call. ``shell`` and ``python`` run in the agent's sandbox.

    @tool
    async def lookup(word: str) -> str:
        '''Look a word up in the dictionary.'''
        ...

    agent = Agent("react", model, tools=[shell, python, lookup, any_langchain_tool])

The JSON Schema comes from the annotations, the description from the docstring. A parameter annotated ``AgentContext``
is filled in by the runtime and hidden from the model. What a tool returns is tainted unless it is declared trusted.
"""

import asyncio
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, get_type_hints, overload

from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from whet.agents.background import Background
from whet.agents.jobs import WAIT
from whet.agents.precaution import Guarded, Reviewer, bare
from whet.agents.runtime import AgentContext, told
from whet.agents.states import to_json
from whet.core import (
    BudgetError,
    ExecResult,
    Execution,
    Json,
    RefusedError,
    SandboxError,
    StoreError,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trust,
    UserError,
    encode,
)
from whet.skills import Skill, run_script

__all__ = [
    "FunctionTool",
    "describe_execution",
    "guarded",
    "open_skill",
    "python",
    "run_skill",
    "shell",
    "tool",
    "toolbox",
]

_LONGEST = 16_000
Function: TypeAlias = Callable[..., object]


@dataclass(frozen=True)
class FunctionTool:
    """A function as a tool. ``seconds`` is how long a call may take before the model is told that it timed out.

    A tool that acts ``in_sandbox`` only may be run again to rebuild the workspace of a run that is forked. A call of
    one that is ``irreversible`` is reviewed before it runs (``whet.agents.precaution``); one in the ``background``
    returns at once, and its result comes later (``whet.agents.background``).
    """

    spec: ToolSpec
    function: Function
    arguments: type[BaseModel]
    context_parameter: str | None = None
    trust: Trust = "tainted"
    seconds: float = 120.0
    in_sandbox: bool = False
    irreversible: bool = False
    background: bool = False

    async def run(self, context: AgentContext, call: ToolCall) -> ToolResult:
        """Returns what the tool returned, or the error that the model is told."""
        try:
            arguments = self.arguments.model_validate_json(call.arguments or "{}")
        except ValidationError as error:
            return ToolResult(call=call, content="", error=_wrong_arguments(error), trust="trusted")
        found = {name: getattr(arguments, name) for name in self.arguments.model_fields}
        if self.context_parameter is not None:
            found[self.context_parameter] = context
        return await _guarded(call, lambda: _call(self.function, found), self.seconds, self.trust)


@dataclass(frozen=True)
class LangChainTool:
    """A LangChain tool as a tool."""

    spec: ToolSpec
    tool: BaseTool
    seconds: float = 120.0
    in_sandbox: bool = False

    async def run(self, context: AgentContext, call: ToolCall) -> ToolResult:
        """Returns what the tool returned, or the error that the model is told."""
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError as error:
            return ToolResult(call=call, content="", error=f"the arguments are no JSON: {error}", trust="trusted")
        # The agent records the call itself, so the tool's own callbacks would record it a second time.
        return await _guarded(call, lambda: self.tool.ainvoke(arguments, {"callbacks": []}), self.seconds, "tainted")


Tool: TypeAlias = FunctionTool | LangChainTool | Guarded | Background


async def _call(function: Function, arguments: Mapping[str, object]) -> object:
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    return await asyncio.to_thread(function, **arguments)


async def _guarded(call: ToolCall, work: Callable[[], Awaitable[object]], seconds: float, trust: Trust) -> ToolResult:
    """Returns the result of a tool. Its exceptions are told to the model: a tool is a guest, and may fail.

    What the host is to blame for, a spent budget and a question to a person are no business of the model and pass.
    """
    try:
        async with asyncio.timeout(seconds):
            content = _shorten(_as_text(await work()))
    except (SandboxError, BudgetError, StoreError, RefusedError, GraphBubbleUp):
        raise
    except TimeoutError:
        return ToolResult(call=call, content="", error=f"timed out after {seconds:g} seconds", trust="trusted")
    except Exception as error:
        return ToolResult(call=call, content="", error=_shorten(f"{type(error).__name__}: {error}"), trust=trust)
    return ToolResult(call=call, content=content, trust=trust)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else encode(to_json(value)).decode()


def _shorten(text: str) -> str:
    """Returns the text, or its head and tail with a note on what was left out between them."""
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


def _wrong_arguments(error: ValidationError) -> str:
    problems = (f"{'.'.join(map(str, p['loc'])) or 'arguments'}: {p['msg']}" for p in error.errors(include_url=False))
    return "wrong arguments: " + "; ".join(problems)


@overload
def tool(function: Function) -> FunctionTool: ...
@overload
def tool(
    *,
    trust: Trust = ...,
    seconds: float = ...,
    in_sandbox: bool = ...,
    irreversible: bool = ...,
    background: bool = ...,
) -> Callable[[Function], FunctionTool]: ...
def tool(
    function: Function | None = None,
    *,
    trust: Trust = "tainted",
    seconds: float = 120.0,
    in_sandbox: bool = False,
    irreversible: bool = False,
    background: bool = False,
) -> FunctionTool | Callable[[Function], FunctionTool]:
    """Makes a function a tool, synchronous (it runs in a thread) or not; ``FunctionTool`` says what the options are.

    Raises:
        UserError: the function has no docstring, or a parameter without an annotation.
    """

    def decorate(function: Function) -> FunctionTool:
        made = tool_of(function)
        return replace(
            made,
            trust=trust,
            seconds=seconds,
            in_sandbox=in_sandbox,
            irreversible=irreversible,
            background=background,
        )

    return decorate if function is None else decorate(function)


def tool_of(function: Function) -> FunctionTool:
    """Returns the function as a tool."""
    name = function.__name__
    description = inspect.getdoc(function)
    if not description:
        raise UserError(f"the tool {name!r} has no docstring; write what it does, the model reads it")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context_parameter = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in hints:
            raise UserError(f"parameter {parameter.name!r} of the tool {name!r} has no annotation; give its type")
        if hints[parameter.name] is AgentContext:
            context_parameter = parameter.name
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    arguments = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    spec = ToolSpec(name=name, description=description, parameters=_schema(arguments))
    return FunctionTool(spec, function, arguments, context_parameter)


def _schema(arguments: type[BaseModel]) -> dict[str, Json]:
    schema = arguments.model_json_schema()
    return {key: value for key, value in schema.items() if key != "title"}


def toolbox(tools: Sequence[Tool | BaseTool | Function]) -> dict[str, Tool]:
    """Returns the tools by name; a LangChain tool or a plain function is taken as it is.

    One that is irreversible is guarded, unless it is already; with one in the background there is the tool ``wait``.

    Raises:
        UserError: two tools have one name.
    """
    found: dict[str, Tool] = {}
    for given in tools:
        each = _as_tool(given)
        if each.spec.name in found:
            raise UserError(f"two tools are named {each.spec.name!r}; a model could not tell them apart")
        found[each.spec.name] = each
    if any(isinstance(bare(each), Background) for each in found.values()):
        found.setdefault(WAIT, wait)
    return found


def _as_tool(given: Tool | BaseTool | Function) -> Tool:
    if isinstance(given, FunctionTool):
        inner = _in_background(given)
        return Guarded(inner) if given.irreversible else inner
    if isinstance(given, LangChainTool | Guarded | Background):
        return given
    if isinstance(given, BaseTool):
        schema = given.get_input_jsonschema()
        spec = ToolSpec(name=given.name, description=given.description, parameters=schema)
        return LangChainTool(spec, given)
    if callable(given):
        return tool_of(given)
    raise UserError(f"{given!r} is no tool; give a function, a LangChain tool or what @tool made")


def _in_background(tool: FunctionTool) -> FunctionTool | Background:
    # What a job does in its fork of the sandbox is gone with it, so there is nothing to rebuild.
    return Background(replace(tool, in_sandbox=False)) if tool.background else tool


def guarded(given: Tool | BaseTool | Function, *, by: Reviewer = "critic", when: str = "") -> Guarded:
    """Returns the tool with its calls reviewed before they run, ``by`` a critic or a person.

    ``when`` is a regular expression: only calls with a matching text in their arguments are reviewed.

    Raises:
        UserError: it is no tool, or ``when`` is no regular expression.
    """
    try:
        pattern = re.compile(when, re.IGNORECASE | re.DOTALL) if when else None
    except re.error as error:
        raise UserError(f"when={when!r} is no regular expression: {error}") from error
    inner = _in_background(given) if isinstance(given, FunctionTool) else _as_tool(given)
    return Guarded(inner, by, pattern)


def describe_execution(result: ExecResult) -> str:
    """Returns what became of a command, as the model is told: output, then how it ended."""
    ended = {
        "ok": "exit code 0",
        "nonzero": f"exit code {result.exit_code}",
        "signal": f"killed by signal {result.signal}",
        "timeout": f"timed out after {result.seconds:.0f} seconds",
        "oom": "killed: out of memory",
        "output_limit": "killed: too much output",
        "disk_full": "failed: the disk is full",
    }[result.status]
    parts = [result.stdout.rstrip("\n")]
    if result.stderr.strip():
        parts.append("[stderr]\n" + result.stderr.rstrip("\n"))
    if result.truncated:
        parts.append("[the output is truncated]")
    parts.append(f"[{ended}]")
    return "\n".join(part for part in parts if part)


@tool(in_sandbox=True)
async def shell(command: str, context: AgentContext) -> str:
    """Run a command with /bin/sh in the workspace /work. There is no network. Returns its output and exit code."""
    box = await context.sandbox()
    result = await box.exec(command)
    context.record(Execution(command=command, result=result))
    return describe_execution(result)


@tool(in_sandbox=True)
async def python(code: str, context: AgentContext) -> str:
    """Run a Python program in the workspace /work; print what you want to see. Returns its output and exit code."""
    box = await context.sandbox()
    result = await box.run_python(code)
    context.record(Execution(command=code, result=result))
    return describe_execution(result)


@tool(seconds=24 * 3600)
async def wait(job: str, context: AgentContext) -> str:
    """Wait until a job in the background is done, and return its result."""
    return told(await context.jobs.deliver(job))


@tool(trust="trusted")
async def open_skill(name: str, context: AgentContext, file: str = "SKILL.md") -> str:
    """Read a skill: its instructions (SKILL.md), or another of its files."""
    files = context.policy.skill(name)
    if file not in files:
        known = ", ".join(sorted(files)) if files else f"no such skill; skills are {context.policy.skill_names()}"
        raise UserError(f"skill {name!r} has no file {file!r}; it has: {known}")
    return files[file].decode(errors="replace")


@tool(in_sandbox=True)
async def run_skill(name: str, script: str, context: AgentContext, arguments: tuple[str, ...] = ()) -> str:
    """Run a script of a skill (scripts/….py or .sh) in the workspace. Returns its output and exit code."""
    files = context.policy.skill(name)
    if not files:
        raise UserError(f"there is no skill {name!r}; skills are {context.policy.skill_names()}")
    result = await run_script(await context.sandbox(), Skill.parse(files, folder=name), script, arguments)
    context.record(Execution(command=" ".join([f"skills/{name}/{script}", *arguments]), result=result))
    return describe_execution(result)
