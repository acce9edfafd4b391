"""The model that words a rubric: asked for JSON, under the budget; and the proposal that a rubric makes.

teacher = Teacher.of("openai/gpt-4o-mini", view, budget, learner="autolibra")
for entry in await teacher.ask("List … as JSON."):
    entry.get("name")
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import Budgeted, Model, as_model
from whet.core.records import Candidate, Json, Message, Sampling, Trust, Usage
from whet.feedback.traits import Trait, rubric_path, write_rubric
from whet.learners.asking import entries, read_json
from whet.learners.gate import Arm
from whet.learners.learner import Proposal
from whet.learners.view import TrainMemory

__all__ = ["Teacher", "numbers", "propose_rubric", "text_of"]

MAX_TEXT = 1000


@dataclass
class Teacher:
    """A model that is asked for JSON, and what asking took."""

    model: Model
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def of(cls, model: Model | str | None, view: TrainMemory, budget: Budget, *, learner: str) -> Self:
        """Returns the given model, or else that of the agent which practises, under the budget.

        Raises:
            UserError: there is neither.
        """
        chosen = view.model if model is None else as_model(model)
        if chosen is None:
            raise UserError(f"{learner} needs a model that words the rubric: whet learn {learner} --set model=NAME")
        return cls(Budgeted(chosen, budget))

    async def ask(self, prompt: str) -> list[dict[str, Json]]:
        """Returns the objects of the JSON that the model answers with, none where it gives none.

        Raises:
            ModelError: the model could not be asked.
            BudgetError: the budget does not allow it.
        """
        messages = [Message(role="user", content=prompt)]
        completion = await self.model.complete(messages, sampling=Sampling(temperature=0.0))
        self.usage += completion.usage
        return [*entries(read_json(completion.text))]


def text_of(entry: Mapping[str, Json], key: str) -> str:
    """Returns a text of an entry, stripped; empty where there is none, or too long to be one."""
    value = entry.get(key)
    return value.strip() if isinstance(value, str) and len(value) <= MAX_TEXT else ""


def numbers(entry: Mapping[str, Json], key: str, below: int) -> list[int]:
    """Returns the whole numbers from 0 to ``below`` under a key of an entry, each once; one alone counts as a list."""
    value = entry.get(key)
    found = value if isinstance(value, list) else [value]
    return [*dict.fromkeys(n for n in found if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < below)]


def propose_rubric(
    learner: str,
    rubric: str,
    traits: Sequence[Trait],
    incumbent: Arm,
    *,
    summary: str,
    config: Mapping[str, Json],
    evidence: Iterable[str],
    usage: Usage,
    trust: Trust,
) -> list[Proposal]:
    """Returns the proposal that writes these traits to the policy; none where the policy has them already."""
    policy = incumbent.policy.edit({rubric_path(rubric): write_rubric(rubric, traits)})
    if policy == incumbent.policy:
        return []
    candidate = Candidate(
        policy=policy.digest,
        parent=incumbent.policy.digest,
        learner=learner,
        config={"rubric": rubric, "traits": len(traits), **config},
        summary=summary,
        evidence=tuple(dict.fromkeys(evidence)),
        usage=usage,
        trust=trust,
    )
    return [Proposal(candidate=candidate, policy=policy)]
