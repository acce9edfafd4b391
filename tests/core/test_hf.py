"""The transformers back end, on a small random Llama with an adapter made on the spot."""

import asyncio
from pathlib import Path

import pytest

from whet.core import Budget, Message, ModelError, RefusedError, Sampling, ToolCall, ToolSpec, UserError
from whet.core.adapters import adapter_version
from whet.core.models import Budgeted, load_model
from whet.core.models.hf import HFModel
from whet.core.models.testing import random_adapter
from whet.core.models.tiny.model import WEIGHTS, TinyModel

ASK = [Message(role="user", content="sort the list")]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}"
    "{% for c in m.tool_calls or [] %} call {{ c.function.name }} {{ c.function.arguments.path }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = [
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "unknown",
    "sort",
    "the",
    "list",
    "call",
    "ls",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and a tokenizer of words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("llama")
    words = WORDS + [f"w{number}" for number in range(53)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="unknown"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="unknown")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=64, eos_token_id=0, bos_token_id=None, **shape)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with random, not zero, weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("adapters") / "lora"
    torch.manual_seed(4)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> HFModel:
    loaded = load_model(f"hf:{folder}", max_tokens=12)
    assert isinstance(loaded, HFModel)
    return loaded


@pytest.mark.asyncio
async def test_a_greedy_answer_is_that_of_transformers(model: HFModel, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    completion = await model.complete(ASK, sampling=Sampling(temperature=0, max_tokens=8, logprobs=True))
    assert completion.prompt_token_ids == (2, 6, 7, 8, 3)
    assert completion.token_ids is not None
    assert completion.logprobs is not None
    reference = AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([completion.prompt_token_ids])
    expected = reference.generate(prompt, do_sample=False, max_new_tokens=8, pad_token_id=0)[0, prompt.shape[1] :]
    assert completion.token_ids == tuple(expected.tolist())
    with torch.no_grad():
        logits = reference(torch.tensor([completion.prompt_token_ids + completion.token_ids])).logits[0]
    rows = torch.log_softmax(logits[prompt.shape[1] - 1 : -1].float(), -1)
    picked = rows[range(len(completion.token_ids)), list(completion.token_ids)]
    assert completion.logprobs == pytest.approx(picked.tolist(), abs=1e-4)
    assert completion.usage.input_tokens == 5
    assert completion.usage.output_tokens == len(completion.token_ids)


@pytest.mark.asyncio
async def test_a_seed_repeats_an_answer_whatever_else_is_asked(model: HFModel) -> None:
    alone = [(await model.complete(ASK, sampling=Sampling(seed=seed))).token_ids for seed in range(6)]
    together = await asyncio.gather(*(model.complete(ASK, sampling=Sampling(seed=seed)) for seed in range(6)))
    assert [completion.token_ids for completion in together] == alone
    assert len(set(alone)) > 1


@pytest.mark.asyncio
async def test_the_nucleus_shuts_out_what_is_unlikely(model: HFModel) -> None:
    greedy = await model.complete(ASK, sampling=Sampling(temperature=0))
    narrow = await model.complete(ASK, sampling=Sampling(temperature=2.0, top_p=1e-6, seed=1))
    assert narrow.token_ids == greedy.token_ids


@pytest.mark.asyncio
async def test_an_answer_ends_before_a_stop_word(model: HFModel) -> None:
    whole = await model.complete(ASK, sampling=Sampling(temperature=0))
    stop = whole.text[4:7]
    cut = await model.complete(ASK, sampling=Sampling(temperature=0, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.find(stop)]
    assert cut.finish_reason == "stop"


@pytest.mark.asyncio
async def test_an_answer_that_fills_its_room_says_so(model: HFModel) -> None:
    completion = await model.complete(ASK, sampling=Sampling(temperature=0, max_tokens=1))
    assert (completion.finish_reason, len(completion.token_ids or ())) == ("length", 1)
    long = [Message(role="user", content="sort " * 70)]
    with pytest.raises(ModelError, match="no room in 64; shorten it"):
        await model.complete(long)


@pytest.mark.asyncio
async def test_adapters_share_the_weights_and_do_not_mix(model: HFModel, folder: Path, adapter: Path) -> None:
    greedy = Sampling(temperature=0, logprobs=True)
    before = await model.complete(ASK, sampling=greedy)
    adapted = await model.adapted(adapter)
    alone = await load_model(f"hf:{folder}", adapter=adapter, max_tokens=12).complete(ASK, sampling=greedy)
    answers = await asyncio.gather(*(m.complete(ASK, sampling=greedy) for m in (model, adapted) * 4))
    assert {answer.logprobs for answer in answers[::2]} == {before.logprobs}
    assert {answer.logprobs for answer in answers[1::2]} == {alone.logprobs}
    assert alone.logprobs != before.logprobs
    assert adapted.name == answers[1].model == f"{model.name}+{adapter_version(adapter)[:12]}"
    assert model.base == str(folder)


@pytest.mark.asyncio
async def test_more_adapters_than_stay_in_memory_answer_all_the_same(
    model: HFModel, folder: Path, tmp_path: Path
) -> None:
    greedy = Sampling(temperature=0, logprobs=True, max_tokens=2)
    adapters = [random_adapter(folder, tmp_path / str(seed), seed=seed) for seed in range(10)]
    models = [await model.adapted(each) for each in adapters]
    first = [(await each.complete(ASK, sampling=greedy)).logprobs for each in models]
    again = [(await each.complete(ASK, sampling=greedy)).logprobs for each in reversed(models)][::-1]
    assert again == first
    assert len(set(first)) == 10
    random_adapter(folder, adapters[9], seed=20)  # asked for longest ago, so it is not in memory any more
    with pytest.raises(UserError, match="was written again"):
        await models[9].complete(ASK, sampling=greedy)


@pytest.mark.asyncio
async def test_an_adapter_written_again_is_another_one(model: HFModel, folder: Path, tmp_path: Path) -> None:
    greedy = Sampling(temperature=0, logprobs=True, max_tokens=2)
    before = await (await model.adapted(random_adapter(folder, tmp_path, seed=1))).complete(ASK, sampling=greedy)
    after = await (await model.adapted(random_adapter(folder, tmp_path, seed=2))).complete(ASK, sampling=greedy)
    assert (before.model != after.model, before.logprobs != after.logprobs) == (True, True)


@pytest.mark.asyncio
async def test_a_cancelled_call_frees_the_model(model: HFModel) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await model.complete(ASK)
    assert (await model.complete(ASK, sampling=Sampling(max_tokens=1))).usage.output_tokens == 1


@pytest.mark.asyncio
async def test_a_budget_reserves_the_exact_tokens(model: HFModel) -> None:
    estimate = model.estimate(ASK, tools=(), sampling=Sampling(max_tokens=1_000))
    assert (estimate.input_tokens, estimate.output_tokens, estimate.micro_dollars) == (5, 59, 0)
    budget = Budget(tokens=64, micro_dollars=0)
    await Budgeted(model, budget).complete(ASK, sampling=Sampling(max_tokens=3))
    assert 6 <= budget.spent.tokens <= 8


@pytest.mark.asyncio
async def test_tools_are_refused_where_the_template_has_no_place_for_them(model: HFModel) -> None:
    tool = ToolSpec(name="ls", description="", parameters={})
    with pytest.raises(RefusedError, match="knows no tools"):
        await model.complete(ASK, tools=[tool])


def test_tool_calls_reach_the_template_with_their_arguments(model: HFModel) -> None:
    call = ToolCall(id="1", name="ls", arguments='{"path": "list"}')
    ids = model.prompt_ids([Message(role="assistant", content="the", tool_calls=(call,))])
    assert ids == [3, 7, 9, 10, 8, 3]


def test_tool_calls_are_read_from_the_text() -> None:
    from whet.core.models.hf import _read_tool_calls

    text, calls = _read_tool_calls('Looking. <tool_call>\n{"name": "ls", "arguments": {"path": "a"}}\n</tool_call>')
    assert text == "Looking."
    assert calls == (ToolCall(id="call_0", name="ls", arguments='{"path":"a"}'),)
    with pytest.raises(ModelError, match="cannot be read"):
        _read_tool_calls('<tool_call>{"name": 3}</tool_call>')


def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no transformers model"):
        load_model(f"hf:{tmp_path}")
    with pytest.raises(UserError, match=r"is no adapter: adapter_config\.json"):
        load_model(f"hf:{folder}", adapter=tmp_path)
    with pytest.raises(UserError, match=r"'size'.*options are adapter, device, dtype, max_tokens"):
        load_model(f"hf:{folder}", size=3)
    with pytest.raises(UserError, match=r"fits a .* of \(128, 256\)"):
        load_model(f"hf:{folder}", adapter=random_adapter(WEIGHTS, tmp_path))


# --- the embedded model, whose own NumPy code must say the same -----------------------------------------------------


@pytest.fixture(scope="module")
def tiny_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the embedded model with small random weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    if not (WEIGHTS / "config.json").is_file():
        pytest.skip("the weights of the embedded model are not in this checkout")
    path = tmp_path_factory.mktemp("adapters") / "tiny-lora"
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(WEIGHTS), config).save_pretrained(path)
    return path


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.asyncio
async def test_the_embedded_model_is_a_transformers_model(tiny_adapter: Path, adapted: bool) -> None:
    messages = [
        Message(role="system", content="# Lessons\ndef zorp(x): return x[::-1]"),
        Message(role="user", content="Write solve(x): zorp."),
    ]
    adapter = tiny_adapter if adapted else None
    sampling = Sampling(temperature=0, max_tokens=24, logprobs=True)
    ours = await TinyModel(adapter).complete(messages, sampling=sampling)
    theirs = await load_model(f"hf:{WEIGHTS}", adapter=adapter).complete(messages, sampling=sampling)
    assert ours.prompt_token_ids == theirs.prompt_token_ids
    assert ours.token_ids == theirs.token_ids
    assert ours.text == theirs.text
    assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)
