"""Tools in the background: at work side by side, heard of when done, cancelled, resumed, replayed and forked."""

import asyncio
from dataclasses import replace

import pytest

from whet.agents import Agent, AgentContext, ListRecorder, Trace, ask_person, fork, guarded, replay, shell, tool
from whet.agents.recording import GraphRecorder
from whet.core import Completion, ModelCall, Policy, Run, SandboxError, Step, Task, ToolCall, ToolResult
from whet.core.models import ScriptedModel, say_tool
from whet.memory import Memory

Gates = dict[str, asyncio.Event]
GATES: Gates = {}


@pytest.fixture(autouse=True)
def gates() -> Gates:
    """A gate for each name that a test uses; a job named after it is done when the gate opens."""
    GATES.clear()
    return GATES


@tool(background=True)
async def fetch(what: str) -> str:
    """Fetch something slowly."""
    await GATES.setdefault(what, asyncio.Event()).wait()
    return f"here is {what}"


@tool
async def open_gate(what: str) -> str:
    """Let a fetch end."""
    GATES.setdefault(what, asyncio.Event()).set()
    return "opened"


@tool(background=True, seconds=60)
async def slowly(command: str, context: AgentContext) -> str:
    """Run a slow command."""
    return str(await shell.function(command, context))  # type: ignore[misc]


def together(*calls: Completion) -> Completion:
    return Completion(text="", tool_calls=tuple(call.tool_calls[0] for call in calls))


async def steps_of(memory: Memory, run: Run) -> list[Step]:
    return sorted(await memory.find(Step, where={"run_id": run.id}), key=lambda step: step.seq)


async def results_of(memory: Memory, run: Run) -> list[ToolResult]:
    return [step.body for step in await steps_of(memory, run) if isinstance(step.body, ToolResult)]


@pytest.mark.asyncio
async def test_the_model_works_on_and_hears_of_the_result_when_it_is_there(memory: Memory) -> None:
    script = [
        say_tool("fetch", {"what": "a"}),
        say_tool("open_gate", {"what": "b"}),
        say_tool("open_gate", {"what": "a"}),
    ]
    async with ScriptedModel([*script, say_tool("open_gate", {"what": "b"}), "Done."]) as model:
        agent = Agent("react", model, tools=[fetch, open_gate], memory=memory)
        result = await agent.arun("Go.")
    assert result.answer == "Done."
    said = [(message.role, message.content) for message in model.asked[-1].messages]
    assert said[2] == ("tool", "fetch-1 goes on in the background; do other work meanwhile, or wait for it with wait")
    assert said.count(("user", "fetch-1 is done:\nhere is a")) == 1
    assert ("user", "fetch-1 is done:\nhere is a") not in [(m.role, m.content) for m in model.asked[2].messages]
    recorded = [(each.call.id, each.pending, each.content) for each in await results_of(memory, result.run)]
    assert recorded[0][:2] == ("fetch-1", True)
    assert ("fetch-1", False, "here is a") in recorded


@pytest.mark.asyncio
async def test_real_commands_run_side_by_side_and_beside_other_work(memory: Memory) -> None:
    """Both sleep; the spans of time they report overlap, and a command in the foreground is done before either."""
    command = {"command": "date +%s%N; sleep 1.5; date +%s%N"}
    script = [together(say_tool("slowly", command), say_tool("slowly", command, id="2"))]
    script += [say_tool("shell", {"command": "echo other"}), say_tool("wait", {"job": "slowly-1"})]
    async with ScriptedModel([*script, say_tool("wait", {"job": "slowly-2"}), "Done."]) as model:
        result = await Agent("react", model, tools=[slowly, shell], memory=memory).arun("Go.")
    assert result.answer == "Done."
    found = await results_of(memory, result.run)
    spans = [
        [int(line) for line in each.content.splitlines()[:2]]
        for each in found
        if each.call.name == "slowly" and not each.pending
    ]
    (begin, end), (other_begin, other_end) = spans
    assert max(begin, other_begin) < min(end, other_end)
    order = [(each.call.name, each.pending) for each in found]
    assert order[:3] == [("slowly", True), ("slowly", True), ("shell", False)]


@pytest.mark.asyncio
async def test_a_job_sees_the_files_of_its_begin_and_leaves_none() -> None:
    script = [
        say_tool("shell", {"command": "echo before > a.txt"}),
        say_tool("slowly", {"command": "cat a.txt; echo mine > b.txt"}),
        say_tool("wait", {"job": "slowly-1"}),
        say_tool("shell", {"command": "ls"}),
    ]
    async with ScriptedModel([*script, "Done."]) as model:
        await Agent("react", model, tools=[slowly, shell]).arun("Go.")
    told = [message.content for message in model.asked[-1].messages if message.role == "tool"]
    assert told[2] == "before\n[exit code 0]"
    assert told[3] == "a.txt\n[exit code 0]"


@pytest.mark.asyncio
async def test_what_is_under_way_at_the_end_is_cancelled(memory: Memory) -> None:
    ended: list[str] = []

    @tool(background=True)
    async def hang(context: AgentContext) -> str:
        """Hang."""
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("ended")
        return ""

    async with ScriptedModel([together(say_tool("hang"), say_tool("open_gate", {"what": "x"})), "Enough."]) as model:
        result = await Agent("react", model, tools=[hang, open_gate], memory=memory).arun("Go.")
    assert (result.answer, ended) == ("Enough.", ["ended"])
    last = (await results_of(memory, result.run))[-1]
    assert (last.call.id, last.error) == ("hang-1", "cancelled: the run ended first")


@pytest.mark.asyncio
async def test_errors_are_told_and_a_broken_host_ends_the_run() -> None:
    @tool(background=True)
    async def fails(how: str) -> str:
        """Fail."""
        raise SandboxError("gone") if how == "host" else ValueError("no")

    script = [say_tool("fails", {"how": "guest"}), say_tool("wait", {"job": "fails-1"}), say_tool("wait", {"job": "x"})]
    async with ScriptedModel([*script, "Done."]) as model:
        await Agent("react", model, tools=[fails]).arun("Go.")
    told = [message.content for message in model.asked[-1].messages if message.role == "tool"]
    assert told[1] == "error: ValueError: no"
    assert told[2] == "error: UserError: there is no job 'x'; there are fails-1"
    # Whether it is heard of by waiting or before: that depends on who is faster.
    model = ScriptedModel([say_tool("fails", {"how": "host"}), say_tool("wait", {"job": "fails-1"}), "Never said."])
    result = await Agent("react", model, tools=[fails]).arun("Go.")
    assert result.run.error is not None
    assert result.run.error.endswith("SandboxError: gone")


@pytest.mark.asyncio
async def test_a_job_may_be_guarded_and_cannot_ask(memory: Memory) -> None:
    asks = replace(ask_person, background=True)
    script = [say_tool("ask_person", {"question": "?"}), say_tool("wait", {"job": "ask_person-1"})]
    async with ScriptedModel([*script, "Done."]) as model:
        await Agent("react", model, tools=[asks]).arun("Go.")
    assert model.asked[-1].messages[-1].content == "error: a tool in the background cannot ask a person"
    script = [say_tool("fetch", {"what": "a"}), "<score>0</score>", "Not then."]
    async with ScriptedModel(script) as model:
        await Agent("react", model, tools=[guarded(fetch)]).arun("Go.")
    assert "not run: the critic" in model.asked[-1].messages[-1].content
    assert GATES == {}, "nothing was begun"


# --- resume, replay, fork ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_results_wait_for_a_run_that_waits_for_a_person(memory: Memory) -> None:
    script = [
        say_tool("fetch", {"what": "a"}),
        together(say_tool("open_gate", {"what": "a"}), say_tool("ask_person", {"question": "Go on?"})),
        "Done.",
    ]
    async with ScriptedModel(script) as model:
        agent = Agent("react", model, tools=[fetch, open_gate, ask_person], memory=memory)
        asked = await agent.arun("Go.")
        assert asked.run.status == "interrupted"
        result = await agent.resume(asked.run.id, "yes")
    assert result.answer == "Done."
    assert model.asked[-1].messages[-1].content == "fetch-1 is done:\nhere is a"
    assert sum(each.content == "here is a" for each in await results_of(memory, result.run)) == 1


@pytest.mark.asyncio
async def test_a_job_that_was_cut_off_says_so() -> None:
    """The record of a run that was killed: two jobs were begun, one has a result, and that was heard of."""
    run, recorder = Run(task_id="t", agent="a"), ListRecorder()
    context = AgentContext(
        task=Task(id="t", messages=()),
        run=run,
        bounded=ScriptedModel([]),
        policy=Policy(),
        knobs={},
        system_message="",
        recorder=GraphRecorder(Trace(recorder, run)),
    )
    calls = [ToolCall(id=f"fetch-{n}", name="fetch", arguments="{}") for n in (1, 2)]
    heard = ToolCall(id="w", name="wait", arguments='{"job":"fetch-1"}')
    bodies = [*(ToolResult(call=call, content="", pending=True) for call in calls)]
    bodies += [ToolResult(call=calls[0], content="here"), ToolResult(call=heard, content="here")]
    context.jobs.restore(context, [Step(run_id=run.id, seq=n, body=body) for n, body in enumerate(bodies)])
    assert context.jobs.ready() == ["fetch-2"]
    assert (await context.jobs.deliver("fetch-1")).content == "here"
    lost = await context.jobs.deliver("fetch-2")
    assert lost.error == "cut off with the run; call it again if it is still needed"
    assert [record.body for record in recorder.records if isinstance(record, Step)] == [lost]


@pytest.mark.asyncio
async def test_a_replay_tells_the_same_at_the_same_moment(memory: Memory) -> None:
    script = [
        together(say_tool("fetch", {"what": "a"}), say_tool("fetch", {"what": "b"}, id="b")),
        say_tool("open_gate", {"what": "b"}),
        say_tool("open_gate", {"what": "a"}),
        say_tool("wait", {"job": "fetch-1"}),
        "Done.",
    ]
    async with ScriptedModel(script) as model:
        first = await Agent("react", model, tools=[fetch, open_gate], memory=memory).arun("Go.")
    GATES.clear()
    nobody = Agent("react", ScriptedModel([]), tools=[fetch, open_gate], memory=memory)
    again = await replay(nobody, first.run.id)
    assert (again.answer, again.run.error) == ("Done.", None)
    assert GATES == {}, "no tool was run"
    asked = [
        [s.body.messages for s in await steps_of(memory, r) if isinstance(s.body, ModelCall)]
        for r in (first.run, again.run)
    ]
    assert asked[0] == asked[1]


@pytest.mark.asyncio
async def test_a_fork_runs_only_what_was_not_done(memory: Memory) -> None:
    script = [
        together(say_tool("fetch", {"what": "a"}), say_tool("fetch", {"what": "b"}, id="b")),
        say_tool("open_gate", {"what": "b"}),
        say_tool("wait", {"job": "fetch-2"}),
        "Enough.",
    ]
    async with ScriptedModel(script) as model:
        first = await Agent("react", model, tools=[fetch, open_gate], memory=memory).arun("Go.")
    calls = [step.seq for step in await steps_of(memory, first.run) if isinstance(step.body, ModelCall)]
    GATES.clear()
    async with ScriptedModel(
        [say_tool("open_gate", {"what": "a"}), say_tool("wait", {"job": "fetch-1"}), "Both."]
    ) as model:
        agent = Agent("react", model, tools=[fetch, open_gate], memory=memory)
        other = await fork(agent, first.run.id, before=calls[3])
    assert other.answer == "Both."
    assert set(GATES) == {"a"}, "the job that was done is not run again"
    assert "here is a" in model.asked[-1].messages[-1].content
