"""Tools that go on in the background, while the model does other work (AsyncTool, 2025).

    @tool(background=True, seconds=600)
    async def build(target: str, context: AgentContext) -> str: ...

A call returns at once with the name of a job, ``build-1``. The result arrives as a message before the model is asked
again, or when it calls ``wait``. A job works in a fork of the run's sandbox: it sees the files as they were when it
began, and what it writes goes with it. What is still under way when the run ends is cancelled; when the run stops to
ask a person, it is waited for.
"""

from dataclasses import dataclass

import msgspec

from whet.agents.jobs import WAIT
from whet.agents.runtime import AgentContext, Tool, told
from whet.core import Message, ToolCall, ToolResult, ToolSpec, encode

__all__ = ["ARRIVALS", "Background", "arrivals"]

ARRIVALS = "arrivals-"
"""How the id of a call begins by which it is recorded of what the model heard, and when."""


@dataclass(frozen=True)
class Background:
    """A tool whose calls become jobs. Nothing it does stays in the run's own sandbox."""

    tool: Tool
    in_sandbox: bool = False

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it, and is told that it returns at once."""
        more = "Returns at once with the name of a job; the result comes in a later message."
        return msgspec.structs.replace(self.tool.spec, description=f"{self.tool.spec.description}\n\n{more}")

    async def run(self, context: AgentContext, call: ToolCall) -> ToolResult:
        """Returns the name of the job that was begun."""
        name = context.jobs.start(context, self.tool, call)
        content = f"{name} goes on in the background; do other work meanwhile, or wait for it with {WAIT}"
        begun = msgspec.structs.replace(call, id=name)
        return ToolResult(call=begun, content=content, trust="trusted", pending=True)


async def arrivals(context: AgentContext) -> list[Message]:
    """Returns a message with the results that came since the model was last asked, or none.

    Which ones the model heard of when is recorded, so that a replay tells the same at the same moment.
    """
    moment, names = f"{ARRIVALS}{context.calls}", context.jobs.ready()
    if context.arrived is not None:
        names = context.arrived(moment, names)
    if not names:
        return []
    results = [await context.jobs.deliver(name) for name in names]
    call = ToolCall(id=moment, name=WAIT, arguments=encode({"jobs": names}).decode())
    context.record(ToolResult(call=call, content="", trust="trusted"))
    said = [f"{name} is done:\n{told(result)}" for name, result in zip(names, results, strict=True)]
    return [Message(role="user", content="\n\n".join(said))]
