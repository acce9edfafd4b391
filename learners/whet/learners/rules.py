"""The rules that stand beside the gain: unjudged pairs, cost, tasks that were solved and no longer are, probes.

Each returns its objection in words, or the empty string.
"""

from collections.abc import Sequence

from whet.core.records import Record, Usage

__all__ = [
    "Pair",
    "cost_objection",
    "decline_objection",
    "drop_objection",
    "losses_allowed",
    "regression_objection",
    "suspects",
]

SOLVED = 1 - 1e-9


class Pair(Record, frozen=True, kw_only=True):
    """The scores of both arms on one task and seed (or averaged over seeds); ``None`` where nobody could judge."""

    task_id: str
    candidate: float | None
    incumbent: float | None
    candidate_usage: Usage = Usage()
    incumbent_usage: Usage = Usage()

    @property
    def difference(self) -> float | None:
        """Candidate minus incumbent, in [-1, 1]; ``None`` when one of them could not be judged."""
        if self.candidate is None or self.incumbent is None:
            return None
        return self.candidate - self.incumbent

    @property
    def lost(self) -> bool:
        """Whether the incumbent solved the task and the candidate did not."""
        if self.candidate is None or self.incumbent is None:
            return False
        return self.incumbent >= SOLVED > self.candidate

    @classmethod
    def average(cls, pairs: Sequence["Pair"]) -> "Pair":
        """Returns the mean of the judged pairs of one task, with the usage of all."""
        judged = [pair for pair in pairs if pair.difference is not None]
        return cls(
            task_id=pairs[0].task_id,
            candidate=sum(pair.candidate or 0.0 for pair in judged) / len(judged) if judged else None,
            incumbent=sum(pair.incumbent or 0.0 for pair in judged) / len(judged) if judged else None,
            candidate_usage=sum((pair.candidate_usage for pair in pairs), Usage()),
            incumbent_usage=sum((pair.incumbent_usage for pair in pairs), Usage()),
        )


def suspects(pairs: Sequence[Pair]) -> list[Pair]:
    """Returns the pairs where a solved task was lost: repeats show whether it is a regression or chance."""
    return [pair for pair in pairs if pair.lost]


def losses_allowed(pairs: Sequence[Pair], max_share: float) -> int:
    """Returns how many of the tasks that the incumbent solved may be lost."""
    return int(max_share * _solved(pairs))


def regression_objection(
    pairs: Sequence[Pair], regressed: Sequence[str], max_share: float, *, what: str = "tasks"
) -> str:
    """Objects when more than ``max_share`` of the tasks that the incumbent solved are lost for good."""
    if len(regressed) <= losses_allowed(pairs, max_share):
        return ""
    names = ", ".join(regressed[:5]) + (", …" if len(regressed) > 5 else "")
    return f"{len(regressed)} of {_solved(pairs)} {what} that were solved reliably fail now: {names}"


def decline_objection(pairs: Sequence[Pair], max_share: float) -> str:
    """Objects to a mean score on the probes that fell by more than ``max_share``, after the test has shown it."""
    lost = len(suspects(pairs))
    return f"{lost} of {_solved(pairs)} probes that were solved fail now: the mean falls by more than {max_share:g}"


def _solved(pairs: Sequence[Pair]) -> int:
    return sum(pair.incumbent is not None and pair.incumbent >= SOLVED for pair in pairs)


def cost_objection(pairs: Sequence[Pair], max_tokens: float | None, max_dollars: float | None) -> str:
    """Objects when a run of the candidate costs more than the allowed ratio of the incumbent's."""
    mine = sum((pair.candidate_usage for pair in pairs), Usage())
    theirs = sum((pair.incumbent_usage for pair in pairs), Usage())
    amounts = (
        ("tokens", max_tokens, mine.input_tokens + mine.output_tokens, theirs.input_tokens + theirs.output_tokens),
        ("dollars", max_dollars, mine.micro_dollars, theirs.micro_dollars),
    )
    for unit, limit, spent, before in amounts:
        if limit is not None and before > 0 and spent > limit * before:
            return f"a run takes {spent / before:.2f} times the {unit}; at most {limit:g} times is allowed"
    return ""


def drop_objection(dropped: int, judged: int, max_share: float) -> str:
    """Objects when too many pairs could not be judged: what is left may be a biased selection."""
    if dropped <= max_share * (dropped + judged):
        return ""
    return f"{dropped} of {dropped + judged} pairs could not be judged; repair the environment and try again"
