"""ATIF 1.x, the Agent Trajectory Interchange Format of Harbor: one JSON document a run, verdicts in ``extra``.

``extra.whet`` holds what ATIF has no field for: the task, ids, policy, seed and verdicts, so that a run of Whet comes
back with its identity. Documents of others keep theirs in the residue.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import msgspec

from whet.core import Completion, Json, Message, ModelCall, Run, Step, Task, ToolCall, Usage, UserError, Verdict
from whet.core.wire import encode
from whet.memory.exchange.format import Arrival, Bundle, convert, one_document, source_of
from whet.memory.exchange.transcript import (
    answer_of,
    bodies_from,
    messages_of,
    model_calls,
    numbered,
    task_from,
    trailing,
)

__all__ = ["Atif"]

_VERSION = "ATIF-v1.6"


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Call(msgspec.Struct):
    function_name: str
    tool_call_id: str = ""
    arguments: Json = None


class _Result(msgspec.Struct):
    source_call_id: str | None = None
    content: str | list[_Part] | None = None


class _Observation(msgspec.Struct):
    results: list[_Result] = []


class _Metrics(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    completion_token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class _Step(msgspec.Struct):
    step_id: int
    source: Literal["system", "user", "agent"]
    message: str | list[_Part] | None = None
    timestamp: str | None = None
    model_name: str | None = None
    tool_calls: list[_Call] | None = None
    observation: _Observation | None = None
    metrics: _Metrics | None = None


class _Agent(msgspec.Struct):
    name: str
    version: str = ""
    model_name: str | None = None


class _Whet(msgspec.Struct):
    task: Task
    run: Run
    verdicts: tuple[Verdict, ...] = ()


class _Extra(msgspec.Struct):
    whet: _Whet | None = None


class _Trajectory(msgspec.Struct):
    schema_version: str
    agent: _Agent
    steps: list[_Step]
    session_id: str | None = None
    extra: _Extra | None = None


class Atif:
    """Reads ATIF 1.x and writes ATIF 1.6."""

    name = "atif"
    suffix = ".trajectory.json"
    own_only = False

    def documents(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields the file, or its lines where it holds one trajectory a line."""
        return one_document(data)

    def read(self, document: Json, arrival: Arrival) -> Bundle:
        """Returns task, run, steps and the verdicts of ``extra.whet``."""
        trajectory = convert(document, _Trajectory)
        if not trajectory.schema_version.startswith("ATIF-v1."):
            raise UserError(f"schema_version {trajectory.schema_version!r} is not known; ATIF-v1.x is")
        own = trajectory.extra.whet if trajectory.extra else None
        if own is not None:
            arrival = replace(arrival, run_id=own.run.id)
        messages, origins = _messages(trajectory.steps)
        task = task_from(messages, arrival, self.name)
        bodies = bodies_from(messages, lambda index, said: _completion(origins[index], said, trajectory.agent))
        times = {index: at for index, step in enumerate(origins) if (at := _millis(step.timestamp)) is not None}
        steps = tuple(numbered(bodies, arrival, times))
        if own is not None:
            verdicts = tuple(msgspec.structs.replace(verdict, scope=arrival.scope) for verdict in own.verdicts)
            task = msgspec.structs.replace(own.task, scope=arrival.scope)
            return Bundle(
                task=task, run=msgspec.structs.replace(own.run, scope=arrival.scope), steps=steps, verdicts=verdicts
            )
        return Bundle(task=task, run=_run(trajectory, task, messages, arrival, times), steps=steps)

    def write(self, bundle: Bundle) -> Json:
        """Returns the trajectory; ``extra.whet`` where there are verdicts, or the run did not come from ATIF."""
        run = bundle.run
        session = run.meta.get("session_id", run.id)
        agent: dict[str, Json] = {"name": run.agent, "version": run.meta.get("agent_version", "unknown")}
        if run.model:
            agent["model_name"] = run.model
        found: dict[str, Json] = {
            "schema_version": _VERSION,
            "session_id": session,
            "agent": agent,
            "steps": _steps_json(messages_of(bundle.task, run, bundle.steps), bundle.steps),
        }
        if bundle.verdicts or not source_of(run, self.name):
            bare = msgspec.structs.replace(run, meta={key: value for key, value in run.meta.items() if key != "source"})
            found["extra"] = {"whet": msgspec.to_builtins(_Whet(bundle.task, bare, bundle.verdicts))}
            found["final_metrics"] = {
                "total_prompt_tokens": run.usage.input_tokens,
                "total_completion_tokens": run.usage.output_tokens,
                "total_cost_usd": run.usage.micro_dollars / 1e6,
            }
        return found


# --- reading --------------------------------------------------------------------------------------------------------


def _text(content: str | list[_Part] | None) -> str:
    return content if isinstance(content, str) else "".join(part.text or "" for part in content or ())


def _messages(steps: Sequence[_Step]) -> tuple[list[Message], list[_Step]]:
    """Returns the transcript and, for each message, the step that it came from."""
    found: list[tuple[Message, _Step]] = []
    for step in steps:
        if step.source != "agent":
            found.append(
                (Message(role="system" if step.source == "system" else "user", content=_text(step.message)), step)
            )
            continue
        calls = tuple(
            ToolCall(id=call.tool_call_id, name=call.function_name, arguments=encode(call.arguments).decode())
            for call in step.tool_calls or ()
        )
        found.append((Message(role="assistant", content=_text(step.message), tool_calls=calls), step))
        results = step.observation.results if step.observation else []
        found += [
            (Message(role="tool", content=_text(result.content), tool_call_id=result.source_call_id), step)
            for result in results
        ]
    return [message for message, _ in found], [step for _, step in found]


def _completion(step: _Step, message: Message, agent: _Agent) -> Completion:
    metrics = step.metrics or _Metrics()
    return Completion(
        text=message.content,
        tool_calls=message.tool_calls,
        model=step.model_name or agent.model_name or "",
        usage=_usage(step),
        prompt_token_ids=metrics.prompt_token_ids,
        token_ids=metrics.completion_token_ids,
        logprobs=metrics.logprobs,
    )


def _usage(step: _Step) -> Usage:
    metrics = step.metrics or _Metrics()
    return Usage(
        input_tokens=metrics.prompt_tokens or 0,
        output_tokens=metrics.completion_tokens or 0,
        micro_dollars=round((metrics.cost_usd or 0) * 1e6),
        calls=1,
    )


def _run(
    trajectory: _Trajectory, task: Task, messages: Sequence[Message], arrival: Arrival, times: dict[int, int]
) -> Run:
    agent, rest = trajectory.agent, trailing(messages)
    meta: dict[str, Json] = {"session_id": trajectory.session_id, "agent_version": agent.version}
    if rest:
        meta["trailing"] = msgspec.to_builtins(rest)
    return Run(
        id=arrival.run_id,
        task_id=task.id,
        agent=agent.name,
        model=agent.model_name or "",
        status="done",
        answer=answer_of(messages),
        usage=sum((_usage(step) for step in trajectory.steps if step.source == "agent"), Usage()),
        purpose="import",
        meta=meta,
        trust="tainted" if any(message.role == "tool" for message in messages) else arrival.trust,
        started_at=min(times.values(), default=arrival.at),
        ended_at=max(times.values(), default=arrival.at),
        scope=arrival.scope,
    )


def _millis(timestamp: str | None) -> int | None:
    if timestamp is None:
        return None
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError as error:
        raise UserError(f"timestamp {timestamp!r} is not ISO 8601") from error
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


# --- writing --------------------------------------------------------------------------------------------------------


def _steps_json(messages: Sequence[Message], steps: Sequence[Step]) -> list[Json]:
    calls = iter(model_calls(steps))
    found: list[dict[str, Json]] = []
    for message in messages:
        if message.role == "tool" and found and found[-1]["source"] == "agent":
            _observe(found[-1], message)
            continue
        source = {"system": "system", "assistant": "agent"}.get(message.role, "user")
        step: dict[str, Json] = {"step_id": len(found) + 1, "source": source, "message": message.content}
        if message.role == "assistant":
            _act(step, message, next((made for made in calls if made[2].text == message.content), None))
        found.append(step)
    return [*found]


def _act(step: dict[str, Json], message: Message, made: tuple[Step, ModelCall, Completion] | None) -> None:
    if message.tool_calls:
        step["tool_calls"] = [
            {"tool_call_id": call.id, "function_name": call.name, "arguments": _arguments(call)}
            for call in message.tool_calls
        ]
    if made is None:
        return
    moment, _, completion = made
    step["timestamp"] = datetime.fromtimestamp(moment.at / 1000, UTC).isoformat(timespec="milliseconds")
    if completion.model:
        step["model_name"] = completion.model
    if metrics := _metrics_json(completion):
        step["metrics"] = metrics


def _arguments(call: ToolCall) -> Json:
    try:
        found: Json = msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        return {"raw": call.arguments}
    return found


def _metrics_json(completion: Completion) -> dict[str, Json]:
    usage = completion.usage
    found: dict[str, Json] = {}
    if usage.input_tokens or usage.output_tokens:
        found |= {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
    if usage.micro_dollars:
        found["cost_usd"] = usage.micro_dollars / 1e6
    if completion.prompt_token_ids is not None:
        found["prompt_token_ids"] = [*completion.prompt_token_ids]
    if completion.token_ids is not None:
        found["completion_token_ids"] = [*completion.token_ids]
    if completion.logprobs is not None:
        found["logprobs"] = [*completion.logprobs]
    return found


def _observe(step: dict[str, Json], message: Message) -> None:
    observation = step.setdefault("observation", {"results": []})
    assert isinstance(observation, dict)
    results = observation["results"]
    assert isinstance(results, list)
    result: dict[str, Json] = {"content": message.content}
    if message.tool_call_id is not None:
        result["source_call_id"] = message.tool_call_id
    results.append(result)
