"""The agent's model as a LangChain chat model, for graphs that ask their model through LangChain.

    llm = AgentChatModel()                              # made anywhere, used in any node of a graph an Agent runs

    async def answer(state: MessagesState) -> dict[str, object]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

Which model answers is the running agent's affair, so one graph serves every model, and a run can be replayed.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from whet.agents.langchain import BOUNDED, messages_of, to_langchain, tools_of
from whet.agents.runtime import current_context
from whet.core import Completion, Message

__all__ = ["AgentChatModel"]


class AgentChatModel(BaseChatModel):
    """Asks the model of the agent that runs the graph, under its policy's temperature, its budget and its seed."""

    cache: BaseCache | bool | None = False

    @property
    def _llm_type(self) -> str:
        return "whet"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(ls_provider=BOUNDED, ls_model_type="chat")

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Returns the model with tools that it may call."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        context = current_context()
        sampling = context.sampling()
        if stop:
            sampling = msgspec.structs.replace(sampling, stop=tuple(stop))
        tools = tools_of(kwargs.get("tools") or ())
        return _result(await context.model.complete(messages_of(messages), tools=tools, sampling=sampling))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # A synchronous node runs in a thread; the model belongs to the loop of the run.
        loop = current_context().loop
        return asyncio.run_coroutine_threadsafe(self._agenerate(messages, stop, None, **kwargs), loop).result()


def _result(completion: Completion) -> ChatResult:
    usage = completion.usage
    said = Message(role="assistant", content=completion.text, tool_calls=completion.tool_calls)
    message = to_langchain(said).model_copy(
        update={
            "usage_metadata": UsageMetadata(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                total_tokens=usage.input_tokens + usage.output_tokens,
            ),
            "response_metadata": {"model_name": completion.model, "finish_reason": completion.finish_reason},
        }
    )
    return ChatResult(generations=[ChatGeneration(message=message)])
