"""Calibrated verifier: tells right answers from wrong ones, with probabilities that can be believed.

rows = await CalibratedVerifier(form="words").build(experience, kit)
"""

import random
from collections.abc import Sequence

from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.scorers import AnswerScorer, scored_row, together
from whet.learners.weights.methods.selection import distinct, grouped
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.rows import Row

__all__ = ["CalibratedVerifier"]


class CalibratedVerifier(AnswerScorer, frozen=True, kw_only=True):
    """Learns from verdicts whether an answer is right, as a head's logit or in the word yes or no (arXiv 2512.21919).

    ``form`` and ``reads`` are those of ``AnswerScorer``. ``per_task``: right and wrong answers of a task, at most so
    many of each.
    """

    info = Info(
        name="verifier",
        family="reward",
        title="Calibrated verifier",
        paper="arXiv 2512.21919",
        needs=("verified answers, right and wrong ones, to several tasks",),
    )
    per_task: int = 8

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each answer, labelled 1 or 0; a right and a wrong one to a task share a batch.

        Raises:
            UserError: no answer was verified, or none is wrong, or none right.
        """
        judged = distinct(one for one in solutions(experience) if one.evidence == "verifier")
        both = {one.passed for one in judged} >= {True, False}
        need(judged if both else [], "verifier", "verified answers, right and wrong ones", HOW)
        kept = [one for group in grouped(judged).values() for one in _balanced(group, self.per_task, kit.rng)]
        return together([self._row(one) for one in kept])

    def _row(self, one: Solution) -> Row:
        return scored_row(
            one.prompt,
            one.turns,
            self.layout,
            label=float(bool(one.passed)),
            tools=one.tools,
            group=one.task.id,
            task_id=one.task.id,
            sources=one.sources,
            trust=one.trust,
        )


HOW = "run training tasks several times (--graph best_of_n); tasks that all runs solve, or none, teach little"


def _balanced(group: Sequence[Solution], most: int, rng: random.Random) -> list[Solution]:
    kept = []
    for passed in (True, False):
        kind = [one for one in group if one.passed is passed]
        kept += [kind[place] for place in sorted(rng.sample(range(len(kind)), min(most, len(kind))))]
    return kept
