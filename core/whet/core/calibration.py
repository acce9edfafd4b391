"""Calibration: how often a source is right, and how honest its probabilities are. NumPy.

found = calibrate(probabilities, labels)
print("\\n".join(found.lines()))                         # accuracy, AUC, Brier score, and the reliability table
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from whet.core.errors import UserError
from whet.core.records import Record

__all__ = ["Bin", "Calibration", "Share", "area", "calibrate", "wilson"]

Array = npt.NDArray[np.float64]

_Z = 1.645  # one-sided 95 %
_Z2 = 1.959964  # two-sided


class Bin(Record, frozen=True, kw_only=True):
    """Answers whose probability lay in [low, high): how many, their mean probability, and the share that was right."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


class Calibration(Record, frozen=True, kw_only=True, tag_field="of", tag="probabilities"):
    """What probabilities were worth on ``n`` answers with known labels.

    ``majority``: the share of the commoner label, which is the accuracy of always giving it. ``auc``: how often a right
    answer has a higher probability than a wrong one, 0.5 where there are none of one kind. ``brier``: the mean squared
    error. ``ece``: the mean distance of probability and observed share over the bins, weighted by their counts.
    """

    n: int
    accuracy: float
    majority: float
    auc: float
    brier: float
    ece: float
    bins: tuple[Bin, ...]

    @property
    def accuracy_low(self) -> float:
        """The lower end of the accuracy's Wilson interval, one-sided, at 95 %."""
        return wilson(self.accuracy, self.n)

    def lines(self) -> list[str]:
        """Returns the report for people: the figures, and the reliability table."""
        found = [
            f"{self.n} held-back answers: accuracy {self.accuracy:.3f} (of the commoner label {self.majority:.3f}), "
            f"AUC {self.auc:.3f}, Brier score {self.brier:.3f}, ECE {self.ece:.3f}",
            "probability   answers   predicted   observed",
        ]
        return found + [
            f"{one.low:.2f} to {one.high:.2f}  {one.count:7}   {one.predicted:9.3f}   {one.observed:8.3f}"
            for one in self.bins
        ]


def calibrate(probabilities: Sequence[float], labels: Sequence[float], *, bins: int | None = None) -> Calibration:
    """Returns what probabilities are worth; labels are 1 or 0, at least one half is taken for 1.

    The bins are of equal width, empty ones are left out (Guo et al. 2017, arXiv 1706.04599, eq. 3). Unless given, there
    are up to 10 of them, as many as leave ten answers for each: with fewer, honest scorers err a lot by chance.

    Raises:
        UserError: there are none, not as many labels, or they are no probabilities.
    """
    p, right = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=float) >= 0.5
    if len(p) != len(right) or not len(p):
        raise UserError(f"{len(p)} probabilities and {len(right)} labels; there must be as many, and at least one")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise UserError("a probability lies outside 0 to 1; turn values into probabilities first")
    table = _bins(p, right, bins or max(1, min(10, len(p) // 10)))
    return Calibration(
        n=len(p),
        accuracy=float(((p >= 0.5) == right).mean()),
        majority=float(max(right.mean(), 1 - right.mean())),
        auc=area(probabilities, labels),
        brier=float(((p - right) ** 2).mean()),
        ece=sum(one.count * abs(one.predicted - one.observed) for one in table) / len(p),
        bins=table,
    )


def _bins(p: Array, right: npt.NDArray[np.bool_], bins: int) -> tuple[Bin, ...]:
    places = np.minimum((p * bins).astype(int), bins - 1)
    inside = [(place, places == place) for place in range(bins) if (places == place).any()]
    return tuple(
        Bin(
            low=place / bins,
            high=(place + 1) / bins,
            count=int(here.sum()),
            predicted=float(p[here].mean()),
            observed=float(right[here].mean()),
        )
        for place, here in inside
    )


def area(values: Sequence[float], labels: Sequence[float]) -> float:
    """Returns the area under the ROC curve: how often a right answer is above a wrong one, ties counting half."""
    found, right = np.asarray(values, dtype=float), np.asarray(labels, dtype=float) >= 0.5
    good, bad = found[right], np.sort(found[~right])
    if not len(good) or not len(bad):
        return 0.5
    below, upto = np.searchsorted(bad, good, side="left"), np.searchsorted(bad, good, side="right")
    return float((below + upto).mean() / (2 * len(bad)))


def wilson(share: float, n: int) -> float:
    """Returns the lower end of a share's Wilson interval, one-sided, at 95 %."""
    if not n:
        return 0.0
    spread = _Z * (share * (1 - share) / n + _Z**2 / (4 * n**2)) ** 0.5
    return float((share + _Z**2 / (2 * n) - spread) / (1 + _Z**2 / n))


class Share(Record, frozen=True, kw_only=True):
    """How many of ``n`` have something, or the difference of two such shares, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, count: float, n: int) -> "Share":
        """Returns a share with its score interval (Wilson 1927); of none it is anything from 0 to 1."""
        if not n:
            return cls(value=0.0, low=0.0, high=1.0, n=0)
        mean, scale = count / n, 1 + _Z2**2 / n
        middle = (mean + _Z2**2 / (2 * n)) / scale
        half = _Z2 / scale * (mean * (1 - mean) / n + _Z2**2 / (4 * n**2)) ** 0.5
        return cls(value=mean, low=max(0.0, middle - half), high=min(1.0, middle + half), n=n)

    def less(self, other: "Share") -> "Share":
        """Returns this share less another, independent one (Newcombe 1998, method 10)."""
        value = self.value - other.value
        below = ((self.value - self.low) ** 2 + (other.high - other.value) ** 2) ** 0.5
        above = ((self.high - self.value) ** 2 + (other.value - other.low) ** 2) ** 0.5
        return Share(value=value, low=value - below, high=value + above, n=min(self.n, other.n))

    @classmethod
    def paired(cls, pairs: Sequence[tuple[bool, bool]]) -> "Share":
        """Returns the share of first less the share of second in pairs (Agresti and Min 2005: half a pair more of each
        kind, and then Wald's interval)."""
        if not pairs:
            return cls(value=0.0, low=-1.0, high=1.0, n=0)
        won, lost, n = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))
        share, both = (won - lost) / (n + 2), (won + lost + 1) / (n + 2)
        half = _Z2 * ((both - share**2) / (n + 2)) ** 0.5
        return cls(value=(won - lost) / n, low=max(-1.0, share - half), high=min(1.0, share + half), n=n)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
