"""Iterative agent decoding: what is in view, what is kept, when it stops, and that it beats as many blind samples."""

from collections.abc import Callable

import pytest

from whet.agents import Agent, run_tasks
from whet.agents.patterns.iad import extremes
from whet.agents.runtime import Criticise, Verify
from whet.core import Budget, Message, Policy, Task
from whet.core.models import ScriptedModel
from whet.sandboxes import SandboxPool

Settings = Callable[..., Policy]


def said(messages: tuple[Message, ...]) -> list[str]:
    return [message.content.replace("\nWrite a corrected answer.", "") for message in messages]


@pytest.mark.asyncio
async def test_the_worst_and_the_best_attempt_are_in_view(
    wants_good: Verify, says_why: Criticise, settings: Settings
) -> None:
    async with ScriptedModel(["goox", "xxxx", "gxxx", "good"]) as model:
        agent = Agent("iad", model, verify=wants_good, critique=says_why, policy=settings(n=5))
        result = await agent.arun("Do it.")
    assert result.answer == "good"
    assert said(model.asked[3].messages) == [
        "Do it.",
        "xxxx",
        "The worst attempt so far.\nRejected.\n'xxxx' is wrong.",
        "goox",
        "The best attempt so far.\nRejected.\n'goox' is wrong.",
    ]


@pytest.mark.asyncio
async def test_the_best_is_kept_when_later_samples_are_worse(wants_good: Verify, settings: Settings) -> None:
    async with ScriptedModel(["goox", "xxxx", "gxxx"]) as model:
        result = await Agent("iad", model, verify=wants_good, policy=settings(n=3)).arun("Do it.")
    assert result.answer == "goox"
    assert [attempt["text"] for attempt in result.state["attempts"]] == ["goox", "xxxx", "gxxx"]


@pytest.mark.asyncio
async def test_the_role_texts_are_the_policys(wants_good: Verify, settings: Settings) -> None:
    async with ScriptedModel(["xxxx", "good"]) as model:
        policy = settings(n=2).edit({"prompts/best.md": "Closest:"})
        await Agent("iad", model, verify=wants_good, policy=policy).arun("Do it.")
    assert model.asked[1].messages[-1].content.startswith("Closest:\nRejected.")


@pytest.mark.asyncio
async def test_where_nobody_judges_there_is_nothing_to_search_by(settings: Settings) -> None:
    async with ScriptedModel(["whatever"]) as model:
        result = await Agent("iad", model, policy=settings(n=9)).arun("Do it.")
    assert result.answer == "whatever"


def test_extremes_show_nothing_twice() -> None:
    attempts = [
        {"text": text, "score": score, "passed": False, "critiques": []}
        for text, score in (("a", 0.5), ("b", 0.1), ("c", 0.9), ("a", 0.5))
    ]

    def texts(show: int) -> tuple[list[str], list[str]]:
        worst, best = extremes(attempts, show)
        return [item["text"] for item in worst], [item["text"] for item in best]

    assert texts(0) == ([], [])
    assert texts(1) == (["b"], ["c"])
    assert texts(2) == (["b"], ["a", "c"])
    assert texts(9) == ([], ["b", "a", "c"])


@pytest.mark.asyncio
async def test_calls_are_bounded_by_the_knob_and_by_a_budget(wants_good: Verify, settings: Settings) -> None:
    async with ScriptedModel(["xxxx", "gxxx"]) as model:
        result = await Agent("iad", model, verify=wants_good, policy=settings(n=9, calls=2)).arun("Do it.")
    assert (result.run.status, result.answer) == ("done", "gxxx")
    async with ScriptedModel(["xxxx", "gxxx"]) as model:
        agent = Agent("iad", model, verify=wants_good, policy=settings(n=9))
        result = await agent.arun("Do it.", budget=Budget(calls=2))
    assert (result.run.status, result.answer) == ("cancelled", None)


@pytest.mark.asyncio
async def test_the_embedded_model_finds_more_than_with_as_many_blind_samples(
    public_tasks: Callable[[int], list[Task]], pool: SandboxPool, settings: Settings
) -> None:
    tasks = public_tasks(6)

    async def solved(graph: str) -> int:
        async with Agent(graph, "tiny", policy=settings(n=5, max_tokens=40), sandbox=pool) as agent:
            return sum(result.passed for result in await run_tasks(agent, tasks, progress=lambda result: None))

    assert await solved("iad") > await solved("best_of_n")
