"""Implicit feedback without its bias: clicks come from what was shown, and where; inverse propensities undo that.

    examined = fit_positions(views)                     # position-based model: how likely each place is looked at
    rewards = [click / examined[place] for ...]         # unbiased relevance
    estimate = snips(rewards, logged, wanted)           # worth of another policy than the one that was logged

A *click* is whatever a user does with one of several answers shown at once: opens it, copies it, takes it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whet.core.errors import UserError
from whet.core.records import Record

__all__ = ["Estimate", "View", "fit_positions", "ips", "relevance", "snips"]

Floats = NDArray[np.float64]
_TINY = 1e-12


class View(Record, frozen=True, kw_only=True):
    """One answer shown once: which ``item``, at which ``place`` (from 0), and whether it was taken."""

    item: str
    place: int
    clicked: bool


class Estimate(Record, frozen=True, kw_only=True):
    """A mean with its standard error; ``effective`` is the sample size that the weights leave (Kish 1965)."""

    mean: float
    error: float
    effective: float


def ips(rewards: Sequence[float], logged: Sequence[float], wanted: Sequence[float], *, clip: float = 10.0) -> Estimate:
    """Returns what a policy would have earned: the mean of rewards weighted by min(wanted / logged, clip).

    ``logged`` and ``wanted`` are the probabilities with which the log's policy, and the one to be judged, choose what
    was chosen. Unbiased without clipping (Horvitz and Thompson 1952); clipping trades bias for variance (Ionides 2008).

    Raises:
        UserError: nothing was logged, the lengths differ, or a probability cannot be one.
    """
    weights, values = _weights(rewards, logged, wanted, clip)
    terms = weights * values
    error = float(terms.std(ddof=1) / np.sqrt(len(terms))) if len(terms) > 1 else float("inf")
    return Estimate(mean=float(terms.mean()), error=error, effective=_effective(weights))


def snips(
    rewards: Sequence[float], logged: Sequence[float], wanted: Sequence[float], *, clip: float = 10.0
) -> Estimate:
    """Returns the same, divided by the mean weight rather than by one (Swaminathan and Joachims 2015).

    A little biased, and far steadier: adding a constant to all rewards adds that constant to the estimate. The error
    is that of the ratio, by the delta method.

    Raises:
        UserError: as ``ips``, or no weight is left.
    """
    weights, values = _weights(rewards, logged, wanted, clip)
    total = float(weights.sum())
    if not total:
        raise UserError(
            "the wanted policy never does what was logged, so the log says nothing about it; log more of it"
        )
    mean = float(weights @ values / total)
    error = float(np.sqrt(np.sum((weights * (values - mean)) ** 2)) / total)
    return Estimate(mean=mean, error=error, effective=_effective(weights))


def fit_positions(views: Sequence[View], *, rounds: int = 200) -> list[float]:
    """Returns how likely each place is looked at, relative to the first place, by the position-based click model.

    P(click) = examined(place) · relevant(item), fitted by expectation maximisation (Richardson et al. 2007; Chuklin et
    al. 2015, section 3.2). Items have to appear at several places: then, and only then, place and relevance can be told
    apart. Places nobody was shown anything at are 0.

    Raises:
        UserError: there are no views, a place is negative, or no item was seen at two places.
    """
    _check_views(views)
    names = {name: n for n, name in enumerate(dict.fromkeys(view.item for view in views))}
    item = np.array([names[view.item] for view in views])
    place = np.array([view.place for view in views])
    clicked = np.array([view.clicked for view in views], dtype=float)
    seen_at, seen_of = np.bincount(place), np.bincount(item)
    examined, relevant = np.full(len(seen_at), 0.5), np.full(len(seen_of), 0.5)
    for _ in range(rounds):
        neither = np.maximum(1 - examined[place] * relevant[item], _TINY)
        looked = clicked + (1 - clicked) * examined[place] * (1 - relevant[item]) / neither
        liked = clicked + (1 - clicked) * (1 - examined[place]) * relevant[item] / neither
        examined = np.bincount(place, looked) / np.maximum(seen_at, 1)
        relevant = np.bincount(item, liked) / seen_of
    first = examined[np.nonzero(seen_at)[0][0]]
    return [float(each) for each in examined / max(first, _TINY)]


def relevance(views: Sequence[View], examined: Sequence[float], *, clip: float = 10.0) -> dict[str, float]:
    """Returns each item's share of clicks as it would be at the first place: Σ click / examined over its views.

    ``1 / examined`` is clipped, as in Joachims et al. 2017 (arXiv 1608.04468).

    Raises:
        UserError: an item was shown at a place that nobody looks at by ``examined``.
    """
    clicks: dict[str, list[float]] = {}
    for view in views:
        if view.place >= len(examined) or examined[view.place] <= 0:
            raise UserError(
                f"item {view.item!r} was shown at place {view.place!r}, which has no propensity; fit it first"
            )
        clicks.setdefault(view.item, []).append(view.clicked * min(1 / examined[view.place], clip))
    return {item: sum(each) / len(each) for item, each in clicks.items()}


def _check_views(views: Sequence[View]) -> None:
    places: dict[str, set[int]] = {}
    for view in views:
        places.setdefault(view.item, set()).add(view.place)
    if any(place < 0 for each in places.values() for place in each):
        raise UserError("a view has a place below 0; places count from 0")
    if not any(len(each) > 1 for each in places.values()):
        raise UserError(
            f"none of {len(places)} items was shown at two places, so place and relevance cannot be told apart; "
            "shuffle now and then what is shown"
        )


def _weights(
    rewards: Sequence[float], logged: Sequence[float], wanted: Sequence[float], clip: float
) -> tuple[Floats, Floats]:
    values, under, over = (np.asarray(each, dtype=float) for each in (rewards, wanted, logged))
    if not len(values) or not len(values) == len(under) == len(over):
        raise UserError(
            f"{len(values)} rewards, {len(over)} logged and {len(under)} wanted probabilities; as many of each, and "
            "at least one"
        )
    if not np.all((over > 0) & (over <= 1)) or not np.all((under >= 0) & (under <= 1)) or clip <= 0:
        raise UserError("logged probabilities lie in (0, 1], wanted ones in [0, 1], and clip is above 0")
    return np.minimum(under / over, clip), values


def _effective(weights: Floats) -> float:
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares else 0.0
