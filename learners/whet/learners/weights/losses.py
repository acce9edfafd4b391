"""The losses, on numbers per counted token: a sum over a micro-batch, to be divided by the batch's normaliser.

    scores = Scores(packed, logp_n, reference_n=…)
    loss, measures = loss_of(NLL(), scores)              # loss: a scalar with gradient
    loss / normaliser(NLL(), batch)

What a loss needs beside the policy's own log-probabilities is in ``needs``; what its fields mean in ``objectives``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from whet.learners.weights.datum import Datum, units
from whet.learners.weights.objectives import (
    NLL,
    BradleyTerry,
    Distillation,
    Objective,
    PolicyGradient,
    Preference,
    Regression,
    Unpaired,
)
from whet.learners.weights.packing import Packed

__all__ = ["Measures", "Scores", "loss_of", "needs", "normaliser", "reference_point", "unfit"]

Measures: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Scores:
    """What the model made of a packed micro-batch, per counted token (N,).

    ``logp_n``: the policy's logprobs; with gradient where the loss goes through them, and 0 where it needs none.
    ``entropy_n``: its entropies, where computed. ``reference_n``: logprobs under the reference. ``old_n``: those under
    the policy at the start of the round; where it is NaN or ``None``, the policy's own. ``teacher_n``: logprobs under
    the teacher; ``divergence_n``: the policy's divergence from it. ``head_n``: the scalar head on the tokens
    themselves. ``point``: the reference point of unpaired losses.
    """

    packed: Packed
    logp_n: Tensor
    entropy_n: Tensor | None = None
    reference_n: Tensor | None = None
    old_n: Tensor | None = None
    teacher_n: Tensor | None = None
    divergence_n: Tensor | None = None
    head_n: Tensor | None = None
    point: float = 0.0


def needs(objective: Objective) -> frozenset[str]:
    """Returns which of ``reference``, ``teacher``, ``divergence``, ``head``, ``point`` and ``old`` a loss is given."""
    match objective:
        case NLL(kl=kl):
            return frozenset({"reference"} if kl else ())
        case PolicyGradient(kl=kl):
            return frozenset({"old", "reference"} if kl else {"old"})
        case Preference(reference=True):
            return frozenset({"reference"})
        case Preference():
            return frozenset()
        case Unpaired():
            return frozenset({"reference", "point"})
        case Distillation(token=token):
            return frozenset({"teacher"} if token else {"divergence"})
        case BradleyTerry() | Regression():
            return frozenset({"head"})


def unfit(objective: Objective, data: Sequence[Datum]) -> list[str]:
    """Returns what is wrong with data for a loss, one line each: sides that are missing or not its own."""
    match objective:
        case Preference() | BradleyTerry():
            return [line for unit in units(data) if (line := _unfit_pair(unit))]
        case Unpaired():
            foreign = [datum for datum in data if datum.side not in _SIGNS]
            return [
                f"{datum.id or 'a datum'} is {datum.side!r}; it must be one of {', '.join(_SIGNS)}" for datum in foreign
            ]
        case _:
            return []


def _unfit_pair(unit: Sequence[Datum]) -> str:
    if not unit[0].pair:
        return f"{unit[0].id or 'a datum'} belongs to no pair; this loss compares two sides"
    sides = sorted(datum.side for datum in unit)
    half = len(sides) // 2
    if sides != ["chosen"] * half + ["rejected"] * half:
        return (
            f"pair {unit[0].pair!r} has the sides {', '.join(map(repr, sides))}; it needs one chosen and one rejected"
        )
    return ""


def normaliser(objective: Objective, data: Sequence[Datum]) -> float:
    """Returns what the sum over a whole optimiser batch is divided by, at least 1."""
    match objective:
        case NLL(per="sequence") | PolicyGradient(aggregate="sequence") | Regression():
            count = float(len(data))
        case PolicyGradient(aggregate="constant", length=length):
            count = float(len(data) * length)
        case NLL() | PolicyGradient() | Distillation():
            count = float(sum(datum.counted for datum in data))
        case Unpaired():
            count = float(sum(datum.side != "kl" for datum in data))
        case Preference() | BradleyTerry():
            count = float(sum(datum.side == "chosen" for datum in data))
    return max(count, 1.0)


def loss_of(objective: Objective, scores: Scores) -> tuple[Tensor, Measures]:
    """Returns the sum of the loss over a micro-batch (a scalar with gradient) and sums to be averaged likewise."""
    loss, measures = _LOSSES[type(objective)](objective, scores)
    return objective.coefficient * loss, measures


def reference_point(objective: Unpaired, data: Sequence[Datum], ratios: Sequence[float]) -> float:
    """Returns the reference point of unpaired losses from each datum's sum of log π − log ref over a whole batch.

    KTO: the mean over the mismatched answers (``kl``), not below 0 (arXiv 2402.01306, eq. 8). BCO: the mean of the two
    sides' mean rewards (arXiv 2404.04656, section 4), or of the one side there is.
    """
    sides = ("kl",) if objective.form == "kto" else ("desirable", "undesirable")
    by_side = [[ratio for datum, ratio in zip(data, ratios, strict=True) if datum.side == side] for side in sides]
    means = [sum(values) / len(values) for values in by_side if values]
    mean = sum(means) / len(means) if means else 0.0
    return max(0.0, mean) if objective.form == "kto" else objective.beta * mean


def _nll(spec: NLL, scores: Scores) -> tuple[Tensor, Measures]:
    weights_n = scores.packed.scaled_n
    if spec.floor is not None:
        weights_n = weights_n * (scores.logp_n.detach() >= spec.floor)
    return (_kl(spec.kl, scores) - weights_n * scores.logp_n).sum(), {}


def _kl(weight: float, scores: Scores) -> Tensor:
    """Returns the k3 estimate of KL(π‖ref) per token, weighted (Schulman 2020, "Approximating KL Divergence")."""
    if not weight:
        return torch.zeros_like(scores.logp_n)
    assert scores.reference_n is not None, "the trainer computes what needs() names"
    difference_n = scores.reference_n - scores.logp_n
    return weight * (torch.exp(difference_n) - difference_n - 1)


def _sums(spec: Preference, scores: Scores) -> Tensor:
    """Returns s of each datum: the weighted, discounted sum of log π (less the reference's)."""
    logp_n = scores.logp_n if scores.reference_n is None else scores.logp_n - scores.reference_n
    weights_n = scores.packed.weights_n  # without scales: these weigh the pair, not its margin
    if spec.discount != 1:
        weights_n = weights_n * spec.discount ** scores.packed.order_n.float()
    return scores.packed.sum_by_datum(weights_n * logp_n)


def _sides(packed: Packed) -> tuple[list[int], list[int]]:
    """Returns the positions of chosen and rejected data, pair by pair; a pair may be there several times."""
    rejected: dict[str, list[int]] = {}
    for number, datum in enumerate(packed.data):
        if datum.side == "rejected":
            rejected.setdefault(datum.pair, []).append(number)
    chosen = [number for number, datum in enumerate(packed.data) if datum.side == "chosen"]
    return chosen, [rejected[packed.data[number].pair].pop(0) for number in chosen]


def _preference(spec: Preference, scores: Scores) -> tuple[Tensor, Measures]:
    packed = scores.packed
    chosen, rejected = _sides(packed)
    sums_s = _sums(spec, scores)
    winners = [packed.data[number] for number in chosen]
    margin_p = spec.beta * (sums_s[chosen] - spec.bias * sums_s[rejected])
    margin_p = margin_p - packed.of_data(datum.margin for datum in winners)
    p_p = packed.of_data(_probability(spec, datum) for datum in winners)
    scale_p = packed.of_data(datum.scale for datum in winners)
    loss_p = -p_p * functional.logsigmoid(margin_p) - (1 - p_p) * functional.logsigmoid(-margin_p)
    loss = (scale_p * loss_p).sum()
    if spec.nll:
        counted_s = packed.of_data(datum.counted for datum in packed.data)
        loss = loss - spec.nll * (packed.sum_by_datum(scores.logp_n) / counted_s)[chosen].sum()
    return loss, {"accuracy": float((margin_p > 0).sum()), "margin": float(margin_p.detach().sum())}


def _probability(spec: Preference, datum: Datum) -> float:
    """Returns p: the label, or what a known flip rate ε makes of it (arXiv 2403.00409, eq. 12)."""
    if spec.form == "robust":
        return (1 - spec.flip) / (1 - 2 * spec.flip)
    return 1 - spec.flip if spec.form == "conservative" else datum.label


def _unpaired(spec: Unpaired, scores: Scores) -> tuple[Tensor, Measures]:
    packed = scores.packed
    assert scores.reference_n is not None, "the trainer computes what needs() names"
    ratio_s = packed.sum_by_datum(scores.logp_n - scores.reference_n)
    sign_s = packed.of_data(_SIGNS[datum.side] for datum in packed.data)
    weight_s = packed.of_data(_side_weight(spec, datum) for datum in packed.data)
    if spec.form == "kto":
        loss_s = 1 - torch.sigmoid(sign_s * spec.beta * (ratio_s - scores.point))
    else:
        loss_s = -functional.logsigmoid(sign_s * (spec.beta * ratio_s - scores.point))
    return (weight_s * loss_s).sum(), {"reward": float((spec.beta * sign_s * ratio_s).detach().sum())}


_SIGNS = {"desirable": 1.0, "undesirable": -1.0, "kl": 0.0}


def _side_weight(spec: Unpaired, datum: Datum) -> float:
    weights = {"desirable": spec.desirable, "undesirable": spec.undesirable, "kl": 0.0}
    return datum.scale * weights[datum.side]


def _policy_gradient(spec: PolicyGradient, scores: Scores) -> tuple[Tensor, Measures]:
    packed, logp_n = scores.packed, scores.logp_n
    old_n = _old(scores)
    ratio_n = _ratio(spec, packed, logp_n - old_n)
    gain_n = full_n = ratio_n * packed.scaled_n
    if spec.clip_high is not None:
        clipped_n = ratio_n.clamp(1 - spec.clip_low, 1 + spec.clip_high) * packed.scaled_n
        gain_n = torch.minimum(full_n, clipped_n)
    correction_n, mismatch_n = _correction(spec, packed, old_n)
    measures = {"clipped": float((gain_n < full_n).sum()), "mismatch": float(mismatch_n.sum())}
    # Times ρ the gradient of k3 is that of KL(π‖ref) itself (DeepSeek-V3.2, arXiv 2512.02556, section 3.1).
    kl_n = _kl(spec.kl, scores) * torch.exp(logp_n - old_n)
    loss_n = kl_n - _shaped(spec, packed, logp_n, gain_n * correction_n)
    return _aggregate(spec, packed, loss_n), measures


def _old(scores: Scores) -> Tensor:
    """Returns logprobs under the old policy, which is the policy itself where nothing is known of it."""
    own_n = scores.logp_n.detach()
    return own_n if scores.old_n is None else torch.where(scores.old_n.isnan(), own_n, scores.old_n)


def _ratio(spec: PolicyGradient, packed: Packed, log_ratio_n: Tensor) -> Tensor:
    if spec.level == "token":
        return torch.exp(log_ratio_n)
    counted_s = packed.of_data(datum.counted for datum in packed.data)
    mean_s = packed.sum_by_datum(log_ratio_n) / counted_s
    # The value is the sequence's; each token's gradient goes through its own logprob (GSPO-token, eq. 13).
    return torch.exp(mean_s[packed.sequence_n].detach() + log_ratio_n - log_ratio_n.detach())


def _correction(spec: PolicyGradient, packed: Packed, old_n: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the weight of each token for π_old/μ, and the k3 estimate of KL(μ‖π_old) per token; 1 and 0 unknown."""
    known_n = ~packed.behaviour_n.isnan() & ~_is_off_policy(packed)
    log_n = torch.where(known_n, old_n - packed.behaviour_n, torch.zeros_like(old_n)).detach()
    mismatch_n = torch.exp(log_n) - log_n - 1
    if spec.level == "sequence":
        log_n = packed.sum_by_datum(log_n)[packed.sequence_n]
    weight_n = torch.exp(log_n)
    if spec.correction == "truncate":
        return weight_n.clamp_max(spec.cap), mismatch_n
    if spec.correction == "mask":
        return weight_n * (weight_n <= spec.cap), mismatch_n
    return torch.ones_like(weight_n), mismatch_n


def _is_off_policy(packed: Packed) -> Tensor:
    flags = torch.tensor([datum.off_policy for datum in packed.data], device=packed.ids_1t.device)
    return flags[packed.sequence_n]


def _shaped(spec: PolicyGradient, packed: Packed, logp_n: Tensor, gain_n: Tensor) -> Tensor:
    """Returns the gains with those of off-policy tokens replaced by A·p/(p+γ), or A·ρ with ρ = 1 where γ is 0."""
    off_n = _is_off_policy(packed)
    if not bool(off_n.any()):
        return gain_n
    shape_n = torch.exp(logp_n - logp_n.detach())
    if spec.shape:
        p_n = torch.exp(logp_n)
        shape_n = p_n / (p_n + spec.shape)
    return torch.where(off_n, packed.scaled_n * shape_n, gain_n)


def _aggregate(spec: PolicyGradient, packed: Packed, loss_n: Tensor) -> Tensor:
    if spec.aggregate != "sequence":
        return loss_n.sum()
    counted_s = packed.of_data(datum.counted for datum in packed.data)
    return (packed.sum_by_datum(loss_n) / counted_s).sum()


def _distillation(spec: Distillation, scores: Scores) -> tuple[Tensor, Measures]:
    packed, logp_n = scores.packed, scores.logp_n
    weights_n = packed.scaled_n
    if spec.cap is not None:
        known_n = ~packed.behaviour_n.isnan()
        ratio_n = torch.exp(torch.where(known_n, logp_n.detach() - packed.behaviour_n, torch.zeros_like(logp_n)))
        weights_n = weights_n * ratio_n.clamp_max(spec.cap)
    if spec.token:
        assert scores.teacher_n is not None, "the trainer computes what needs() names"
        advantage_n = (scores.teacher_n - logp_n).detach()
        return -(weights_n * advantage_n * logp_n).sum(), {"lift": float(advantage_n.sum())}
    assert scores.divergence_n is not None, "the trainer computes what needs() names"
    return (weights_n * scores.divergence_n).sum(), {"divergence": float(scores.divergence_n.detach().sum())}


def _bradley_terry(spec: BradleyTerry, scores: Scores) -> tuple[Tensor, Measures]:
    packed = scores.packed
    chosen, rejected = _sides(packed)
    value_s = _last(scores)
    winners = [packed.data[number] for number in chosen]
    gap_p = value_s[chosen] - value_s[rejected] - packed.of_data(datum.margin for datum in winners)
    p_p = packed.of_data(datum.label for datum in winners)
    scale_p = packed.of_data(datum.scale for datum in winners)
    loss_p = -p_p * functional.logsigmoid(gap_p) - (1 - p_p) * functional.logsigmoid(-gap_p)
    return (scale_p * loss_p).sum(), {"accuracy": float((gap_p > 0).sum())}


def _last(scores: Scores) -> Tensor:
    """Returns the head's value on the last counted token of each datum, (S,)."""
    assert scores.head_n is not None, "the trainer computes what needs() names"
    ends = torch.tensor([datum.counted for datum in scores.packed.data]).cumsum(0) - 1
    return scores.head_n[ends.to(scores.head_n.device)]


def _regression(spec: Regression, scores: Scores) -> tuple[Tensor, Measures]:
    packed = scores.packed
    assert scores.head_n is not None, "the trainer computes what needs() names"
    value_s = packed.sum_by_datum(scores.head_n)
    label_s = packed.of_data(datum.label for datum in packed.data)
    scale_s = packed.of_data(datum.scale for datum in packed.data)
    if spec.form == "squared":
        loss_s = (value_s - label_s) ** 2
    else:
        loss_s = functional.binary_cross_entropy_with_logits(value_s, label_s, reduction="none")
    return (scale_s * loss_s).sum(), {}


_LOSSES: dict[type[Objective], Callable[..., tuple[Tensor, Measures]]] = {
    NLL: _nll,
    Preference: _preference,
    Unpaired: _unpaired,
    PolicyGradient: _policy_gradient,
    Distillation: _distillation,
    BradleyTerry: _bradley_terry,
    Regression: _regression,
}
