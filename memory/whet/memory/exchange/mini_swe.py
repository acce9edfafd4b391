"""Trajectories of mini-SWE-agent (``.traj.json``): a list of messages, or an object with ``messages`` and ``info``.

The agent asks for one shell command an answer; the next user message is what the command printed. Commands become
``Execution`` steps beside the model calls.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from whet.core import ExecResult, Execution, Json, Message, ModelCall, Run, Step, Usage
from whet.core.records import StepBody
from whet.memory.exchange.format import Arrival, Bundle, convert, one_document, source_of
from whet.memory.exchange.openai import WireMessage, completion_of, message_from, message_json
from whet.memory.exchange.transcript import answer_of, messages_of, model_calls, numbered, task_from

__all__ = ["MiniSwe"]

_COMMAND = re.compile(r"```(?:mswea_bash_command|bash)\s*\n(.*?)\n?```", re.DOTALL)
_OUTPUT = re.compile(r"<returncode>(-?\d{1,9})</returncode>\n<output>\n(.*)</output>", re.DOTALL)
_FINAL = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


class _Stats(msgspec.Struct):
    instance_cost: float = 0.0
    api_calls: int = 0


class _Info(msgspec.Struct):
    exit_status: str | None = None
    submission: str | None = None
    model_stats: _Stats = msgspec.field(default_factory=_Stats)


class _Trajectory(msgspec.Struct):
    messages: list[WireMessage]
    info: _Info = msgspec.field(default_factory=_Info)
    instance_id: str = ""


class MiniSwe:
    """Reads and writes mini-SWE-agent trajectories."""

    name = "mini-swe"
    suffix = ".traj.json"
    own_only = False

    def documents(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields the file, or its lines where it holds one trajectory a line."""
        return one_document(data)

    def read(self, document: Json, arrival: Arrival) -> Bundle:
        """Returns the task (system prompt and issue), the run, its model calls and commands."""
        bare = isinstance(document, list)
        trajectory = convert({"messages": document} if bare else document, _Trajectory)
        messages = [message_from(wire) for wire in trajectory.messages]
        task = task_from(messages, arrival, self.name)
        info, stats = trajectory.info, trajectory.info.model_stats
        run = Run(
            id=arrival.run_id,
            task_id=task.id,
            agent="mini-swe-agent",
            status="done" if info.exit_status in (None, "Submitted", "submitted") else "failed",
            error=None if info.exit_status in (None, "Submitted", "submitted") else info.exit_status,
            answer=info.submission if info.submission is not None else _submitted(messages),
            usage=Usage(micro_dollars=round(stats.instance_cost * 1e6), calls=stats.api_calls),
            purpose="import",
            meta={"shape": "list"} if bare else {},
            trust="tainted",
            started_at=arrival.at,
            ended_at=arrival.at,
            scope=arrival.scope,
        )
        return Bundle(task=task, run=run, steps=tuple(_steps(messages, arrival)))

    def write(self, bundle: Bundle) -> Json:
        """Returns the trajectory; a run that did not come from a bare list gets ``info`` as well."""
        run, steps = bundle.run, bundle.steps
        messages = messages_of(bundle.task, run, steps)
        answered = model_calls(steps)
        after = [step for step in steps if answered and step.seq > answered[-1][0].seq]
        seen: list[Json] = [
            {"role": "user", "content": _observation(step.body.result)}
            for step in after
            if isinstance(step.body, Execution)
        ]
        transcript: list[Json] = [*map(message_json, messages), *seen]
        if run.meta.get("shape") == "list" and source_of(run, self.name):
            return transcript
        status = "Submitted" if run.status == "done" else run.error or run.status
        stats: Json = {"instance_cost": run.usage.micro_dollars / 1e6, "api_calls": run.usage.calls}
        info: Json = {"exit_status": status, "submission": run.answer, "model_stats": stats}
        return {"info": info, "messages": transcript, "trajectory_format": "mini-swe-agent-1"}


def _submitted(messages: Sequence[Message]) -> str | None:
    if len(messages) > 1 and messages[-1].role == "user" and _FINAL in messages[-2].content:
        return messages[-1].content
    return answer_of(messages)


def _steps(messages: Sequence[Message], arrival: Arrival) -> list[Step]:
    bodies: list[tuple[int, StepBody]] = []
    for index, message in enumerate(messages):
        before = messages[index - 1] if index else None
        if message.role == "assistant":
            bodies.append((index, ModelCall(messages=tuple(messages[:index]), completion=completion_of(message))))
        elif before is not None and before.role == "assistant":
            command = _COMMAND.search(before.content)
            result = _result(message.content)
            bodies.append((index, Execution(command=command.group(1) if command else "", result=result)))
    return numbered(bodies, arrival)


def _result(observation: str) -> ExecResult:
    match = _OUTPUT.fullmatch(observation)
    if match is None:
        return ExecResult(status="ok", stdout=observation)
    code = int(match.group(1))
    return ExecResult(status="nonzero" if code else "ok", exit_code=code, stdout=match.group(2))


def _observation(result: ExecResult) -> str:
    if result.exit_code is None:
        return result.stdout
    return f"<returncode>{result.exit_code}</returncode>\n<output>\n{result.stdout}{result.stderr}</output>"
