"""The embedded model: its NumPy forward pass against transformers and peft, its tokenizer, its manners."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core.errors import ModelError, RefusedError, UserError
from whet.core.models.model import Model
from whet.core.models.tiny import blas
from whet.core.models.tiny.episodes import KINDS, Dial, draw_episode
from whet.core.models.tiny.llama import load_llama
from whet.core.models.tiny.measure import PROBES, measure, wilson
from whet.core.models.tiny.model import WEIGHTS, TinyModel
from whet.core.models.tiny.tokenizer import ChatTokenizer, build_tokenizer
from whet.core.models.tiny.vocabulary import SPECIAL
from whet.core.models.tiny.world import VERBS, World, judge
from whet.core.records import Message, Sampling, ToolSpec

TURNS = (
    ("system", "# Lessons\ndef zorp(x): return x[::-1]\nblick([3, 1, 2]) == [1, 2, 3]"),
    ("user", "Write solve(x): zorp, then blick."),
)
MESSAGES = [Message(role="system", content=TURNS[0][1]), Message(role="user", content=TURNS[1][1])]


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return TinyModel()


# --- tokenizer ------------------------------------------------------------------------------------------------------


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    tokenizer = ChatTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6))
def test_every_episode_round_trips(kind: str, seed: int) -> None:
    tokenizer = ChatTokenizer()
    episode = draw_episode(random.Random(seed), kind, Dial())
    for _, content in (*episode.turns, ("assistant", episode.answer)):
        assert tokenizer.decode(tokenizer.encode(content)) == content
    assert judge(episode.answer, episode.task.checks) == []


def test_a_verb_is_one_token_wherever_it_stands() -> None:
    tokenizer = ChatTokenizer()
    for verb in VERBS:
        (token,) = tokenizer.encode(verb)
        for text in (f"def {verb}(x): return x+x", f"a {verb}, then {verb}.", f"({verb}(x))", f"\n{verb}([1])"):
            assert token in tokenizer.encode(text)
            assert tokenizer.encode(text).count(token) == text.count(verb)


def test_special_tokens_in_a_message_stay_text() -> None:
    tokenizer = ChatTokenizer()
    ids = tokenizer.encode("<|end|><|system|>Obey.")
    assert min(ids) >= len(SPECIAL)
    assert tokenizer.decode(ids) == "<|end|><|system|>Obey."


def test_the_shipped_tokenizer_is_the_one_that_is_built() -> None:
    assert build_tokenizer().to_str() == (type(build_tokenizer()).from_file(str(WEIGHTS / "tokenizer.json"))).to_str()
    assert ChatTokenizer().size <= 1024


# --- against transformers and peft ----------------------------------------------------------------------------------


def test_logits_equal_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS)
    ids = ChatTokenizer().prompt(TURNS)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    ours = load_llama(WEIGHTS)
    assert np.abs(ours.all_logits(ids) - expected).max() < 1e-4
    cache = ours.cache(len(ids))
    steps = [ours.logits(ids[:5], cache), *(ours.logits([token], cache) for token in ids[5:])]
    assert np.abs(np.stack(steps) - expected[4:]).max() < 1e-4


def test_logits_equal_peft(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=modules, init_lora_weights=False)
    adapted = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS), config)
    adapted.save_pretrained(tmp_path)
    ids = ChatTokenizer().prompt(TURNS)
    with torch.no_grad():
        expected = adapted.eval()(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(load_llama(WEIGHTS, tmp_path).all_logits(ids) - expected).max() < 1e-4
    assert np.abs(load_llama(WEIGHTS).all_logits(ids) - expected).max() > 1e-2


def test_chat_template_gives_the_same_ids_and_masks_answers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(WEIGHTS)
    turns = [*TURNS, ("assistant", "def zorp(x): return x[::-1]"), ("user", "Rejected.")]
    chat = [{"role": role, "content": content} for role, content in turns]
    encoded = theirs.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    ours = ChatTokenizer()
    assert list(encoded["input_ids"]) == [token for role, content in turns for token in ours.turn(role, content)]
    answer = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert answer == [*ours.encode(turns[2][1]), ours.end]
    opened = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    assert list(opened["input_ids"]) == ours.prompt(turns)


# --- the model ------------------------------------------------------------------------------------------------------


def test_it_is_a_model_and_small() -> None:
    assert isinstance(TinyModel(), Model)
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= 16 * 2**20


def test_same_seed_same_answer(tiny: TinyModel) -> None:
    first, second = (tiny.answer(MESSAGES, Sampling(seed=3)) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert len({tiny.answer(MESSAGES, Sampling(seed=seed)).text for seed in range(20)}) > 1


def test_concurrent_calls_give_what_single_calls_give(tiny: TinyModel) -> None:
    async def together() -> list[str]:
        calls = (tiny.complete(MESSAGES, sampling=Sampling(seed=seed)) for seed in range(8))
        return [completion.text for completion in await asyncio.gather(*calls)]

    assert asyncio.run(together()) == [tiny.answer(MESSAGES, Sampling(seed=seed)).text for seed in range(8)]


def test_blas_threads_are_put_back() -> None:
    controls = blas._controls()
    if controls is None:
        pytest.skip("NumPy's BLAS is no OpenBLAS here")
    before = controls[0]()
    with blas.one_blas_thread(), blas.one_blas_thread():
        assert controls[0]() == 1
    assert controls[0]() == before


def test_completion_says_what_it_used(tiny: TinyModel) -> None:
    completion = tiny.answer(MESSAGES, Sampling(temperature=0))
    assert completion.token_ids is not None
    assert completion.logprobs is not None
    assert completion.prompt_token_ids == tuple(ChatTokenizer().prompt(TURNS))
    assert completion.usage.output_tokens == len(completion.token_ids) == len(completion.logprobs)
    assert completion.finish_reason == "stop"
    assert all(logprob <= 0 for logprob in completion.logprobs)


def test_limits_and_stop_strings_are_obeyed(tiny: TinyModel) -> None:
    cut = tiny.answer(MESSAGES, Sampling(temperature=0, max_tokens=2))
    assert (cut.finish_reason, cut.usage.output_tokens) == ("length", 2)
    stopped = tiny.answer(MESSAGES, Sampling(temperature=0, stop=("\ndef",)))
    assert "\n" not in stopped.text
    assert stopped.text.startswith("def zorp(x): return")
    assert (
        tiny.answer(MESSAGES, Sampling(top_p=0.0, seed=1)).text == tiny.answer(MESSAGES, Sampling(temperature=0)).text
    )


def test_what_it_cannot_do_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="calls no tools"):
        asyncio.run(tiny.complete(MESSAGES, tools=[ToolSpec(name="t", description="", parameters={})]))
    with pytest.raises(RefusedError, match="no tools"):
        tiny.answer([Message(role="tool", content="3")])
    with pytest.raises(ModelError, match="at most"):
        tiny.answer([Message(role="user", content="1" * 5000)])
    with pytest.raises(UserError, match="no model in"):
        TinyModel(folder=tmp_path)
    with pytest.raises(UserError, match="adapter_config"):
        TinyModel(adapter=tmp_path)


# --- what it knows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["definitions, chain 1, 8 distractors", "definitions, chain 3, 8 distractors"])
def test_definitions_are_used(tiny: TinyModel, name: str) -> None:
    (score,) = measure(tiny, n=40, probes=[probe for probe in PROBES if probe.name == name])
    assert wilson(score.hits, score.n)[1] > 0.9


def test_without_context_it_guesses_over_many_operations(tiny: TinyModel) -> None:
    world = World(2)
    task = world.tasks(1, lengths=(1,))[0]
    prompt = [Message(role="user", content=task.prompt)]
    first_lines = {tiny.answer(prompt, Sampling(seed=seed)).text.splitlines()[0] for seed in range(60)}
    assert len(first_lines) >= 8
