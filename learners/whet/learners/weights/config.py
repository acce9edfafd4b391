"""``TrainConfig``: everything of a training run that is not its data; kept with the adapter."""

from typing import Literal

from whet.core.errors import UserError
from whet.core.records import Record

__all__ = ["TrainConfig", "lora_rate"]


class TrainConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an adapter is trained.

    ``rank``, ``alpha``, ``targets`` (module names, or ``all-linear``): the LoRA. ``lr``: peak learning rate; ``None``:
    what suits the model's width (``lora_rate``) times ``lr_scale``. ``epochs`` over the data, or ``steps`` (which
    wins). ``batch``: units (a pair or a single datum) per optimiser step. ``micro_tokens``: tokens computed at once.
    ``warmup``: share of the steps; then ``schedule``. ``clip``: norm of the gradient. ``dtype`` of the base: ``auto``
    is bf16 on a GPU and fp32 on a CPU. ``checkpointing``: of activations. ``chunk``: tokens whose logits are held at
    once. ``save_every``: steps between checkpoints (0: none). ``threads``: of torch (``None``: as they are).
    """

    rank: int = 16
    alpha: int = 32
    targets: str | tuple[str, ...] = "all-linear"
    lr: float | None = None
    lr_scale: float = 1.0
    epochs: float = 1.0
    steps: int | None = None
    batch: int = 16
    micro_tokens: int = 4096
    warmup: float = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpointing: bool = False
    chunk: int = 1024
    save_every: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        positive = {
            "rank": self.rank,
            "alpha": self.alpha,
            "lr": 1.0 if self.lr is None else self.lr,
            "batch": self.batch,
            "chunk": self.chunk,
        }
        positive |= {"lr_scale": self.lr_scale, "micro_tokens": self.micro_tokens, "clip": self.clip}
        for name, value in positive.items():
            if not value > 0:
                raise UserError(f"{name} is {value!r}; it must be above 0")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps is {self.steps!r}; it must be at least 1")
        if self.steps is None and not self.epochs > 0:
            raise UserError(f"epochs is {self.epochs!r}; it must be above 0, or give steps")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup is {self.warmup!r}; it is a share of the steps, between 0 and 1")


def lora_rate(width: int) -> float:
    """Returns the peak learning rate for a LoRA on a model of that hidden size: 5e-4 · √(2000 / width).

    Ten times what full fine-tuning takes, and hardly dependent on the rank (Schulman et al. 2025, "LoRA Without
    Regret"); the root is the usual scaling with width.
    """
    return float(5e-4 * (2000 / width) ** 0.5)
