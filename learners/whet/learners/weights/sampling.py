"""Sampling from the model under training, many prompts at once, with the logprobs that training compares with.

    for answer in sample(tuned, prompts, ends={1}, max_tokens=64, seed=0):
        print(answer.ids, answer.logprobs)

For rounds of practice that need no server; an agent's own rollouts go through whatever serves its model.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from whet.core.records import Record
from whet.learners.weights.lora import TunedModel

__all__ = ["Sampled", "sample"]


class Sampled(Record, frozen=True, kw_only=True):
    """What was written after a prompt: token ids, the end token included, and their logprobs at temperature 1."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


@torch.no_grad()
def sample(
    tuned: TunedModel,
    prompts: Sequence[Sequence[int]],
    *,
    ends: Collection[int],
    max_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int = 256,
) -> list[Sampled]:
    """Returns one answer per prompt, in order; the likeliest one at temperature 0. A seed repeats them."""
    generator = torch.Generator(tuned.device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    found: dict[int, Sampled] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        answers = _batch(tuned, [prompts[i] for i in part], set(ends), max_tokens, temperature, generator)
        found |= dict(zip(part, answers, strict=True))
    return [found[number] for number in range(len(prompts))]


def _batch(
    tuned: TunedModel,
    prompts: Sequence[Sequence[int]],
    ends: set[int],
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[Sampled]:
    ids_bt, mask_bt = _left_padded(prompts, tuned.device)
    cache = DynamicCache()
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    going = [True] * len(prompts)
    following_bt = ids_bt
    for _ in range(max_tokens):
        logits_bv = _next_logits(tuned, following_bt, mask_bt, cache)
        token_b = _choose(logits_bv, temperature, generator)
        logp_b = torch.log_softmax(logits_bv, -1).gather(1, token_b[:, None])[:, 0]
        for row, (token, logp) in enumerate(zip(token_b.tolist(), logp_b.tolist(), strict=True)):
            if going[row]:
                ids[row].append(token)
                logprobs[row].append(logp)
                going[row] = token not in ends
        if not any(going):
            break
        following_bt = token_b[:, None]
        mask_bt = torch.cat([mask_bt, mask_bt.new_ones(len(prompts), 1)], 1)
    return [
        Sampled(ids=tuple(row), logprobs=tuple(logps), finished=not still)
        for row, logps, still in zip(ids, logprobs, going, strict=True)
    ]


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _next_logits(tuned: TunedModel, ids_bt: Tensor, mask_bt: Tensor, cache: DynamicCache) -> Tensor:
    positions_bt = (mask_bt.cumsum(1) - 1).clamp_min(0)[:, -ids_bt.shape[1] :]
    output = tuned.causal.base_model(
        input_ids=ids_bt, attention_mask=mask_bt, position_ids=positions_bt, past_key_values=cache, use_cache=True
    )
    logits_bv: Tensor = (output.last_hidden_state[:, -1] @ tuned.head_vd.T).float()
    return logits_bv


def _choose(logits_bv: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits_bv.argmax(-1)
    return torch.multinomial(torch.softmax(logits_bv / temperature, -1), 1, generator=generator)[:, 0]
