"""Propositions: what is known of a person, with evidence, confidence that decays, and told in that person's tasks only.

    async for proposal in PropositionLearner("ollama/qwen3").propose(view, incumbent, Budget(calls=5)):
        print(proposal.lessons[0].applies_when, proposal.lessons[0].text)      # person: ana  Prefers tables to prose.
    for each in await weigh(memory):                                           # retires what is hardly believed
        print(each.lesson.text, each.confidence)

After general user models (GUM, Shaikh et al. 2025, arXiv 2505.10831): a model proposes propositions from a batch of
observations, revises those that are similar, and an audit keeps out what nobody should keep. Observations are feedback
with a ``person``. Confidence is S / (1 + S + C): S and C are the observations for and against, each halved with every
half-life that has passed since; one of them counts for a half at once and for nothing in the end.
"""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.ids import now_ms
from whet.core.models import Budgeted, Model, as_model
from whet.core.records import Feedback, Json, Lesson, Message, Record, Sampling, Usage, Use
from whet.learners.asking import entries, read_json, said, writing_model
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.proposing import joint_trust, propose_lessons
from whet.learners.view import TrainMemory, current_lessons
from whet.memory import Memory
from whet.memory.applies import about_person, for_person
from whet.memory.similar import resemblance

__all__ = ["PropositionLearner", "Weighed", "private", "weigh"]

NAME = "propositions"
BATCH = 50
SIMILAR = 10
MAX_TEXT = 300
_CLIPPED = 500
_DAY = 86_400_000

_ASK = """Below is what one person said about an agent's work, and what is believed of this person so far.
What does it tell about the person: preferences, and facts that matter for the work? Each proposition is one sentence,
true on its own. Believe what several observations support; where they contradict a belief, revise it. Leave out health,
faith, politics, money, whereabouts, and what is about other people.
Answer with a JSON list and nothing else:
[{"text": "…", "kind": "preference or fact", "confidence": 1 to 10, "evidence": ["ids of observations"],
"against": ["ids of observations that contradict it"], "revises": "id of the belief it replaces, or empty",
"applies_when": "the tasks it matters for, or empty", "not_when": "exceptions, divided by semicolons, or empty"}]"""

_PRIVATE = re.compile(
    r"""
    [\w.+-]+@[\w-]+\.\w                                     # a mail address
    | \b(?:\d[ -]?){9,}\d\b                                 # numbers of cards, accounts, telephones
    | \b(?:sk|pk|ghp|xox\w|AKIA)[-_\w]{12,}                 # keys
    | \b(?:password|passcode|pin|secret|token)\b\s*(?:is|:|=)
    """,
    re.VERBOSE | re.IGNORECASE,
)


class PropositionLearner:
    """Proposes what observations tell of each person.

    ``model`` writes (the agent's own unless given); ``min_observations``: with fewer new ones a person is left alone;
    ``min_confidence``: what the model believes less (1 to 10) is dropped.

    Raises:
        UserError: one of the numbers is out of range.
    """

    def __init__(
        self, model: Model | str | None = None, min_observations: int = 2, min_confidence: float = 5.0
    ) -> None:
        if min_observations < 1 or not 1 <= min_confidence <= 10:
            raise UserError(
                f"min_observations={min_observations!r} has to be 1 or more, min_confidence={min_confidence!r} 1 to 10"
            )
        self._model = None if model is None else as_model(model)
        self._least, self._floor = min_observations, min_confidence

    @property
    def name(self) -> str:
        """The learner's name."""
        return NAME

    async def propose(self, view: TrainMemory, incumbent: Arm, budget: Budget) -> AsyncIterator[Proposal]:
        """Yields a proposal for each person of whom something new is believed.

        Raises:
            UserError: there is no model to write with.
            BudgetError: the budget does not allow to ask the model.
            ModelError: the model could not be asked.
        """
        model = Budgeted(writing_model(self._model, view, NAME), budget)
        known = await view.lessons()
        taken = {id for lesson in known if lesson.source == NAME for id in _evidence(lesson)}
        observed: dict[str, list[Feedback]] = defaultdict(list)
        for item in await view.feedback():
            if item.person and item.text.strip() and item.id not in taken and not private(item.text):
                observed[item.person].append(item)
        for person, items in observed.items():
            if len(items) < self._least:
                continue
            mine = [each for each in known if each.status == "active" and about_person(each) == person]
            lessons, revised, usage = await self._ask(model, person, items[-BATCH:], mine)
            retires = partial(_old, revised)
            for proposal in propose_lessons(NAME, "propositions", lessons, known, incumbent, usage, retires=retires):
                yield proposal

    async def _ask(
        self, model: Model, person: str, items: Sequence[Feedback], mine: Sequence[Lesson]
    ) -> tuple[list[Lesson], dict[str, str], Usage]:
        """Returns propositions, which of them revises which older one (ids), and what asking took."""
        words = " ".join(item.text for item in items)
        similar = sorted(mine, key=lambda each: -resemblance(each.text, words))[:SIMILAR]
        observations = [f"- {item.id} ({item.kind}): {item.text[:_CLIPPED]}" for item in items]
        beliefs = [f"- {each.id}: {each.text}" for each in similar] or ["- nothing"]
        asked = "\n".join([_ASK, "", "# Observations", *observations, "", "# Beliefs", *beliefs])
        completion = await model.complete([Message(role="user", content=asked)], sampling=Sampling(temperature=0.0))
        before = {each.id: each for each in similar}
        by_id = {item.id: item for item in items}
        lessons, revised = list[Lesson](), dict[str, str]()
        for entry in entries(read_json(completion.text)):
            old = before.get(said(entry, "revises"))
            if (lesson := self._lesson(entry, person, by_id, old)) is not None:
                lessons.append(lesson)
                revised |= {lesson.id: old.id} if old is not None else {}
        return lessons, revised, completion.usage

    def _lesson(
        self, entry: Mapping[str, Json], person: str, items: Mapping[str, Feedback], old: Lesson | None
    ) -> Lesson | None:
        """Returns a proposition; ``None`` for one without evidence, hardly believed, or that the audit keeps out."""
        text, confidence = said(entry, "text"), entry.get("confidence")
        evidence, against = _named(entry.get("evidence"), items), _named(entry.get("against"), items)
        believed = isinstance(confidence, int | float) and confidence >= self._floor
        if not text or len(text) > MAX_TEXT or private(text) or not believed or not evidence:
            return None
        return Lesson(
            kind="fact" if said(entry, "kind") == "fact" else "preference",
            text=text,
            applies_when=for_person(person, said(entry, "applies_when")),
            not_when=said(entry, "not_when"),
            source=NAME,
            trust=joint_trust([*(items[id].trust for id in (*evidence, *against)), *([old.trust] if old else [])]),
            derived_from=tuple(evidence),
            supports=() if old is None else _evidence(old),
            contradicts=tuple(against),
            reason=f"believed at {confidence} of 10",
        )


class Weighed(Record, frozen=True, kw_only=True):
    """A proposition and how far it is believed now, 0 to 1; ``retired`` when that was too little."""

    lesson: Lesson
    confidence: float
    retired: bool = False


async def weigh(
    memory: Memory, *, half_life: float = 30.0, floor: float = 0.25, now: int | None = None
) -> list[Weighed]:
    """Returns the propositions in force with their confidence, and retires those below ``floor``.

    For it count the observations it rests on, and accepted or well rated runs of that person in which it was told;
    against it the observations that contradict it, and rejected or badly rated ones.

    Args:
        half_life: days after which an observation counts for half.
        now: UTC milliseconds.

    Raises:
        UserError: the half-life is not positive.
    """
    if half_life <= 0:
        raise UserError(f"half_life is {half_life!r} days; a positive number is needed")
    feedback, today = await memory.find(Feedback), now_ms() if now is None else now
    found = []
    for lesson in await current_lessons(memory):
        if lesson.source != NAME or lesson.status != "active":
            continue
        ages = [[(today - at) / _DAY for at in side] for side in await _sides(memory, lesson, feedback)]
        weights = [sum(0.5 ** (age / half_life) for age in side) for side in ages]
        confidence = weights[0] / (1 + sum(weights))
        if retired := confidence < floor:
            why = f"believed at {confidence:.2f}, less than {floor:g}"
            lesson = await memory.lessons.retire(lesson.id, reason=why, actor=NAME)
        found.append(Weighed(lesson=lesson, confidence=confidence, retired=retired))
    return found


async def _sides(memory: Memory, lesson: Lesson, feedback: Sequence[Feedback]) -> tuple[list[int], list[int]]:
    """Returns when each observation for a proposition was made, and each against it."""
    uses = await memory.find(Use, where={"item": lesson.id, "kind": "shown"})
    told = {use.run_id for use in uses}
    pro, contra = set(lesson.derived_from) | set(lesson.supports), set(lesson.contradicts)
    sides: tuple[list[int], list[int]] = ([], [])
    for item in feedback:
        if item.id in pro or item.id in contra:
            sides[item.id in contra].append(item.at)
        elif item.run_id in told and item.person == about_person(lesson) and item.value not in (None, 0.5):
            content = item.kind == "accept" or (item.kind == "rating" and (item.value or 0) > 0.5)
            sides[not content].append(item.at)
    return sides


def private(text: str) -> bool:
    """Returns whether a text holds what is not to be kept: addresses, long numbers, keys, passwords."""
    return bool(_PRIVATE.search(text))


def _evidence(lesson: Lesson) -> tuple[str, ...]:
    return (*lesson.derived_from, *lesson.supports, *lesson.contradicts)


def _named(value: Json, items: Mapping[str, Feedback]) -> list[str]:
    return [id for id in value if isinstance(id, str) and id in items] if isinstance(value, list) else []


def _old(revised: Mapping[str, str], chosen: Sequence[Lesson]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(revised[lesson.id] for lesson in chosen if lesson.id in revised))
