"""How far a source is trusted: its measured agreement with execution, as the mean of a Beta posterior.

    observed = agreements(feedback, verdicts)       # {"ana": Tally(agree=9, disagree=1)}
    actor = update(Actor(id="ana", kind="person"), observed["ana"])
    actor.agreement, actor.observations             # 0.8333, 10

With a uniform prior, Beta(1, 1), a source nobody has measured is at 0.5, and ten agreements in a row give 11/12.
Outcomes come late and are reversed: both opinions are kept on record, and ``standing`` says which of them counts.
"""

from collections.abc import Iterable, Mapping

import msgspec

from whet.core.errors import UserError
from whet.core.records import Actor, Feedback, Record, Verdict, VerdictKind

__all__ = [
    "RANK",
    "SIGNAL",
    "Tally",
    "agreements",
    "execution_scores",
    "outranks",
    "standing",
    "trust_interval",
    "update",
    "verdict_agreements",
]

SIGNAL = "signal:"  # the sources of what a user's next steps say (``whet.feedback.signals``) begin so
PRIOR = 1.0  # pseudo-counts of agreement and of disagreement

# Execution outranks rules of the environment, people, and models, in that order.
RANK: Mapping[VerdictKind, int] = {"execution": 3, "rule": 2, "human": 1, "model": 0}


class Tally(Record, frozen=True, kw_only=True):
    """How often a source agreed with verifiers, and how often it did not."""

    agree: int = 0
    disagree: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(agree=self.agree + other.agree, disagree=self.disagree + other.disagree)

    @classmethod
    def of(cls, agreed: bool) -> "Tally":
        """Returns the tally of one observation."""
        return cls(agree=int(agreed), disagree=int(not agreed))


def outranks(first: VerdictKind, second: VerdictKind) -> bool:
    """Whether a verdict of the first kind overrules one of the second."""
    return RANK[first] > RANK[second]


def update(actor: Actor, tally: Tally) -> Actor:
    """Returns the actor with more observations: the posterior mean (1 + agreements) / (2 + observations).

    The earlier counts are recovered from mean and count, so updating twice equals updating once with the sum.
    """
    before = 0.5 if actor.agreement is None else actor.agreement
    agreed = before * (actor.observations + 2 * PRIOR) + tally.agree
    observations = actor.observations + tally.agree + tally.disagree
    return msgspec.structs.replace(actor, agreement=agreed / (observations + 2 * PRIOR), observations=observations)


def trust_interval(actor: Actor, level: float = 0.95) -> tuple[float, float]:
    """Returns the central credible interval of the actor's agreement. Raises UserError for a level outside (0, 1)."""
    from scipy.stats import beta

    if not 0 < level < 1:
        raise UserError(f"level={level!r} is not between 0 and 1")
    total = actor.observations + 2 * PRIOR
    mean = 0.5 if actor.agreement is None else actor.agreement
    low, high = beta.interval(level, mean * total, (1 - mean) * total)
    return float(low), float(high)


def agreements(feedback: Iterable[Feedback], verdicts: Iterable[Verdict]) -> dict[str, Tally]:
    """Returns, per source of feedback, how often its opinion of a run was that of the verifiers which executed it.

    Ratings other than 0.5, accept and reject speak of one run; a preference speaks of two whose scores differ. Other
    kinds, and runs that no execution judged, say nothing.
    """
    scores = execution_scores(verdicts)
    tallies: dict[str, Tally] = {}
    for item in feedback:
        agreed = _agreed(item, scores)
        if agreed is not None:
            tallies[item.source] = tallies.get(item.source, Tally()) + Tally.of(agreed)
    return tallies


def verdict_agreements(verdicts: Iterable[Verdict]) -> dict[str, Tally]:
    """Returns, per verifier whose verdicts are no execution (judges, people), how often it agreed with execution."""
    found = list(verdicts)
    scores = execution_scores(found)
    tallies: dict[str, Tally] = {}
    for verdict in found:
        if verdict.kind == "execution" or not verdict.judged or verdict.run_id not in scores:
            continue
        passed = scores[verdict.run_id][0]
        source = verdict.actor or verdict.verifier
        tallies[source] = tallies.get(source, Tally()) + Tally.of((verdict.outcome == "pass") == passed)
    return tallies


def standing(feedback: Iterable[Feedback]) -> list[Feedback]:
    """Returns the feedback that counts, in order of time: of the opinions of one speaker on one run the latest.

    Opinions are ratings, accepts and rejects; the speaker is the person where one is known, else the source. What a
    user's next steps say is one speaker, whatever the signal; signals of one moment stand together. Everything else
    stands as it is.
    """
    ordered = sorted(feedback, key=lambda item: (item.at, item.id))
    latest = {_subject(item): item.at for item in ordered}
    return [item for item in ordered if latest[_subject(item)] == item.at]


def _subject(item: Feedback) -> tuple[str, str]:
    if item.kind not in ("rating", "accept", "reject") or item.run_id is None:
        return ("", item.id)
    if item.source.startswith(SIGNAL):
        return (SIGNAL, item.run_id)
    return (item.person or item.source, item.run_id)


def execution_scores(verdicts: Iterable[Verdict]) -> dict[str, tuple[bool, float]]:
    """Returns, per run, whether every execution passed, and the lowest score."""
    scores: dict[str, tuple[bool, float]] = {}
    for verdict in verdicts:
        if verdict.kind == "execution" and verdict.judged:
            passed, score = scores.get(verdict.run_id, (True, 1.0))
            scores[verdict.run_id] = (passed and verdict.outcome == "pass", min(score, verdict.score))
    return scores


def _agreed(item: Feedback, scores: Mapping[str, tuple[bool, float]]) -> bool | None:
    if item.run_id not in scores or item.run_id is None:
        return None
    passed, score = scores[item.run_id]
    if item.kind in ("accept", "reject"):
        return passed == (item.kind == "accept")
    if item.kind == "rating" and item.value is not None and item.value != 0.5:
        return passed == (item.value > 0.5)
    if item.kind == "preference" and item.other_run_id in scores and item.other_run_id is not None:
        other = scores[item.other_run_id][1]
        return None if score == other else score > other
    return None
