"""A model that says what it is told to, for tests. It fails on leftovers, so a test cannot pass by asking too little.

async with ScriptedModel(["Hello.", say_tool("shell", {"command": "ls"}), lambda messages: "..."]) as model:
    ...                                    # leaving the block raises when an answer was never asked for
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import msgspec

from whet.core.errors import ModelError
from whet.core.models.pricing import Estimate, bound_tokens
from whet.core.records import Completion, Json, Message, Record, Sampling, ToolCall, ToolSpec, Usage
from whet.core.wire import encode

__all__ = ["Answer", "Asked", "ScriptedModel", "say_tool"]

Answer: TypeAlias = str | Completion | Exception
Reply: TypeAlias = Answer | Callable[[Sequence[Message]], Answer | Awaitable[Answer]]


class Asked(Record, frozen=True, kw_only=True):
    """One request that a scripted model received."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()


def say_tool(name: str, arguments: Mapping[str, Json] | None = None, *, text: str = "", id: str = "") -> Completion:
    """Returns a completion that calls one tool; the id of the call is ``call_NAME`` unless given."""
    call = ToolCall(id=id or f"call_{name}", name=name, arguments=encode(dict(arguments or {})).decode())
    return Completion(text=text, tool_calls=(call,), finish_reason="tool_calls")


class ScriptedModel:
    """Answers in order: a text, a ``Completion``, an exception to raise, or a function of the messages.

    ``asked`` keeps every request. Used as a context manager (or with ``close``) it fails on leftovers.
    """

    def __init__(self, replies: Iterable[Reply], *, name: str = "scripted") -> None:
        self._name = name
        self._replies = list(replies)
        self.asked: list[Asked] = []

    @property
    def name(self) -> str:
        """``scripted`` unless given."""
        return self._name

    @property
    def leftovers(self) -> int:
        """How many replies were not asked for."""
        return max(0, len(self._replies) - len(self.asked))

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns a bound by bytes, free of charge."""
        output_tokens = sampling.max_tokens or 0
        return Estimate(input_tokens=bound_tokens(messages, tools), output_tokens=output_tokens, micro_dollars=0)

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the next reply. Usage counts a token per word, so that budgets can be tested.

        Raises:
            ModelError: the script is at its end; or the exception that the script holds here.
        """
        position = len(self.asked)
        self.asked.append(Asked(messages=tuple(messages), tools=tuple(tools), sampling=sampling))
        if position >= len(self._replies):
            last = messages[-1].content if messages else ""
            raise ModelError(
                f"the script of {self.name!r} has {len(self._replies)} replies and was asked for "
                f"one more, after {last[:200]!r}; add a reply"
            )
        answer = await _resolve(self._replies[position], messages)
        if isinstance(answer, Exception):
            raise answer
        return self._finish(answer, messages)

    def _finish(self, answer: str | Completion, messages: Sequence[Message]) -> Completion:
        completion = Completion(text=answer) if isinstance(answer, str) else answer
        if completion.usage == Usage():
            words = sum(len(message.content.split()) for message in messages)
            usage = Usage(input_tokens=words, output_tokens=len(completion.text.split()), calls=1)
            completion = msgspec.structs.replace(completion, usage=usage)
        return msgspec.structs.replace(completion, model=completion.model or self.name)

    def close(self) -> None:
        """Ends the script.

        Raises:
            ModelError: some replies were never asked for.
        """
        if self.leftovers:
            first = self._replies[len(self.asked)]
            raise ModelError(
                f"{self.leftovers} of {len(self._replies)} replies of {self.name!r} were never asked for, "
                f"the first is {first!r}; remove them or ask"
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if error is None:  # an error inside the block explains the leftovers
            self.close()


async def _resolve(reply: Reply, messages: Sequence[Message]) -> Answer:
    if isinstance(reply, str | Completion | Exception):
        return reply
    answer = reply(messages)
    return await answer if inspect.isawaitable(answer) else answer
