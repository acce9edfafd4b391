"""The jobs of one run: tool calls under way beside its graph, their results, and what the model has heard of them.

name = jobs.start(context, tool, call)      # "build-1"
result = await jobs.deliver(name)           # once it is done; the model is told
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from langgraph.errors import GraphBubbleUp

from whet.agents.recording import describe_error
from whet.core import Step, ToolCall, ToolResult, UserError

if TYPE_CHECKING:
    from whet.agents.runtime import AgentContext, Tool

__all__ = ["WAIT", "Jobs", "deliveries"]

WAIT = "wait"
"""The tool by which a model waits for a job; what it heard of jobs is recorded under this name."""


@dataclass
class Job:
    """A call under way or done; ``delivered`` once the model has heard of its result."""

    call: ToolCall
    task: "asyncio.Future[ToolResult]"
    context: "AgentContext"
    delivered: bool = False


class Jobs:
    """The jobs of one run by name, in the order of their begin."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def start(self, context: "AgentContext", tool: "Tool", call: ToolCall) -> str:
        """Begins a job and returns its name."""
        count = sum(name.rpartition("-")[0] == call.name for name in self._jobs)
        named, aside = msgspec.structs.replace(call, id=f"{call.name}-{count + 1}"), context.apart()
        self._jobs[named.id] = Job(named, asyncio.ensure_future(_work(aside, tool, named)), aside)
        return named.id

    def ready(self) -> list[str]:
        """Returns the names of the jobs that are done and not delivered."""
        return [name for name, job in self._jobs.items() if job.task.done() and not job.delivered]

    async def deliver(self, name: str) -> ToolResult:
        """Returns the result of a job, once it is done.

        Raises:
            UserError: there is no such job.
            SandboxError, BudgetError: as its tool did.
        """
        if name not in self._jobs:
            raise UserError(f"there is no job {name!r}; there are {', '.join(self._jobs) or 'none'}")
        job = self._jobs[name]
        result = await asyncio.shield(job.task)
        job.delivered = True
        return result

    def restore(self, context: "AgentContext", steps: Sequence[Step]) -> None:
        """Brings back the jobs of a run that goes on; one that was cut off has that as its result."""
        results = [step.body for step in steps if isinstance(step.body, ToolResult)]
        done = {result.call.id: result for result in results if not result.pending}
        heard = {name for result in results for name in deliveries(result)}
        for call in [result.call for result in results if result.pending]:
            if call.id not in done:
                done[call.id] = _failed(call, "cut off with the run; call it again if it is still needed")
                context.record(done[call.id])
            finished: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
            finished.set_result(done[call.id])
            self._jobs[call.id] = Job(call, finished, context, delivered=call.id in heard)

    async def settle(self, seconds: float | None = None) -> None:
        """Returns when every job is done, each as long as its tool may take, or after so many seconds."""
        if tasks := [job.task for job in self._jobs.values()]:
            await asyncio.wait(tasks, timeout=seconds)

    async def close(self) -> None:
        """Cancels what is under way; idempotent. What failed, and nobody waited for, is recorded."""
        for job in self._jobs.values():
            job.task.cancel()
        await self.settle()
        jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            if job.task.cancelled():
                job.context.record(_failed(job.call, "cancelled: the run ended first"))
            elif (error := job.task.exception()) is not None:
                job.context.record(_failed(job.call, describe_error(error)))


async def _work(context: "AgentContext", tool: "Tool", call: ToolCall) -> ToolResult:
    """Returns the result of a job, recorded where the job began."""
    try:
        result = await context.perform(tool, call)
    except GraphBubbleUp:
        result = _failed(call, "a tool in the background cannot ask a person")
    finally:
        await context.close_sandbox()
    context.record(result)
    return result


def _failed(call: ToolCall, error: str) -> ToolResult:
    return ToolResult(call=call, content="", error=error, trust="trusted")


def deliveries(result: ToolResult) -> Iterator[str]:
    """Yields the names of the jobs of whose results the model heard by this."""
    if result.call.name == WAIT and result.error is None:
        given = json.loads(result.call.arguments)
        yield from given["jobs"] if "jobs" in given else [given["job"]]
