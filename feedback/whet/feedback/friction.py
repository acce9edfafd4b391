"""Feedback friction: how often good feedback does not change the answer, counted over recorded runs.

    attempts = attempts_of(steps, verdicts, critiques)      # of one run, in order
    found = friction([attempts])
    found.repeated, found.corrections                       # 3 of 8 corrections brought an old answer back

After Feedback Friction (Jiang et al. 2025, arXiv 2506.11930): models resist feedback that tells them what is wrong.
Only critiques that stand on a verdict count as good feedback. Each of them is followed by an answer that *repeats* a
rejected one, is *changed* and still wrong, is *worse*, or is *fixed*.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from whet.core.ids import digest
from whet.core.records import Critique, CritiqueGiven, ModelCall, Record, Step, Verdict, VerdictGiven

__all__ = ["Attempt", "Friction", "attempts_of", "friction"]


class Attempt(Record, frozen=True, kw_only=True):
    """One answer of a run: whether it passed, its score, and whether good feedback was given on it."""

    text: str
    passed: bool
    score: float
    corrected: bool = False


class Friction(Record, frozen=True, kw_only=True):
    """What became of feedback.

    ``corrections``: answers that good feedback was given on and that another answer followed; they are the sum of
    ``repeated``, ``worse``, ``changed`` and ``fixed``. ``runs`` were judged; ``first`` and ``last`` count those whose
    first and last answer passed.
    """

    runs: int = 0
    first: int = 0
    last: int = 0
    repeated: int = 0
    worse: int = 0
    changed: int = 0
    fixed: int = 0

    @property
    def corrections(self) -> int:
        """How often good feedback was followed by another answer."""
        return self.repeated + self.worse + self.changed + self.fixed

    def __add__(self, other: "Friction") -> "Friction":
        names = self.__struct_fields__
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Friction(**{name: a + b for name, a, b in zip(names, mine, theirs, strict=True)})


def attempts_of(steps: Iterable[Step], verdicts: Iterable[Verdict], critiques: Iterable[Critique]) -> list[Attempt]:
    """Returns the answers of a run that were judged in it, in order, an answer given twice twice.

    A model's text is an answer when a verdict was given on exactly it.
    """
    ordered = sorted(steps, key=lambda step: step.seq)
    judged = {verdict.id: verdict for verdict in verdicts if verdict.judged}
    grounded = {critique.id for critique in critiques if critique.verdict_ids}
    found: dict[str, list[Verdict]] = {}
    for step in ordered:
        if isinstance(step.body, VerdictGiven) and step.body.verdict_id in judged:
            found.setdefault(step.body.answer, []).append(judged[step.body.verdict_id])
    attempts: list[Attempt] = []
    for step in ordered:
        body = step.body
        if isinstance(body, ModelCall) and body.completion and (on := found.get(digest(body.completion.text))):
            passed, score = all(v.outcome == "pass" for v in on), sum(v.score for v in on) / len(on)
            attempts.append(Attempt(text=body.completion.text, passed=passed, score=score))
        elif isinstance(body, CritiqueGiven) and body.critique_id in grounded and _is_last(attempts, body.answer):
            # What is said of an earlier answer comes after the next one was sampled, and corrects nothing.
            attempts[-1] = msgspec.structs.replace(attempts[-1], corrected=True)
    return attempts


def friction(runs: Iterable[Sequence[Attempt]]) -> Friction:
    """Returns the counts over runs; those without a judged answer say nothing."""
    return sum((_of_run(attempts) for attempts in runs if attempts), Friction())


def _is_last(attempts: Sequence[Attempt], answer: str) -> bool:
    return bool(attempts) and digest(attempts[-1].text) == answer


def _of_run(attempts: Sequence[Attempt]) -> Friction:
    became = [_became(attempts[:n], before, after) for n, before, after in _followed(attempts)]
    return Friction(
        runs=1,
        first=int(attempts[0].passed),
        last=int(attempts[-1].passed),
        **{kind: became.count(kind) for kind in ("repeated", "worse", "changed", "fixed")},
    )


def _followed(attempts: Sequence[Attempt]) -> Iterator[tuple[int, Attempt, Attempt]]:
    for n, (before, after) in enumerate(pairwise(attempts), 1):
        if before.corrected and not before.passed:
            yield n, before, after


def _became(earlier: Sequence[Attempt], before: Attempt, after: Attempt) -> str:
    if after.passed:
        return "fixed"
    if " ".join(after.text.split()) in {" ".join(each.text.split()) for each in earlier}:
        return "repeated"
    return "worse" if after.score < before.score else "changed"
