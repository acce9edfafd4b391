"""Judges that rate: by a rubric, by several aspects, or against an answer that the judge wrote itself before.

    judge = Rubric({"model": "openai:judge", "rubric": "5: complete and right. 1: misleading."})
    judge = Aspects({"model": "openai:judge"})                 # UltraFeedback's four, each rated by itself
    verdict = await judge.verify(task, run)                    # the critique is its detail

The critique is written before the rating (Prometheus, arXiv 2310.08491).
"""

import re

from whet.core.errors import VerifierError
from whet.core.records import Check, Json, Message, Record, Task
from whet.feedback.answers import json_values
from whet.feedback.judges.asking import DATA, ask, bounded, gathered
from whet.feedback.judges.judging import J, JudgeParams, ModelJudge
from whet.feedback.verifiers.configured import Finding

__all__ = ["ASPECTS", "Aspects", "AspectsParams", "OwnAnswer", "Rating", "Rubric", "RubricParams", "read_rating"]

_SYSTEM = """\
You judge an answer to a task by a rubric. {data}
Write first a critique: what is right, what is wrong, and where. Then rate the answer from {low} (worst) to {high}
(best). Reply with JSON only:
{{"critique": "…", "rating": {high}}}

# Rubric
{rubric}"""

_OWN = "your own answer, which may be wrong as well"
_RATED = re.compile(r"\b(?:rating|score)\W{1,4}(-?\d+(?:\.\d+)?)|\[\[(-?\d+(?:\.\d+)?)\]\]", re.IGNORECASE)

ASPECTS = {
    "instruction_following": "Does the answer do what was asked, within the limits that were set? 5: all of it. 4: all "
    "but a detail. 3: the main part. 2: little of it. 1: something else.",
    "honesty": "Does the answer's confidence fit what it knows? 5: sure where it is right, open where it is not sure. "
    "3: vague, or a little too sure. 1: sure of what is wrong, or hides what it does not know.",
    "truthfulness": "Is what the answer says true, and true to the task's text? 5: no error. 4: an error in a detail. "
    "3: errors beside the point. 2: errors in the main part. 1: mostly made up.",
    "helpfulness": "Is the answer of use to who asked? 5: right, complete and to the point. 4: right and useful. "
    "3: right, and leaves much open. 2: partly wrong. 1: wrong or of no use.",
}
"""The aspects of UltraFeedback (arXiv 2310.01377, section 2.3), and what ratings from 1 to 5 mean."""


class Rating(Record, frozen=True, kw_only=True):
    """A rating on the scale that was asked for, and the critique that led to it."""

    value: float
    critique: str = ""


class RubricParams(JudgeParams, frozen=True, kw_only=True):
    """``scale``: lowest and highest rating. ``threshold``: 0.75 is a 4 on the scale from 1 to 5."""

    scale: tuple[int, int] = (1, 5)
    threshold: float = 0.75


class Rubric(ModelJudge[RubricParams]):
    """A critique, then a rating; the score is where it lies on the scale."""

    kind = "rubric_judge"
    params_type = RubricParams

    def check_params(self) -> None:
        """Raises ``VerifierError`` for a scale without length, or no rubric."""
        low, high = self.params.scale
        if low >= high:
            raise VerifierError(f"verifier {self.kind!r}: a scale from {low} to {high} has no length")
        if not self.params.rubric.strip():
            raise VerifierError(f"verifier {self.kind!r} has no rubric; give rubric=TEXT")

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding with the critique as its detail; abstain where the reply cannot be read, twice."""
        rating = await rate(self, await self.material(task, answer), self.params.rubric, self.params.scale)
        if rating is None:
            return self.unreadable()
        score = _share(rating, self.params.scale)
        check = Check(name="rubric", passed=score >= self.params.threshold, got=f"{rating.value:g}")
        return self.found(score, (check,), rating.critique)

    async def material(self, task: Task, answer: str) -> Message:
        """Returns what the judge looks at."""
        return self.shown(task, answer)


class OwnAnswer(Rubric):
    """Answers the task itself, without a look at the answer, and then rates the answer against its own.

    A judge who cannot solve a task tends to believe a fluent answer; its own answer to look at helps where it can
    (Zheng et al. 2023, arXiv 2306.05685, section 3.4).
    """

    kind = "reference_judge"

    async def material(self, task: Task, answer: str) -> Message:
        """Returns what the judge looks at, after it answered the task itself."""
        own = await bounded(self.model).complete(task.messages, sampling=self.sampling)
        return self.shown(task, answer, **{_OWN: own.text})


class AspectsParams(JudgeParams, frozen=True, kw_only=True):
    """``aspects``: names of ``ASPECTS``, or names with a rubric from 1 to 5 each; all of ``ASPECTS`` unless given."""

    aspects: tuple[str, ...] | dict[str, str] = ()
    threshold: float = 0.75


class Aspects(ModelJudge[AspectsParams]):
    """Rates several aspects from 1 to 5, each in a call of its own; the score is the mean of what they score.

    Each is a check, passed from 4 on; a pass needs the mean alone.
    """

    kind = "aspects_judge"
    params_type = AspectsParams

    def check_params(self) -> None:
        """Raises ``VerifierError`` for an aspect that has no rubric."""
        given = self.params.aspects or tuple(ASPECTS)
        if not isinstance(given, dict) and (unknown := [name for name in given if name not in ASPECTS]):
            raise VerifierError(
                f"verifier {self.kind!r}: no aspect {unknown[0]!r}; there are {', '.join(ASPECTS)}, "
                "or give each aspect a rubric"
            )
        self.aspects = given if isinstance(given, dict) else {name: ASPECTS[name] for name in given}

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding; abstain where one of the replies cannot be read, twice."""
        shown, scale = self.shown(task, answer), (1, 5)
        rubrics = [f"{self.params.rubric}\n{rubric}".strip() for rubric in self.aspects.values()]
        rated = await gathered(rate, [(self, shown, rubric, scale) for rubric in rubrics])
        found = dict(zip(self.aspects, rated, strict=True))
        ratings = {name: rating for name, rating in found.items() if rating is not None}
        if len(ratings) < len(found):
            return self.unreadable()
        checks = tuple(
            Check(name=name, passed=rating.value >= 4, got=f"{rating.value:g}", message=rating.critique)
            for name, rating in ratings.items()
        )
        return self.found(sum(_share(rating, scale) for rating in ratings.values()) / len(ratings), checks)


async def rate(judge: ModelJudge[J], shown: Message, rubric: str, scale: tuple[int, int]) -> Rating | None:
    """Returns a judge's rating of what it is shown; ``None`` where its reply cannot be read, twice."""
    low, high = scale
    system = Message(role="system", content=_SYSTEM.format(data=DATA, rubric=rubric, low=low, high=high))
    return await ask(judge.model, [system, shown], lambda reply: read_rating(reply, scale), sampling=judge.sampling)


def read_rating(reply: str, scale: tuple[int, int]) -> Rating | None:
    """Returns the rating in a reply: of its last JSON that has one, else of ``rating: 4``, ``score: 4/5`` or ``[[4]]``.

    One that is off the scale is none.
    """
    for value in reversed([*json_values(reply)]):
        if isinstance(value, dict) and (number := _number(value.get("rating"), scale)) is not None:
            critique = value.get("critique")
            return Rating(value=number, critique=critique if isinstance(critique, str) else "")
    said = [match[1] or match[2] for match in _RATED.finditer(reply)]
    number = _number(said[-1], scale) if said else None
    return None if number is None else Rating(value=number, critique=reply.strip())


def _number(value: Json, scale: tuple[int, int]) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if scale[0] <= number <= scale[1] else None


def _share(rating: Rating, scale: tuple[int, int]) -> float:
    return (rating.value - scale[0]) / (scale[1] - scale[0])
