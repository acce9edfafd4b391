"""Replay for graphs that ask LangChain's chat models themselves: their answers come from the record.

LangChain asks a process-wide cache before it asks a model. While a replay runs, that cache is one that looks into the
record of the run in whose context it is asked; for everybody else in the process nothing changes.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from uuid import UUID

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import BaseMessage, messages_from_dict
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult

from whet.agents.recording import BOUNDED
from whet.agents.runtime import current_node
from whet.core import Completion, Message, RefusedError
from whet.core.models.langchain import messages_of, to_langchain

__all__ = ["Answers", "ReplayGuard", "answering"]


class Answers(Protocol):
    """A record that answers; ``answered`` counts the answers that no model call was seen to end with yet."""

    live: bool
    answered: int

    def complete_langchain(self, messages: Sequence[Message], node: str) -> Completion | None:
        """Returns the recorded answer, or ``None`` to ask the model."""
        ...


_playing: ContextVar[Answers] = ContextVar("whet_playback")
_lock = threading.Lock()
_installed: list["ReplayCache"] = []
_users = 0


class ReplayCache(BaseCache):
    """Answers from the record of the run around the caller; passes everybody else on to the cache that was there."""

    def __init__(self, previous: BaseCache | None) -> None:
        self.previous = previous

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Returns the recorded answer to the messages in ``prompt``, if the caller is in a replay."""
        playback = _playing.get(None)
        if playback is None:
            return None if self.previous is None else self.previous.lookup(prompt, llm_string)
        # The key is the JSON of LangChain's serialised messages: their fields are under "kwargs".
        asked = [{"type": said["kwargs"]["type"], "data": said["kwargs"]} for said in json.loads(prompt)]
        completion = playback.complete_langchain(messages_of(messages_from_dict(asked)), current_node())
        if completion is None:
            return None
        said = Message(role="assistant", content=completion.text, tool_calls=completion.tool_calls)
        unused = UsageMetadata(input_tokens=0, output_tokens=0, total_tokens=0)
        return [ChatGeneration(message=to_langchain(said).model_copy(update={"usage_metadata": unused}))]

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Returns as ``lookup`` does."""
        if _playing.get(None) is None and self.previous is not None:
            return await self.previous.alookup(prompt, llm_string)
        return self.lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keeps a live answer in the cache that was there."""
        if _playing.get(None) is None and self.previous is not None:
            self.previous.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keeps a live answer in the cache that was there."""
        if _playing.get(None) is None and self.previous is not None:
            await self.previous.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        """Clears the cache that was there."""
        if self.previous is not None:
            self.previous.clear(**kwargs)


@contextmanager
def answering(playback: Answers) -> Iterator[None]:
    """In this block, and what it starts, LangChain's models answer from the record."""
    global _users
    with _lock:
        if _users == 0:
            _installed.append(ReplayCache(get_llm_cache()))
            set_llm_cache(_installed[0])
        _users += 1
    token = _playing.set(playback)
    try:
        yield
    finally:
        _playing.reset(token)
        with _lock:
            _users -= 1
            if _users == 0:
                set_llm_cache(_installed.pop().previous)


class ReplayGuard(BaseCallbackHandler):
    """Refuses, in a replay, what LangChain gives no way to answer from a record."""

    run_inline = True
    raise_error = True

    def __init__(self, playback: Answers) -> None:
        self._playback = playback
        self._asked: set[UUID] = set()

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, **kwargs: Any) -> None:
        """Refuses a LangChain tool before it runs."""
        if not self._playback.live:
            name = (serialized or {}).get("name", "")
            raise RefusedError(
                f"the graph runs the LangChain tool {name!r} itself, so its recorded result cannot be given again; "
                "give the tool to the agent (tools=[…]), or fork the run"
            )

    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Notes a call that has to be answered from the record."""
        if (kwargs.get("metadata") or {}).get("ls_provider") != BOUNDED:
            self._asked.add(run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Refuses the answer of a model that was asked past the record (``cache=False``, or a stream of its own)."""
        if run_id not in self._asked or self._playback.live:
            return
        self._asked.discard(run_id)
        self._playback.answered -= 1
        if self._playback.answered < 0:
            raise RefusedError(
                "a node asks its LangChain model past the cache (cache=False, or astream in the node), so the model "
                "was asked live; use ainvoke, or AgentChatModel, for runs that can be replayed"
            )
