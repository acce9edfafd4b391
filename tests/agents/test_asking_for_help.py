"""Asking for help: a person is waited for or simulated, and who asks where it has to, and only there, is seen."""

import re
from collections import Counter
from collections.abc import Sequence

import pytest

from whet.agents import Agent, ask_person, fork, replay, run_tasks, simulated_person
from whet.agents.asking_for_help import NOTHING_TO_ADD, answer_from_blockers
from whet.agents.tasksets import load_tasks, validate
from whet.core import Completion, Message, ModelCall, Sampling, Step, Task, ToolSpec, UserError
from whet.core.models import ScriptedModel, say_tool
from whet.core.models.tiny.world import program, read_definitions
from whet.feedback.verifiers.asking import Counts, blockers_of, count_asking, questions_of
from whet.memory import Memory
from whet.sandboxes import SandboxPool


class Solver:
    """Reads the definitions in the conversation, and asks about the verbs that it is made to ask about."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        text = "\n".join(message.content for message in messages)
        verbs = re.findall(r"\w+", text.partition("Write solve(x): ")[2].partition(".")[0].replace(" then ", " "))
        asked = {message.name for message in messages if message.role == "tool"}
        if (doubtful := self.doubtful(text, verbs)) and not asked:
            return say_tool("ask_person", {"question": f"What is {' and what is '.join(doubtful)}?"})
        return Completion(text=program(verbs, {**dict.fromkeys(verbs, "x"), **read_definitions(text)}))

    def doubtful(self, text: str, verbs: list[str]) -> list[str]:
        defined = Counter(re.findall(r"def (\w+)", text))
        unclear = [verb for verb in dict.fromkeys(verbs) if defined[verb] != 1]
        return {"never": [], "always": verbs, "doubtful": unclear}[self.name]


def test_a_set_has_tasks_with_and_without_gaps() -> None:
    tasks = load_tasks("asking:7?n=16&verbs=12").tasks
    kinds = [[blocker.kind for blocker in blockers_of(task)] for task in tasks]
    assert Counter(map(tuple, kinds)) == {(): 4, ("missing",): 4, ("ambiguous",): 4, ("contradictory",): 4}
    for task in tasks:
        for blocker in blockers_of(task):
            assert blocker.about[0] in task.prompt
            assert (blocker.answer in task.prompt) is (blocker.kind != "missing")
    assert load_tasks("asking:7?n=16&verbs=12").version == load_tasks("asking:7?n=16&verbs=12").version
    with pytest.raises(UserError, match="asking: no option 'kind'"):
        load_tasks("asking:7?kind=string")


@pytest.mark.asyncio
async def test_its_tasks_are_sound() -> None:
    async with SandboxPool(size=1) as pool:
        report = await validate(load_tasks("asking:7?n=4&verbs=12"), pool)
    assert (report.sound, report.failures) == (True, ())


@pytest.mark.asyncio
async def test_who_asks_where_it_has_to_solves_more_and_scores_higher() -> None:
    tasks = load_tasks("asking:7?n=4&verbs=12").tasks
    solved: dict[str, int] = {}
    f1: dict[str, float] = {}
    for name in ("never", "always", "doubtful"):
        async with SandboxPool(size=1) as pool:
            agent = Agent("react", Solver(name), tools=[simulated_person()], sandbox=pool)
            results = await run_tasks(agent, tasks, purpose="gate")
        assert [result.run.error for result in results] == [None] * len(tasks)
        solved[name] = sum(result.verdicts[0].outcome == "pass" for result in results)
        counts = [count_asking(blockers_of(t), questions_of(r.run)) for t, r in zip(tasks, results, strict=True)]
        f1[name] = sum(counts, Counts()).f1
        assert [result.verdicts[1].score for result in results] == [each.f1 for each in counts]
    assert solved["doubtful"] == solved["always"] == 4
    assert solved["never"] < 4
    assert f1["doubtful"] == 1
    assert f1["never"] == 0
    assert f1["always"] == pytest.approx(2 * 0.75 / 1.75), "one of four questions was needless"


# --- a person ---------------------------------------------------------------------------------------------------------

TASK = Task(
    id="report",
    messages=(Message(role="user", content="Write the report."),),
    meta={"blockers": [{"kind": "missing", "about": ["due"], "answer": "On Friday."}]},
)


@pytest.mark.asyncio
async def test_a_person_is_waited_for(memory: Memory) -> None:
    script = [
        say_tool("ask_person", {"question": "When is it due?"}),
        say_tool("ask_person", {"question": "For whom?"}),
    ]
    async with ScriptedModel([*script, "Done."]) as model:
        agent = Agent("react", model, tools=[ask_person], memory=memory)
        asked = await agent.arun(TASK)
        assert asked.interrupts == ({"question": "When is it due?"},)
        again = await agent.resume(asked.run.id, "On Friday.")
        assert again.interrupts == ({"question": "For whom?"},)
        done = await agent.resume(asked.run.id, "For Ada.")
    assert (done.run.status, done.answer) == ("done", "Done.")
    told = [message.content for message in model.asked[-1].messages if message.role == "tool"]
    assert told == ["On Friday.", "For Ada."]
    assert done.run.meta["questions"] == ["When is it due?", "For whom?"]


@pytest.mark.asyncio
async def test_two_questions_at_once_take_two_answers(memory: Memory) -> None:
    calls = [say_tool("ask_person", {"question": question}, id=question).tool_calls[0] for question in ("A?", "B?")]
    async with ScriptedModel([Completion(text="", tool_calls=tuple(calls)), "Done."]) as model:
        agent = Agent("react", model, tools=[ask_person], memory=memory)
        asked = await agent.arun(TASK)
        assert asked.interrupts == ({"question": "A?"}, {"question": "B?"})
        done = await agent.resume(asked.run.id, ["a", "b"])
    assert done.answer == "Done."
    assert [message.content for message in model.asked[-1].messages if message.role == "tool"] == ["a", "b"]


@pytest.mark.asyncio
async def test_questions_are_counted_in_replays_and_forks(memory: Memory) -> None:
    async with ScriptedModel([say_tool("ask_person", {"question": "When is it due?"}), "Done."]) as model:
        agent = Agent("react", model, tools=[ask_person], memory=memory)
        first = await agent.resume((await agent.arun(TASK)).run.id, "On Friday.")
    again = await replay(Agent("react", ScriptedModel([]), tools=[ask_person], memory=memory), first.run.id)
    assert (again.answer, again.run.error, again.run.status) == ("Done.", None, "done")
    calls = [s for s in await memory.find(Step, where={"run_id": first.run.id}) if isinstance(s.body, ModelCall)]
    async with ScriptedModel(["Otherwise."]) as model:
        agent = Agent("react", model, tools=[ask_person], memory=memory)
        other = await fork(agent, first.run.id, before=max(step.seq for step in calls))
    assert other.answer == "Otherwise."
    assert again.run.meta["questions"] == other.run.meta["questions"] == ["When is it due?"]


def test_a_simulated_person_tells_only_what_was_asked() -> None:
    assert answer_from_blockers(TASK, "When is it due?") == "On Friday."
    assert answer_from_blockers(TASK, "May I use Python?") == NOTHING_TO_ADD
