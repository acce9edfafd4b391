"""Scripted and recorded models, the wrappers, adapters, and models by name: no network."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.core import (
    Budget,
    BudgetError,
    Completion,
    Message,
    ModelCall,
    ModelError,
    NodeStarted,
    Run,
    Sampling,
    Step,
    ToolSpec,
    Usage,
    UserError,
)
from whet.core.adapters import AdapterCard, adapter_version, pack, unpack
from whet.core.models import (
    Budgeted,
    Cached,
    Exchange,
    Limited,
    Model,
    Price,
    RecordedModel,
    Recording,
    Retrying,
    ScriptedModel,
    Tape,
    adaptable,
    estimate_call,
    load_model,
    need_adaptable,
    say_tool,
)
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS, TinyModel

ASK = [Message(role="user", content="one two three")]
GREEDY = Sampling(temperature=0)


class SlowModel:
    """Answers with the seed, after a while; counts how many calls run at once."""

    name = "slow"

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.calls = 0
        self.at_once = 0
        self.most_at_once = 0

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        return Completion(text=str(sampling.seed), usage=Usage(calls=1, input_tokens=3, output_tokens=1))


# --- scripted -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_script_is_said_in_order_and_requests_are_kept() -> None:
    script = ["Hello.", say_tool("shell", {"command": "ls"}), lambda messages: f"{len(messages)} messages"]
    async with ScriptedModel(script) as model:
        first = await model.complete(ASK, sampling=GREEDY)
        second = await model.complete([*ASK, *ASK])
        third = await model.complete(ASK)
    assert first.text == "Hello."
    assert first.usage == Usage(input_tokens=3, output_tokens=1, calls=1)
    assert second.tool_calls[0].name == "shell"
    assert second.tool_calls[0].arguments == '{"command":"ls"}'
    assert third.text == "1 messages"
    assert model.asked[0].sampling == GREEDY
    assert len(model.asked[1].messages) == 2


@pytest.mark.asyncio
async def test_a_reply_may_be_awaited_or_raised() -> None:
    async def reply(messages: Sequence[Message]) -> str:
        await asyncio.sleep(0)
        return messages[-1].content

    async with ScriptedModel([reply, ModelError("down")]) as model:
        assert (await model.complete(ASK)).text == "one two three"
        with pytest.raises(ModelError, match="down"):
            await model.complete(ASK)


@pytest.mark.asyncio
async def test_a_script_fails_when_it_is_asked_for_more() -> None:
    with pytest.raises(ModelError, match="0 replies and was asked for one more, after 'one two three'"):
        await ScriptedModel([]).complete(ASK)


@pytest.mark.asyncio
async def test_a_script_fails_on_leftovers() -> None:
    model = ScriptedModel(["a", "b"])
    await model.complete(ASK)
    with pytest.raises(ModelError, match=r"1 of 2 replies .* 'b'"):
        model.close()
    with pytest.raises(ZeroDivisionError):  # what went wrong inside is what is reported
        async with ScriptedModel(["never asked"]):
            raise ZeroDivisionError


# --- wrappers -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_budget_is_checked_before_the_call_and_settled_after() -> None:
    budget = Budget(calls=2)
    async with ScriptedModel(["a", "b"]) as script:
        model = Budgeted(script, budget)
        await model.complete(ASK)
        await model.complete(ASK)
        with pytest.raises(BudgetError, match="2 calls"):
            await model.complete(ASK)
    assert budget.spent.tokens == 2 * 4
    assert budget.reserved.calls == 0


class Silent:
    """Answers without a word on what it used."""

    name = "silent"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        return Completion(text="a", model=self.name)


@pytest.mark.asyncio
async def test_a_call_counts_where_the_model_does_not_say_its_usage_and_a_kept_answer_does_not() -> None:
    budget = Budget(calls=2)
    model = Budgeted(Cached(Silent()), budget)
    first = await model.complete(ASK, sampling=GREEDY)
    assert (first.usage.calls, first.kept) == (1, False)
    for _ in range(5):
        again = await model.complete(ASK, sampling=GREEDY)
        assert (again.usage.calls, again.kept) == (0, True)
    await model.complete(ASK)
    with pytest.raises(BudgetError, match="2 calls"):
        await model.complete(ASK)


@pytest.mark.asyncio
async def test_an_open_answer_is_bounded_under_a_budget_of_tokens() -> None:
    async with ScriptedModel(["a", "b"]) as script:
        await Budgeted(script, Budget(tokens=10_000), max_tokens=50).complete(ASK)
        await Budgeted(script, Budget(calls=10), max_tokens=50).complete(ASK)
    assert [asked.sampling.max_tokens for asked in script.asked] == [50, None]


@pytest.mark.asyncio
async def test_concurrent_calls_share_a_budget_without_overshoot() -> None:
    budget = Budget(calls=7)
    model = Budgeted(SlowModel(), budget)
    results = await asyncio.gather(*(model.complete(ASK) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, Completion) for result in results) == 7
    assert sum(isinstance(result, BudgetError) for result in results) == 13
    assert budget.spent.calls == 7


@pytest.mark.asyncio
async def test_a_failed_call_costs_what_may_have_been_charged() -> None:
    budget = Budget(calls=10, tokens=10_000)
    refused = ModelError("no", failure="rate_limit")
    cut_off = ModelError("too slow", failure="timeout")
    async with ScriptedModel([refused, cut_off]) as script:
        model = Budgeted(script, budget, max_tokens=100)
        with pytest.raises(ModelError, match="no"):
            await model.complete(ASK)
        assert (budget.spent.calls, budget.spent.tokens) == (1, 0)
        with pytest.raises(ModelError, match="too slow"):
            await model.complete(ASK)
    assert budget.spent.calls == 2
    assert budget.spent.tokens > 100


@pytest.mark.asyncio
async def test_a_deadline_ends_the_call() -> None:
    budget = Budget(seconds=0.05)
    with pytest.raises(BudgetError, match="deadline passed while 'slow' was answering"):
        await Budgeted(SlowModel(seconds=30), budget).complete(ASK)
    assert budget.reserved.calls == 0


@pytest.mark.asyncio
async def test_a_budget_of_money_wants_a_price_from_a_model_that_has_none() -> None:
    with pytest.raises(BudgetError, match="price of 'slow' is not known"):
        await Budgeted(SlowModel(), Budget(micro_dollars=10)).complete(ASK)
    await Budgeted(SlowModel(), Budget(micro_dollars=10), price=Price()).complete(ASK)


@given(st.lists(st.text(), min_size=1), st.integers(1, 5000))
def test_the_bound_on_tokens_is_above_the_bytes(contents: list[str], max_tokens: int) -> None:
    messages = [Message(role="user", content=content) for content in contents]
    estimate = estimate_call(None, messages, (), Sampling(max_tokens=max_tokens), Price(input=1_000_000))
    assert estimate.input_tokens >= sum(len(content.encode()) for content in contents)
    assert estimate.output_tokens == max_tokens
    assert estimate.micro_dollars == estimate.input_tokens


@pytest.mark.asyncio
async def test_a_limit_lets_so_many_through_at_once() -> None:
    slow = SlowModel()
    model = Limited(slow, 3)
    await asyncio.gather(*(model.complete(ASK) for _ in range(9)))
    assert (slow.calls, slow.most_at_once) == (9, 3)


@pytest.mark.asyncio
async def test_a_passing_failure_is_tried_again_and_another_is_not() -> None:
    failures = [ModelError("busy", failure="rate_limit"), ModelError("cut", failure="malformed")]
    async with ScriptedModel([*failures, "done"]) as script:
        assert (await Retrying(script, first_delay=0.001).complete(ASK)).text == "done"
    async with ScriptedModel([ModelError("key", failure="auth")]) as script:
        with pytest.raises(ModelError, match="key"):
            await Retrying(script, first_delay=0.001).complete(ASK)


@pytest.mark.asyncio
async def test_each_attempt_is_charged_when_the_budget_is_inside() -> None:
    budget = Budget(calls=2)
    async with ScriptedModel([ModelError("busy", failure="rate_limit")] * 2) as script:
        with pytest.raises(BudgetError):
            await Retrying(Budgeted(script, budget), first_delay=0.001).complete(ASK)
    assert budget.spent.calls == 2


@pytest.mark.asyncio
async def test_a_repeatable_request_is_asked_once() -> None:
    slow = SlowModel()
    model = Cached(slow)
    answers = await asyncio.gather(*(model.complete(ASK, sampling=GREEDY) for _ in range(5)))
    assert slow.calls == 1
    assert [answer.usage.calls for answer in answers] == [1, 0, 0, 0, 0]
    assert len({answer.text for answer in answers}) == 1
    await model.complete(ASK, sampling=Sampling(seed=1))
    await model.complete(ASK, sampling=Sampling(seed=2))
    assert slow.calls == 3


@pytest.mark.asyncio
async def test_a_request_for_a_sample_is_always_asked() -> None:
    slow = SlowModel()
    model = Cached(slow)
    for _ in range(3):
        await model.complete(ASK, sampling=Sampling(temperature=1))
    assert slow.calls == 3


@pytest.mark.asyncio
async def test_a_cache_keeps_the_entries_used_last() -> None:
    slow = SlowModel(seconds=0)
    model = Cached(slow, entries=2)
    for seed in (1, 2, 1, 3, 1):
        await model.complete(ASK, sampling=Sampling(seed=seed))
    assert slow.calls == 3
    await model.complete(ASK, sampling=Sampling(seed=2))
    assert slow.calls == 4


# --- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_wrapper_takes_adapters_as_what_it_wraps_does(tmp_path: Path) -> None:
    first, second = (random_adapter(WEIGHTS, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    tape, budget = Tape(), Budget(calls=4)
    model = Recording(Cached(Retrying(Budgeted(Limited(TinyModel(), 1), budget))), tape)
    assert adaptable(model) is model
    assert model.base == str(WEIGHTS)
    under = [
        await model.adapted(first),
        await model.adapted(second),
        await (await model.adapted(first)).adapted(second),
    ]
    assert [each.name for each in under] == [f"tiny+{adapter_version(a)[:12]}" for a in (first, second, second)]
    greedy = Sampling(temperature=0, max_tokens=8)
    answers = [await each.complete(ASK, sampling=greedy) for each in (model, *under)]
    assert [answer.model for answer in answers] == ["tiny", *(each.name for each in under)]
    assert len({answer.text for answer in answers}) == 3
    assert answers[1].text == TinyModel(first).answer(ASK, greedy).text
    assert budget.spent.calls == 3  # they share the budget and the cache, in which the last one was
    assert [exchange.model for exchange in tape.exchanges] == [answer.model for answer in answers]


def test_what_takes_no_adapters_says_what_does(tmp_path: Path) -> None:
    for model in (ScriptedModel([]), Limited(ScriptedModel([]), 2), Retrying(Cached(ScriptedModel([])))):
        assert adaptable(model) is None
        with pytest.raises(UserError, match="'scripted' takes no adapters; load its weights as hf:FOLDER"):
            need_adaptable(model)
    with pytest.raises(UserError, match="takes no adapters"):
        asyncio.run(Limited(ScriptedModel([]), 2).adapted(tmp_path))


@pytest.mark.asyncio
async def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = random_adapter(WEIGHTS, tmp_path / "a")
    card = AdapterCard(base="llama", base_digest="f" * 64)
    other = unpack(pack(folder, card), tmp_path / "other")
    with pytest.raises(UserError, match=r"was trained on 'llama' \(ffffffffffff\), and this model is 'weights'"):
        await TinyModel().adapted(other)
    with pytest.raises(UserError, match="is no adapter"):
        await TinyModel().adapted(tmp_path)


@pytest.mark.asyncio
async def test_a_record_answers_whether_logprobs_are_asked_for_or_not() -> None:
    tape = Tape()
    asked = await Recording(TinyModel(), tape).complete(ASK, sampling=Sampling(seed=1, max_tokens=3, logprobs=True))
    replay = RecordedModel(tape)
    again = await replay.complete(ASK, sampling=Sampling(seed=1, max_tokens=3))
    assert (again.text, again.token_ids, again.logprobs) == (asked.text, asked.token_ids, asked.logprobs)


# --- recorded -------------------------------------------------------------------------------------------------------

messages_st = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=st.text(max_size=20)), max_size=3
)
requests_st = st.tuples(messages_st, st.builds(Sampling, seed=st.integers(0, 2), temperature=st.just(1.0)))


@settings(max_examples=40)
@given(requests=st.lists(requests_st, max_size=6))
def test_a_record_replays_every_request_in_order(tmp_path_factory: pytest.TempPathFactory, requests: list) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("tape") / "calls.jsonl"

    async def record_and_replay() -> None:
        script = [f"answer {number}" for number in range(len(requests))]
        async with ScriptedModel(script, name="m") as scripted:
            recording = Recording(scripted, Tape(path))
            for messages, sampling in requests:
                await recording.complete(messages, sampling=sampling)
        replay = RecordedModel(Tape(path), name="m")
        for number, (messages, sampling) in enumerate(requests):
            completion = await replay.complete(messages, sampling=sampling)
            assert completion.text == f"answer {number}"
            assert completion.usage == Usage()

    asyncio.run(record_and_replay())


@pytest.mark.asyncio
async def test_a_request_that_was_not_recorded_is_refused() -> None:
    tape = Tape()
    async with ScriptedModel(["x"], name="m") as script:
        await Recording(script, tape).complete(ASK)
    replay = RecordedModel(tape)
    with pytest.raises(ModelError, match=r"was never recorded \(1 calls are on the record\)"):
        await replay.complete(ASK, sampling=GREEDY)
    await replay.complete(ASK)
    with pytest.raises(ModelError, match="was recorded 1 times and is made once more"):
        await replay.complete(ASK)


@pytest.mark.asyncio
async def test_a_recorded_failure_fails_again() -> None:
    tape = Tape()
    async with ScriptedModel([ModelError("busy", failure="rate_limit")]) as script:
        with pytest.raises(ModelError):
            await Recording(script, tape).complete(ASK)
    with pytest.raises(ModelError, match="busy") as failed:
        await RecordedModel(tape).complete(ASK)
    assert failed.value.failure == "rate_limit"


@pytest.mark.asyncio
async def test_a_run_is_replayed_from_its_steps() -> None:
    run = Run(task_id="t", agent="a", model="tiny")
    bodies = [
        NodeStarted(),
        ModelCall(messages=tuple(ASK), completion=Completion(text="first")),
        ModelCall(messages=tuple(ASK), completion=Completion(text="second")),
    ]
    steps = [Step(run_id=run.id, seq=seq, body=body) for seq, body in enumerate(bodies)]
    model = RecordedModel.of_run(run, reversed(steps))
    assert model.name == "tiny"
    assert [(await model.complete(ASK)).text for _ in range(2)] == ["first", "second"]
    with pytest.raises(UserError, match="holds no model call"):
        RecordedModel.of_run(run, steps[:1])


def test_a_torn_last_line_is_dropped_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    tape = Tape(path)
    tape.add(Exchange(model="m", messages=tuple(ASK), completion=Completion(text="x")))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"model": "m", "mess')
    again = Tape(path)
    assert len(again.exchanges) == 1
    again.add(Exchange(model="m", messages=(), completion=Completion(text="y")))
    assert len(Tape(path).exchanges) == 2
    path.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(UserError, match="line 1 of"):
        Tape(path)


@pytest.mark.asyncio
async def test_a_file_of_calls_is_a_model(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    Tape(path).add(Exchange(model="m", messages=tuple(ASK), completion=Completion(text="x")))
    assert (await load_model(f"recorded:{path}").complete(ASK)).text == "x"
    with pytest.raises(UserError, match="no record of calls"):
        load_model(f"recorded:{tmp_path / 'nothing.jsonl'}")
    Tape(path).add(Exchange(model="other", messages=tuple(ASK), completion=Completion(text="y")))
    with pytest.raises(UserError, match=r"2 models \(m, other\)"):
        load_model(f"recorded:{path}")
    assert load_model(f"recorded:{path}", name="other").name == "other"


# --- by name --------------------------------------------------------------------------------------------------------


@pytest.fixture
def my_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_models.py").write_text(
        "from whet.core.models import ScriptedModel\n"
        "def make(text, *, name='mine'): return ScriptedModel([text], name=name)\n"
        "def nothing(): return 3\n"
        "number = 3\n"
    )
    (tmp_path / "needs_torch.py").write_text("import torch_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("my_models")
def test_a_dotted_path_is_a_model() -> None:
    model = load_model("my_own_models:make", text="hi", name="other")
    assert isinstance(model, Model)
    assert model.name == "other"


@pytest.mark.usefixtures("my_models")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("my_own_models:make", {"text": "x", "size": 3}, "'size'.*options are text, name"),
        ("my_own_models:make", {}, "missing.*'text'"),
        ("my_own_models:mak", {}, "has no 'mak' .did you mean 'make'"),
        ("my_own_models:nothing", {}, "made 3, which is no Model"),
        ("my_own_models:number", {}, "is 3, which makes no model"),
        ("no_such_package.models:X", {}, "no module 'no_such_package.models'"),
        ("needs_torch:X", {}, "needs 'torch_that_is_not_there', which is not installed; run: pip install"),
        ("hf:", {}, "write hf:NAME"),
        ("opnai:gpt", {}, "did you mean 'openai'"),
    ],
)
def test_what_cannot_be_loaded_says_why(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        load_model(name, **options)
    assert "\n" not in str(refused.value)


def test_a_missing_extra_prints_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "whet.core.models.hf", raising=False)
    with pytest.raises(UserError, match=r"needs 'torch', which is not installed; run: pip install 'whet\[weights\]'"):
        load_model("hf:somewhere")
