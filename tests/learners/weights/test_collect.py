"""From a memory to experience: what belongs to which attempt, what is left out, and nothing that is held back."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from whet.agents import Agent, run_tasks
from whet.core.budget import Budget
from whet.core.errors import ModelError, NotFoundError, RefusedError, UserError
from whet.core.ids import digest
from whet.core.models import Model, load_model
from whet.core.models.scripted import ScriptedModel, say_tool
from whet.core.models.tiny.world import World, judge
from whet.core.policy import Policy
from whet.core.records import (
    Completion,
    Critique,
    CritiqueGiven,
    Feedback,
    Message,
    ModelCall,
    Run,
    Step,
    Task,
    TaskSet,
    Usage,
    Verdict,
    VerdictGiven,
)
from whet.learners.gate import Arm
from whet.learners.improve import ImproveConfig, improve
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory
from whet.learners.weights.attempts import attempts_of
from whet.learners.weights.card import fingerprint
from whet.learners.weights.collect import collect
from whet.learners.weights.experience import Episode
from whet.learners.weights.rows import answer_row
from whet.learners.weights.where import EVERYTHING, parse_where
from whet.memory import Memory
from whet.memory.exchange import import_file
from whet.sandboxes import SandboxPool

Tasks = Callable[..., list[Task]]

ILF = Path(os.environ.get("WHET_DATA", Path(__file__).parents[4] / "shared" / "data")) / "ilf_mbpp_feedback.jsonl"
needs_ilf = pytest.mark.skipif(not ILF.exists(), reason=f"the data files are not at {ILF.parent}; set WHET_DATA")
GUESSES = Policy.of({"settings.toml": "temperature = 1.0\nmax_tokens = 80\n"})


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load_model("tiny")


def failing(task: Task, world: World, answer: str) -> bool:
    """Whether an answer fails its task, judged without the record: by the world itself."""
    verbs = [str(verb) for verb in task.meta["verbs"]]  # type: ignore[union-attr]
    inputs = ([3, 1, 6, 2, 7, 5, 4], [9, 2, 5], [1, 2, 3, 4])
    return bool(judge(answer, [(list(value), world.apply(verbs, list(value))) for value in inputs]))


def task(id: str, split: str = "train", **fields: object) -> Task:
    return Task(id=id, messages=(Message(role="user", content=f"do {id}"),), split=split, **fields)  # type: ignore[arg-type]


def run(id: str, task_id: str = "t", **fields: object) -> Run:
    return Run(**{"id": id, "task_id": task_id, "agent": "a", "status": "done", "answer": "x", **fields})  # type: ignore[arg-type]


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_refining_run_says_of_each_attempt_what_was_wrong_with_it(
    memory: Memory, pool: SandboxPool, tiny: Model, world: World, world_tasks: Tasks
) -> None:
    async with Agent("refine", tiny, memory=memory, sandbox=pool, policy=GUESSES) as agent:
        await run_tasks(agent, world_tasks(4, lengths=(1, 2)), seeds=(0, 1), progress=lambda result: None)
    episodes = (await collect(TrainMemory(memory))).episodes
    assert len(episodes) == 8
    assert sum(len(episode.attempts) for episode in episodes) > 8
    for episode in episodes:
        assert episode.passed is not failing(episode.task, world, episode.answer)
        for attempt in episode.attempts:
            assert attempt.passed is not failing(episode.task, world, attempt.text)
            assert (attempt.critiques == ()) is attempt.passed or attempt is episode.attempts[-1]
            assert all(critique.source for critique in attempt.critiques)
        for attempt, later in zip(episode.attempts, episode.attempts[1:], strict=False):
            assert attempt.critiques[-1].text in later.messages[-1].content
            assert later.messages[-2].content == attempt.text
            assert attempt.seconds > 0
        assert episode.attempts[-1].completion.token_ids


@pytest.mark.asyncio
async def test_samples_side_by_side_each_have_their_own_verdict_and_place(
    memory: Memory, pool: SandboxPool, tiny: Model, world: World, world_tasks: Tasks
) -> None:
    async with Agent("best_of_n", tiny, memory=memory, sandbox=pool, policy=GUESSES) as agent:
        await run_tasks(agent, world_tasks(3, lengths=(1,)), progress=lambda result: None)
    for episode in (await collect(TrainMemory(memory))).episodes:
        assert len({attempt.parent_id for attempt in episode.attempts}) == len(episode.attempts) == 4
        assert {attempt.node for attempt in episode.attempts} == {"sample"}
        for attempt in episode.attempts:
            assert attempt.passed is not failing(episode.task, world, attempt.text)


@pytest.mark.asyncio
async def test_a_call_of_tools_is_not_the_answer(memory: Memory, pool: SandboxPool) -> None:
    """The answer is empty, as the call of a tool is; the verdict belongs to the last call."""

    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    async def verify(task: Task, run: Run) -> list[Verdict]:
        return [Verdict(run_id=run.id, task_id=task.id, verifier="v", outcome="fail")]

    replies = [say_tool("add", {"a": 1, "b": 2}), Completion(text="")]
    async with ScriptedModel(replies) as model:
        agent = Agent("react", model, memory=memory, sandbox=pool, tools=[add], verify=verify)
        await agent.arun(task("t"))
    (episode,) = (await collect(TrainMemory(memory))).episodes
    assert [len(attempt.verdicts) for attempt in episode.attempts] == [0, 1]
    assert episode.attempts[0].completion.tool_calls[0].name == "add"
    assert episode.attempts[1].messages[-1] == Message(role="tool", content="3", tool_call_id="call_add", name="add")
    assert [tool.name for tool in episode.attempts[0].tools] == ["add"]


def call(seq: int, text: str, *, at: int = 0, seconds: float = 0.0) -> Step:
    body = ModelCall(messages=(), completion=Completion(text=text, usage=Usage(seconds=seconds)))
    return Step(id=f"s{seq}", run_id="r", seq=seq, body=body, at=at)


def verdict(id: str, outcome: str = "fail", repetition: int = 0) -> Verdict:
    return Verdict(id=id, run_id="r", task_id="t", verifier="v", outcome=outcome, repetition=repetition)  # type: ignore[arg-type]


def test_what_came_later_belongs_to_the_answer_and_what_was_heard_to_the_attempt_it_judged() -> None:
    steps = [
        call(0, "a"),
        Step(run_id="r", seq=1, body=CritiqueGiven(critique_id="early", answer=digest("a"))),
        call(2, "b"),
        call(3, "a"),
        call(4, "c"),
        Step(run_id="r", seq=5, body=VerdictGiven(verdict_id="heard", answer=digest("a"))),
        Step(run_id="r", seq=6, body=CritiqueGiven(critique_id="said", answer=digest("a"))),
    ]
    verdicts = [verdict("heard", repetition=1), verdict("second", repetition=2), verdict("final", "pass")]
    critiques = [Critique(id=id, run_id="r", text="wrong", source="x") for id in ("early", "late", "said")]
    critiques.append(Critique(id="placed", run_id="r", text="off", source="ana", step_id="s2"))
    found = attempts_of(run("r", answer="c"), steps, verdicts, critiques)
    assert [[v.id for v in attempt.verdicts] for attempt in found] == [["heard"], ["second"], ["heard"], ["final"]]
    assert [[c.id for c in attempt.critiques] for attempt in found] == [["early"], ["placed"], ["said"], ["late"]]


def test_the_verdict_on_the_answer_counts_more_than_what_the_run_was_allowed_to_hear() -> None:
    steps = [call(0, "a"), call(1, "b")]
    heard = [verdict("public", "pass", 2), verdict("final", "fail")]
    assert [attempt.passed for attempt in attempts_of(run("r", answer="b"), steps, heard, [])] == [None, False]
    broken = [verdict("public", "pass", 2), verdict("final", "infra_error")]
    assert [attempt.passed for attempt in attempts_of(run("r", answer="b"), steps, broken, [])] == [None, True]


def test_what_a_further_model_said_is_no_attempt_of_the_agents_model() -> None:
    review = ModelCall(messages=(), completion=Completion(text="ACCEPT", model="other"), role="reviewer")
    steps = [call(0, "a"), Step(run_id="r", seq=1, body=review)]
    (attempt,) = attempts_of(run("r", answer="a"), steps, [verdict("final", "pass")], [])
    assert (attempt.completion.text, attempt.passed) == ("a", True)


def test_a_run_with_one_call_is_about_that_call_however_its_graph_made_the_answer() -> None:
    steps = [call(0, "```python\nx\n```")]
    (attempt,) = attempts_of(run("r", answer="x"), steps, [verdict("final", "pass")], [])
    assert attempt.passed


def test_seconds_last_until_the_next_call_begins() -> None:
    follows = [call(0, "a", at=1_000, seconds=1.0), call(1, "b", at=9_000, seconds=2.0)]
    timed = attempts_of(run("r", ended_at=9_500), follows, [], [])
    assert [attempt.seconds for attempt in timed] == [7.0, 2.5]
    beside = [call(0, "a", at=2_000, seconds=2.0), call(1, "b", at=3_000, seconds=3.0)]
    timed = attempts_of(run("r", ended_at=4_000), beside, [], [])
    assert [attempt.seconds for attempt in timed] == [4.0, 4.0]


# --- what is taken and what is not ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_is_held_back_cannot_be_collected_in_any_way(memory: Memory) -> None:
    await memory.put(task("t"), task("h", "heldout"), task("s", "sealed"))
    await memory.put(
        run("r"), run("gate", purpose="gate"), run("replay", purpose="replay"), run("h", "h"), run("s", "s")
    )
    for id, about in (("f", "t"), ("fh", "h"), ("fs", "s")):
        await memory.put(Feedback(id=id, kind="comment", source="ana", task_id=about, text="a remark"))
    view = TrainMemory(memory)
    experience = await collect(view)
    assert [episode.run.id for episode in experience.episodes] == ["r"]
    assert [item.id for item in experience.feedback] == ["f"]
    assert [each.id for each in experience.tasks] == ["t"]
    for kind in (Step, Verdict, Critique, Feedback):
        for id in ("gate", "replay", "h", "s"):
            with pytest.raises(RefusedError):
                await view.about(kind, ["r", id])
    with pytest.raises(NotFoundError):
        await view.about(Verdict, ["nowhere"])
    with pytest.raises(RefusedError):
        TrainMemory(memory, tasks=[task("h", "heldout")])


@pytest.mark.asyncio
async def test_what_broke_down_or_comes_from_strangers_is_left_out_and_counted(memory: Memory) -> None:
    await memory.put(task("t"))
    await memory.put(
        run("good"),
        run("failed", status="failed"),
        *(run(status, status=status) for status in ("running", "interrupted", "cancelled")),
        run("tainted", trust="tainted"),
        run("fork", parent_id="tainted"),
        run("lost a call"),
    )
    await memory.put(
        Step(run_id="lost a call", seq=0, body=ModelCall(messages=(), error="ModelError: gone")),
        call(1, "x"),
        Feedback(id="eve", kind="correction", source="eve", run_id="good", text="y", trust="tainted"),
        Feedback(id="ana", kind="comment", source="ana", run_id="good", text="not y"),
        Feedback(id="mallory", kind="comment", source="mallory", task_id="t", text="z", trust="tainted"),
    )
    experience = await collect(TrainMemory(memory))
    assert [episode.run.id for episode in experience.episodes] == ["good"]
    assert [item.id for item in experience.episodes[0].feedback] == ["ana"]
    assert experience.feedback == ()
    assert experience.left_out == {
        "unfinished": 3,
        "failed": 1,
        "tainted": 1,
        "goes on from a tainted run": 1,
        "a model call failed": 1,
        "tainted feedback": 2,
    }


@pytest.mark.asyncio
async def test_a_model_that_fails_leaves_no_episode(memory: Memory) -> None:
    model = ScriptedModel([ModelError("the provider is gone", failure="auth")])
    await Agent("react", model, memory=memory).arun(task("t"))
    with pytest.raises(UserError, match="less 1 with reason 'failed': 0"):
        await collect(TrainMemory(memory))


@pytest.mark.asyncio
async def test_an_imported_run_without_steps_has_an_answer_and_no_attempts(memory: Memory) -> None:
    await memory.put(task("t"), run("r", purpose="import", meta={"system": "Be brief."}))
    (episode,) = (await collect(TrainMemory(memory))).episodes
    assert (episode.attempts, episode.answer) == ((), "x")
    assert [message.content for message in episode.prompt] == ["Be brief.", "do t"]


@pytest.mark.asyncio
async def test_what_was_forgotten_is_not_collected_and_the_data_have_another_name(memory: Memory) -> None:
    await memory.put(task("t"), run("first", answer="the first answer"), run("second", answer="the second answer"))

    def rows(episodes: tuple[Episode, ...]) -> list[str]:
        made = [answer_row(each.prompt, each.answer, sources=each.sources) for each in episodes]
        return [fingerprint(made), *(source for row in made for source in row.sources)]

    before = rows((await collect(TrainMemory(memory))).episodes)
    assert before[1:] == ["first", "second"]
    await memory.forget(await memory.forget_plan(run_ids=["second"]), "asked")
    after = rows((await collect(TrainMemory(memory))).episodes)
    assert after[1:] == ["first"]
    assert after[0] != before[0]


@contextmanager
def counted() -> Iterator[list[str]]:
    """Yields the SQL statements of a block."""
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.asyncio
async def test_ten_times_the_runs_take_no_more_queries(memory: Memory) -> None:
    asked = []
    await memory.put(task("t"))
    for count in (20, 180):
        for number in range(count):
            await memory.put(run(f"{count}-{number}"), verdict(f"v{count}-{number}"))
        with counted() as statements:
            experience = await collect(TrainMemory(memory))
        asked.append(len(statements))
    assert len(experience.episodes) == 200
    assert asked[0] == asked[1] < 30


@pytest.mark.asyncio
async def test_only_the_newest_runs_are_looked_at_and_the_others_counted(memory: Memory) -> None:
    await memory.put(task("t"), *(run(f"r{number}", started_at=number) for number in range(5)))
    experience = await collect(TrainMemory(memory, limit=2))
    assert [episode.run.id for episode in experience.episodes] == ["r3", "r4"]
    assert experience.left_out == {"older than the newest 2 runs": 3}


# --- where ------------------------------------------------------------------------------------------------------------


async def fill(memory: Memory) -> None:
    """Runs that differ in one thing each."""
    await memory.put(task("t", task_set="world-7", tags=("length-1",)), task("u", task_set="other"))
    day = 86_400_000
    policy = Policy.of({"prompts/system.md": "Be brief."})
    await memory.policies.commit(policy, reason="by hand", actor="test")
    await memory.put(
        run("old", started_at=10 * day),
        run("model", model="tiny+lora"),
        run("agent", agent="refine"),
        run("policy", policy=policy.digest),
        run("set", "u"),
        run("tag", "u", tags=("night shift",)),
        run("pass"),
        run("half"),
        run("opinion"),
    )
    await memory.put(
        Verdict(run_id="pass", task_id="t", verifier="v", outcome="pass", score=1.0),
        Verdict(run_id="half", task_id="t", verifier="v", outcome="fail", score=0.5),
        Verdict(run_id="half", task_id="t", verifier="v", outcome="pass", score=1.0, repetition=1),
        Verdict(run_id="opinion", task_id="t", verifier="v", outcome="pass", score=0.9, kind="model"),
        Feedback(id="c", kind="correction", source="ana", run_id="half", text="y"),
        Feedback(id="loose", kind="comment", source="ana", task_id="u", text="a remark"),
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model=tiny", "model"),
        ("agent=refine", "agent"),
        ("policy=head", "policy"),
        ("task_set=other", "set tag"),
        ("tag='night shift'", "tag"),
        ("tag=length-1 since=1970-01-02T00:00:00 verdict=pass", "pass"),
        ("verdict=pass", "pass"),
        ("verdict=fail", "half"),
        ("verdict=none task_set=world-7 since=1d", "model agent policy opinion"),
        ("score>=0.5", "pass half opinion"),
        ("score>=0.5 score<0.9", "half"),
        ("score=0.9", "opinion"),
        ("feedback=correction", "half"),
    ],
)
async def test_each_condition_keeps_what_it_says(memory: Memory, text: str, expected: str) -> None:
    await fill(memory)
    experience = await collect(TrainMemory(memory), parse_where(text))
    assert {episode.run.id for episode in experience.episodes} == set(expected.split())


@pytest.mark.asyncio
async def test_feedback_on_tasks_is_asked_what_can_be_asked_of_it(memory: Memory) -> None:
    await fill(memory)
    view = TrainMemory(memory)

    async def loose(text: str) -> list[str]:
        return [item.id for item in (await collect(view, parse_where(text))).feedback]

    assert await loose("") == await loose("task_set=other") == await loose("since=1d") == ["loose"]
    assert await loose("task_set=world-7") == await loose("verdict=pass") == await loose("feedback=correction") == []


@pytest.mark.asyncio
async def test_where_nothing_is_left_the_message_says_after_which_condition(memory: Memory) -> None:
    with pytest.raises(UserError, match="the memory has no run on a training task; make some with: whet run TASKS"):
        await collect(TrainMemory(memory))
    await fill(memory)
    with pytest.raises(
        UserError, match="of 9 on training tasks there are after task_set=world-7: 7, verdict=fail: 1, scor"
    ):
        await collect(TrainMemory(memory), parse_where("score>0.5 verdict=fail task_set=world-7"))
    with pytest.raises(NotFoundError):
        await collect(TrainMemory(memory), parse_where("policy=abcdef"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("agnet=refine", r"no key 'agnet' \(did you mean 'agent'\?\); there are since, model, agent, policy, task_set"),
        ("refine", "is no condition such as agent=refine"),
        ("agent>refine", "agent is compared with = only"),
        ("verdict=maybe", "verdict is one of pass, fail, none"),
        ("feedback=praise", "feedback is one of rating, preference, correction"),
        ("score>=high", "a score is a number"),
        ("since=yesterday", "no duration such as 7d"),
        ("agent=", "agent needs a value"),
        ("agent=a agent=b", "says agent twice"),
        ("tag='x", "not readable"),
    ],
)
def test_a_condition_that_cannot_be_obeyed_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_where(text)


def test_a_where_clause_says_the_same_tomorrow() -> None:
    where = parse_where("since=2d score>=0.5 tag='night shift' agent=refine")
    assert parse_where(str(where)) == where
    assert "2d" not in str(where)
    assert str(EVERYTHING) == ""


# --- people's feedback ------------------------------------------------------------------------------------------------


@needs_ilf
@pytest.mark.asyncio
async def test_imported_feedback_gives_an_episode_for_each_training_task(memory: Memory) -> None:
    await import_file(memory.store, "ilf", ILF)
    tasks = await memory.find(Task)
    episodes = (await collect(TrainMemory(memory))).episodes
    assert {episode.task.id for episode in episodes} == {each.id for each in tasks if each.split == "train"}
    assert len(tasks) == 124
    assert len(episodes) == 80
    for episode in episodes:
        assert [item.kind for item in sorted(episode.feedback, key=lambda item: item.kind)] == ["comment", "correction"]
        assert [attempt.text for attempt in episode.attempts] == [episode.answer]


# --- practice ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_view_with_an_agent_practises_under_a_policy_that_is_not_in_force(
    memory: Memory, pool: SandboxPool, tiny: Model, world_tasks: Tasks
) -> None:
    train = world_tasks(3, lengths=(1,))
    async with Agent("react", tiny, memory=memory, sandbox=pool) as agent:
        view = TrainMemory(memory, agent, train)
        assert (await collect(view)).tasks == tuple(train)
        results = await view.practise(
            train, policy=GUESSES, seeds=(5, 6), budget=Budget(calls=10), concurrency=2, tags=("round:1",)
        )
    assert [(result.run.task_id, result.run.seed) for result in results] == [(t.id, s) for t in train for s in (5, 6)]
    assert {(result.run.purpose, result.run.policy, result.run.tags) for result in results} == {
        ("train", GUESSES.digest, ("round:1",))
    }
    assert await memory.policies.get(GUESSES.digest) == GUESSES
    assert (await memory.policies.head()) == Policy()
    experience = await collect(TrainMemory(memory), parse_where(f"tag=round:1 policy={GUESSES.digest[:12]}"))
    assert {episode.run.id for episode in experience.episodes} == {result.run.id for result in results}


@pytest.mark.asyncio
async def test_practice_ends_with_the_budget(
    memory: Memory, pool: SandboxPool, tiny: Model, world_tasks: Tasks
) -> None:
    async with Agent("react", tiny, memory=memory, sandbox=pool) as agent:
        budget = Budget(calls=2)
        results = await TrainMemory(memory, agent).practise(world_tasks(3, lengths=(1,)), budget=budget, concurrency=1)
    assert [result.run.status for result in results] == ["done", "done", "cancelled"]
    assert budget.spent.calls == 2


@pytest.mark.asyncio
async def test_practice_on_anything_but_training_tasks_is_refused_whatever_a_task_says_of_itself(
    memory: Memory, tiny: Model
) -> None:
    await memory.put(task("h", "heldout"))
    agent = Agent("react", tiny, memory=memory)
    view = TrainMemory(memory, agent, held_back=[task("s", "sealed")])
    for wanted in (task("h", "heldout"), task("h"), task("s"), task("n", "sealed")):
        with pytest.raises(RefusedError, match="learn from the train split"):
            await view.practise([task("t"), wanted])
    assert await memory.count(Run) == 0


@pytest.mark.asyncio
async def test_without_an_agent_there_is_no_practice(memory: Memory) -> None:
    view = TrainMemory(memory)
    assert not view.can_practise
    with pytest.raises(UserError, match="whet improve TASKS --learners NAME, or whet learn NAME --tasks TASKS"):
        await view.practise([task("t")])


class Practises:
    """A learner that only tries the agent."""

    name = "practises"

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        self.held_back = (await view.held_back()).tasks
        self.results = await view.practise(await view.tasks(), policy=incumbent.policy, seeds=(99,), budget=budget)
        for proposal in list[Proposal]():
            yield proposal


@pytest.mark.asyncio
async def test_in_the_loop_a_learner_practises_on_the_training_tasks_and_out_of_the_same_budget(
    memory: Memory, pool: SandboxPool, reader: Callable[[], Model], world_tasks: Tasks
) -> None:
    train, heldout = world_tasks(8, lengths=(1,))[:4], world_tasks(8, lengths=(1,), split="heldout")[4:]
    sealed = [task("sealed", "sealed")]
    tasks = TaskSet(name="world-7", version="1", tasks=(*train, *heldout, *sealed))
    learner, budget = Practises(), Budget(calls=100)
    async with Agent("react", reader(), memory=memory, sandbox=pool) as agent:
        await improve(agent, tasks, [learner], memory=memory, config=ImproveConfig(rounds=1), budget=budget)
    assert [result.run.task_id for result in learner.results] == [each.id for each in train]
    assert learner.held_back == 5
    assert budget.spent.calls == 8
