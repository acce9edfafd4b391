"""What the trainer says of a step and of a whole run. Records only, so that they are read without torch."""

import msgspec

from whet.core.records import Record

__all__ = ["StepReport", "TrainReport"]


class StepReport(Record, frozen=True, kw_only=True):
    """One optimiser step: loss, norm of the gradient before clipping, learning rate, tokens computed and counted.

    ``measures`` are means over the batch: ``entropy`` and ``logprob`` per counted token, and what each loss adds.
    """

    step: int
    total: int
    loss: float
    grad_norm: float
    lr: float
    tokens: int
    counted: int
    seconds: float
    measures: dict[str, float] = msgspec.field(default_factory=dict)


class TrainReport(Record, frozen=True, kw_only=True):
    """A training run: steps, loss curve, tokens, seconds, tokens per second, peak memory in bytes.

    ``measures`` are those of its last step.
    """

    steps: int
    losses: tuple[float, ...]
    tokens: int
    counted: int
    seconds: float
    tokens_per_second: float
    peak_bytes: int
    parameters: int
    stopped: str = ""
    measures: dict[str, float] = msgspec.field(default_factory=dict)
