"""Trust without ground truth: how reliable each judge or person is, from where they agree and differ. NumPy.

    votes = [Vote(item="run1", source="ana", passed=True), Vote(item="run1", source="judge@1f0c", passed=False), …]
    found = fit(votes)
    found.sources["ana"].balanced, found.sources["ana"].weight       # 0.91, and what its vote is worth
    found.passed["run1"]                                             # the posterior that it is right

Dawid and Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM algorithm", section 3, with
two classes: an item is right with probability ``prior``; a source says "pass" of a right one with probability
``sensitivity`` and "fail" of a wrong one with probability ``specificity``, independently of the others given the truth.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from whet.core.errors import UserError
from whet.core.records import Record

__all__ = ["DawidSkene", "Reliability", "Vote", "fit"]

Array = npt.NDArray[np.float64]

_STEPS = 200
_ENOUGH = 1e-6  # change of the posteriors at which the iteration ends
_PSEUDO = 1.0  # votes of either kind that every source is given beforehand (Beta(2, 2)); no rate becomes 0 or 1


class Vote(Record, frozen=True, kw_only=True):
    """What a source says of an item."""

    item: str
    source: str
    passed: bool


class Reliability(Record, frozen=True, kw_only=True):
    """How reliable a source is, over ``votes`` votes."""

    sensitivity: float
    specificity: float
    votes: int

    @property
    def balanced(self) -> float:
        """The mean of both rates: 0.5 for a source that knows nothing, whatever it likes to say."""
        return (self.sensitivity + self.specificity) / 2

    @property
    def weight(self) -> float:
        """The log odds of being right, which is what the best vote of independent sources weighs them by; 0 at worst.

        Nitzan and Paroush 1982. A source that is more often wrong than right is not believed the other way round.
        """
        return max(0.0, float(np.log(self.balanced / (1 - self.balanced))))


class DawidSkene(Record, frozen=True, kw_only=True):
    """The fit: the share of right items, each source's reliability, each item's posterior, and how it ended."""

    prior: float
    sources: dict[str, Reliability]
    passed: dict[str, float]
    likelihood: float
    steps: int


def fit(votes: Iterable[Vote], known: Mapping[str, bool] | None = None) -> DawidSkene:
    """Returns the fit by EM, begun at the share of votes for each item, so that a majority is presumed right.

    ``known``: what is certain of some items (what execution found); their posteriors stay there. One or two sources
    cannot be told from each other without it.

    Raises:
        UserError: there are no votes.
    """
    cast = list(votes)
    if not cast:
        raise UserError("there are no votes to learn trust from; let judges or people judge some runs first")
    items, item_v = np.unique([vote.item for vote in cast], return_inverse=True)
    sources, source_v = np.unique([vote.source for vote in cast], return_inverse=True)
    said_v = np.array([vote.passed for vote in cast], dtype=float)
    pinned_n = np.array([float((known or {}).get(str(item), np.nan)) for item in items])
    counts_n = np.bincount(item_v)
    right_n = _pinned(np.bincount(item_v, said_v) / counts_n, pinned_n)
    steps, change = 0, 1.0
    while steps < _STEPS and change >= _ENOUGH:
        prior, rates_js = _maximised(right_n, item_v, source_v, said_v, len(sources))
        logs_nc = _log_likelihoods(prior, rates_js, item_v, source_v, said_v, len(items))
        posterior_n = (1 + np.tanh((logs_nc[:, 1] - logs_nc[:, 0]) / 2)) / 2  # a sigmoid that does not overflow
        before_n, right_n = right_n, _pinned(posterior_n, pinned_n)
        steps, change = steps + 1, float(np.abs(right_n - before_n).max())
    cast_j = np.bincount(source_v)
    return DawidSkene(
        prior=prior,
        sources={
            str(name): Reliability(sensitivity=float(one), specificity=float(two), votes=int(count))
            for name, (one, two), count in zip(sources, rates_js, cast_j, strict=True)
        },
        passed={str(item): float(right) for item, right in zip(items, right_n, strict=True)},
        likelihood=float(np.logaddexp(logs_nc[:, 0], logs_nc[:, 1]).sum()),
        steps=steps,
    )


def _pinned(right_n: Array, pinned_n: Array) -> Array:
    return np.asarray(np.where(np.isnan(pinned_n), right_n, pinned_n))


def _maximised(
    right_n: Array, item_v: npt.NDArray[np.intp], source_v: npt.NDArray[np.intp], said_v: Array, sources: int
) -> tuple[float, Array]:
    """Returns the M-step (equations 2.3 and 2.4): the prior, and (sensitivity, specificity) of each source."""
    right_v = right_n[item_v]

    def total(weights_v: Array) -> Array:
        return np.bincount(source_v, weights_v, minlength=sources).astype(float)

    hits_j, misses_j = total(right_v * said_v), total(right_v * (1 - said_v))
    rejected_j, alarms_j = total((1 - right_v) * (1 - said_v)), total((1 - right_v) * said_v)
    sensitivity_j = (hits_j + _PSEUDO) / (hits_j + misses_j + 2 * _PSEUDO)
    specificity_j = (rejected_j + _PSEUDO) / (rejected_j + alarms_j + 2 * _PSEUDO)
    prior = (float(right_n.sum()) + _PSEUDO) / (len(right_n) + 2 * _PSEUDO)
    return prior, np.stack([sensitivity_j, specificity_j], 1)


def _log_likelihoods(
    prior: float,
    rates_js: Array,
    item_v: npt.NDArray[np.intp],
    source_v: npt.NDArray[np.intp],
    said_v: Array,
    items: int,
) -> Array:
    """Returns log p(class, votes) of each item for the classes wrong and right (equation 2.5), shape (items, 2)."""
    sensitivity_v, specificity_v = rates_js[source_v].T
    if_right_v = np.log(np.where(said_v > 0, sensitivity_v, 1 - sensitivity_v))
    if_wrong_v = np.log(np.where(said_v > 0, 1 - specificity_v, specificity_v))
    right_n = np.log(prior) + np.bincount(item_v, if_right_v, minlength=items)
    wrong_n = np.log(1 - prior) + np.bincount(item_v, if_wrong_v, minlength=items)
    return np.stack([wrong_n, right_n], 1)
