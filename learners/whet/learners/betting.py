"""Anytime-valid evidence on the mean of bounded differences: a betting e-process for each side, and their interval.

    test = PairedTest(alpha=0.05, horizon=100)
    for difference in differences:             # each in [-1, 1]; look after every one of them
        test.add(difference)
        if test.above.refuted:                 # the mean is above the null, with error at most alpha however often
            break                              # one looks and whenever one stops
    low, high = test.interval()

After Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 2023), section 4 and
Theorem 3 (hedged capital). With ``X = (D + 1) / 2`` in [0, 1] and a hypothesised mean ``m``, the capital

    K_t(m) = prod_{i <= t} (1 + min(lambda_i, c / m) (X_i - m)),    lambda_i fixed before X_i is seen,

is a non-negative supermartingale that starts at 1 whenever ``E[X_i | past] <= m``; by Ville's inequality it ever
reaches ``1 / alpha`` with probability at most ``alpha``. The other side is the same with ``1 - X`` and ``1 - m``.
Half of the capital is staked by their predictable plug-in
``lambda_t = sqrt(2 log(1/alpha) / (s2_{t-1} t log(1 + t)))``, which finds large effects early; the other half by its
form for a planned sample size, ``sqrt(2 log(1/alpha) / (s2_{t-1} horizon))``, which finds moderate ones by the end.
An average of two such processes is one itself. ``s2`` is their regularised variance; ``c`` is 3/4.

Assumption: given the past, each difference has the same mean (for example: independent draws of task and seed).
Nothing is assumed about its distribution beyond the bounds.
"""

import math

import numpy as np
from numpy.typing import NDArray

from whet.core.errors import UserError

__all__ = ["Capital", "PairedTest"]

TRUNCATION = 0.75
_BISECTIONS = 40


class Capital:
    """One side of the test: what a gambler owns who bets that observations in [0, 1] have a mean above ``null``.

    The gambler starts with 1; ``alpha`` is the level at which a null is refuted, ``horizon`` the planned sample size.
    """

    def __init__(self, *, alpha: float, horizon: int, null: float) -> None:
        self.null = null
        self.threshold = math.log(1 / alpha)
        self.horizon = horizon
        self.peak = 0.0
        self._logs = (0.0, 0.0)
        self._sum, self._squares = 0.5, 0.25
        self._observed: list[float] = []
        self._stakes: list[tuple[float, float]] = []

    @property
    def log_e(self) -> float:
        """Natural logarithm of the capital: the e-value against "the mean is at most ``null``"."""
        return float(np.logaddexp(*self._logs)) - math.log(2)

    @property
    def refuted(self) -> bool:
        """Whether the capital has ever reached ``1 / alpha``."""
        return self.peak >= self.threshold

    @property
    def p(self) -> float:
        """Anytime-valid p-value: 1 over the largest capital so far, at most 1."""
        return math.exp(-self.peak)

    def add(self, x: float) -> None:
        """Settles the bets on one observation."""
        stakes = self._next_stakes()
        cap = TRUNCATION / self.null if self.null > 0 else math.inf
        gain = x - self.null
        first, second = (
            log + math.log1p(min(stake, cap) * gain) for log, stake in zip(self._logs, stakes, strict=True)
        )
        self._logs = (first, second)
        self.peak = max(self.peak, self.log_e)
        self._observed.append(x)
        self._stakes.append(stakes)
        count = len(self._observed) + 1
        self._sum += x
        self._squares += (x - self._sum / count) ** 2

    def bound(self) -> float:
        """Returns the largest mean that was ever refuted, in [0, 1]: a lower confidence bound.

        The capital never grows with the hypothesised mean, so the bound is found by bisection.
        """
        if not self._observed:
            return 0.0
        observed, stakes = np.array(self._observed), np.array(self._stakes).T
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            refuted = _peak(observed, stakes, middle) >= self.threshold
            low, high = (middle, high) if refuted else (low, middle)
        return low

    def within_reach(self, mean: float, remaining: int) -> bool:
        """Whether ``remaining`` more observations of that mean may be expected to refute the null.

        Jensen's inequality bounds the expected growth at the present stakes. Stopping when this fails is always
        valid: it can only prevent a promotion.
        """
        cap = TRUNCATION / self.null if self.null > 0 else math.inf
        stakes = self._next_stakes()
        growth = math.log1p(min(max(stakes), cap) * max(0.0, mean - self.null))
        return self.log_e + remaining * growth >= self.threshold

    def _next_stakes(self) -> tuple[float, float]:
        time = len(self._observed) + 1
        scale = 2 * self.threshold / (self._squares / time)
        return math.sqrt(scale / (time * math.log1p(time))), math.sqrt(scale / self.horizon)


class PairedTest:
    """Evidence on the mean of differences in [-1, 1] against ``null``, on both sides, each at level ``alpha``.

    Raises:
        UserError: ``alpha`` is outside (0, 1), ``null`` outside (-1, 1), or the horizon below 1.
    """

    def __init__(self, *, alpha: float, horizon: int, null: float = 0.0) -> None:
        if not 0 < alpha < 1:
            raise UserError(f"alpha is {alpha!r}; a probability between 0 and 1 is needed, for example 0.05")
        if not -1 < null < 1:
            raise UserError(f"the null effect is {null!r}; differences of scores lie between -1 and 1")
        if horizon < 1:
            raise UserError(f"the horizon is {horizon!r}; at least one pair has to be planned")
        self.above = Capital(alpha=alpha, horizon=horizon, null=(1 + null) / 2)
        self.below = Capital(alpha=alpha, horizon=horizon, null=(1 - null) / 2)
        self.n = 0
        self._total = 0.0

    @property
    def mean(self) -> float:
        """The mean difference so far (0 before the first)."""
        return self._total / self.n if self.n else 0.0

    def add(self, difference: float) -> None:
        """Takes one difference.

        Raises:
            UserError: it lies outside [-1, 1], or is no number.
        """
        if not -1 <= difference <= 1:
            raise UserError(f"a difference of {difference!r} is outside [-1, 1]; scores lie in [0, 1]")
        self.n += 1
        self._total += difference
        self.above.add((1 + difference) / 2)
        self.below.add((1 - difference) / 2)

    def interval(self) -> tuple[float, float]:
        """Returns lower and upper bound of the mean, each wrong with probability at most ``alpha`` over all looks.

        The bounds only ever tighten. Where they have crossed (the differences do not share one mean) both are the
        middle between them.
        """
        low, high = 2 * self.above.bound() - 1, 1 - 2 * self.below.bound()
        if low > high:
            low = high = (low + high) / 2
        return low, high

    def futile(self, remaining: int) -> bool:
        """Whether the remaining pairs cannot be expected to settle the matter on either side.

        Judged at the most favourable mean that the interval still allows.
        """
        low, high = self.interval()
        above = self.above.within_reach((1 + high) / 2, remaining)
        return not above and not self.below.within_reach((1 - low) / 2, remaining)


def _peak(observed: NDArray[np.float64], stakes: NDArray[np.float64], null: float) -> float:
    """Returns the largest log capital over time; ``observed`` is (n,), ``stakes`` (2, n)."""
    capped = np.minimum(stakes, TRUNCATION / null if null > 0 else np.inf)
    logs = np.cumsum(np.log1p(capped * (observed - null)), axis=1)
    return float(np.max(np.logaddexp(logs[0], logs[1]))) - math.log(2)
