"""Chat transcripts and steps: a list of messages becomes a task, model calls and tool results, and comes back."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from whet.core import Completion, Json, Message, ModelCall, Run, Step, Task, ToolCall, ToolResult, digest
from whet.core.records import StepBody
from whet.core.wire import encode
from whet.memory.exchange.format import Arrival

__all__ = ["answer_of", "bodies_from", "lead", "messages_of", "model_calls", "numbered", "task_from", "trailing"]


def lead(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Returns the messages before the first answer: the task."""
    first = next((i for i, message in enumerate(messages) if message.role == "assistant"), len(messages))
    return tuple(messages[:first])


def task_from(messages: Sequence[Message], arrival: Arrival, task_set: str) -> Task:
    """Returns the task that a transcript works on; its id is a digest of its messages."""
    opening = lead(messages)
    return Task(id=digest(encode(opening))[:32], messages=opening, task_set=task_set, scope=arrival.scope)


def bodies_from(
    messages: Sequence[Message], complete: Callable[[int, Message], Completion]
) -> list[tuple[int, StepBody]]:
    """Returns (index of the message, body): a model call for each answer, a tool result for each tool message.

    ``complete`` makes the completion of the answer at an index.
    """
    calls: dict[str, ToolCall] = {}
    bodies: list[tuple[int, StepBody]] = []
    for index, message in enumerate(messages):
        if message.role == "assistant":
            calls |= {call.id: call for call in message.tool_calls}
            bodies.append((index, ModelCall(messages=tuple(messages[:index]), completion=complete(index, message))))
        elif message.role == "tool":
            unknown = ToolCall(id=message.tool_call_id or "", name=message.name or "", arguments="")
            call = calls.get(message.tool_call_id or "", unknown)
            bodies.append((index, ToolResult(call=call, content=message.content)))
    return bodies


def numbered(bodies: Sequence[tuple[int, StepBody]], arrival: Arrival, times: Mapping[int, int] = {}) -> list[Step]:
    """Returns the steps of a run in order; ids follow from the run and the place, ``times`` from the message."""
    return [
        Step(
            id=digest(f"{arrival.run_id} {seq}")[:32],
            run_id=arrival.run_id,
            seq=seq,
            node="model" if isinstance(body, ModelCall) else "tools",
            body=body,
            at=times.get(index, arrival.at),
        )
        for seq, (index, body) in enumerate(bodies)
    ]


def trailing(messages: Sequence[Message]) -> list[Message]:
    """Returns what was said after the last answer, tool results apart: a run has no step for it."""
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=None)
    return [] if last is None else [message for message in messages[last + 1 :] if message.role != "tool"]


def answer_of(messages: Sequence[Message]) -> str | None:
    """Returns the text of the last answer, if there is one."""
    return next((message.content for message in reversed(messages) if message.role == "assistant"), None)


def model_calls(steps: Sequence[Step]) -> list[tuple[Step, ModelCall, Completion]]:
    """Returns the model calls that were answered, in order."""
    return [
        (step, step.body, step.body.completion)
        for step in steps
        if isinstance(step.body, ModelCall) and step.body.completion is not None
    ]


def messages_of(task: Task, run: Run, steps: Sequence[Step]) -> list[Message]:
    """Returns the transcript of a run: the last answered call's messages, its answer, and what followed.

    A run of several conversations (a critic's beside the agent's) gives the one that ended last, of its own model.
    """
    answered = [found for found in model_calls(steps) if not found[1].role]
    if not answered:
        said = [Message(role="assistant", content=run.answer)] if run.answer is not None else []
        return [*task.messages, *said]
    last, call, completion = answered[-1]
    answer = Message(role="assistant", content=completion.text, tool_calls=completion.tool_calls)
    jobs = {step.body.call.id for step in steps if isinstance(step.body, ToolResult) and step.body.pending}
    results = [
        Message(
            role="tool", content=step.body.content, tool_call_id=step.body.call.id, name=step.body.call.name or None
        )
        for step in steps
        if step.seq > last.seq and isinstance(step.body, ToolResult) and step.body.call.id not in jobs
    ]
    return [*call.messages, answer, *results, *_kept(run)]


def _kept(run: Run) -> list[Message]:
    kept: Json = run.meta.get("trailing", [])
    return msgspec.convert(kept, list[Message])
