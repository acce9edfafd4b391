"""Metrics induced from open feedback: what people keep remarking on becomes a rubric of the policy.

    learner = AutoLibra(model="openai/gpt-4o-mini")
    async for proposal in learner.propose(view, incumbent, budget):
        print(proposal.candidate.summary)      # 4 metrics from 18 remarks; held-out coverage 0.80, redundancy 0.25

After AutoLibra (Zhu et al. 2025, arXiv 2505.02820). Feedback → *aspects* (a behaviour, its sign), grounded in the run
→ clusters, which are *metrics* → *traits*: each run rated +1, -1 or not at all by each metric. With the aspects of
feedback that no metric was made from:

    coverage   = aspects matched to a trait of the same sign / aspects
    redundancy = traits matched by no aspect / traits

What is uncovered is clustered again and the new metrics are appended, as long as held-out coverage does not fall.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Literal

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import Model
from whet.core.records import Feedback, Json, Record, Run, Task, Trust
from whet.feedback.answers import quoted
from whet.feedback.traits import Trait, read_rubric, rubric_path
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.proposing import joint_trust
from whet.learners.rubrics.teacher import Teacher, numbers, propose_rubric, text_of
from whet.learners.view import TrainMemory

__all__ = ["Aspect", "AutoLibra", "Fit", "Remarked"]

NAME = "autolibra"
HELD_OUT = 4  # every fourth run's feedback is kept to measure coverage on
_CLIPPED = 2000

_ASPECTS = """People remarked on an attempt at a task. List what they remarked on: each behaviour, whether they found it
good ("+") or bad ("-"), and the shortest part of the attempt that shows it, word for word. The quote of something bad
that is missing is empty. Leave out remarks that do not fit this attempt.
Answer with a JSON list and nothing else: [{"behaviour": "…", "sign": "+", "quote": "…", "remark": 0}]"""

_CLUSTER = """People remarked on these behaviours of an assistant. Group those that are about the same thing, and make a
metric of each group: a short name, and a definition that tells the assistant what to do, at most {limit} of them.
Answer with a JSON list and nothing else: [{{"name": "…", "definition": "…", "aspects": [numbers]}}]"""

_RATE = """Rate the attempt by each metric: 1 where it behaves well, -1 where it behaves badly, 0 where the metric has
nothing to do with it.
Answer with a JSON list and nothing else: [{"metric": 0, "rating": 1}]"""

_MATCH = """Match each behaviour that people remarked on with the metrics that are about that behaviour, if any.
Answer with a JSON list and nothing else: [{"aspect": 0, "metrics": [0]}]"""


class Aspect(Record, frozen=True, kw_only=True):
    """One behaviour that feedback is about; ``sign`` +1 is good, -1 bad."""

    behaviour: str
    remark: str
    sign: Literal[1, -1]


class Remarked(Record, frozen=True, kw_only=True):
    """A run that people said something about, and the aspects of it."""

    run: Run
    task: Task
    said: tuple[Feedback, ...]
    aspects: tuple[Aspect, ...] = ()

    @property
    def trust(self) -> Trust:
        """Tainted where the run or something said about it is."""
        return joint_trust([self.run.trust, *(item.trust for item in self.said)])

    def shown(self) -> str:
        """Returns the attempt as a model is shown it."""
        answer = self.run.answer or ""
        return f"# Task\n{quoted(self.task.prompt[:_CLIPPED])}\n\n# Attempt\n{quoted(answer[:_CLIPPED])}"


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


class AutoLibra:
    """Proposes a policy whose rubric has metrics for what people remarked on.

    Args:
        model: a model, or its name, that reads and words; that of the agent which practises unless given.
        rubric: name of the rubric in the policy; metrics it has already are kept, and added to.
        rounds: how often what is uncovered is clustered, at most.
        metrics: new metrics of a round, at most.
        behaviours: good ones, and bad ones, of each metric, at most; 0 leaves them out.
        runs: the newest runs with remarks, at most so many.

    Raises:
        UserError: an option has an impossible value.
    """

    def __init__(
        self,
        model: Model | str | None = None,
        rubric: str = "feedback",
        rounds: int = 3,
        metrics: int = 8,
        behaviours: int = 3,
        runs: int = 40,
    ) -> None:
        rubric_path(rubric)
        for name, value in (("rounds", rounds), ("metrics", metrics), ("runs", runs)):
            if value < 1:
                raise UserError(f"{name}={value!r} induces nothing; at least 1 is needed")
        if behaviours < 0:
            raise UserError(f"behaviours={behaviours!r} is no number of behaviours; give 0 or more")
        self._model, self._rubric = model, rubric
        self._rounds, self._metrics, self._behaviours, self._runs = rounds, metrics, behaviours, runs

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal from trusted remarks, and one from tainted ones; none where nothing new is remarked on.

        Raises:
            UserError: there is no model to ask.
            ModelError: it could not be asked.
            BudgetError: the budget does not allow it.
        """
        found = await remarked(view, self._runs)
        for trust in ("trusted", "tainted"):
            chosen = [each for each in found if each.trust == trust]
            if chosen:
                for proposal in await self._induce(chosen, view, incumbent, budget):
                    yield proposal

    async def _induce(
        self, found: Sequence[Remarked], view: TrainMemory, incumbent: Arm, budget: Budget
    ) -> list[Proposal]:
        teacher = Teacher.of(self._model, view, budget, learner=NAME)
        said = [await with_aspects(teacher, each) for each in found]
        metrics = read_rubric(incumbent.policy.text(rubric_path(self._rubric)))
        grown, fit = await self._grow(teacher, metrics, said)
        added = len(grown) - len(metrics)
        if not added:
            return []
        remarks = sum(len(each.said) for each in said)
        config: dict[str, Json] = {"coverage": fit.coverage, "redundancy": fit.redundancy, "aspects": fit.aspects}
        return propose_rubric(
            NAME,
            self._rubric,
            grown,
            incumbent,
            summary=f"{added} metrics from {remarks} remarks; held-out coverage {fit.coverage:.2f}, "
            f"redundancy {fit.redundancy:.2f}",
            config=config,
            evidence=[id for each in said for id in (each.run.id, *(item.id for item in each.said))],
            usage=teacher.usage,
            trust=said[0].trust,
        )

    async def _grow(
        self, teacher: Teacher, metrics: Sequence[Trait], said: Sequence[Remarked]
    ) -> tuple[Sequence[Trait], Fit]:
        """Returns the metrics with those appended that held-out coverage did not fall with, and how they fit."""
        held = said[HELD_OUT - 1 :: HELD_OUT]
        rest = [each for each in said if each not in held]
        fit = await measure_fit(teacher, metrics, held)
        for _ in range(self._rounds):
            uncovered = (await measure_fit(teacher, metrics, rest)).uncovered
            added = await self._cluster(teacher, uncovered, metrics)
            grown = [*metrics, *added]
            after = await measure_fit(teacher, grown, held) if added else fit
            if not added or after.coverage < fit.coverage:
                break
            metrics, fit = grown, after
        return metrics, fit

    async def _cluster(self, teacher: Teacher, aspects: Sequence[Aspect], known: Sequence[Trait]) -> list[Trait]:
        """Returns a metric for each group of aspects; their behaviours are those of the aspects, word for word."""
        if not aspects:
            return []
        lines = [f"{n}. ({_sign(each)}) {each.behaviour} | {each.remark}" for n, each in enumerate(aspects)]
        prompt = "\n".join([_CLUSTER.format(limit=self._metrics), "", *lines])
        taken = {trait.name.casefold() for trait in known}
        made = []
        for entry in await teacher.ask(prompt):
            chosen = [aspects[n] for n in numbers(entry, "aspects", len(aspects))]
            name, definition = text_of(entry, "name"), text_of(entry, "definition")
            if name and definition and chosen and name.casefold() not in taken:
                taken.add(name.casefold())
                good, bad = (_behaviours(chosen, sign)[: self._behaviours] for sign in (1, -1))
                made.append(Trait(name=name, definition=definition, good=good, bad=bad))
        return made[: self._metrics]


async def remarked(view: TrainMemory, limit: int) -> list[Remarked]:
    """Returns the newest runs on training tasks about which something was said in words, oldest first."""
    said: dict[str, list[Feedback]] = {}
    for item in await view.feedback():
        if item.run_id and item.kind != "correction" and item.text.strip():
            said.setdefault(item.run_id, []).append(item)
    runs = [await view.run(id) for id in [*said][-limit:]]
    return [Remarked(run=run, task=await view.task(run.task_id), said=tuple(said[run.id])) for run in runs]


async def with_aspects(teacher: Teacher, each: Remarked) -> Remarked:
    """Returns the run with its aspects: those whose quote is in the answer, or that name something bad as missing."""
    remarks = [_remark(item) for item in each.said]
    lines = [f"{n}. {remark}" for n, remark in enumerate(remarks)]
    found = []
    for entry in await teacher.ask("\n\n".join([_ASPECTS, each.shown(), "# Remarks\n" + "\n".join(lines)])):
        behaviour, quote, sign = text_of(entry, "behaviour"), text_of(entry, "quote"), text_of(entry, "sign")
        grounded = quote in (each.run.answer or "") if quote else sign == "-"
        about = numbers(entry, "remark", len(remarks))
        if behaviour and sign in ("+", "-") and grounded and about:
            found.append(Aspect(behaviour=behaviour, remark=remarks[about[0]], sign=1 if sign == "+" else -1))
    return Remarked(run=each.run, task=each.task, said=each.said, aspects=tuple(found))


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


def _behaviours(aspects: Sequence[Aspect], sign: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.behaviour for each in aspects if each.sign == sign))


def _remark(item: Feedback) -> str:
    scope = f" (applies when {item.applies_when})" if item.applies_when else ""
    return " ".join(item.text.split())[:_CLIPPED] + scope


def _sign(aspect: Aspect) -> str:
    return "+" if aspect.sign == 1 else "-"
