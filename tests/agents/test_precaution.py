"""What cannot be undone is reviewed first: by a critic whose score decides, or by a person who is waited for."""

import re

import pytest

from whet.agents import Agent, fork, guarded, replay, shell, tool
from whet.agents.precaution import RISKY_COMMANDS, transcript
from whet.core import Budget, Message, ModelCall, Policy, Run, Step, ToolCall, ToolResult, UserError
from whet.core.models import ScriptedModel, say_tool
from whet.memory import Memory

SENT: list[str] = []


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    SENT.clear()


@tool(irreversible=True)
def send(to: str) -> str:
    """Send a letter."""
    SENT.append(to)
    return f"sent to {to}"


def scored(score: str, suggestion: str = "") -> str:
    return f"Let me see.\n<score>{score}</score>\n<suggestion>{suggestion}</suggestion>"


async def results_of(memory: Memory, run: Run) -> list[tuple[str, str | None]]:
    steps = await memory.find(Step, where={"run_id": run.id})
    return [(step.body.content, step.body.error) for step in steps if isinstance(step.body, ToolResult)]


@pytest.mark.asyncio
async def test_a_low_score_stops_the_call_and_the_model_is_told_why() -> None:
    script = [say_tool("send", {"to": "all"}), scored("0.2", "Send it to Ada only."), say_tool("send", {"to": "Ada"})]
    async with ScriptedModel([*script, scored("0.9"), "Done."]) as model:
        result = await Agent("react", model, tools=[send]).arun("Write to Ada.")
    assert (result.answer, SENT) == ("Done.", ["Ada"])
    review = model.asked[1].messages[0].content
    assert review.startswith("An agent is about to make the tool call at the end.")
    assert "user: Write to Ada." in review
    assert review.endswith('# The call\nsend({"to":"all"})')
    told = model.asked[2].messages[-1]
    assert told.content == ("error: not run: the critic scores this call 0.20, below 0.50. Send it to Ada only.")


@pytest.mark.asyncio
@pytest.mark.parametrize("said", ["Looks fine to me.", "<score>2</score>", "<score>1.5</score>", ""])
async def test_without_a_score_nothing_is_run(said: str) -> None:
    async with ScriptedModel([say_tool("send", {"to": "Ada"}), said, "Given up."]) as model:
        await Agent("react", model, tools=[send]).arun("Write to Ada.")
    assert SENT == []
    assert "the critic gave no score" in model.asked[2].messages[-1].content


@pytest.mark.asyncio
async def test_the_threshold_and_the_words_are_the_policys() -> None:
    policy = Policy.of({"settings.toml": "critic_threshold = 0.95", "prompts/critic.md": "Be careful."})
    async with ScriptedModel([say_tool("send", {"to": "Ada"}), scored("0.9"), "No."]) as model:
        await Agent("react", model, tools=[send], policy=policy).arun("Write to Ada.")
    assert SENT == []
    assert model.asked[1].messages[0].content.startswith("Be careful.\n\n# So far")
    with pytest.raises(UserError, match="'critic_threshold', which this agent does not have"):
        Agent("react", ScriptedModel([]), policy=policy)


@pytest.mark.asyncio
async def test_the_critic_may_be_another_model(memory: Memory) -> None:
    critic = ScriptedModel([scored("1")], name="critic")
    async with ScriptedModel([say_tool("send", {"to": "Ada"}), "Done."]) as model:
        agent = Agent("react", model, tools=[send], models={"critic": critic}, memory=memory)
        result = await agent.arun("Write to Ada.")
    assert SENT == ["Ada"]
    steps = await memory.find(Step, where={"run_id": result.run.id})
    calls = [(s.node, s.body.completion.model) for s in steps if isinstance(s.body, ModelCall) and s.body.completion]
    assert calls == [("model", "scripted"), ("tools", "critic"), ("model", "scripted")]
    with pytest.raises(UserError, match="'react' never asks a model 'critic'"):
        Agent("react", ScriptedModel([]), tools=[shell], models={"critic": critic})


@pytest.mark.asyncio
async def test_reviews_are_paid_from_the_runs_budget() -> None:
    async with ScriptedModel([say_tool("send", {"to": "Ada"})]) as model:
        result = await Agent("react", model, tools=[send]).arun("Write to Ada.", budget=Budget(calls=1))
    assert result.run.status == "cancelled"
    assert SENT == []


@pytest.mark.asyncio
async def test_commands_are_reviewed_by_pattern() -> None:
    script = [say_tool("shell", {"command": "ls"}), say_tool("shell", {"command": "rm -rf /work"}), scored("0")]
    async with ScriptedModel([*script, "Fine."]) as model:
        result = await Agent("react", model, tools=[guarded(shell, when=RISKY_COMMANDS)]).arun("Look.")
    assert result.answer == "Fine."
    assert len(model.asked) == 4, "the harmless command needed no review"


@pytest.mark.parametrize(
    ("command", "risky"),
    [
        ("rm -r build", True),
        ("git push origin main", True),
        ("echo x > data.csv", True),
        ("curl -X DELETE http://x/1", True),
        ('psql -c "DROP TABLE users"', True),
        ("find . -name '*.tmp' -delete", True),
        ("ls -la | grep form", False),
        ("cat log >> all.log 2>&1", False),
        ("make test 2> /dev/null", False),
        ("git status", False),
    ],
)
def test_risky_commands(command: str, risky: bool) -> None:
    assert bool(re.search(RISKY_COMMANDS, command, re.IGNORECASE)) is risky


def test_a_broken_pattern_is_refused() -> None:
    with pytest.raises(UserError, match=r"when='\(' is no regular expression"):
        guarded(shell, when="(")


def test_a_transcript_leaves_out_the_system_and_cuts_what_is_long() -> None:
    call = ToolCall(id="1", name="send", arguments='{"to":"Ada"}')
    said = [
        Message(role="system", content="secret"),
        Message(role="user", content="Hi."),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="x" * 3000, tool_call_id="1", name="send"),
    ]
    shown = transcript(said)
    assert shown.startswith('user: Hi.\n\nassistant: \ncalls send({"to":"Ada"})\n\ntool send: xxx')
    assert shown.endswith("x …")
    assert "secret" not in shown


# --- a person ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("said", "sent", "told"),
    [("yes", ["Ada"], "sent to Ada"), ("Not today.", [], "error: not run: a person said: Not today.")],
)
async def test_a_person_decides(memory: Memory, said: str, sent: list[str], told: str) -> None:
    async with ScriptedModel([say_tool("send", {"to": "Ada"}), "Done."]) as model:
        agent = Agent("react", model, tools=[guarded(send, by="person")], memory=memory)
        asked = await agent.arun("Write to Ada.")
        assert (asked.run.status, SENT) == ("interrupted", [])
        question = {"question": "Run send? It cannot be undone.", "arguments": '{"to":"Ada"}'}
        assert asked.interrupts == (question,)
        done = await agent.resume(asked.run.id, said)
    assert (done.answer, SENT) == ("Done.", sent)
    assert model.asked[1].messages[-1].content == told
    again = await replay(
        Agent("react", ScriptedModel([]), tools=[guarded(send, by="person")], memory=memory), asked.run.id
    )
    assert (again.answer, again.run.error, SENT) == ("Done.", None, sent)


@pytest.mark.asyncio
async def test_what_ran_beside_the_question_is_not_run_again(memory: Memory) -> None:
    """Two calls in one turn: one runs, one waits for a person; after the answer the first is not done twice."""
    ran: list[str] = []

    def note(text: str) -> str:
        """Note something."""
        ran.append(text)
        return "noted"

    both = say_tool("note", {"text": "a"})
    calls = (*both.tool_calls, *say_tool("send", {"to": "Ada"}).tool_calls)
    async with ScriptedModel([type(both)(text="", tool_calls=calls), "Done."]) as model:
        agent = Agent("react", model, tools=[note, guarded(send, by="person")], memory=memory)
        asked = await agent.arun("Write to Ada.")
        assert (asked.run.status, ran) == ("interrupted", ["a"])
        done = await agent.resume(asked.run.id, "yes")
    assert (done.answer, ran, SENT) == ("Done.", ["a"], ["Ada"])
    assert [message.content for message in model.asked[1].messages[-2:]] == ["noted", "sent to Ada"]


@pytest.mark.asyncio
async def test_the_workspace_is_there_again_after_the_answer(memory: Memory) -> None:
    script = [
        say_tool("shell", {"command": "echo kept > a.txt"}),
        say_tool("send", {"to": "Ada"}),
        say_tool("shell", {"command": "cat a.txt"}),
        "Done.",
    ]
    tools = [shell, guarded(send, by="person")]
    async with ScriptedModel(script) as model:
        asked = await Agent("react", model, tools=tools, memory=memory).arun("Work.")
        done = await Agent("react", model, tools=tools, memory=memory).resume(asked.run.id, "yes")
    assert done.answer == "Done."
    assert model.asked[-1].messages[-1].content == "kept\n[exit code 0]"
    contents = [content for content, _ in await results_of(memory, done.run)]
    assert contents == ["[exit code 0]", "sent to Ada", "kept\n[exit code 0]"], "what was rebuilt is not recorded again"


# --- replay and fork --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_reviews_are_replayed_and_forked(memory: Memory) -> None:
    script = [say_tool("send", {"to": "all"}), scored("0.2"), say_tool("send", {"to": "all"}), scored("0.8"), "Done."]
    async with ScriptedModel(script) as model:
        first = await Agent("react", model, tools=[send], memory=memory).arun("Write to all.")
    assert SENT == ["all"]
    again = await replay(Agent("react", ScriptedModel([]), tools=[send], memory=memory), first.run.id)
    assert (again.answer, again.run.error, SENT) == ("Done.", None, ["all"])
    assert await results_of(memory, again.run) == await results_of(memory, first.run)
    steps = sorted(await memory.find(Step, where={"run_id": first.run.id}), key=lambda step: step.seq)
    asked = [step.seq for step in steps if isinstance(step.body, ModelCall)]
    async with ScriptedModel([scored("0.1"), "Then not."]) as model:
        other = await fork(Agent("react", model, tools=[send], memory=memory), first.run.id, before=asked[3])
    assert (other.answer, SENT) == ("Then not.", ["all"]), "the second review is live, and stops the call"
