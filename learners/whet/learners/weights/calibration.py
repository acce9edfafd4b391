"""Calibration: how often a scorer is right, how honest its probabilities are, and whether that makes it a judge. NumPy.

    probabilities = cross_fitted(values, labels)            # each by a fit to the other half
    found = calibrate(probabilities, labels)                # whet.core.calibration
    print("\\n".join(found.lines()))                         # accuracy, AUC, Brier score, and the reliability table
    refusal(found, Bar())                                   # "" where it may judge, else why not

Accuracy alone does not make a judge: of scorers that pick equally well among n answers, one trains a policy up and the
other down, and calibration is what tells them apart (SWE-RM, arXiv 2512.21919). So both are asked for.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from whet.core.calibration import Calibration
from whet.core.errors import UserError
from whet.core.records import Record

__all__ = [
    "Bar",
    "Fit",
    "Platt",
    "best_of_n",
    "cross_fitted",
    "fit_platt",
    "fit_temperature",
    "fitted",
    "refusal",
    "sigmoid",
]

Array = npt.NDArray[np.float64]

_Z = 1.645  # one-sided 95 %
_STEPS = 100
_FEWEST = 4  # what a correlation's interval needs


class Fit(Record, frozen=True, kw_only=True, tag_field="of", tag="numbers"):
    """How well ``n`` estimates fit numbers: mean squared error, the numbers' variance, and the correlation."""

    n: int
    error: float
    variance: float
    correlation: float

    @property
    def explained(self) -> float:
        """The share of the variance that is explained; below 0 the mean would do better."""
        return 1 - self.error / self.variance if self.variance > 0 else 0.0

    @property
    def correlation_low(self) -> float:
        """The lower end of the correlation's interval by Fisher's z, one-sided, at 95 %."""
        if self.n < _FEWEST:
            return -1.0
        bounded = float(np.clip(self.correlation, -0.999999, 0.999999))
        return float(np.tanh(np.arctanh(bounded) - _Z / (self.n - 3) ** 0.5))

    def lines(self) -> list[str]:
        """Returns the report for people."""
        return [
            f"{self.n} held-back answers: correlation {self.correlation:.3f} (at least {self.correlation_low:.3f} with "
            f"95 %), explained variance {self.explained:.3f}"
        ]


class Bar(Record, frozen=True, kw_only=True):
    """What a scorer has to reach to be used as a judge, on at least ``least`` held-back answers.

    Its accuracy has to be above that of always giving the commoner label, with 95 % confidence, its ``auc`` and ``ece``
    as given. For estimates of numbers the correlation has to be above 0, with the same confidence, and the share of
    explained variance at least ``explained``.
    """

    least: int = 50
    auc: float = 0.7
    ece: float = 0.1
    explained: float = 0.1


class Platt(Record, frozen=True, kw_only=True):
    """A logistic curve from values to probabilities: σ(scale·value + shift)."""

    scale: float = 1.0
    shift: float = 0.0

    def of(self, values: Sequence[float]) -> list[float]:
        """Returns the probability of each value."""
        return [float(p) for p in sigmoid(self.scale * np.asarray(values, dtype=float) + self.shift)]


def sigmoid(logits: Array) -> Array:
    """Returns 1/(1 + e^−x), without overflow."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1 / (1 + small), small / (1 + small)), dtype=np.float64)


# --- from values to probabilities ------------------------------------------------------------------------------------


def fit_platt(values: Sequence[float], labels: Sequence[float]) -> Platt:
    """Returns the logistic curve that fits best, never a falling one (Platt 1999; targets and Newton's method as in Lin
    et al. 2007).

    A value that says nothing, or the opposite, gives the share of right answers as the probability of all.
    """
    found, right = np.asarray(values, dtype=float), np.asarray(labels, dtype=float) >= 0.5
    good, bad = int(right.sum()), int((~right).sum())
    targets = np.where(right, (good + 1) / (good + 2), 1 / (bad + 2))
    middle, spread = (float(found.mean()), float(found.std())) if len(found) else (0.0, 0.0)
    level = float(np.log((good + 1) / (bad + 1)))
    if spread <= 1e-12:
        return Platt(scale=0.0, shift=level)
    z = (found - middle) / spread
    scale, shift = _newton(np.stack([z, np.ones_like(z)]), targets, np.array([0.0, level]))
    if scale <= 0:
        return Platt(scale=0.0, shift=level)
    return Platt(scale=float(scale / spread), shift=float(shift - scale * middle / spread))


def fit_temperature(values: Sequence[float], labels: Sequence[float]) -> Platt:
    """Returns the curve σ(value/T) that fits best: for values of which 0 is the middle, such as differences."""
    found, right = np.asarray(values, dtype=float), np.asarray(labels, dtype=float) >= 0.5
    size = float(np.abs(found).mean()) if len(found) else 0.0
    if size <= 1e-12:
        return Platt(scale=0.0)
    # Two answers more, one right and one wrong: the fit stays finite where everything is right.
    targets = np.where(right, (len(found) + 1) / (len(found) + 2), 1 / (len(found) + 2))
    (scale,) = _newton((found / size)[None], targets, np.zeros(1))
    return Platt(scale=max(0.0, float(scale) / size))


def _newton(features_kn: Array, targets_n: Array, start_k: Array) -> Array:
    """Returns the weights that minimise the log loss of σ(weights·features), by Newton's method with shorter steps
    where a whole one does not help."""
    weights_k = start_k.astype(float)
    loss = _log_loss(weights_k @ features_kn, targets_n)
    for _ in range(_STEPS):
        p_n = sigmoid(weights_k @ features_kn)
        slope_k = features_kn @ (p_n - targets_n)
        bend_kk = (features_kn * (p_n * (1 - p_n))) @ features_kn.T + 1e-9 * np.eye(len(weights_k))
        step_k, share = np.linalg.solve(bend_kk, slope_k), 1.0
        while share > 1e-6 and _log_loss((weights_k - share * step_k) @ features_kn, targets_n) > loss:
            share /= 2
        weights_k = weights_k - share * step_k
        before, loss = loss, _log_loss(weights_k @ features_kn, targets_n)
        if before - loss < 1e-10 * (1 + abs(loss)):
            break
    return np.asarray(weights_k, dtype=np.float64)


def _log_loss(logits_n: Array, targets_n: Array) -> float:
    return float((np.logaddexp(0, logits_n) - targets_n * logits_n).sum())


def cross_fitted(
    values: Sequence[float], labels: Sequence[float], groups: Sequence[str] = (), *, centred: bool = False
) -> list[float]:
    """Returns the probability of each value by a curve fitted to the other half, so that none judges itself.

    Members of a group are in the same half. ``centred``: by temperature, for values of which 0 is the middle.
    """
    fit = fit_temperature if centred else fit_platt
    half_n = _halves(groups or [str(place) for place in range(len(values))])
    found, right = np.asarray(values, dtype=float), np.asarray(labels, dtype=float)
    made = np.empty(len(found))
    for half in (0, 1):
        here = half_n == half
        made[here] = fit(list(found[~here]), list(right[~here])).of(list(found[here]))
    return [float(p) for p in made]


def _halves(groups: Sequence[str]) -> npt.NDArray[np.int_]:
    """Returns the half of each member: groups take turns, the largest first, so that the halves are of alike size."""
    names, counts = np.unique(np.asarray(groups), return_counts=True)
    sizes, half = [0, 0], dict[str, int]()
    for place in np.argsort(-counts, kind="stable"):
        chosen = int(sizes[1] < sizes[0])
        half[str(names[place])] = chosen
        sizes[chosen] += int(counts[place])
    return np.array([half[str(group)] for group in groups], dtype=int)


# --- what it is good for ---------------------------------------------------------------------------------------------


def fitted(estimates: Sequence[float], numbers: Sequence[float]) -> Fit:
    """Returns how well estimates fit numbers; a constant correlates with nothing."""
    guess, truth = np.asarray(estimates, dtype=float), np.asarray(numbers, dtype=float)
    if len(guess) != len(truth) or not len(guess):
        raise UserError(f"{len(guess)} estimates and {len(truth)} numbers; there must be as many, and at least one")
    varies = bool(guess.std() > 1e-12 and truth.std() > 1e-12)
    return Fit(
        n=len(guess),
        error=float(((guess - truth) ** 2).mean()),
        variance=float(truth.var()),
        correlation=float(np.corrcoef(guess, truth)[0, 1]) if varies else 0.0,
    )


def refusal(found: Calibration | Fit, bar: Bar) -> str:
    """Returns why a scorer may not judge, in a sentence; nothing where it may."""
    if found.n < bar.least:
        return f"it was measured on {found.n} held-back answers, and it takes {bar.least}"
    return "; ".join(_unreached(found, bar) if isinstance(found, Calibration) else _unfitted(found, bar))


def _unreached(found: Calibration, bar: Bar) -> list[str]:
    wrong = []
    if found.accuracy_low <= found.majority:
        wrong.append(
            f"its accuracy of {found.accuracy:.2f} (at least {found.accuracy_low:.2f} with 95 %) is not above that of "
            f"always giving the commoner label, {found.majority:.2f}"
        )
    if found.auc < bar.auc:
        wrong.append(f"its AUC of {found.auc:.2f} is below {bar.auc}")
    if found.ece > bar.ece:
        wrong.append(f"its calibration error (ECE) of {found.ece:.2f} is above {bar.ece}")
    return wrong


def _unfitted(found: Fit, bar: Bar) -> list[str]:
    wrong = []
    if found.correlation_low <= 0:
        wrong.append(f"its correlation of {found.correlation:.2f} may be chance")
    if found.explained < bar.explained:
        wrong.append(f"it explains {found.explained:.2f} of the variance, and {bar.explained} is asked for")
    return wrong


def best_of_n(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[float]:
    """Returns how often the answer with the highest value is right among 1, 2, … answers to a task.

    ``groups``: for each task the values of its answers and their labels. The expectation over all subsets is exact,
    equal values are chosen among by chance; the curve goes as far as the task with the fewest answers.
    """
    sizes = [len(values) for values, _ in groups]
    return [
        sum(_chosen_right(values, labels, n) for values, labels in groups) / len(groups)
        for n in range(1, min(sizes, default=0) + 1)
    ]


def _chosen_right(values: Sequence[float], labels: Sequence[float], n: int) -> float:
    """Returns the chance that the highest of ``n`` answers, drawn without replacement, is right."""
    found, right = np.asarray(values, dtype=float), np.asarray(labels, dtype=float) >= 0.5
    total, below = 0.0, 0
    for value in np.unique(found):
        here = found == value
        upto = below + int(here.sum())
        total += (comb(upto, n) - comb(below, n)) * float(right[here].mean())
        below = upto
    return total / comb(len(found), n)
