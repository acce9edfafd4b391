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

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import Model
from whet.core.records import Json
from whet.feedback.traits import Trait, read_rubric, rubric_path
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.rubrics.aspects import Aspect, Remarked, remarked, with_aspects
from whet.learners.rubrics.fit import Fit, measure_fit
from whet.learners.rubrics.teacher import Teacher, numbers, propose_rubric, text_of
from whet.learners.view import TrainMemory

__all__ = ["AutoLibra"]

NAME = "autolibra"
HELD_OUT = 4  # every fourth run's feedback is kept to measure coverage on

_CLUSTER = """People remarked on these behaviours of an assistant. Group those that are about the same thing, and make a
metric of each group: a short name, and a definition that tells the assistant what to do, at most {limit} of them.
Answer with a JSON list and nothing else: [{{"name": "…", "definition": "…", "aspects": [numbers]}}]"""


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


def _behaviours(aspects: Sequence[Aspect], sign: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.behaviour for each in aspects if each.sign == sign))


def _sign(aspect: Aspect) -> str:
    return "+" if aspect.sign == 1 else "-"
