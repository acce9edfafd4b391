"""Attention within the sequences of a packed row: every token sees those before it in its own sequence, and no other.

    use_packed_attention(model)
    hidden_td = model(input_ids=row, position_ids=…, segments=Segments.of(places, device), …)

Tokens are gathered from the row into blocks (sequence, position) of sequences of similar lengths, where plain causal
attention runs; no mask is made, and hardly any padding is computed.
"""

from collections.abc import Sequence
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Segments", "packed_attention", "use_packed_attention"]

NAME = "whet_packed"
_ALIKE = 0.7
"""A block's shortest sequence is at least this share of its longest."""


@dataclass(frozen=True)
class Segments:
    """Where sequences lie in a packed row of T tokens.

    ``blocks``: (sequences, positions) of each block; all blocks together have P places. ``gather_p``: what of the row
    each place holds (anything where it is padding). ``scatter_t``: a place that holds each token of the row.
    ``shared``: whether some token is in several places, as part of several sequences.
    """

    blocks: tuple[tuple[int, int], ...]
    gather_p: Tensor
    scatter_t: Tensor
    shared: bool

    @classmethod
    def of(cls, places: Sequence[Sequence[int]], device: torch.device) -> "Segments":
        """Returns the segments of sequences whose tokens lie at these places of the row."""
        blocks, gather = list[tuple[int, int]](), list[int]()
        scatter: dict[int, int] = {}
        for block in _blocks(places):
            longest = len(block[0])
            blocks.append((len(block), longest))
            for row in block:
                for position, place in enumerate(row):
                    scatter.setdefault(place, len(gather) + position)
                # Padding comes after everything that attends: it is never seen, and token 0 is as good as any.
                gather += [*row, *[0] * (longest - len(row))]
        return cls(
            blocks=tuple(blocks),
            gather_p=torch.tensor(gather, device=device),
            scatter_t=torch.tensor([scatter[place] for place in range(len(scatter))], device=device),
            shared=len(scatter) < sum(map(len, places)),
        )

    def gather(self, part: Tensor) -> list[Tensor]:
        """Returns (1, heads, T, size) as (sequences, heads, positions, size) of each block."""
        flat: Tensor = _Gather.apply(part[0].transpose(0, 1), self)  # type: ignore[no-untyped-call]
        parts = torch.split(flat, [count * length for count, length in self.blocks])
        return [p.view(*shape, *p.shape[1:]).transpose(1, 2) for p, shape in zip(parts, self.blocks, strict=True)]

    def scatter(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns (sequences, heads, positions, size) of each block as (1, T, heads, size)."""
        flats = [part.transpose(1, 2).flatten(0, 1) for part in parts]
        row: Tensor = _Scatter.apply(flats[0] if len(flats) == 1 else torch.cat(flats), self)  # type: ignore[no-untyped-call]
        return row[None]


def _blocks(places: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Returns the sequences, longest first, in blocks of similar lengths."""
    found: list[list[Sequence[int]]] = []
    for row in sorted(places, key=len, reverse=True):
        if not found or len(row) < _ALIKE * len(found[-1][0]):
            found.append([])
        found[-1].append(row)
    return found


class _Gather(torch.autograd.Function):
    """From the row to the blocks; back, every token gets the sum over the sequences it belongs to."""

    @staticmethod
    def forward(ctx: FunctionCtx, row: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments  # type: ignore[attr-defined]
        return row.index_select(0, segments.gather_p)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        segments: Segments = ctx.segments  # type: ignore[attr-defined]
        if not segments.shared:
            return grad.index_select(0, segments.scatter_t), None
        # What padding adds to token 0 is zero: nothing that is looked at attends to it.
        total = grad.new_zeros(len(segments.scatter_t), *grad.shape[1:])
        return total.index_add_(0, segments.gather_p, grad), None


class _Scatter(torch.autograd.Function):
    """From the blocks to the row, a token of several sequences from one of them (they agree); and back."""

    @staticmethod
    def forward(ctx: FunctionCtx, flat: Tensor, segments: Segments) -> Tensor:
        ctx.segments = segments  # type: ignore[attr-defined]
        return flat.index_select(0, segments.scatter_t)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        segments: Segments = ctx.segments  # type: ignore[attr-defined]
        flat = grad.new_zeros(len(segments.gather_p), *grad.shape[1:])
        return flat.index_copy_(0, segments.scatter_t, grad), None


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
    parts = zip(segments.gather(query), segments.gather(key), segments.gather(value), strict=True)
    options = {"dropout": dropout, "scale": scaling, "window": sliding_window}
    return segments.scatter([_causal(*part, **options) for part in parts]), None  # type: ignore[arg-type]


def _causal(
    query: Tensor, key: Tensor, value: Tensor, *, dropout: float, scale: float | None, window: int | None
) -> Tensor:
    """Returns causal attention, within a window where there is one, on (sequences, heads, positions, size)."""
    longest = query.shape[2]
    near = _band(longest, window, query.device) if window and window < longest else None
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=near,
        dropout_p=dropout,
        is_causal=near is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _band(longest: int, window: int, device: torch.device) -> Tensor:
    distance = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)[None]
    return (distance >= 0) & (distance < window)
