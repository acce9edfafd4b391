"""Packing: many sequences in one row without padding, each attending to itself alone.

    packed = pack([datum, other], device)
    hidden_td = model(**packed.inputs())                  # one row of all tokens; use_packed_attention(model) before

Linear layers see exactly the tokens there are, and a beginning that several sequences share (the prompt of a pair, of
a group) only once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whet.learners.weights.attention import Segments
from whet.learners.weights.datum import Datum

__all__ = ["Packed", "micro_batches", "pack"]


@dataclass(frozen=True)
class Packed:
    """Data packed into one row of T tokens, of which N count.

    ``at_n``: where the counted tokens stand in the row, ``before_n`` where the tokens before them do, whose hidden
    states predict them. ``sequence_n``: which datum each belongs to. ``weights_n``, ``scaled_n``: the data's weights,
    without and times their scales. ``behaviour_n``: behaviour logprobs (NaN where unknown). ``order_n``: which counted
    token of its datum it is, from 0. ``places``: for each datum, where its tokens stand in the row.
    """

    data: tuple[Datum, ...]
    places: tuple[tuple[int, ...], ...]
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
        places=tuple(map(tuple, places)),
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
