"""Packing: many sequences in one row without padding, each attending to itself alone.

    packed = pack([datum, other], device)
    hidden_td = model(**packed.inputs())                  # one row of all tokens; use_packed_attention(model) before

Linear layers see exactly the tokens there are. Attention gathers them into (sequence, position) and runs causal
attention there, so that no mask is made and nothing leaks from one sequence to its neighbour.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from whet.core.errors import UserError
from whet.learners.weights.datum import Datum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Packed", "Segments", "micro_batches", "pack", "use_packed_attention"]

NAME = "whet_packed"


@dataclass(frozen=True)
class Segments:
    """Where sequences lie in a packed row of T tokens.

    ``gather_sl``: for each of S sequences and L positions the place in the row, T for padding. ``scatter_t``: for each
    token of the row its place in the flattened (S, L).
    """

    gather_sl: Tensor
    scatter_t: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Segments":
        """Returns the segments of sequences of these lengths, one after the other."""
        longest, total = max(lengths), sum(lengths)
        length_s1 = torch.tensor(lengths)[:, None]
        start_s1 = torch.cumsum(length_s1, 0) - length_s1
        position_1l = torch.arange(longest)[None]
        inside_sl = position_1l < length_s1
        gather_sl = torch.where(inside_sl, start_s1 + position_1l, total)
        return cls(gather_sl.to(device), inside_sl.flatten().nonzero()[:, 0].to(device))


@dataclass(frozen=True)
class Packed:
    """Data packed into one row of T tokens, of which N count.

    ``at_n``: where the counted tokens stand in the row; the hidden state one before predicts each. ``sequence_n``:
    which datum each belongs to. ``weights_n``, ``behaviour_n``: the data's weights (times scale) and behaviour logprobs
    (NaN where unknown). ``order_n``: which counted token of its datum it is, from 0.
    """

    data: tuple[Datum, ...]
    ids_1t: Tensor
    positions_1t: Tensor
    segments: Segments
    at_n: Tensor
    sequence_n: Tensor
    order_n: Tensor
    weights_n: Tensor
    behaviour_n: Tensor

    @property
    def targets_n(self) -> Tensor:
        """The counted tokens themselves."""
        return self.ids_1t[0, self.at_n]

    def inputs(self) -> dict[str, object]:
        """Returns the arguments of the model's forward pass."""
        # A mask that is there already is left alone by transformers; the attention below needs none.
        unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.ids_1t.device)
        return {
            "input_ids": self.ids_1t,
            "position_ids": self.positions_1t,
            "attention_mask": unused,
            "segments": self.segments,
            "use_cache": False,
        }

    def sum_by_datum(self, values_n: Tensor) -> Tensor:
        """Returns the sum over each datum's counted tokens, (S,)."""
        return values_n.new_zeros(len(self.data)).index_add(0, self.sequence_n, values_n)

    def of_data(self, values: Iterable[float]) -> Tensor:
        """Returns one number per datum as a tensor, (S,)."""
        return torch.tensor(list(values), dtype=torch.float32, device=self.ids_1t.device)


def pack(data: Sequence[Datum], device: torch.device) -> Packed:
    """Returns the data in one row, in their order."""
    at, sequence, order, weights, behaviour = list[int](), list[int](), list[int](), list[float](), list[float]()
    start = 0
    for number, datum in enumerate(data):
        counted = [position for position, counts in enumerate(datum.mask) if counts]
        at += [start + position for position in counted]
        sequence += [number] * len(counted)
        order += range(len(counted))
        weights += [datum.scale * (datum.weights[position] if datum.weights else 1.0) for position in counted]
        behaviour += [datum.logprobs[position] if datum.logprobs else float("nan") for position in counted]
        start += len(datum.tokens)
    ids = [token for datum in data for token in datum.tokens]
    positions = [position for datum in data for position in range(len(datum.tokens))]
    return Packed(
        data=tuple(data),
        ids_1t=torch.tensor([ids], device=device),
        positions_1t=torch.tensor([positions], device=device),
        segments=Segments.of([len(datum.tokens) for datum in data], device),
        at_n=torch.tensor(at, device=device),
        sequence_n=torch.tensor(sequence, device=device),
        order_n=torch.tensor(order, device=device),
        weights_n=torch.tensor(weights, dtype=torch.float32, device=device),
        behaviour_n=torch.tensor(behaviour, dtype=torch.float32, device=device),
    )


def micro_batches(units: Sequence[Sequence[Datum]], tokens: int) -> list[list[Datum]]:
    """Returns the units in groups of at most ``tokens`` tokens (a longer unit is alone), alike in length within each.

    Teachers' contexts count as well, and so does the padding inside attention.
    """
    by_length = sorted(units, key=_longest, reverse=True)
    batches: list[list[Datum]] = []
    room = 0
    for unit in by_length:
        size = sum(max(len(datum.tokens), len(datum.teacher) + datum.counted) for datum in unit)
        if not batches or size > room:
            batches.append([])
            room = tokens
        batches[-1] += unit
        room -= size
    return batches


def _longest(unit: Sequence[Datum]) -> int:
    return max(len(datum.tokens) for datum in unit)


def use_packed_attention(model: "PreTrainedModel") -> None:
    """Makes the model attend within segments where it is given packed rows; otherwise it does as before (SDPA).

    Raises:
        UserError: the model has an attention of its own kind.
    """
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, AttributeError) as error:
        kind = type(model).__name__
        raise UserError(f"{kind} cannot be trained packed: its attention cannot be replaced ({error})") from error


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **more: object,
) -> tuple[Tensor, None]:
    """Returns what attention gives, (1, T, heads, size), from query, key and value (1, heads, T, size).

    Without ``segments`` it is transformers' own SDPA attention.

    Raises:
        UserError: the model wants what is not computed here (soft caps, attention sinks).
    """
    if segments is None:
        kept = {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window, **more}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kept)  # type: ignore[arg-type]
    if foreign := [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]:
        raise UserError(f"{type(module).__name__} needs {', '.join(foreign)}, which packed training does not compute")
    longest = segments.gather_sl.shape[1]
    near = _band(longest, sliding_window, query.device) if sliding_window and sliding_window < longest else None
    out_shld = functional.scaled_dot_product_attention(
        _gather(query, segments),
        _gather(key, segments),
        _gather(value, segments),
        attn_mask=near,
        dropout_p=dropout,
        scale=scaling,
        is_causal=near is None,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    flat = out_shld.transpose(1, 2).reshape(-1, *out_shld.shape[1::2])
    return flat[segments.scatter_t][None], None


def _gather(part: Tensor, segments: Segments) -> Tensor:
    """Returns (1, heads, T, size) as (S, heads, L, size); padding is zero, and behind what attends to it."""
    padded = functional.pad(part[0].transpose(0, 1), (0, 0, 0, 0, 0, 1))
    return padded[segments.gather_sl].transpose(1, 2)


def _band(longest: int, window: int, device: torch.device) -> Tensor:
    distance = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)[None]
    return (distance >= 0) & (distance < window)
