"""The agent's model as a LangChain chat model, for graphs that ask their model through LangChain.

    llm = AgentChatModel()                              # made anywhere, used in any node of a graph an Agent runs

    async def answer(state: MessagesState) -> dict[str, object]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

Which model answers is the running agent's affair, so one graph serves every model, and a run can be replayed.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from langchain_core.caches import BaseCache
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult

from whet.agents.recording import BOUNDED
from whet.agents.runtime import current_context
from whet.core import Completion, Message, Sampling, ToolSpec
from whet.core.models import Model
from whet.core.models.langchain import WhetChatModel

__all__ = ["AgentChatModel"]


class RunningModel:
    """The model of whichever agent is running, under its policy's sampling, its budget and its record."""

    name = "agent"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        """Returns the agent's model's answer; what ``sampling`` leaves open is the policy's choice.

        Raises:
            UserError: no agent is running around the caller.
            ModelError: the model gave no usable answer.
            BudgetError: the budget does not allow the call.
        """
        context = current_context()
        chosen = {name: value for name, value in msgspec.structs.asdict(sampling).items() if value}
        wanted = msgspec.structs.replace(context.sampling(), **chosen)
        return await context.model.complete(messages, tools=tools, sampling=wanted)


class AgentChatModel(WhetChatModel):
    """Asks the model of the agent that runs the graph; ``sampling`` and ``bind`` override the policy's choices."""

    model: Model = RunningModel()
    cache: BaseCache | bool | None = False

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(ls_provider=BOUNDED, ls_model_type="chat")

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
