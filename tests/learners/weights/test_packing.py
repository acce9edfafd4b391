"""A packed row is its sequences, each as if it were alone: in what comes out, in gradients, whatever lies beside it."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from whet.core.errors import UserError
from whet.learners.weights.attention import Segments, use_packed_attention
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum, units
from whet.learners.weights.lora import TunedModel
from whet.learners.weights.packing import Packed, micro_batches, pack

CPU = torch.device("cpu")
VOCABULARY = 61
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {},
    "qwen3": {},
    "gemma3_text": {"sliding_window": 4},
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 6},
    "gpt_neox": {},
    "olmo2": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "phi3": {},
}


def made(kind: str, *, dtype: torch.dtype = torch.float32, **extra: object) -> transformers.PreTrainedModel:
    """Returns a small random model of a kind."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(SHAPE | KINDS.get(kind, {}) | extra))
    model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


def packed_like(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Returns a copy of a model that attends within packed rows."""
    copy = type(model)(model.config).to(model.dtype).eval()
    copy.load_state_dict(model.state_dict())
    use_packed_attention(copy)
    return copy


def datum(tokens: Sequence[int], **fields: object) -> Datum:
    return Datum(tokens=tuple(tokens), mask=(False, *(True,) * (len(tokens) - 1)), **fields)  # type: ignore[arg-type]


def ragged(seed: int = 0) -> list[Datum]:
    """Returns sequences of many lengths; the first three begin alike, and one is contained in another."""
    rng = random.Random(seed)
    start = [rng.randrange(VOCABULARY) for _ in range(7)]
    tails = [[rng.randrange(VOCABULARY) for _ in range(length)] for length in (5, 9, 1)]
    others = [[rng.randrange(VOCABULARY) for _ in range(length)] for length in (2, 13, 6)]
    return [datum(tokens) for tokens in (*([*start, *tail] for tail in tails), *others, start)]


def hidden(model: transformers.PreTrainedModel, packed: Packed) -> list[Tensor]:
    """Returns the hidden states of each sequence of a row."""
    row_td = model.base_model(**packed.inputs()).last_hidden_state[0]
    return [row_td[list(places)] for places in packed.places]


def alone(model: transformers.PreTrainedModel, each: Datum) -> Tensor:
    found: Tensor = model.base_model(input_ids=torch.tensor([each.tokens]), use_cache=False).last_hidden_state[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_packed_is_each_sequence_alone_in_hidden_states_and_gradients(kind: str) -> None:
    plain = made(kind)
    model, data = packed_like(plain), ragged()
    packed = pack(data, CPU)
    rng = torch.Generator().manual_seed(1)
    loss_packed, loss_plain = torch.zeros(()), torch.zeros(())
    for each, mine in zip(data, hidden(model, packed), strict=True):
        theirs = alone(plain, each)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        wanted = torch.randn(theirs.shape, generator=rng)
        loss_packed, loss_plain = loss_packed + (mine * wanted).sum(), loss_plain + (theirs * wanted).sum()
    loss_packed.backward()  # type: ignore[no-untyped-call]
    loss_plain.backward()  # type: ignore[no-untyped-call]
    for (name, mine_p), theirs_p in zip(
        model.base_model.named_parameters(), plain.base_model.parameters(), strict=True
    ):
        if theirs_p.grad is not None:
            scale = float(theirs_p.grad.abs().max()) + 1
            torch.testing.assert_close(mine_p.grad, theirs_p.grad, rtol=1e-5, atol=1e-5 * scale, msg=f"{kind} {name}")


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_neighbour_changes_nothing(kind: str) -> None:
    model = packed_like(made(kind))
    data = ragged()
    first = hidden(model, pack(data, CPU))
    others = [datum([(token + 1) % VOCABULARY for token in each.tokens]) for each in ragged(5)]
    second = hidden(model, pack([*others[:3], data[4], *others[3:]], CPU))[3]
    torch.testing.assert_close(second, first[4], rtol=1e-6, atol=1e-6)


def test_a_gradient_does_not_reach_the_neighbours_tokens() -> None:
    model = packed_like(made("llama"))
    packed = pack([datum([1, 2, 3, 4]), datum([5, 6, 7, 8, 9]), datum([10, 11])], CPU)
    (found,) = torch.autograd.grad(hidden(model, packed)[1].sum(), model.base_model.embed_tokens.weight)
    assert set(found.abs().sum(-1).nonzero()[:, 0].tolist()) <= {5, 6, 7, 8, 9}


def test_shared_beginnings_are_in_the_row_once() -> None:
    packed = pack([datum([1, 2, 3, 4]), datum([1, 2, 5]), datum([9]), datum([1, 2, 3, 4])], CPU)
    assert packed.ids_1t.numel() == 6
    assert packed.positions_1t[0].tolist() == [0, 1, 2, 3, 2, 0]
    rows = [packed.ids_1t[0][list(places)].tolist() for places in packed.places]
    assert rows == [[1, 2, 3, 4], [1, 2, 5], [9], [1, 2, 3, 4]]


def test_attention_runs_in_blocks_of_similar_lengths() -> None:
    lengths = [100, 10, 80, 9, 8, 30]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    places = [range(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    segments = Segments.of(places, CPU)
    assert segments.blocks == ((2, 100), (1, 30), (3, 10))
    assert segments.gather_p[segments.scatter_t].tolist() == list(range(sum(lengths)))
    assert not segments.shared


def test_numbers_go_with_their_tokens() -> None:
    one = Datum(
        tokens=(5, 6, 7, 8),
        mask=(False, True, False, True),
        weights=(0.0, 2.0, 0.0, -1.0),
        logprobs=(0.0, -0.5, 0.0, -0.7),
        scale=0.5,
    )
    packed = pack([one, Datum(tokens=(5, 6, 9), mask=(False, False, True))], CPU)
    assert packed.targets_n.tolist() == [6, 8, 9]
    assert packed.ids_1t[0, packed.at_n].tolist() == [6, 8, 9]
    assert packed.ids_1t[0, packed.before_n].tolist() == [5, 7, 6]
    assert packed.sequence_n.tolist() == [0, 0, 1]
    assert packed.order_n.tolist() == [0, 1, 0]
    assert packed.weights_n.tolist() == [2.0, -1.0, 1.0]
    assert packed.scaled_n.tolist() == [1.0, -0.5, 1.0]
    assert packed.behaviour_n[:2].tolist() == pytest.approx([-0.5, -0.7])
    assert packed.behaviour_n[2].isnan()
    assert packed.sum_by_datum(packed.weights_n).tolist() == [1.0, 1.0]


def test_an_unpacked_row_is_computed_as_before() -> None:
    plain = made("llama")
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    mine = packed_like(plain)(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(mine[mask.bool()], plain(input_ids=ids, attention_mask=mask).logits[mask.bool()])


# --- micro-batches --------------------------------------------------------------------------------------------------


def test_micro_batches_hold_every_unit_once_within_the_limit() -> None:
    rng = random.Random(3)
    data = [datum(range(rng.randrange(2, 40)), id=str(number)) for number in range(50)]
    batches = micro_batches([[each] for each in data], 64)
    assert sorted(each.id for batch in batches for each in batch) == sorted(each.id for each in data)
    assert all(pack(batch, CPU).ids_1t.numel() <= 64 for batch in batches)


def test_a_pair_stays_together_even_where_it_is_too_long() -> None:
    pair = [datum(range(50), pair="p", side="chosen"), datum(range(1, 41), pair="p", side="rejected")]
    batches = micro_batches(units([datum([1, 2]), *pair, datum([3, 4])]), 16)
    assert [len(batch) for batch in batches] == [2, 2]
    assert batches[0] == pair


def test_rollouts_of_a_prompt_stay_side_by_side_and_count_it_once() -> None:
    rng, prompt = random.Random(0), range(30)
    data = []
    for group in (50, 51):
        for _ in range(6):
            tokens = (group, *prompt, *range(40, 41 + rng.randrange(5)))
            data.append(Datum(tokens=tokens, mask=tuple(n >= 31 for n in range(len(tokens))), group=str(group)))
    rng.shuffle(data)
    batches = micro_batches([[each] for each in data], 70)
    assert [len({each.group for each in batch}) for batch in batches] == [1, 1]


def test_a_teachers_context_counts_where_it_is_longer() -> None:
    data = [Datum(tokens=(1, 2), mask=(False, True), teacher=tuple(range(20 + n))) for n in range(4)]
    assert [len(batch) for batch in micro_batches([[each] for each in data], 48)] == [2, 2]


# --- models that are refused ----------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "gemma2": ({}, "softcap"),
    "gpt_oss": ({"num_local_experts": 4}, "s_aux"),
    "granite": ({"logits_scaling": 4.0}, "changes its logits"),
    "phi": ({}, "vocabulary head"),
    "lfm2": ({"layer_types": ["conv", "full_attention", "conv"]}, "side by side"),
    "bloom": ({"n_layer": 2, "n_head": 6}, "packed rows"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_training_would_not_follow_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    extra, said = REFUSED[kind]
    made(kind, **extra).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        TunedModel(tmp_path, TrainConfig(rank=2, device="cpu"))
    assert "\n" not in str(caught.value)
