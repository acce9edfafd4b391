"""How well metrics fit what people said: runs are rated by each metric, and what was remarked on is matched.

fit = await measure_fit(teacher, metrics, said)
fit.coverage, fit.redundancy, fit.uncovered         # 0.8, 0.25, (Aspect(…),)
"""

from collections.abc import Sequence

from whet.core.records import Record
from whet.feedback.traits import Trait
from whet.learners.rubrics.aspects import Aspect, Remarked
from whet.learners.rubrics.teacher import Teacher, numbers

__all__ = ["Fit", "measure_fit"]

_RATE = """Rate the attempt by each metric: 1 where it behaves well, -1 where it behaves badly, 0 where the metric has
nothing to do with it.
Answer with a JSON list and nothing else: [{"metric": 0, "rating": 1}]"""

_MATCH = """Match each behaviour that people remarked on with the metrics that are about that behaviour, if any.
Answer with a JSON list and nothing else: [{"aspect": 0, "metrics": [0]}]"""


class Fit(Record, frozen=True, kw_only=True):
    """How well metrics fit feedback: its aspects, those no trait matches, the number of traits and of idle ones."""

    aspects: int = 0
    uncovered: tuple[Aspect, ...] = ()
    traits: int = 0
    idle: int = 0

    @property
    def coverage(self) -> float:
        """The share of aspects matched to a trait of the same sign; 0 where there are none."""
        return 1 - len(self.uncovered) / self.aspects if self.aspects else 0.0

    @property
    def redundancy(self) -> float:
        """The share of traits that no aspect matches; 0 where there are none."""
        return self.idle / self.traits if self.traits else 0.0

    def __add__(self, other: "Fit") -> "Fit":
        return Fit(
            aspects=self.aspects + other.aspects,
            uncovered=self.uncovered + other.uncovered,
            traits=self.traits + other.traits,
            idle=self.idle + other.idle,
        )


async def measure_fit(teacher: Teacher, metrics: Sequence[Trait], said: Sequence[Remarked]) -> Fit:
    """Returns how well the metrics fit what was said about runs."""
    return sum([await _fit(teacher, metrics, each) for each in said if each.aspects], Fit())


async def _fit(teacher: Teacher, metrics: Sequence[Trait], each: Remarked) -> Fit:
    ratings = await _rate(teacher, metrics, each)
    covered: set[int] = set()
    used: set[int] = set()
    if ratings:
        shown = [f"{n}. {aspect.behaviour}" for n, aspect in enumerate(each.aspects)]
        parts = [_MATCH, "# Behaviours\n" + "\n".join(shown), _listed([(n, metrics[n]) for n in ratings])]
        for entry in await teacher.ask("\n\n".join(parts)):
            for aspect in numbers(entry, "aspect", len(each.aspects)):
                same = {
                    n for n in numbers(entry, "metrics", len(metrics)) if ratings.get(n) == each.aspects[aspect].sign
                }
                used |= same
                covered |= {aspect} if same else set()
    uncovered = tuple(aspect for n, aspect in enumerate(each.aspects) if n not in covered)
    return Fit(aspects=len(each.aspects), uncovered=uncovered, traits=len(ratings), idle=len(ratings) - len(used))


async def _rate(teacher: Teacher, metrics: Sequence[Trait], each: Remarked) -> dict[int, int]:
    """Returns +1 or -1 for each metric that has to do with the run. What was said about it is not shown."""
    if not metrics:
        return {}
    prompt = "\n\n".join([_RATE, _listed(list(enumerate(metrics))), each.shown()])
    ratings: dict[int, int] = {}
    for entry in await teacher.ask(prompt):
        rating = entry.get("rating")
        if isinstance(rating, int) and rating in (1, -1):
            ratings |= dict.fromkeys(numbers(entry, "metric", len(metrics)), rating)
    return ratings


def _listed(metrics: Sequence[tuple[int, Trait]]) -> str:
    return "# Metrics\n" + "\n".join(f"{n}. {trait.name}: {' '.join(trait.definition.split())}" for n, trait in metrics)
