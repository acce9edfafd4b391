"""Objectives: which loss is taken of data, as plain records that a job's folder can hold. The maths is in ``losses``.

    {"": PolicyGradient(clip_high=0.28), "critique": NLL(coefficient=0.1)}      # one for each term of the rows

Every loss is a sum over the tokens that count, divided by a normaliser of the whole optimiser batch, so that it does
not depend on how a batch is cut into micro-batches or over processes.
"""

from typing import Literal, TypeAlias

from whet.core.errors import UserError
from whet.core.records import Record

__all__ = ["NLL", "BradleyTerry", "Distillation", "Objective", "PolicyGradient", "Preference", "Regression", "Unpaired"]

Per: TypeAlias = Literal["token", "sequence"]


class NLL(Record, frozen=True, kw_only=True, tag_field="loss", tag="nll"):
    """Weighted negative log-likelihood: −Σ w·log π / normaliser. Weights may be negative.

    ``per``: the mean over tokens, or over sequences of their sums. ``floor``: tokens with log π below it are left out
    (RLTF-SD, arXiv 2602.02482). ``kl``: weight of KL(π‖reference), estimated per token as k3.
    """

    coefficient: float = 1.0
    per: Per = "token"
    floor: float | None = None
    kl: float = 0.0


class Preference(Record, frozen=True, kw_only=True, tag_field="loss", tag="preference"):
    """Logistic loss on pairs: −p log σ(m) − (1−p) log σ(−m), m = β(s_w − bias·s_l) − margin, s = Σ w(log π − log ref).

    DPO (arXiv 2305.18290). ``flip``: known share ε of swapped labels. ``form``: ``sigmoid`` takes p from the pair's
    label; ``robust`` p=(1−ε)/(1−2ε) (arXiv 2403.00409); ``conservative`` p=1−ε. ``reference=False`` and ``discount`` γ
    (weight γ^t of the t-th counted token) give contrastive preference learning (arXiv 2310.13639) with ``bias`` λ.
    ``nll`` adds that much of the chosen side's NLL per token.
    """

    coefficient: float = 1.0
    beta: float = 0.1
    form: Literal["sigmoid", "robust", "conservative"] = "sigmoid"
    flip: float = 0.0
    reference: bool = True
    bias: float = 1.0
    discount: float = 1.0
    nll: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        _within(self, beta=(1e-9, None), flip=(0, 0.499), discount=(1e-9, 1), nll=(0, None))


class Unpaired(Record, frozen=True, kw_only=True, tag_field="loss", tag="unpaired"):
    """Logistic loss on single answers, desirable or not, against a reference point z.

    ``kto`` (arXiv 2402.01306): λ_D(1 − σ(β(r − z))) and λ_U(1 − σ(β(z − r))), r = log π − log ref, z the mean of r over
    the ``kl`` side, not below 0. ``bco`` (arXiv 2404.04656): −log σ(±(βr − δ)), δ the mean of both sides' means.
    """

    coefficient: float = 1.0
    form: Literal["kto", "bco"] = "kto"
    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        _within(self, beta=(1e-9, None), desirable=(0, None), undesirable=(0, None))


class PolicyGradient(Record, frozen=True, kw_only=True, tag_field="loss", tag="policy_gradient"):
    """Clipped policy gradient: −min(ρA, clip(ρ, 1−ε_low, 1+ε_high)A), ρ = π/π_old; A is the datum's weights.

    ``clip_high=None``: no clipping. ``level``: ρ per token, or per sequence as the geometric mean (GSPO, arXiv
    2507.18071). π_old is the trainer's own policy at the start of the round; its ratio to the recorded sampler is the
    correction: ``truncate`` at ``cap``, ``mask`` what exceeds it, or none (``""``). ``aggregate``: the mean over the
    tokens of the batch (DAPO, arXiv 2503.14476), over sequences of their means (GRPO, arXiv 2402.03300), or the sum
    over tokens divided by ``length`` and sequences (Dr. GRPO, arXiv 2503.20783). ``shape`` γ: data that are
    ``off_policy`` get p/(p+γ) in the place of ρ, p = π (Critique-GRPO, arXiv 2506.03106); 0 gives them ρ = 1.
    ``kl``: weight of KL(π‖reference), estimated per token as ρ·k3 (arXiv 2512.02556).
    """

    coefficient: float = 1.0
    clip_low: float = 0.2
    clip_high: float | None = 0.28
    level: Per = "token"
    correction: Literal["truncate", "mask", ""] = "truncate"
    cap: float = 3.0
    aggregate: Literal["token", "sequence", "constant"] = "token"
    length: int = 256
    shape: float = 0.1
    kl: float = 0.0

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        _within(self, clip_low=(0, 1), clip_high=(0, None), cap=(1e-9, None), length=(1, None), shape=(0, None))
        _within(self, kl=(0, None))


class Distillation(Record, frozen=True, kw_only=True, tag_field="loss", tag="distillation"):
    """Divergence of the policy from a teacher, per token, over the vocabulary.

    ``alpha`` 0: KL(teacher‖π), 1: KL(π‖teacher), between: the Jensen–Shannon divergence generalised by it. ``top_k``:
    over the student's likeliest tokens and one bucket for the rest; ``None``: over all. The teacher sees the datum's
    teacher context, with the ``live`` weights, the ``initial`` ones (those at the start of training), or an ``ema`` of
    rate ``ema_rate``. ``cap``: cap of the ratio π/π_sampler that weighs tokens (``None``: no weighing). ``token``: the
    sampled-token form, a policy gradient with advantage log q − log π.
    """

    coefficient: float = 1.0
    alpha: float = 0.5
    top_k: int | None = 100
    teacher: Literal["live", "initial", "ema"] = "ema"
    ema_rate: float = 0.05
    cap: float | None = 2.0
    token: bool = False

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        _within(self, alpha=(0, 1), top_k=(1, None), ema_rate=(1e-9, 1), cap=(1e-9, None))


class BradleyTerry(Record, frozen=True, kw_only=True, tag_field="loss", tag="bradley_terry"):
    """A scalar head on the last counted token of each side: −p log σ(d) − (1−p) log σ(−d), d = h_w − h_l − margin."""

    coefficient: float = 1.0


class Regression(Record, frozen=True, kw_only=True, tag_field="loss", tag="regression"):
    """A scalar head summed over the counted tokens, against the label: squared error, or log loss of its sigmoid."""

    coefficient: float = 1.0
    form: Literal["squared", "logistic"] = "squared"


Objective: TypeAlias = NLL | Preference | Unpaired | PolicyGradient | Distillation | BradleyTerry | Regression


def _within(objective: Record, **bounds: tuple[float, float | None]) -> None:
    """Refuses an objective with a number outside its bounds, both of which are allowed."""
    for name, (low, high) in bounds.items():
        value = getattr(objective, name)
        if value is not None and not (low <= value and (high is None or value <= high)):
            limits = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise UserError(f"{name} of {type(objective).__name__} is {value!r}; it must be {limits}")
