"""Shortcuts: sequences of tool calls with parameters, which a policy's skill holds and a model calls as one tool.

    skills/count-distinct/shortcut.json:
    {"parameters": {"file": {"type": "string"}}, "requires": ["{{file}}"], "steps": [
      {"tool": "shell", "arguments": {"command": "sort -u {{file}} > sorted"}, "ends_with": "[exit code 0]"},
      {"tool": "shell", "arguments": {"command": "wc -l < sorted"}, "ends_with": "[exit code 0]"}]}

An agent with the tools that the steps use offers the tool ``count-distinct``. It acts only where the paths it
``requires`` exist, and stops at the first step that fails or ends otherwise than recorded, because a model that calls a
shortcut is blind while it runs (Mobile-Agent-E, Wang et al. 2025, arXiv 2501.11733).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from whet.agents.runtime import AgentContext
from whet.agents.runtime import Tool as AnyTool
from whet.agents.tools import open_skill, run_skill, toolbox
from whet.core import Json, Policy, Record, ToolCall, ToolResult, ToolSpec, Trust, UserError, encode
from whet.skills import Skill

__all__ = ["FILE", "PLACE", "Shortcut", "ShortcutStep", "ShortcutTool", "fill", "with_skills"]

FILE = "shortcut.json"
PLACE = re.compile(r"\{\{(\w+)\}\}")


class ShortcutStep(Record, frozen=True, kw_only=True):
    """One call. ``{{name}}`` in ``arguments`` stands for a parameter; the result has to end with ``ends_with``."""

    tool: str
    arguments: dict[str, Json]
    ends_with: str = ""


class Shortcut(Record, frozen=True, kw_only=True):
    """Steps with parameters (name to JSON Schema); ``requires`` are workspace paths that have to exist before."""

    parameters: dict[str, dict[str, Json]] = msgspec.field(default_factory=dict)
    requires: tuple[str, ...] = ()
    steps: tuple[ShortcutStep, ...]

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Shortcut":
        """Returns the shortcut in a file.

        Raises:
            UserError: it is none, or a step uses a parameter that is not declared.
        """
        try:
            found = msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise UserError(f"{where!r} is no shortcut: {error}") from error
        used = set(PLACE.findall(encode([step.arguments for step in found.steps]).decode()))
        if unknown := sorted(used - found.parameters.keys()):
            declared = ", ".join(found.parameters) or "none"
            raise UserError(
                f"{where!r} uses the parameter {unknown[0]!r}, which is not declared; declared are {declared}"
            )
        return found


@dataclass(frozen=True)
class ShortcutTool:
    """A shortcut as a tool; ``tools`` are those that its steps use."""

    spec: ToolSpec
    shortcut: Shortcut
    tools: Mapping[str, AnyTool]

    @property
    def in_sandbox(self) -> bool:
        """Whether all steps act in the sandbox only, so that they may be run again."""
        return all(tool.in_sandbox for tool in self.tools.values())

    async def run(self, context: AgentContext, call: ToolCall) -> ToolResult:
        """Returns what the steps returned, or at which step it stopped and why."""
        problem, values = self._values(call)
        missing = "" if problem else await self._missing(context, values)
        if problem or missing:
            return ToolResult(call=call, content="", error=problem or missing, trust="trusted")
        said: list[str] = []
        trust: Trust = "trusted"
        for number, step in enumerate(self.shortcut.steps, start=1):
            arguments = encode(fill(step.arguments, values)).decode()
            inner = ToolCall(id=f"{call.id}.{number}", name=step.tool, arguments=arguments)
            result = await self.tools[step.tool].run(context, inner)
            trust = result.trust if trust == "trusted" else trust
            said.append(result.content or result.error or "")
            if result.error is not None or not result.content.rstrip().endswith(step.ends_with):
                where = f"stopped at step {number} of {len(self.shortcut.steps)} ({step.tool})"
                return ToolResult(call=call, content="", error="\n".join([where, *said]), trust=trust)
        return ToolResult(call=call, content="\n".join(said), trust=trust)

    def _values(self, call: ToolCall) -> tuple[str, dict[str, Json]]:
        """Returns what is wrong with the arguments, and their values."""
        try:
            values = msgspec.json.decode(call.arguments or "{}", type=dict[str, Json])
        except msgspec.DecodeError as error:
            return f"wrong arguments: {error}", {}
        names = self.shortcut.parameters
        if values.keys() != names.keys():
            return f"wrong arguments: give {', '.join(names) or 'none'}, not {', '.join(values) or 'none'}", {}
        texts = [name for name, schema in names.items() if schema.get("type") == "string"]
        wrong = [name for name in texts if not isinstance(values[name], str)]
        return f"wrong arguments: {', '.join(wrong)} has to be text" if wrong else "", values

    async def _missing(self, context: AgentContext, values: Mapping[str, Json]) -> str:
        for path in self.shortcut.requires:
            name = str(fill(path, values))
            if not (await (await context.sandbox()).exec(["test", "-e", name])).ok:
                return f"nothing was done: there is no {name!r} in the workspace"
        return ""


def fill(template: Json, values: Mapping[str, Json]) -> Json:
    """Returns the template with its places filled; a text that is one place becomes the value itself."""
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    if not isinstance(template, str):
        return template
    if whole := PLACE.fullmatch(template):
        return values[whole[1]]
    return PLACE.sub(lambda match: str(values[match[1]]), template)


def with_skills(tools: Mapping[str, AnyTool], policy: Policy) -> Mapping[str, AnyTool]:
    """Returns an agent's tools under a policy: where both have any, with ``open_skill`` and the policy's shortcuts.

    ``run_skill`` is offered where a skill has scripts; a shortcut where the agent has the tools of all its steps.

    Raises:
        UserError: a shortcut breaks its format, or has the name of a tool.
    """
    if not tools or not policy.skill_names():
        return tools
    has_scripts = any(path.startswith("scripts/") for name in policy.skill_names() for path in policy.skill(name))
    found: dict[str, AnyTool] = {**tools, **toolbox([open_skill, *([run_skill] if has_scripts else [])])}
    for name in policy.skill_names():
        files = policy.skill(name)
        if FILE not in files:
            continue
        if name in found:
            raise UserError(f"the shortcut {name!r} has the name of a tool; rename its skill")
        shortcut = Shortcut.parse(files[FILE], f"skills/{name}/{FILE}")
        if all(step.tool in tools for step in shortcut.steps):
            used = {step.tool: tools[step.tool] for step in shortcut.steps}
            description = Skill.parse(files, folder=name).description
            found[name] = ShortcutTool(_spec(name, description, shortcut), shortcut, used)
    return found


def _spec(name: str, description: str, shortcut: Shortcut) -> ToolSpec:
    properties: dict[str, Json] = {key: {**schema} for key, schema in shortcut.parameters.items()}
    schema: dict[str, Json] = {
        "type": "object",
        "properties": properties,
        "required": [*shortcut.parameters],
        "additionalProperties": False,
    }
    return ToolSpec(name=name, description=description, parameters=schema)
