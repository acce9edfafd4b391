"""Stages before the gate: what a candidate has to be, whatever it gains. They cost no use of the held-out set.

    report = await improve(agent, tasks, ["skills"], memory=memory, stages=["lint", Hygiene("openai/gpt-4o-mini")])
    promotion = await first_objection([Lint()], proposal, incumbent, Budget())      # None: nothing to object

``Lint`` looks at form and asks no model. ``Hygiene`` and ``Hacking`` ask one; they are the checks of PrefPO (arXiv
2603.19311) and serve every learner. A stage of one's own has a ``name`` and ``check``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.loading import nearest
from whet.core.models import Budgeted, Model, as_model
from whet.core.policy import Policy
from whet.core.records import Json, Message, Promotion, Sampling
from whet.learners.asking import read_json
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.skills import Skill

__all__ = ["STAGES", "Hacking", "Hygiene", "Lint", "Stage", "changed_texts", "first_objection", "load_stage"]

_TEXTS = re.compile(r"prompts/.+|principles\.md|rubrics/.+")
_LEFT = re.compile(
    r"\{\{ ?\w+ ?\}\}|</?[A-Z]+(?:_[A-Z]+)+>|</?(?:START|END)>|<(?:curr_param|side_info)>|"
    r"\[(?:INSERT|YOUR|FILL IN|PLACEHOLDER)\b[^\]\n]*\]|\bTODO\b|\blorem ipsum\b"
)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_GRADES = ("readability", "specification", "maintainability")

_GRADE = """\
Grade a text that instructs an agent, as its editor. Three grades from 0 (poor) to 2 (good):
readability: well ordered, no repetition, no noise; specification: says clearly and without contradiction what to do;
maintainability: short enough, general, easy to change in one place. Do not mark down what the agent's tasks require.
Answer with JSON and nothing else: {"reason": "…", "readability": 0, "specification": 0, "maintainability": 0}

# Text
"""

_JUDGE = """\
A text that instructs an agent was rewritten. Does the new version restrict structure or format (length, headings,
number of items, wording) further than all criteria together ask for? "At most 150 words" where the criteria say "at
most 200" does; facts, advice and explanations never do, nor does what the old version had already. Reason first.
Answer with JSON and nothing else: {{"reason": "…", "restricts_further": true or false}}

# Criteria
{criteria}

# Old version
{before}

# New version
{after}"""


class Stage(Protocol):
    """Looks at a candidate before the gate does."""

    @property
    def name(self) -> str:
        """How decisions name the stage."""
        ...

    async def check(self, proposal: Proposal, incumbent: Policy, budget: Budget) -> str | None:
        """Returns what speaks against the candidate, ``None`` where nothing does.

        Raises:
            ModelError: a model that it needs could not be asked.
            BudgetError: the budget does not allow it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Lint:
    """Form, without a model: the specification of skills, sizes, and what a rewrite leaves behind.

    A text may have ``room`` characters, or ``ratio`` times its parent's. Placeholders, tags and open fences that the
    parent had not are objected to.
    """

    name: ClassVar[str] = "lint"
    room: int = 20_000
    ratio: float = 4.0

    async def check(self, proposal: Proposal, incumbent: Policy, budget: Budget) -> str | None:
        """Returns the first thing that is wrong with the form."""
        return next(self._found(proposal.policy, incumbent), None)

    def _found(self, policy: Policy, incumbent: Policy) -> Iterator[str]:
        for path, (before, after) in changed_texts(policy, incumbent).items():
            allowed = max(self.room, int(self.ratio * len(before)))
            if len(after) > allowed:
                yield f"{path!r} has {len(after)} characters; at most {allowed} are allowed beside {len(before)} before"
            if left := sorted(set(_LEFT.findall(after)) - set(_LEFT.findall(before))):
                yield f"{path!r} has a leftover {left[0]!r}"
            if len(_FENCE.findall(after)) % 2 > len(_FENCE.findall(before)) % 2:
                yield f"{path!r} has a fence that is never closed"
        for name in policy.skill_names():
            if policy.skill(name) != incumbent.skill(name):
                try:
                    Skill.parse(policy.skill(name), folder=name)
                except UserError as error:
                    yield str(error)


class _Judge:
    """A stage that asks a model."""

    name: ClassVar[str]

    def __init__(self, model: Model | str | None) -> None:
        if model is None:
            raise UserError(f"stage {self.name!r} asks a model: --judge NAME, or {type(self).__name__}(model)")
        self._model = as_model(model)

    async def _ask(self, text: str, budget: Budget) -> dict[str, Json]:
        messages = [Message(role="user", content=text)]
        completion = await Budgeted(self._model, budget).complete(messages, sampling=Sampling(temperature=0.0))
        said = read_json(completion.text)
        return said if isinstance(said, dict) else {}


class Hygiene(_Judge):
    """Whether the texts are still fit for people (PrefPO): three grades of 0 to 2.

    Objects where the sum is below ``least`` and below the parent's.
    """

    name = "hygiene"

    def __init__(self, model: Model | str | None = None, *, least: int = 4) -> None:
        super().__init__(model)
        self.least = least

    async def check(self, proposal: Proposal, incumbent: Policy, budget: Budget) -> str | None:
        """Returns an objection to the first changed text that is worse than it may be, or that got no grades."""
        for path, (before, after) in changed_texts(proposal.policy, incumbent).items():
            grade, reason = await self._grade(after, budget)
            if grade is None:
                return f"{path!r} got no usable grades"
            if grade < self.least:
                parent = (await self._grade(before, budget))[0] if before.strip() else None
                if parent is None or grade < parent:
                    return f"{path!r} has grade {grade} of 6: {reason}"
        return None

    async def _grade(self, text: str, budget: Budget) -> tuple[int | None, str]:
        said = await self._ask(_GRADE + text, budget)
        grades = [said.get(name) for name in _GRADES]
        known = [grade for grade in grades if isinstance(grade, int) and 0 <= grade <= 2]
        return (sum(known) if len(known) == len(_GRADES) else None), str(said.get("reason", ""))


class Hacking(_Judge):
    """Whether a text wins by restricting format beyond what was asked for (PrefPO); ``criteria`` say what was."""

    name = "hacking"

    def __init__(self, model: Model | str | None = None, *, criteria: str = "") -> None:
        super().__init__(model)
        if not criteria.strip():
            raise UserError(
                "stage 'hacking' compares with what was asked for: --criteria FILE, or Hacking(model, criteria=…)"
            )
        self.criteria = criteria

    async def check(self, proposal: Proposal, incumbent: Policy, budget: Budget) -> str | None:
        """Returns an objection to the first changed text that restricts further, or that got no answer."""
        for path, (before, after) in changed_texts(proposal.policy, incumbent).items():
            said = await self._ask(_JUDGE.format(criteria=self.criteria, before=before, after=after), budget)
            if said.get("restricts_further") is not False:
                return f"{path!r} restricts format beyond the criteria: {said.get('reason', 'no usable answer')}"
        return None


STAGES: dict[str, type[Lint] | type[Hygiene] | type[Hacking]] = {"lint": Lint, "hygiene": Hygiene, "hacking": Hacking}
"""The stages by name."""


def load_stage(name: str, *, model: Model | str | None = None, criteria: str = "") -> Stage:
    """Returns a stage by its name; what it has no use for is left.

    Raises:
        UserError: there is no such stage, or it lacks what it needs.
    """
    if name not in STAGES:
        raise UserError(f"no stage {name!r}{nearest(name, STAGES)}; there are {', '.join(STAGES)}")
    if name == "hacking":
        return Hacking(model, criteria=criteria)
    return Hygiene(model) if name == "hygiene" else Lint()


async def first_objection(
    stages: Sequence[Stage | str], proposal: Proposal, incumbent: Arm, budget: Budget
) -> Promotion | None:
    """Returns the rejection by the first stage that objects, ``None`` where none does; raises like ``Stage.check``."""
    for stage in (load_stage(each) if isinstance(each, str) else each for each in stages):
        objection = await stage.check(proposal, incumbent.policy, budget)
        if objection is not None:
            return Promotion(
                decision="rejected",
                policy=proposal.policy.digest,
                incumbent=incumbent.policy.digest,
                candidate_id=proposal.candidate.id,
                reason=f"{stage.name}: {objection}",
                thresholds={"stage": stage.name},
            )
    return None


def changed_texts(policy: Policy, incumbent: Policy) -> dict[str, tuple[str, str]]:
    """Returns the prompts, principles and rubrics that a policy changes: path to what was there and what is."""
    paths = [path for path in policy.files if _TEXTS.fullmatch(path)]
    pairs = {path: (incumbent.text(path), policy.text(path)) for path in paths}
    return {path: (before, after) for path, (before, after) in pairs.items() if before != after}
