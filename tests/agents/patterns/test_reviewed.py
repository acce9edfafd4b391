"""Reviewed: what the other model sees, when it stops, what is kept, what it costs, and whom it may be."""

from collections.abc import Callable, Sequence

import pytest

from whet.agents import Agent, replay, run_tasks
from whet.agents.attempts import Attempt
from whet.agents.patterns.reviewed import accepts, count_flips
from whet.agents.runtime import Verify
from whet.core import Budget, Message, ModelCall, Policy, Step, Task, UserError
from whet.core.models import ScriptedModel, load_model
from whet.core.models.families import are_kin, families
from whet.core.prompting import render_retry
from whet.memory import Memory
from whet.memory.exchange.transcript import messages_of
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]


def scripted(*replies: str, name: str = "other") -> ScriptedModel:
    return ScriptedModel(list(replies), name=name)


@pytest.mark.asyncio
async def test_the_other_model_reviews_until_it_accepts(memory: Memory) -> None:
    async with scripted("bad", "good", name="mine") as mine, scripted("It is bad.", "ACCEPT") as other:
        agent = Agent("reviewed", mine, models={"reviewer": other}, memory=memory)
        result = await agent.arun("Do it.")
    assert result.answer == "good"
    assert [message.content for message in mine.asked[1].messages] == ["Do it.", "bad", render_retry(["It is bad."])]
    assert "# Task\nDo it.\n\n# Answer\nbad" in other.asked[0].messages[0].content
    steps = await memory.find(Step, where={"run_id": result.run.id})
    calls = [
        (s.body.role, s.body.completion.model) for s in steps if isinstance(s.body, ModelCall) and s.body.completion
    ]
    assert calls == [("", "mine"), ("reviewer", "other")] * 2
    assert messages_of(Task(id="t", messages=()), result.run, steps)[-1].content == "good", (
        "the transcript is the agent's"
    )
    assert (result.run.model, result.run.meta["models"]) == ("mine", {"reviewer": "other"})
    assert result.run.usage.calls == 4


@pytest.mark.asyncio
async def test_the_reviewer_reads_the_rubrics_of_the_policy() -> None:
    policy = Policy.of({"rubrics/style.md": "# Rubric: style\n\n## Units\nGive them."})
    async with scripted("5", name="mine") as mine, scripted("ACCEPT") as other:
        await Agent("reviewed", mine, models={"reviewer": other}, policy=policy).arun("How long is it?")
    assert "## Units\nGive them.\n\n# Task\nHow long is it?" in other.asked[0].messages[0].content


@pytest.mark.asyncio
async def test_reviews_are_bounded_and_the_last_attempt_is_the_answer(settings: Settings) -> None:
    async with scripted("a", "b", name="mine") as mine, scripted("No.") as other:
        agent = Agent("reviewed", mine, models={"reviewer": other}, policy=settings(rounds=1))
        result = await agent.arun("Do it.")
    assert result.answer == "b"


@pytest.mark.asyncio
async def test_a_correct_answer_argued_away_is_kept_and_counted(wants_good: Verify) -> None:
    """The checks outrank the reviewer: what passed stays the answer, and the flip is on the record."""
    task = Task(id="t", messages=(Message(role="user", content="Do it."),))
    async with scripted("good", "bad", "bad", name="mine") as mine, scripted("It is wrong.", "Still.") as other:
        result = await Agent("reviewed", mine, models={"reviewer": other}, verify=wants_good).arun(task)
    assert result.answer == "good"
    assert result.run.meta["flips"] == {"to_wrong": 1, "to_right": 0}
    assert "# Checks\nAll checks passed." in other.asked[0].messages[0].content


def test_flips_are_counted_both_ways() -> None:
    outcomes = [True, False, False, True, False]
    attempts = [Attempt(text=str(n), score=0.0, passed=passed, critiques=[]) for n, passed in enumerate(outcomes)]
    assert count_flips(attempts) == {"to_wrong": 2, "to_right": 1}


@pytest.mark.parametrize(
    ("said", "accepted"), [("ACCEPT", True), ("**Accept.** Fine.", True), ("I do not accept this.", False), ("", False)]
)
def test_what_accepts(said: str, accepted: bool) -> None:
    assert accepts(said) is accepted


@pytest.mark.asyncio
async def test_the_reviewers_words_are_the_policys() -> None:
    policy = Policy.of({"prompts/reviewer.md": "Be strict."})
    async with scripted("x", name="mine") as mine, scripted("ACCEPT") as other:
        await Agent("reviewed", mine, models={"reviewer": other}, policy=policy).arun("Do it.")
    assert other.asked[0].messages[0].content.startswith("Be strict.\n\n# Task")


@pytest.mark.asyncio
async def test_both_models_share_one_budget() -> None:
    async with scripted("a", name="mine") as mine, scripted("No.") as other:
        agent = Agent("reviewed", mine, models={"reviewer": other})
        result = await agent.arun("Do it.", budget=Budget(calls=2))
    assert result.run.status == "cancelled"
    assert result.run.error is not None
    assert result.run.error.startswith("budget: ")


@pytest.mark.asyncio
async def test_it_is_replayed_with_neither_model(memory: Memory) -> None:
    async with scripted("bad", "good", name="mine") as mine, scripted("It is bad.", "ACCEPT") as other:
        first = await Agent("reviewed", mine, models={"reviewer": other}, memory=memory).arun("Do it.")
    nobody = Agent("reviewed", scripted(name="mine"), models={"reviewer": scripted()}, memory=memory)
    again = await replay(nobody, first.run.id)
    assert (again.answer, again.run.error, again.run.usage.calls) == ("good", None, 0)


@pytest.mark.asyncio
async def test_a_run_goes_on_with_the_same_further_models_only(memory: Memory) -> None:
    async with scripted("good", name="mine") as mine, scripted("ACCEPT") as other:
        first = await Agent("reviewed", mine, models={"reviewer": other}, memory=memory).arun("Do it.")
    another = Agent("reviewed", mine, models={"reviewer": scripted(name="third")}, memory=memory)
    with pytest.raises(UserError, match=r"models \{'reviewer': 'other'\} .this agent: \{'reviewer': 'third'\}"):
        await another.resume(first.run.id)
    assert (await replay(another, first.run.id)).answer == "good", "a replay asks nobody"


# --- who may review ---------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_kin_are_refused_unless_allowed(settings: Settings) -> None:
    mine, other = scripted("x", name="openai/gpt-4o-mini"), scripted("ACCEPT", name="azure/gpt-5")
    refused = await Agent("reviewed", mine, models={"reviewer": other}).arun("Do it.")
    assert refused.run.status == "failed"
    assert "'azure/gpt-5' is of the family of the agent's model 'openai/gpt-4o-mini'" in (refused.run.error or "")
    assert not mine.asked, "nothing was spent"
    allowed = Agent("reviewed", mine, models={"reviewer": other}, policy=settings(same_family=1))
    assert (await allowed.arun("Do it.")).answer == "x"


def test_a_missing_or_idle_model_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="'reviewed' asks a further model 'reviewer'; give Agent"):
        Agent("reviewed", scripted())
    with pytest.raises(UserError, match="'refine' never asks a model 'reviewer'; the further models it asks: none"):
        Agent("refine", scripted(), models={"reviewer": scripted()})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bedrock/anthropic.claude-haiku-4-5", {"claude"}),
        ("hf:./DeepSeek-R1-Distill-Qwen-7B", {"deepseek", "qwen"}),
        ("azure/o3", {"gpt"}),
        ("vllm:/data/mixtral-8x7b", {"mistral"}),
        ("tiny+0123456789ab", {"tiny"}),
        ("my_package.models:MyModel", {"mymodel"}),
        ("hf:./models/Qwen2.5-7B/", {"qwen"}),
        ("openai:./42", set()),
    ],
)
def test_families(name: str, found: set[str]) -> None:
    assert families(name) == found


def test_a_distilled_model_is_kin_of_both() -> None:
    distilled = "hf:./DeepSeek-R1-Distill-Qwen-7B"
    assert are_kin(distilled, "qwen2.5-72b")
    assert are_kin(distilled, "deepseek/deepseek-chat")
    assert not are_kin(distilled, "openai/gpt-4o")


# --- the embedded model ---------------------------------------------------------------------------------------------


def names_a_failing_check(messages: Sequence[Message]) -> str:
    """A competent reviewer: repeats what the checks found, and accepts where they found nothing."""
    found = messages[-1].content.partition("# Checks\n")[2]
    return "ACCEPT" if found == "All checks passed." else found


@pytest.mark.asyncio
async def test_the_embedded_model_solves_more_with_a_reviewer(
    public_tasks: Callable[[int], list[Task]], settings: Settings
) -> None:
    """It knows none of the verbs; the reviewer passes on what the public checks found."""
    tasks, tiny = public_tasks(4), load_model("tiny")
    async with SandboxPool(size=1) as pool:
        alone = await run_tasks(Agent("refine", tiny, sandbox=pool, policy=settings(rounds=0)), tasks, purpose="gate")
        other = ScriptedModel([names_a_failing_check] * 12)
        agent = Agent("reviewed", tiny, models={"reviewer": other}, sandbox=pool, policy=settings(rounds=3))
        reviewed = await run_tasks(agent, tasks, purpose="gate")
    assert sum(result.passed for result in reviewed) > sum(result.passed for result in alone)
    assert all(result.run.meta["flips"]["to_wrong"] == 0 for result in reviewed)  # type: ignore[index,call-overload]
