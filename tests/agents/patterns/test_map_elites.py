"""MAP-Elites: bins keep their best, elites are in view of later samples, QD score, descriptors, halting."""

from collections.abc import Callable

import pytest

from whet.agents import Agent
from whet.agents.patterns.map_elites import best_of_each, elites_by, shape
from whet.agents.runtime import Verify
from whet.core import Budget, Policy
from whet.core.models import ScriptedModel

Settings = Callable[..., Policy]


def by_first_letter(text: str) -> tuple[float, ...]:
    return ((ord(text[:1] or "a") - ord("a")) / 26,)


@pytest.mark.asyncio
async def test_every_bin_keeps_its_best_and_the_sum_is_the_qd_score(wants_good: Verify, settings: Settings) -> None:
    async with ScriptedModel(["goxx", "axxx", "gooo", "aood", "goxx"]) as model:
        policy = settings(tries=5, start=5, bins=26)
        result = await Agent(elites_by(by_first_letter), model, verify=wants_good, policy=policy).arun("Go.")
    kept = {elite["text"]: elite["quality"] for elite in result.state["elites"]}
    assert kept == {"aood": pytest.approx(3 / 5), "gooo": pytest.approx(4 / 5)}
    assert result.state["qd"] == pytest.approx(7 / 5)
    assert result.answer == "gooo"


@pytest.mark.asyncio
async def test_later_samples_see_elites_of_other_bins(wants_good: Verify, settings: Settings) -> None:
    async with ScriptedModel(["goxx", "axxx", "good"]) as model:
        policy = settings(tries=9, start=2, bins=26, parents=2)
        result = await Agent(elites_by(by_first_letter), model, verify=wants_good, policy=policy).arun("Go.")
    assert result.answer == "good"
    shown = model.asked[2].messages[-1].content
    assert "\ngoxx" in shown
    assert "\naxxx" in shown
    assert [len(asked.messages) for asked in model.asked] == [1, 1, 2]


@pytest.mark.asyncio
async def test_without_checks_the_model_says_how_good_an_answer_is(settings: Settings) -> None:
    async with ScriptedModel(["one", "Score: 30", "two", "Score: 90", "three", "no idea"]) as model:
        policy = settings(tries=3, start=3, bins=26)
        result = await Agent(elites_by(by_first_letter), model, policy=policy).arun("Go.")
    assert [elite["quality"] for elite in result.state["seen"]] == [0.3, 0.9, 0.0]
    assert result.answer == "two"


@pytest.mark.asyncio
async def test_it_goes_on_until_enough_bins_are_solved(wants_good: Verify, settings: Settings) -> None:
    async with ScriptedModel(["goxx", "good"]) as model:
        result = await Agent("map_elites", model, verify=wants_good, policy=settings(tries=9)).arun("Go.")
    assert result.answer == "good"
    async with ScriptedModel(["good", "goxx", "good"]) as model:
        agent = Agent("map_elites", model, verify=wants_good, policy=settings(tries=3, start=3, fill=2))
        assert (await agent.arun("Go.")).answer == "good"


@pytest.mark.asyncio
async def test_calls_and_budget_are_kept(wants_good: Verify, settings: Settings) -> None:
    async with ScriptedModel(["xxxx", "gxxx"]) as model:
        result = await Agent("map_elites", model, verify=wants_good, policy=settings(calls=2)).arun("Go.")
    assert (result.run.status, result.answer) == ("done", "gxxx")
    async with ScriptedModel(["xxxx", "gxxx"]) as model:
        agent = Agent("map_elites", model, verify=wants_good)
        assert (await agent.arun("Go.", budget=Budget(calls=2))).run.status == "cancelled"


def test_shape_tells_short_from_long_and_straight_from_branching() -> None:
    short, branching = (
        shape("def f(x): return x"),
        shape("def f(x):\n    if x:\n        return 1\n    for y in x: pass"),
    )
    assert short[0] < branching[0]
    assert short[1] == 0 < branching[1]
    assert all(0 <= axis < 1 for text in ("", "x" * 9999, "if if if") for axis in shape(text))
    first = {"text": "a", "bin": [0], "quality": 0.5, "solved": False}
    assert best_of_each([first, {**first, "text": "b"}]) == [first], "an equal does not take its place"
