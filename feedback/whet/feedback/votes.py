"""What judges and people said of runs, as votes; and what is taken for the truth of each run, by rank.

truth = {**majority(opinions(verdicts, feedback)), **truths(verdicts)}        # verifiers outrank people
learned_trust(verdicts, feedback).sources["ana"].weight                       # what a vote of hers is worth
"""

from collections.abc import Iterable

from whet.core.records import Feedback, Verdict
from whet.feedback.dawid_skene import DawidSkene, Vote, fit
from whet.feedback.trust import standing

__all__ = ["judgements", "learned_trust", "majority", "opinions", "truths"]


def judgements(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Returns the verdicts of judges on final answers, abstentions included."""
    return [one for one in verdicts if one.kind == "model" and one.repetition == 0]


def truths(verdicts: Iterable[Verdict]) -> dict[str, bool]:
    """Returns, per run, whether every execution and every rule that judged its final answer passed it."""
    found: dict[str, bool] = {}
    for one in verdicts:
        if one.kind in ("execution", "rule") and one.judged and one.repetition == 0:
            found[one.run_id] = found.get(one.run_id, True) and one.outcome == "pass"
    return found


def opinions(verdicts: Iterable[Verdict], feedback: Iterable[Feedback]) -> list[Vote]:
    """Returns what people said of runs: by verdict, by accepting or rejecting, and by a rating off the middle."""
    votes = [
        Vote(item=one.run_id, source=one.actor or one.verifier, passed=one.outcome == "pass")
        for one in verdicts
        if one.kind == "human" and one.judged
    ]
    for item in standing(feedback):
        if item.run_id and item.kind in ("accept", "reject"):
            votes.append(Vote(item=item.run_id, source=item.source, passed=item.kind == "accept"))
        elif item.run_id and item.kind == "rating" and item.value is not None and item.value != 0.5:
            votes.append(Vote(item=item.run_id, source=item.source, passed=item.value > 0.5))
    return votes


def majority(votes: Iterable[Vote]) -> dict[str, bool]:
    """Returns, per item, what most votes say; items on which they are divided are left out."""
    balance: dict[str, int] = {}
    for vote in votes:
        balance[vote.item] = balance.get(vote.item, 0) + (1 if vote.passed else -1)
    return {item: count > 0 for item, count in balance.items() if count}


def learned_trust(verdicts: Iterable[Verdict], feedback: Iterable[Feedback]) -> DawidSkene | None:
    """Returns the reliability of all judges and people together; ``None`` where nobody voted.

    What executions and rules found is known; where there is nothing of the kind, agreement among the sources has to do.
    """
    found = list(verdicts)
    votes = opinions(found, feedback)
    for one in judgements(found):
        if one.judged:
            votes.append(Vote(item=one.run_id, source=one.verifier, passed=one.outcome == "pass"))
    return fit(votes, truths(found)) if votes else None
