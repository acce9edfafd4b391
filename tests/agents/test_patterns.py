"""The patterns: what each asks its model, when it stops, what it answers, which knobs it takes."""

import pytest

from whet.agents import Agent
from whet.agents.runtime import Criticise, Verify
from whet.core import Message, ModelError, Policy, UserError, Verdict
from whet.core.models import ScriptedModel, say_tool
from whet.core.prompting import render_retry


def settings(**knobs: float) -> Policy:
    return Policy.of({"settings.toml": "".join(f"{name} = {value}\n" for name, value in knobs.items())})


def said(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


# --- refine -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_refine_lists_every_rejected_attempt(wants_good: Verify, says_why: Criticise) -> None:
    async with ScriptedModel(["bad", "worse", "good"]) as model:
        policy = settings(rounds=3).edit({"prompts/system.md": "Be good."})
        agent = Agent("refine", model, verify=wants_good, critique=says_why, policy=policy)
        result = await agent.arun("Do it.")
    assert result.answer == "good"
    assert result.passed
    assert said(model.asked[2].messages) == [
        ("system", "Be good."),
        ("user", "Do it."),
        ("assistant", "bad"),
        ("user", render_retry(["'bad' is wrong."])),
        ("assistant", "worse"),
        ("user", render_retry(["'worse' is wrong."])),
    ]


@pytest.mark.asyncio
async def test_refine_forbids_what_was_rejected_and_gets_hotter_where_asked_to(
    wants_good: Verify, says_why: Criticise
) -> None:
    for temperature, hotter in ((1.2, [1.2, 1.7, 2.0]), (None, [None, 1.5, 2.0])):
        async with ScriptedModel(["bad", "bad", "good"]) as model:
            knobs = {"rounds": 3, "forbid": 1, "heat": 0.5} | ({"temperature": temperature} if temperature else {})
            agent = Agent("refine", model, verify=wants_good, critique=says_why, policy=settings(**knobs))
            result = await agent.arun("Do it.")
        assert result.passed
        assert [asked.sampling.temperature for asked in model.asked] == hotter
    last = model.asked[2].messages[-1].content
    assert last == "Rejected.\n'bad' is wrong.\nGive none of these answers again:\nbad\nWrite a corrected answer."
    assert "Give none" in model.asked[1].messages[-1].content


@pytest.mark.asyncio
async def test_refine_stops_at_its_rounds_with_the_best_attempt(wants_good: Verify, says_why: Criticise) -> None:
    async with ScriptedModel(["xxxx", "goox", "xxxx"]) as model:
        agent = Agent("refine", model, verify=wants_good, critique=says_why, policy=settings(rounds=2))
        result = await agent.arun("Do it.")
    assert result.answer == "goox"
    assert not result.passed
    assert result.score == pytest.approx(3 / 5)


@pytest.mark.asyncio
async def test_refine_without_rounds_asks_once(wants_good: Verify) -> None:
    async with ScriptedModel(["bad"]) as model:
        result = await Agent("refine", model, verify=wants_good, policy=settings(rounds=0)).arun("Do it.")
    assert result.answer == "bad"


@pytest.mark.asyncio
async def test_refine_does_not_revise_what_could_not_be_judged() -> None:
    def broken(task: object, run: object) -> list[Verdict]:
        return [Verdict(run_id="r", task_id="t", verifier="v", outcome="infra_error")]

    async with ScriptedModel(["something"]) as model:
        result = await Agent("refine", model, verify=broken).arun("Do it.")
    assert result.answer == "something"
    assert result.score is None


@pytest.mark.asyncio
async def test_every_attempt_has_its_verdict_and_the_answer_one_of_its_own(
    wants_good: Verify, says_why: Criticise
) -> None:
    async with ScriptedModel(["bad", "good"]) as model:
        agent = Agent("refine", model, verify=wants_good, critique=says_why)
        events = [event async for event in agent.stream("Do it.")]
    judged = [event.body for event in events if getattr(getattr(event, "body", None), "verdict_id", None)]
    assert len(judged) == 3
    assert [verdict.repetition for verdict in events[-1].verdicts] == [0]  # type: ignore[union-attr]


# --- best_of_n --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_best_of_n_takes_the_sample_of_the_highest_score(wants_good: Verify) -> None:
    async with ScriptedModel(["xxxx", "goox", "xxgx"]) as model:
        result = await Agent("best_of_n", model, verify=wants_good, policy=settings(n=3)).arun("Do it.")
    assert result.answer == "goox"
    seeds = {request.sampling.seed for request in model.asked}
    assert len(seeds) == 3, "each sample has a seed of its own"
    assert {request.sampling.temperature for request in model.asked} == {0.8}


@pytest.mark.asyncio
async def test_equal_samples_are_judged_once_and_score_alike(wants_good: Verify) -> None:
    calls = 0

    async def counted(task: object, run: object) -> object:
        nonlocal calls
        calls += 1
        return await wants_good(task, run)  # type: ignore[arg-type,misc]

    async with ScriptedModel(["goox"] * 4) as model:
        result = await Agent("best_of_n", model, verify=counted).arun("Do it.")  # type: ignore[arg-type]
    assert calls == 1
    assert [sample["score"] for sample in result.state["samples"]] == [pytest.approx(3 / 5)] * 4  # type: ignore[index]


@pytest.mark.asyncio
async def test_seeds_repeat_with_the_run_and_differ_between_runs(wants_good: Verify) -> None:
    async def seeds(seed: int) -> list[int | None]:
        async with ScriptedModel(["a", "b"]) as model:
            await Agent("best_of_n", model, verify=wants_good, policy=settings(n=2)).arun("Do it.", seed=seed)
        return sorted(request.sampling.seed or 0 for request in model.asked)  # type: ignore[return-value]

    assert await seeds(1) == await seeds(1)
    assert await seeds(1) != await seeds(2)


# --- react ------------------------------------------------------------------------------------------------------------


def greet(name: str) -> str:
    """Greet someone."""
    return f"Hello {name}."


@pytest.mark.asyncio
async def test_react_shows_the_model_what_its_tools_return() -> None:
    async with ScriptedModel([say_tool("greet", {"name": "Ada"}), "Done."]) as model:
        result = await Agent("react", model, tools=[greet]).arun("Greet Ada.")
    assert result.answer == "Done."
    first, second = model.asked
    assert [spec.name for spec in first.tools] == ["greet"]
    assert first.tools[0].parameters["required"] == ["name"]
    assert second.messages[-1] == Message(role="tool", content="Hello Ada.", tool_call_id="call_greet", name="greet")
    assert second.messages[-2].tool_calls[0].arguments == '{"name":"Ada"}'


@pytest.mark.asyncio
async def test_react_gets_no_tools_in_its_last_turn() -> None:
    script = [say_tool("greet", {"name": "A"}), say_tool("greet", {"name": "B"}), "Enough."]
    async with ScriptedModel(script) as model:
        result = await Agent("react", model, tools=[greet], policy=settings(max_turns=3)).arun("Go on.")
    assert result.answer == "Enough."
    assert [len(request.tools) for request in model.asked] == [1, 1, 0]


@pytest.mark.asyncio
async def test_react_ends_though_the_model_never_stops_calling() -> None:
    async with ScriptedModel([say_tool("greet", {"name": "A"}, text="thinking")] * 2) as model:
        result = await Agent("react", model, tools=[greet], policy=settings(max_turns=2)).arun("Go on.")
    assert (result.run.status, result.answer) == ("done", "thinking")


# --- knobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_sampling_comes_from_the_policy() -> None:
    async with ScriptedModel(["ok"]) as model:
        await Agent("react", model, policy=settings(temperature=0.7, max_tokens=33)).arun("Hello")
    assert model.asked[0].sampling.temperature == 0.7
    assert model.asked[0].sampling.max_tokens == 33


@pytest.mark.parametrize(
    ("graph", "toml", "problem"),
    [
        ("react", "rounds = 2", "'rounds', which this agent does not have"),
        ("refine", "rouns = 2", "its knobs are forbid, heat, max_tokens, recall_k, rounds"),
        ("refine", "rounds = 2.5", "rounds = 2.5 has to be a whole number from 0 to 20"),
        ("refine", "rounds = -1", "from 0 to 20"),
        ("refine", "rounds = true", "rounds = True has to be"),
        ("best_of_n", "temperature = 'hot'", "temperature = 'hot' has to be a number"),
        ("react", "withhold_rate = 1.5", "withhold_rate = 1.5"),
    ],
)
def test_knobs_that_do_not_fit_are_refused_by_name(graph: str, toml: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Agent(graph, ScriptedModel([]), policy=Policy.of({"settings.toml": toml}))


@pytest.mark.asyncio
async def test_a_model_that_fails_is_a_failed_run() -> None:
    async with ScriptedModel([ModelError("503 from the provider")]) as model:
        result = await Agent("react", model).arun("Hello")
    assert result.run.status == "failed"
    assert result.run.error == "node 'model': ModelError: 503 from the provider"
    assert result.answer is None
