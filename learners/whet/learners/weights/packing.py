"""Packing: many sequences in one row without padding, each attending to itself alone.

    packed = pack([datum, other], device)
    hidden_td = model(**packed.inputs())                  # one row of all tokens; use_packed_attention(model) before

Linear layers see exactly the tokens there are, and a beginning that several sequences share (the prompt of a pair, of
a group) only once. Attention gathers the tokens into (sequence, position) and runs causal attention there, so that no
mask is made and nothing leaks from one sequence to its neighbour.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
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

    ``gather_sl``: for each of S sequences and L positions the place in the row (any place for padding). ``scatter_t``:
    for each token of the row its place in the flattened (S, L), in one of the sequences it belongs to. ``shared``:
    whether some token belongs to several.
    """

    gather_sl: Tensor
    scatter_t: Tensor
    shared: bool

    @classmethod
    def of(cls, places: Sequence[Sequence[int]], device: torch.device) -> "Segments":
        """Returns the segments of sequences whose tokens lie at these places of the row."""
        longest = max(map(len, places))
        # Padding comes after everything that attends: what stands there is never seen, and token 0 is as good as any.
        gather = torch.tensor([[*row, *[0] * (longest - len(row))] for row in places])
        scatter: dict[int, int] = {}
        for number, row in enumerate(places):
            for position, place in enumerate(row):
                scatter.setdefault(place, number * longest + position)
        owned = torch.tensor([scatter[place] for place in range(len(scatter))])
        return cls(gather.to(device), owned.to(device), shared=len(scatter) < sum(map(len, places)))

    def gather(self, part: Tensor) -> Tensor:
        """Returns (1, heads, T, size) as (S, heads, L, size)."""
        flat: Tensor = _Gather.apply(part[0].transpose(0, 1), self)  # type: ignore[no-untyped-call]
        return flat.view(*self.gather_sl.shape, *flat.shape[1:]).transpose(1, 2)

    def scatter(self, part_shld: Tensor) -> Tensor:
        """Returns (S, heads, L, size) as (1, T, heads, size)."""
        flat = part_shld.transpose(1, 2).flatten(0, 1)
        row: Tensor = _Scatter.apply(flat, self)  # type: ignore[no-untyped-call]
        return row[None]


class _Gather(torch.autograd.Function):
    """From the row to (sequence, position); back, every token gets the sum over the sequences it belongs to."""

    @staticmethod
    def forward(ctx: FunctionCtx, row: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments  # type: ignore[attr-defined]
        return row.index_select(0, segments.gather_sl.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        segments: Segments = ctx.segments  # type: ignore[attr-defined]
        if not segments.shared:
            return grad.index_select(0, segments.scatter_t), None
        # What padding adds to token 0 is zero: nothing that is looked at attends to it.
        total = grad.new_zeros(len(segments.scatter_t), *grad.shape[1:])
        return total.index_add_(0, segments.gather_sl.flatten(), grad), None


class _Scatter(torch.autograd.Function):
    """From (sequence, position) to the row, a token of several sequences from one of them (they agree); and back."""

    @staticmethod
    def forward(ctx: FunctionCtx, flat: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments  # type: ignore[attr-defined]
        return flat.index_select(0, segments.scatter_t)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        segments: Segments = ctx.segments  # type: ignore[attr-defined]
        flat = grad.new_zeros(segments.gather_sl.numel(), *grad.shape[1:])
        return flat.index_copy_(0, segments.scatter_t, grad), None


@dataclass(frozen=True)
class Packed:
    """Data packed into one row of T tokens, of which N count.

    ``at_n``: where the counted tokens stand in the row, ``before_n`` where the tokens before them do, whose hidden
    states predict them. ``sequence_n``: which datum each belongs to. ``weights_n``, ``scaled_n``: the data's weights,
    without and times their scales. ``behaviour_n``: behaviour logprobs (NaN where unknown). ``order_n``: which counted
    token of its datum it is, from 0.
    """

    data: tuple[Datum, ...]
    ids_1t: Tensor
    positions_1t: Tensor
    segments: Segments
    at_n: Tensor
    before_n: Tensor
    targets_n: Tensor
    sequence_n: Tensor
    order_n: Tensor
    weights_n: Tensor
    scaled_n: Tensor
    behaviour_n: Tensor

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
        return _numbers(values, self.ids_1t.device)


def pack(data: Sequence[Datum], device: torch.device) -> Packed:
    """Returns the data in one row; tokens that several begin with are there once."""
    row, positions, places = _row([datum.tokens for datum in data])
    counted = [[position for position, counts in enumerate(datum.mask) if counts] for datum in data]
    spread = [(number, position) for number, each in enumerate(counted) for position in each]
    weights = [data[s].weights[p] if data[s].weights else 1.0 for s, p in spread]
    behaviour = [data[s].logprobs[p] if data[s].logprobs else float("nan") for s, p in spread]

    def integers(values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=device)

    return Packed(
        data=tuple(data),
        ids_1t=integers(row)[None],
        positions_1t=integers(positions)[None],
        segments=Segments.of(places, device),
        at_n=integers(places[s][p] for s, p in spread),
        before_n=integers(places[s][p - 1] for s, p in spread),
        targets_n=integers(data[s].tokens[p] for s, p in spread),
        sequence_n=integers(s for s, _ in spread),
        order_n=integers(order for each in counted for order in range(len(each))),
        weights_n=_numbers(weights, device),
        scaled_n=_numbers((data[s].scale * weight for (s, _), weight in zip(spread, weights, strict=True)), device),
        behaviour_n=_numbers(behaviour, device),
    )


def _numbers(values: Iterable[float], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.get_default_dtype(), device=device)


def _row(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[list[int]]]:
    """Returns the tokens of a row, their positions, and for each sequence the places of its tokens in the row."""
    row, positions = list[int](), list[int]()
    places: list[list[int]] = [[] for _ in sequences]
    # In lexicographic order the neighbour before shares the longest beginning.
    before: tuple[Sequence[int], list[int]] = ((), [])
    for number in sorted(range(len(sequences)), key=lambda number: tuple(sequences[number])):
        tokens = sequences[number]
        same = _shared(tokens, before[0])
        places[number] = [*before[1][:same], *range(len(row), len(row) + len(tokens) - same)]
        row += tokens[same:]
        positions += range(same, len(tokens))
        before = tokens, places[number]
    return row, positions, places


def _shared(tokens: Sequence[int], others: Sequence[int]) -> int:
    """Returns how many tokens two sequences begin with alike."""
    different = (at for at, (one, other) in enumerate(zip(tokens, others, strict=False)) if one != other)
    return next(different, min(len(tokens), len(others)))


def micro_batches(units: Sequence[Sequence[Datum]], tokens: int) -> list[list[Datum]]:
    """Returns the units in groups of at most ``tokens`` tokens (a longer unit is alone), alike in length within each.

    A prompt is counted once in a group; the rollouts of one prompt stay side by side. What a teacher sees counts where
    it is longer.
    """
    longest: dict[str, int] = {}
    for unit in units:
        longest[unit[0].group] = max(longest.get(unit[0].group, 0), _longest(unit))
    batches: list[list[Datum]] = []
    prompts: set[tuple[int, ...]] = set()
    room = 0
    for unit in sorted(units, key=lambda unit: _place(unit, longest), reverse=True):
        size = _size(unit, prompts)
        if not batches or size > room:
            batches.append([])
            prompts, room = set(), tokens
            size = _size(unit, prompts)
        batches[-1] += unit
        room -= size
    return batches


def _place(unit: Sequence[Datum], longest: dict[str, int]) -> tuple[int, str, int]:
    group = unit[0].group
    return longest[group] if group else _longest(unit), group, _longest(unit)


def _longest(unit: Sequence[Datum]) -> int:
    return max(len(datum.tokens) for datum in unit)


def _size(unit: Sequence[Datum], prompts: set[tuple[int, ...]]) -> int:
    """Returns how many tokens a unit adds to a group with these prompts, and adds its own to them."""
    own = theirs = 0
    for datum in unit:
        start = datum.start
        prompt = datum.tokens[:start]
        context, answer = datum.teacher or prompt, len(datum.tokens) - start
        own += answer + (0 if prompt in prompts else start)
        theirs += answer + (0 if context in prompts else len(context))
        prompts |= {prompt, context}
    return max(own, theirs)


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
    if foreign := [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]:
        raise UserError(f"{type(module).__name__} needs {', '.join(foreign)}, which packed training does not compute")
    if segments is None:
        kept = {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window, **more}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kept)  # type: ignore[arg-type]
    longest = segments.gather_sl.shape[1]
    near = _band(longest, sliding_window, query.device) if sliding_window and sliding_window < longest else None
    out_shld = functional.scaled_dot_product_attention(
        segments.gather(query),
        segments.gather(key),
        segments.gather(value),
        attn_mask=near,
        dropout_p=dropout,
        scale=scaling,
        is_causal=near is None,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return segments.scatter(out_shld), None


def _band(longest: int, window: int, device: torch.device) -> Tensor:
    distance = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)[None]
    return (distance >= 0) & (distance < window)
