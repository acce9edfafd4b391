"""Voting: which preferences are probably the wrong way round, from models that never saw them. NumPy only.

    ballot = count_votes(strengths)                      # strengths[pair] = what each voter makes of it
    cleaned = clean(data, ballot, flip=None, soft=0.3, margin=1.0)
    ballot.epsilon                                       # the share of swapped preferences: what rdpo calls flip

Several reward models agree or disagree with each pair; the mean of their margins is the strength of the preference
(Wang et al. 2024, "Secrets of RLHF II", arXiv 2401.06080, section 2). There the voters are trained on the pairs they
judge, in other orders. Here each voter judges only pairs that it was not trained on, since a model that saw a swapped
pair agrees with it.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from whet.core.calibration import wilson
from whet.core.errors import UserError
from whet.core.records import Record
from whet.learners.weights.calibration import sigmoid
from whet.learners.weights.datum import Datum

__all__ = ["Ballot", "Vote", "clean", "count_votes", "flip_rate", "halves", "uncertain"]

Array = npt.NDArray[np.float64]

_FEWEST = 20  # pairs from which a share of swapped ones is estimated
_OTHER = {"chosen": "rejected", "rejected": "chosen"}


class Vote(Record, frozen=True, kw_only=True):
    """What the voters make of a pair: mean and standard deviation of its margin, and how probably it is right."""

    mean: float
    std: float
    right: float


class Ballot(Record, frozen=True, kw_only=True):
    """The votes on every pair by its id, and what follows from all of them.

    ``epsilon``: the estimated share of swapped preferences. ``scale`` turns a margin into a logit: the voters hold the
    chosen side better with probability σ(scale·margin). ``agreement``: the share of pairs with a margin above 0.
    """

    votes: dict[str, Vote]
    epsilon: float
    scale: float
    agreement: float


def uncertain(data: Sequence[Datum]) -> list[Datum]:
    """Returns the data of pairs that may be the wrong way round: a label of 1 is certain, and nobody votes on it."""
    return [datum for datum in data if datum.pair and datum.label < 1]


def halves(pairs: Sequence[str], rounds: int, seed: int) -> list[tuple[set[str], set[str]]]:
    """Returns ``rounds`` random divisions of pairs into halves; a voter trained on one half judges the other."""
    rng, made = np.random.default_rng(seed), []
    names = list(dict.fromkeys(pairs))
    for _ in range(rounds):
        order = rng.permutation(len(names))
        first = {names[place] for place in order[: len(names) // 2]}
        made.append((first, set(names) - first))
    return made


def count_votes(strengths: Mapping[str, Sequence[float]]) -> Ballot:
    """Returns the ballot from the margins (value of the chosen side less that of the rejected) that voters gave pairs.

    Raises:
        UserError: there are too few pairs to estimate anything from.
    """
    if len(strengths) < _FEWEST:
        raise UserError(f"voting on {len(strengths)} pairs says nothing, it takes {_FEWEST}; set voters=0")
    means = np.array([float(np.mean(margins)) for margins in strengths.values()])
    epsilon, scale = flip_rate(means)
    votes = {
        pair: Vote(mean=float(np.mean(margins)), std=float(np.std(margins)), right=_right(margins, epsilon, scale))
        for pair, margins in strengths.items()
    }
    return Ballot(votes=votes, epsilon=epsilon, scale=scale, agreement=float((means > 0).mean()))


def flip_rate(margins: Sequence[float] | Array) -> tuple[float, float]:
    """Returns ε and the scale t of margins, where P(label as given) = ε + (1 − 2ε)·σ(t·margin): ε as its posterior mean
    under a uniform prior, t as the likeliest one.

    Voters are wrong mostly where their margin is small; how often labels contradict large ones is the flip rate, so
    weak voters do not pass for wrong labels as they do in the bare share of disagreement. Where they agree with the
    labels no more than by chance (with 95 % confidence), nothing is known: 0.5 and 0. They are taken to be right in at
    least 73 % (t·mean margin ≥ 1) of what they know least of, or noise and swapped labels could not be told apart.
    """
    found = np.asarray(margins, dtype=float)
    size = float(np.abs(found).mean())
    if size <= 1e-12 or wilson(float((found > 0).mean()), len(found)) <= 0.5:
        return 0.5, 0.0
    scales, rates = np.geomspace(1, 50, 41) / size, np.linspace(0, 0.49, 50)
    sure_tn = sigmoid(scales[:, None] * found[None])
    seen_etn = rates[:, None, None] + (1 - 2 * rates[:, None, None]) * sure_tn[None]
    likelihood_et = np.log(np.maximum(seen_etn, 1e-12)).sum(-1)
    posterior_et = np.exp(likelihood_et - likelihood_et.max())
    _, best_t = np.unravel_index(int(likelihood_et.argmax()), likelihood_et.shape)
    return float((posterior_et.sum(1) @ rates) / posterior_et.sum()), float(scales[best_t])


def _right(margins: Sequence[float], epsilon: float, scale: float) -> float:
    """Returns how probably a label is right, given the votes and how often labels are wrong (Bayes' rule)."""
    better = float(sigmoid(scale * np.asarray(margins, dtype=float)).mean())
    given = (1 - epsilon) * better
    return given / (given + epsilon * (1 - better)) if given > 0 else 0.0


def clean(data: Sequence[Datum], ballot: Ballot, *, flip: float | None, soft: float, margin: float) -> list[Datum]:
    """Returns the data with better labels: of the pairs voted on, the weakest share ``flip`` is turned round, the next
    share ``soft`` gets how probable its label is, the rest stays.

    ``flip=None``: the share that is estimated to be swapped. Each pair asks for a margin of its strength, as a logit,
    up to ``margin``; 0 asks for none. Where the votes say nothing (ε is one half), the data stay as they are.
    """
    if ballot.epsilon >= 0.5:
        return list(data)
    ranked = sorted(ballot.votes, key=lambda pair: ballot.votes[pair].mean)
    turned = round((ballot.epsilon if flip is None else flip) * len(ranked))
    # A pair that the voters agree with is not turned round, however weak the others are.
    swapped = {pair for pair in ranked[:turned] if ballot.votes[pair].mean < 0}
    doubtful = set(ranked[len(swapped) : len(swapped) + round(soft * len(ranked))])
    return [
        _cleaned(datum, ballot, swapped, doubtful, margin) if datum.pair in ballot.votes else datum for datum in data
    ]


def _cleaned(datum: Datum, ballot: Ballot, swapped: set[str], doubtful: set[str], margin: float) -> Datum:
    vote = ballot.votes[datum.pair]
    asked = min(margin, ballot.scale * abs(vote.mean))
    if datum.pair in swapped:
        other = _OTHER[datum.side]
        return msgspec.structs.replace(datum, side=other, label=max(0.5, 1 - vote.right), margin=asked)
    if datum.pair in doubtful:
        return msgspec.structs.replace(datum, label=vote.right, margin=0.0)
    return msgspec.structs.replace(datum, label=1.0, margin=asked if vote.mean > 0 else 0.0)
