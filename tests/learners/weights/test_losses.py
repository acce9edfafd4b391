"""The losses: identities between them in fp64, each against its formula, and gradients that no cut changes."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from whet.core.errors import UserError
from whet.core.models.tiny.model import WEIGHTS
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum
from whet.learners.weights.logprobs import divergence
from whet.learners.weights.losses import Scores, loss_of, needs, normaliser, reference_point, unfit
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
from whet.learners.weights.packing import pack
from whet.learners.weights.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fp64() -> Iterator[None]:
    """Computes in fp64, so that identities hold to the last digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def datum(count: int = 3, *, prompt: int = 2, **fields: object) -> Datum:
    """Returns a datum of so many counted tokens after a prompt; weights and logprobs are given for the counted ones."""
    for name in ("weights", "logprobs"):
        if name in fields:
            fields[name] = (*(0.0,) * prompt, *fields[name])  # type: ignore[misc]
    mask = (*(False,) * prompt, *(True,) * count)
    return Datum(tokens=tuple(range(prompt + count)), mask=mask, **fields)  # type: ignore[arg-type]


def drawn(*data: Datum, seed: int = 0, **given: Tensor | float) -> Scores:
    """Returns scores with random logprobs of the policy, and what else is given."""
    packed = pack(data, CPU)
    rng = torch.Generator().manual_seed(seed)
    logp_n = (-3 * torch.rand(len(packed.at_n), generator=rng)).requires_grad_()
    return Scores(packed=packed, logp_n=logp_n, **given)  # type: ignore[arg-type]


def like(scores: Scores, seed: int) -> Tensor:
    return -3 * torch.rand(len(scores.logp_n), generator=torch.Generator().manual_seed(seed))


def slope(objective: Objective, scores: Scores) -> Tensor:
    """Returns the gradient of the loss in the policy's logprobs."""
    (found,) = torch.autograd.grad(loss_of(objective, scores)[0], scores.logp_n)
    return found


def given(scores: Scores, **more: object) -> Scores:
    return Scores(**{name: getattr(scores, name) for name in scores.__dataclass_fields__} | more)  # type: ignore[arg-type]


# --- identities -----------------------------------------------------------------------------------------------------


def test_a_policy_gradient_at_ratio_one_is_weighted_likelihood() -> None:
    scores = drawn(datum(3, weights=(1.5, -0.5, 2.0)), datum(2, weights=(-1.0, 0.3)))
    for clip in (None, 0.2):
        expected = slope(NLL(), scores)
        torch.testing.assert_close(slope(PolicyGradient(clip_high=clip), scores), expected, rtol=1e-14, atol=0)


def test_off_policy_shaping_has_the_slope_of_its_paper() -> None:
    gamma = 0.1
    scores = drawn(datum(4, weights=(1.0, -0.5, 2.0, 1.0), off_policy=True))
    p_n = scores.logp_n.detach().exp()
    expected = -scores.packed.scaled_n * gamma * p_n / (p_n + gamma) ** 2
    torch.testing.assert_close(slope(PolicyGradient(shape=gamma), scores), expected, rtol=1e-12, atol=0)


def test_shaping_leaves_on_policy_tokens_alone_and_zero_means_ratio_one() -> None:
    on, off = datum(3, weights=(1.0, 2.0, -1.0)), datum(2, weights=(0.5, 1.0), off_policy=True)
    scores = drawn(on, off)
    alone = given(drawn(on), logp_n=scores.logp_n[:3].detach().requires_grad_())
    torch.testing.assert_close(slope(PolicyGradient(), scores)[:3], slope(PolicyGradient(), alone))
    torch.testing.assert_close(slope(PolicyGradient(shape=0.0), scores)[3:], -torch.tensor([0.5, 1.0]))


def test_the_gradient_of_reverse_kl_is_an_expected_policy_gradient() -> None:
    # ∇KL(π‖q) = E_{a~π}[(log π(a) − log q(a)) ∇log π(a)], over every token of the vocabulary
    rng = torch.Generator().manual_seed(0)
    hidden_1d, teacher_1d = torch.randn(1, 5, generator=rng).requires_grad_(), torch.randn(1, 5, generator=rng)
    head_vd = torch.randn(7, 5, generator=rng)
    found = divergence(hidden_1d, teacher_1d, head_vd, alpha=1.0, top_k=None, chunk=1)
    logp_v = torch.log_softmax(hidden_1d @ head_vd.T, -1)[0]
    logq_v = torch.log_softmax(teacher_1d @ head_vd.T, -1)[0]
    advantage_v = (logq_v - logp_v).detach()
    expected = -(logp_v.detach().exp() * advantage_v * logp_v).sum()
    (mine,), (theirs,) = torch.autograd.grad(found, hidden_1d), torch.autograd.grad(expected, hidden_1d)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_the_penalty_of_policy_gradients_has_the_gradient_of_reverse_kl() -> None:
    # Over every token of a vocabulary, weighed by how often the policy says it: ∇ Σ π·log(π/ref)
    logits_v = torch.randn(6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference_v = torch.log_softmax(torch.randn(6, generator=torch.Generator().manual_seed(1)), -1)
    logp_v = torch.log_softmax(logits_v, -1)
    expected = (logp_v.exp() * (logp_v - reference_v)).sum()
    often_v = logp_v.detach().exp()
    data = [datum(1, weights=(0.0,)) for _ in range(6)]
    penalty = torch.zeros(())
    for token, each in enumerate(data):
        scores = Scores(packed=pack([each], CPU), logp_n=logp_v[token][None], reference_n=reference_v[token][None])
        penalty = penalty + often_v[token] * loss_of(PolicyGradient(kl=1.0), scores)[0]
    mine, theirs = (torch.autograd.grad(each, logits_v, retain_graph=True)[0] for each in (penalty, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-15)


def test_the_sampled_form_of_distillation_is_a_policy_gradient() -> None:
    scores = drawn(datum(3), datum(2))
    teacher_n = like(scores, 1)
    advantages = tuple(map(float, teacher_n - scores.logp_n.detach()))
    as_gradient = drawn(datum(3, weights=advantages[:3]), datum(2, weights=advantages[3:]))
    found = slope(Distillation(token=True, cap=None), given(scores, teacher_n=teacher_n))
    torch.testing.assert_close(found, slope(PolicyGradient(), as_gradient), rtol=1e-12, atol=0)


def pair(label: float = 1.0, **fields: object) -> tuple[Datum, Datum]:
    chosen = datum(3, pair="p", side="chosen", label=label, **fields)
    return chosen, datum(2, pair="p", side="rejected", label=label, **fields)


def test_robust_dpo_is_the_logistic_loss_with_a_label_beyond_one() -> None:
    flip = 0.2
    p = (1 - flip) / (1 - 2 * flip)
    scores = drawn(*pair())
    scores = given(scores, reference_n=like(scores, 1))
    labelled = given(drawn(*pair(label=p)), reference_n=scores.reference_n)
    robust = Preference(form="robust", flip=flip)
    torch.testing.assert_close(loss_of(robust, scores)[0], loss_of(Preference(), labelled)[0], rtol=1e-14, atol=0)
    ratios = scores.packed.sum_by_datum(scores.logp_n - scores.reference_n)
    margin = 0.1 * (ratios[0] - ratios[1])
    as_written = ((1 - flip) * -functional.logsigmoid(margin) + flip * functional.logsigmoid(-margin)) / (1 - 2 * flip)
    torch.testing.assert_close(loss_of(robust, scores)[0], as_written, rtol=1e-12, atol=0)
    # −p log σ(m) − (1−p) log σ(−m) = −log σ(m) + (1−p) m
    shifted = -functional.logsigmoid(margin) + (1 - p) * margin
    torch.testing.assert_close(as_written, shifted, rtol=1e-12, atol=0)


def test_robust_dpo_is_unbiased_under_flipped_labels() -> None:
    # E over the flip of the robust loss is the loss on the true label (arXiv 2403.00409, lemma 3.1)
    flip = 0.3
    chosen, rejected = pair()
    scores = drawn(chosen, rejected)
    scores = given(scores, reference_n=like(scores, 1))
    lost, won = msgspec.structs.replace(chosen, side="rejected"), msgspec.structs.replace(rejected, side="chosen")
    swapped = pack([lost, won], CPU)
    robust = Preference(form="robust", flip=flip)
    right, wrong = loss_of(robust, scores)[0], loss_of(robust, given(scores, packed=swapped))[0]
    torch.testing.assert_close((1 - flip) * right + flip * wrong, loss_of(Preference(), scores)[0], rtol=1e-12, atol=0)


def test_unknown_old_logprobs_are_the_policys_own() -> None:
    scores = drawn(datum(3, weights=(1.0, 2.0, -1.0)))
    nothing = slope(PolicyGradient(), scores)
    unknown = slope(PolicyGradient(), given(scores, old_n=torch.full((3,), torch.nan)))
    torch.testing.assert_close(unknown, nothing, rtol=0, atol=0)


# --- formulas -------------------------------------------------------------------------------------------------------


def test_likelihood_is_weighted_scaled_and_floored() -> None:
    scores = drawn(datum(2, weights=(1.0, -2.0), scale=0.5), datum(1))
    a, b, c = scores.logp_n.detach().tolist()
    assert float(loss_of(NLL(), scores)[0].detach()) == pytest.approx(-(0.5 * a - 1.0 * b + c))
    floored = loss_of(NLL(floor=(a + b + c) / 3, coefficient=2.0), scores)[0].detach()
    kept = [(w * v) for w, v in ((0.5, a), (-1.0, b), (1.0, c)) if v >= (a + b + c) / 3]
    assert float(floored) == pytest.approx(-2 * sum(kept))


@pytest.mark.parametrize("flip", [0.0, 0.1])
def test_preferences_are_dpo(flip: float) -> None:
    scores = drawn(*pair(margin=0.2))
    scores = given(scores, reference_n=like(scores, 1))
    ratios = scores.packed.sum_by_datum(scores.logp_n - scores.reference_n)
    margin = 0.3 * (ratios[0] - ratios[1]) - 0.2
    expected = -(1 - flip) * functional.logsigmoid(margin) - flip * functional.logsigmoid(-margin)
    found, measures = loss_of(Preference(beta=0.3, form="conservative", flip=flip), scores)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert measures == {"accuracy": float(margin > 0), "margin": pytest.approx(float(margin.detach()))}


def test_contrastive_preferences_are_discounted_biased_and_without_reference() -> None:
    scores = drawn(*pair())
    spec = Preference(beta=1.0, reference=False, discount=0.5, bias=0.7)
    logp = scores.logp_n
    good, bad = logp[0] + 0.5 * logp[1] + 0.25 * logp[2], logp[3] + 0.5 * logp[4]
    torch.testing.assert_close(loss_of(spec, scores)[0], -functional.logsigmoid(good - 0.7 * bad), rtol=1e-12, atol=0)
    assert needs(spec) == frozenset()


def test_a_pairs_scale_weighs_the_pair_and_leaves_its_margin() -> None:
    scores = drawn(*pair(), seed=1)
    for scale in (0.0, 0.5):
        scaled = given(drawn(*pair(scale=scale)), logp_n=scores.logp_n)
        spec = Preference(reference=False)
        torch.testing.assert_close(loss_of(spec, scaled)[0], scale * loss_of(spec, scores)[0], rtol=1e-12, atol=0)


def test_the_chosen_sides_likelihood_is_added_per_token() -> None:
    scores = drawn(*pair())
    more = loss_of(Preference(reference=False, nll=0.5), scores)[0] - loss_of(Preference(reference=False), scores)[0]
    torch.testing.assert_close(more, -0.5 * scores.logp_n[:3].mean(), rtol=1e-12, atol=1e-15)


def test_a_pair_may_be_in_a_batch_twice() -> None:
    once = drawn(*pair())
    twice = given(drawn(*pair(), *pair()), logp_n=torch.cat([once.logp_n, once.logp_n]))
    spec = Preference(reference=False)
    torch.testing.assert_close(loss_of(spec, twice)[0], 2 * loss_of(spec, once)[0], rtol=1e-12, atol=0)
    assert normaliser(spec, twice.packed.data) == 2 * normaliser(spec, once.packed.data)


def test_kto_and_bco_are_those_of_their_papers() -> None:
    data = datum(3, side="desirable"), datum(2, side="undesirable", scale=2.0)
    scores = drawn(*data, point=0.4)
    scores = given(scores, reference_n=like(scores, 1))
    good, bad = scores.packed.sum_by_datum(scores.logp_n - scores.reference_n)
    kto = 1.5 * (1 - torch.sigmoid(0.1 * (good - 0.4))) + 2 * 0.5 * (1 - torch.sigmoid(0.1 * (0.4 - bad)))
    found = loss_of(Unpaired(desirable=1.5, undesirable=0.5), scores)[0]
    torch.testing.assert_close(found, kto, rtol=1e-12, atol=0)
    bco = -functional.logsigmoid(0.1 * good - 0.4) - 2 * functional.logsigmoid(-(0.1 * bad - 0.4))
    torch.testing.assert_close(loss_of(Unpaired(form="bco"), scores)[0], bco, rtol=1e-12, atol=0)


def test_reference_points() -> None:
    sides = ("desirable", "desirable", "undesirable", "kl", "kl")
    data = [datum(2, side=side) for side in sides]
    assert reference_point(Unpaired(), data, [1, 2, 3, 4, 6]) == 5
    assert reference_point(Unpaired(), data, [1, 2, 3, -4, 2]) == 0
    assert reference_point(Unpaired(form="bco", beta=0.5), data, [1, 2, 3, 0, 0]) == pytest.approx(0.5 * (1.5 + 3) / 2)
    assert reference_point(Unpaired(form="bco", beta=0.5), data[:2], [1, 2]) == pytest.approx(0.5 * 1.5)
    assert reference_point(Unpaired(), data[:3], [1, 2, 3]) == 0


ADVANTAGES = (1.0, -1.0, 1.0), (-2.0, 2.0)


def rollouts(**fields: object) -> tuple[Datum, Datum]:
    return datum(3, weights=ADVANTAGES[0], **fields), datum(2, weights=ADVANTAGES[1], **fields)


def test_clipping_takes_the_smaller_gain_and_has_no_slope_beyond() -> None:
    scores = drawn(*rollouts())
    shift_n = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.1])
    scores = given(scores, old_n=(scores.logp_n - shift_n).detach())
    ratio_n, advantage_n = shift_n.exp(), scores.packed.scaled_n
    clipped_n = ratio_n.clamp(0.8, 1.28) * advantage_n
    expected = -torch.minimum(ratio_n * advantage_n, clipped_n)
    found, measures = loss_of(PolicyGradient(), scores)
    torch.testing.assert_close(found.detach(), expected.sum(), rtol=1e-12, atol=0)
    # Too likely and good, or too unlikely and bad, is clipped; the other corners still pull.
    assert measures["clipped"] == 2
    slope_n = slope(PolicyGradient(), scores)
    assert (slope_n == 0).tolist() == [True, False, False, True, False]
    torch.testing.assert_close(slope(PolicyGradient(clip_high=None), scores), -ratio_n * advantage_n)


@pytest.mark.parametrize("aggregate", ["token", "sequence", "constant"])
def test_aggregates_are_those_of_dapo_grpo_and_dr_grpo(aggregate: str) -> None:
    spec = PolicyGradient(aggregate=aggregate, length=8, kl=0.3)  # type: ignore[arg-type]
    data = rollouts()
    scores = drawn(*data)
    scores = given(scores, reference_n=like(scores, 1), old_n=(scores.logp_n - 0.05).detach())
    difference_n = scores.reference_n - scores.logp_n
    k3_n = difference_n.exp() - difference_n - 1
    per_token = (scores.logp_n - scores.old_n).exp() * (0.3 * k3_n - scores.packed.scaled_n)
    one, two = per_token[:3], per_token[3:]
    expected = {
        "token": per_token.sum() / 5,
        "sequence": (one.mean() + two.mean()) / 2,
        "constant": (one.sum() + two.sum()) / (2 * 8),
    }
    found = loss_of(spec, scores)[0] / normaliser(spec, data)
    torch.testing.assert_close(found, expected[aggregate], rtol=1e-12, atol=0)


def test_a_sequences_ratio_is_its_geometric_mean() -> None:
    # GSPO (arXiv 2507.18071, eq. 5-7) on advantages that are alike within a sequence
    data = datum(3, weights=(1.0,) * 3), datum(2, weights=(-0.5,) * 2)
    spec = PolicyGradient(level="sequence", aggregate="sequence", clip_low=3e-4, clip_high=4e-4)
    for shift in (1e-4, 0.5, -0.5):
        scores = drawn(*data)
        old_n = (scores.logp_n - shift * torch.tensor([1.0, 2.0, 0.0, 1.5, 0.5])).detach()
        found = loss_of(spec, given(scores, old_n=old_n))[0]
        means = torch.stack([(scores.logp_n - old_n)[:3].mean(), (scores.logp_n - old_n)[3:].mean()])
        ratio_s, advantage_s = means.exp(), torch.tensor([1.0, -0.5])
        expected = -torch.minimum(ratio_s * advantage_s, ratio_s.clamp(1 - 3e-4, 1 + 4e-4) * advantage_s).sum()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        mine, theirs = (torch.autograd.grad(loss, scores.logp_n)[0] for loss in (found, expected))
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-15)


def test_corrections_weigh_by_the_ratio_of_trainer_to_sampler() -> None:
    scores = drawn(datum(3, weights=(1.0, 2.0, -1.0), logprobs=(-1.0, -1.0, -1.0)))
    old_n = torch.tensor([-0.9, 0.5, -3.0])
    scores = given(scores, old_n=old_n, logp_n=old_n.clone().requires_grad_())
    weight_n = (old_n + 1).exp()
    assert weight_n[1] > 3
    for correction, expected in {
        "truncate": weight_n.clamp_max(3.0),
        "mask": weight_n * (weight_n <= 3.0),
        "": torch.ones(3),
    }.items():
        spec = PolicyGradient(correction=correction)  # type: ignore[arg-type]
        torch.testing.assert_close(slope(spec, scores), -expected * scores.packed.scaled_n, rtol=1e-12, atol=0)
    log_n = old_n + 1
    expected_kl = float((log_n.exp() - log_n - 1).sum())
    assert loss_of(PolicyGradient(), scores)[1]["mismatch"] == pytest.approx(expected_kl)


def test_corrections_per_sequence_multiply_its_tokens() -> None:
    scores = drawn(datum(2, weights=(1.0, 1.0), logprobs=(-1.0, -1.0)), datum(1, weights=(1.0,), logprobs=(-1.0,)))
    old_n = torch.tensor([-0.9, -0.8, -1.2])
    scores = given(scores, old_n=old_n, logp_n=old_n.clone().requires_grad_())
    expected = torch.tensor([0.3, 0.3, -0.2]).exp()
    torch.testing.assert_close(slope(PolicyGradient(level="sequence"), scores), -expected, rtol=1e-12, atol=0)


def test_unknown_and_off_policy_samplers_are_not_corrected() -> None:
    data = datum(2, weights=(1.0, 1.0)), datum(1, weights=(1.0,), logprobs=(-9.0,), off_policy=True)
    scores = drawn(*data)
    torch.testing.assert_close(slope(PolicyGradient(shape=0.0), scores), -torch.ones(3))


def test_distillation_weighs_by_the_capped_ratio_to_the_sampler() -> None:
    scores = drawn(datum(3, logprobs=(-1.0, -1.0, -1.0), scale=0.5))
    logp_n = torch.tensor([-0.9, 0.5, -3.0])
    divergence_n = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    found, measures = loss_of(Distillation(), given(scores, logp_n=logp_n, divergence_n=divergence_n))
    expected = 0.5 * ((logp_n + 1).exp().clamp_max(2.0) * divergence_n).sum()
    torch.testing.assert_close(found, expected)
    assert measures == {"divergence": 6.0}


def test_the_head_compares_and_regresses() -> None:
    chosen, rejected = pair(margin=0.1, label=0.8)
    packed = pack([chosen, rejected], CPU)
    head_n = torch.tensor([9.0, 9.0, 1.0, 9.0, 0.3], requires_grad=True)
    scores = Scores(packed=packed, logp_n=torch.zeros(5), head_n=head_n)
    gap = torch.tensor(1.0 - 0.3 - 0.1)
    expected = -0.8 * functional.logsigmoid(gap) - 0.2 * functional.logsigmoid(-gap)
    torch.testing.assert_close(loss_of(BradleyTerry(), scores)[0], expected)
    packed = pack([datum(2, label=1.0), datum(3, label=0.0, scale=2.0)], CPU)
    scores = Scores(packed=packed, logp_n=torch.zeros(5), head_n=head_n)
    torch.testing.assert_close(loss_of(Regression(), scores)[0], torch.tensor((18.0 - 1) ** 2 + 2 * 10.3**2))
    logistic = functional.softplus(torch.tensor(-18.0)) + 2 * functional.softplus(torch.tensor(10.3))
    torch.testing.assert_close(loss_of(Regression(form="logistic"), scores)[0], logistic)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Preference(beta=0.0), "beta of Preference is 0.0"),
        (lambda: Preference(form="robust", flip=0.5), "flip of Preference is 0.5; it must be between 0 and 0.499"),
        (lambda: Unpaired(beta=-1.0), "beta of Unpaired is -1.0"),
        (lambda: PolicyGradient(clip_low=1.5), "clip_low of PolicyGradient is 1.5"),
        (lambda: PolicyGradient(cap=float("nan")), "cap of PolicyGradient is nan"),
        (lambda: Distillation(alpha=1.2), "alpha of Distillation is 1.2; it must be between 0 and 1"),
        (lambda: Distillation(top_k=0), "top_k of Distillation is 0; it must be at least 1"),
    ],
)
def test_impossible_objectives_are_refused(make: Callable[[], Objective], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_sides_that_are_missing_are_named() -> None:
    chosen, rejected = pair()
    assert unfit(Preference(), [chosen, rejected, chosen, rejected]) == []
    assert "one chosen and one rejected" in unfit(Preference(), [chosen])[0]
    assert "one chosen and one rejected" in unfit(BradleyTerry(), [chosen, rejected, chosen])[0]
    assert "no pair" in unfit(Preference(), [datum(id="d7")])[0]
    assert "d7" in unfit(Unpaired(), [datum(id="d7"), datum(side="kl")])[0]
    assert unfit(NLL(), [chosen]) == []


# --- no cut changes the gradient ------------------------------------------------------------------------------------

OBJECTIVES: dict[str, Objective] = {
    "nll": NLL(kl=0.1),
    "nll per sequence": NLL(per="sequence"),
    "dpo": Preference(nll=0.1),
    "cpl": Preference(reference=False, discount=0.9, bias=0.5, beta=1.0),
    "kto": Unpaired(),
    "bco": Unpaired(form="bco"),
    "dapo": PolicyGradient(kl=0.1),
    "grpo": PolicyGradient(aggregate="sequence", kl=0.1),
    "dr_grpo": PolicyGradient(aggregate="constant", correction="mask"),
    "gspo": PolicyGradient(level="sequence", aggregate="sequence", clip_low=0.3, clip_high=0.3),
    "sdpo ema": Distillation(),
    "sdpo live": Distillation(teacher="live", alpha=1.0, top_k=None),
    "sdpo initial": Distillation(teacher="initial", alpha=0.0),
    "sdpo token": Distillation(token=True),
    "bradley-terry": BradleyTerry(),
    "regression": Regression(),
}


def some_data(objective: Objective, seed: int = 0) -> list[Datum]:
    """Returns ten or so random data with whatever the objective looks at."""
    rng = random.Random(seed)
    prompts = [tuple(rng.randrange(90) for _ in range(rng.randrange(3, 20))) for _ in range(4)]
    sides = {
        Preference: ("chosen", "rejected"),
        BradleyTerry: ("chosen", "rejected"),
        Unpaired: ("desirable", "undesirable", "kl"),
    }.get(type(objective), ("",))
    data = []
    for number, side in itertools.product(range(4), sides * (1 if len(sides) == 2 else 3)):
        answer = tuple(rng.randrange(90) for _ in range(rng.randrange(1, 30)))
        tokens, prompt = prompts[number] + answer, prompts[number]
        data.append(
            Datum(
                tokens=tokens,
                mask=tuple(position >= len(prompt) for position in range(len(tokens))),
                weights=tuple(rng.uniform(-1, 1) for _ in tokens),
                logprobs=tuple(rng.uniform(-5, 0) for _ in tokens),
                teacher=(1, 2, *prompt, 3) if rng.random() < 0.7 else (),
                pair=f"pair {number}" if len(sides) == 2 else "",
                side=side,  # type: ignore[arg-type]
                label=rng.random(),
                scale=rng.uniform(0.5, 2),
                off_policy=rng.random() < 0.3,
                id=f"{number}/{len(data)}",
            )
        )
    return data


def gradients(objective: Objective, data: Sequence[Datum], micro_tokens: int) -> tuple[float, list[Tensor]]:
    """Returns the loss and its gradients on a model that has moved away from where it began."""
    config = TrainConfig(rank=2, alpha=4, micro_tokens=micro_tokens, chunk=16, lr=0.01, device="cpu", steps=4)
    trainer = Trainer(WEIGHTS, config, {"": objective})
    old = {each.id: logp_n - 0.3 for each, logp_n in zip(data, trainer.score(data), strict=True)}
    with torch.no_grad():
        rng = torch.Generator().manual_seed(1)
        for parameter in trainer.tuned.trainable():
            parameter += 0.05 * torch.randn(parameter.shape, generator=rng, dtype=torch.float32)
    trainer.scorer.old = {(each.tokens, each.mask): old[each.id] for each in data}
    means = trainer.forward_backward(data)
    return means["loss"], [p.grad for p in trainer.tuned.trainable() if p.grad is not None]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_does_not_depend_on_the_cut_into_micro_batches(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    objective = OBJECTIVES[name]
    data = some_data(objective)
    loss, fine = gradients(objective, data, 64)
    other, coarse = gradients(objective, data, 4096)
    assert loss == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert math.isfinite(loss)
    assert max(float(grad.abs().max()) for grad in coarse) > 1e-6
    for one, two in zip(fine, coarse, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()) + 1e-7)


def test_each_term_has_a_normaliser_of_its_own() -> None:
    torch.set_default_dtype(torch.float32)
    config = TrainConfig(rank=2, alpha=4, device="cpu", lr=0.01)
    data = some_data(NLL())
    few = [msgspec.structs.replace(each, term="few") for each in data[:2]]
    found = {}
    for term, objectives in {
        "both": {"": NLL(), "few": NLL(coefficient=0.5)},
        "one": {"": NLL()},
        "other": {"few": NLL(coefficient=0.5)},
    }.items():
        trainer = Trainer(WEIGHTS, config, objectives)
        trainer.forward_backward([each for each in [*data[2:], *few] if each.term in objectives])
        found[term] = [p.grad for p in trainer.tuned.trainable() if p.grad is not None]
    for both, one, other in zip(found["both"], found["one"], found["other"], strict=True):
        torch.testing.assert_close(both, one + other, rtol=1e-4, atol=1e-6)


def test_data_without_an_objective_are_refused() -> None:
    torch.set_default_dtype(torch.float32)
    trainer = Trainer(WEIGHTS, TrainConfig(rank=2, device="cpu"), {"a": NLL()})
    with pytest.raises(UserError, match=r"\['b'\].*\['a'\]"):
        trainer.forward_backward([datum(term="b")])
