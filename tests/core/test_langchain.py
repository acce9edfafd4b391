"""LangChain chat models as models and the other way round, with real LangGraph around them."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from whet.core import (
    Budget,
    BudgetError,
    Completion,
    Message,
    ModelError,
    RefusedError,
    Sampling,
    ToolCall,
    ToolSpec,
    UserError,
)
from whet.core.models import Budgeted, Model, Price, ScriptedModel, as_model, say_tool
from whet.core.models.langchain import LangChainModel, WhetChatModel, message_of, to_langchain

ASK = [Message(role="system", content="Be short."), Message(role="user", content="Hello?")]
ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})


class SettingsChat(BaseChatModel):
    """A chat model in the manner of the providers' packages: choices are fields; answers with what it was told."""

    temperature: float | None = None
    num_predict: int | None = None

    @property
    def _llm_type(self) -> str:
        return "settings"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        told = {
            "temperature": self.temperature,
            "num_predict": self.num_predict,
            "stop": stop,
            "messages": len(messages),
        }
        usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
        message = AIMessage(json.dumps(told), usage_metadata=usage, response_metadata={"finish_reason": "max_tokens"})
        return ChatResult(generations=[ChatGeneration(message=message)])


class BrokenChat(SettingsChat):
    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise RuntimeError("no such\nluck")


# --- a chat model as a model ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_choices_are_set_on_the_chat_model_and_usage_comes_back() -> None:
    chat = SettingsChat()
    model = as_model(chat)
    assert isinstance(model, LangChainModel)
    completion = await model.complete(ASK, sampling=Sampling(temperature=0.5, max_tokens=9, stop=("END",), seed=3))
    told = json.loads(completion.text)
    assert told == {"temperature": 0.5, "num_predict": 9, "stop": ["END"], "messages": 2}
    assert (completion.usage.input_tokens, completion.usage.output_tokens, completion.usage.calls) == (5, 7, 1)
    assert completion.finish_reason == "length"
    assert chat.temperature is None


@pytest.mark.asyncio
async def test_a_choice_that_the_chat_model_does_not_have_is_refused() -> None:
    with pytest.raises(RefusedError, match="takes no top_p"):
        await LangChainModel(SettingsChat()).complete(ASK, sampling=Sampling(top_p=0.5))
    with pytest.raises(RefusedError, match="calls no tools"):
        await LangChainModel(SettingsChat()).complete(ASK, tools=[ADD])


@pytest.mark.asyncio
async def test_what_a_chat_model_raises_is_a_model_error_on_one_line() -> None:
    with pytest.raises(ModelError, match="RuntimeError: no such luck") as failed:
        await LangChainModel(BrokenChat()).complete(ASK)
    assert isinstance(failed.value.__cause__, RuntimeError)


@pytest.mark.asyncio
async def test_a_chat_model_runs_under_a_budget() -> None:
    budget = Budget(micro_dollars=100)
    priced = LangChainModel(SettingsChat(), price=Price(input=1_000_000, output=2_000_000))
    with pytest.raises(BudgetError, match=r"\$0.0001"):
        await Budgeted(priced, budget).complete(ASK)
    with pytest.raises(BudgetError, match=r"price of .* is not known"):
        await Budgeted(LangChainModel(SettingsChat()), budget).complete(ASK)
    completion = await priced.complete(ASK)
    assert completion.usage.micro_dollars == 5 + 14


def test_what_is_no_model_is_refused() -> None:
    script = ScriptedModel([])
    assert as_model(script) is script
    with pytest.raises(UserError, match="3 is no model"):
        as_model(3)  # type: ignore[arg-type]


# --- a model as a chat model ----------------------------------------------------------------------------------------


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def react(llm: WhetChatModel) -> Any:
    bound = llm.bind_tools([add])

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_node("tools", ToolNode([add]))
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "answer")
    return graph.compile()


@pytest.mark.asyncio
async def test_a_graph_with_tools_runs_on_a_model() -> None:
    async with ScriptedModel([say_tool("add", {"a": 1, "b": 2}), "It is 3."]) as script:
        state = await react(WhetChatModel(model=script)).ainvoke({"messages": [HumanMessage("1 + 2?")]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][2].content == "3"
    assert state["messages"][-1].text == "It is 3."
    assert script.asked[0].tools[0].name == "add"
    assert script.asked[1].messages[1].tool_calls[0].arguments == '{"a":1,"b":2}'
    assert script.asked[1].messages[2] == Message(role="tool", content="3", tool_call_id="call_add", name="add")


@pytest.mark.asyncio
async def test_a_graph_streams_the_answer() -> None:
    async with ScriptedModel([say_tool("add", {"a": 1, "b": 2}), "It is 3."]) as script:
        graph = react(WhetChatModel(model=script))
        seen = [chunk async for chunk, _ in graph.astream({"messages": [HumanMessage("?")]}, stream_mode="messages")]
    chunks = [chunk for chunk in seen if isinstance(chunk, AIMessageChunk)]
    assert chunks[0].tool_calls[0]["args"] == {"a": 1, "b": 2}
    assert "It is 3." in [chunk.text for chunk in chunks]


def test_a_model_answers_where_nothing_is_async() -> None:
    llm = WhetChatModel(model=ScriptedModel(["one", "two", "three"]), sampling=Sampling(seed=1))
    assert llm.invoke("Hello?").text == "one"
    assert "".join(chunk.text for chunk in llm.stream("Hello?")) == "two"

    async def inside_a_loop() -> str:
        return llm.invoke("Hello?").text

    assert asyncio.run(inside_a_loop()) == "three"


@pytest.mark.asyncio
async def test_choices_can_be_bound() -> None:
    script = ScriptedModel(["a", "b"])
    llm = WhetChatModel(model=script, sampling=Sampling(seed=1, temperature=1.0))
    await llm.bind(temperature=0, max_tokens=5).ainvoke("x", stop=["END"])
    await llm.ainvoke("x")
    assert script.asked[0].sampling == Sampling(seed=1, temperature=0, max_tokens=5, stop=("END",))
    assert script.asked[1].sampling == Sampling(seed=1, temperature=1.0)
    with pytest.raises(UserError, match="unknown options \\['temprature'\\]"):
        await llm.bind(temprature=0).ainvoke("x")
    with pytest.raises(RefusedError, match="tool_choice='any'"):
        llm.bind_tools([add], tool_choice="any")


@pytest.mark.asyncio
async def test_token_ids_survive() -> None:
    completion = Completion(text="x", token_ids=(1,), prompt_token_ids=(2,), logprobs=(-0.5,))
    said = await WhetChatModel(model=ScriptedModel([completion])).ainvoke("x")
    assert said.response_metadata["token_ids"] == (1,)
    assert said.response_metadata["token_logprobs"] == (-0.5,)


@pytest.mark.asyncio
async def test_there_and_back_again() -> None:
    async with ScriptedModel([say_tool("add", {"a": 1, "b": 2})]) as script:
        model: Model = LangChainModel(WhetChatModel(model=script))
        completion = await model.complete(ASK, tools=[ADD])
    assert completion.tool_calls == (ToolCall(id="call_add", name="add", arguments='{"a":1,"b":2}'),)
    assert script.asked[0].messages == tuple(ASK)
    assert script.asked[0].tools == (ADD,)


# --- messages -------------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8"), max_size=12)
json_objects = st.dictionaries(words, st.integers(-9, 9) | words, max_size=3).map(
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
)
calls = st.builds(ToolCall, id=words.filter(bool), name=words.filter(bool), arguments=json_objects)
messages = st.one_of(
    st.builds(Message, role=st.sampled_from(["system", "user"]), content=words, name=st.none() | words.filter(bool)),
    st.builds(Message, role=st.just("assistant"), content=words, tool_calls=st.lists(calls, max_size=2).map(tuple)),
    st.builds(Message, role=st.just("tool"), content=words, tool_call_id=words.filter(bool)),
)


@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    back = message_of(to_langchain(message))
    sorted_calls = [json.loads(call.arguments) for call in message.tool_calls]
    assert [json.loads(call.arguments) for call in back.tool_calls] == sorted_calls
    assert (back.role, back.content, back.name, back.tool_call_id) == (
        message.role,
        message.content,
        message.name,
        message.tool_call_id,
    )


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '{"a": }'])
def test_arguments_that_cannot_be_read_stay_as_they_are(arguments: str) -> None:
    message = Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="f", arguments=arguments),))
    assert message_of(to_langchain(message)) == message


def test_messages_of_other_kinds_are_read() -> None:
    assert message_of(ToolMessage("x", tool_call_id="1")).role == "tool"
    image = HumanMessage([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:,"}}])
    assert message_of(image).content == "see"
