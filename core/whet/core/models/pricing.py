"""What a call may cost at most, known before it is made, so that a budget can be checked first.

estimate = estimate_call(model, messages, tools, sampling)      # Estimate(tokens=..., micro_dollars=...)

A byte-level tokenizer never makes more tokens than the text has bytes, so bytes bound the input of any model. A model
that can count its own tokens implements ``Estimating`` and is asked instead.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from whet.core.records import Message, Record, Sampling, ToolSpec
from whet.core.wire import encode

__all__ = ["FREE", "Estimate", "Estimating", "Price", "bound_tokens", "estimate_call"]

# Role markers, separators and the opening of the answer, which chat templates add to each message.
_TEMPLATE_TOKENS = 16


class Price(Record, frozen=True, kw_only=True):
    """Micro-dollars per million tokens (so 150_000 is 15 cents a million); ``Price()`` is a free model."""

    input: int = 0
    output: int = 0

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """Returns the price of a call in micro-dollars, rounded up."""
        return -(-(self.input * input_tokens + self.output * output_tokens) // 1_000_000)


FREE = Price()


class Estimate(Record, frozen=True, kw_only=True):
    """An upper bound on one call; ``micro_dollars`` is ``None`` where the price is not known."""

    input_tokens: int
    output_tokens: int
    micro_dollars: int | None


@runtime_checkable
class Estimating(Protocol):
    """A model that knows what a call may cost at most; optional beside ``Model``."""

    def estimate(self, messages: Sequence[Message], *, tools: Sequence[ToolSpec], sampling: Sampling) -> Estimate:
        """Returns an upper bound on the call; ``sampling.max_tokens`` is set whenever a budget counts tokens."""
        ...


def bound_tokens(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> int:
    """Returns an upper bound on the tokens of the input under any byte-level tokenizer."""
    return len(encode(tuple(messages))) + len(encode(tuple(tools))) + _TEMPLATE_TOKENS * (len(messages) + 1)


def estimate_call(
    model: object,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec],
    sampling: Sampling,
    price: Price | None = None,
) -> Estimate:
    """Returns what a call may cost at most: the model's own estimate, or the bound by bytes at ``price``."""
    if price is None and isinstance(model, Estimating):
        return model.estimate(messages, tools=tools, sampling=sampling)
    input_tokens, output_tokens = bound_tokens(messages, tools), sampling.max_tokens or 0
    dollars = None if price is None else price.of(input_tokens, output_tokens)
    return Estimate(input_tokens=input_tokens, output_tokens=output_tokens, micro_dollars=dollars)
