"""Self-debugging: from a wrong answer to what is wrong with it and to the repair; or keep wrong steps as context only.

rows = await SelfDebug().build(experience, kit)                    # wrong answer -> explanation -> repair
rows = await SelfDebug(variant="steps").build(experience, kit)     # whole trajectories, flagged steps do not count
"""

from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from whet.core.records import Message, Sampling
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.revisions import Revision, retry, revisions
from whet.learners.weights.methods.selection import assess, balanced, distinct, until_spent
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["SelfDebug"]

_MAX_CHECKS = 3
REPAIR = Message(role="user", content="Write a corrected answer.")


class SelfDebug(Method, frozen=True, kw_only=True):
    """Learns to explain and repair wrong answers; only repairs that pass are learned (LeDex, arXiv 2405.18649).

    ``variant``: ``repair``, or ``steps``: trajectories that passed, with the steps that failed or were criticised in
    context but not counted (SRFT, arXiv 2605.10674). ``explain``: ``recorded`` takes what critics and people said as
    the explanation; ``ask`` has the policy explain and then repair, ``samples`` times, and keeps what passes.
    """

    info = Info(
        name="self-debug",
        family="imitation",
        title="Self-debugging by explanation and repair",
        paper="arXiv 2405.18649",
        needs=("rejected answers with critiques or failing checks, and repairs that pass",),
    )
    variant: Literal["repair", "steps"] = "repair"
    explain: Literal["recorded", "ask"] = "recorded"
    per_task: int = 4
    samples: int = 4
    temperature: float = 1.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each repair (or trajectory).

        Raises:
            UserError: there is none that passes.
            BudgetError: repairs have to be asked for, and the budget does not allow it.
        """
        found = await (self._repairs if self.variant == "repair" else self._steps)(experience, kit)
        kept = balanced(distinct(found), self.per_task, kit.rng)
        how = "run training tasks with --graph refine, or set samples above 0 to have the policy repair its answers"
        need(kept, "self-debug", "rejected answers with a repair that passes", how)
        return [one.row(one.unflagged) for one in kept]

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood."""
        return {"": NLL()}

    def training(self) -> TrainConfig:
        """Returns two epochs."""
        return TrainConfig(epochs=2)

    async def _steps(self, experience: Experience, kit: Kit) -> list[Solution]:
        return [one for one in solutions(experience, whole=True) if one.passed and one.flagged]

    async def _repairs(self, experience: Experience, kit: Kit) -> list[Solution]:
        if self.explain == "ask":
            wrong = [one for one in distinct(solutions(experience)) if one.passed is False and one.said]
            wrong = balanced([one for one in wrong if one.task.verifiers], self.per_task, kit.rng)
            return await until_spent(self._asked(wrong, kit))
        found = await revisions(experience, kit, samples=self.samples, temperature=self.temperature)
        return [_dialogue(revision, *_explanation(revision)) for revision in found if revision.said]

    async def _asked(self, wrong: list[Solution], kit: Kit) -> AsyncIterator[Solution]:
        sampling = Sampling(temperature=self.temperature)
        for one in wrong:
            shown = (*one.prompt, *one.turns, _explain(one))
            for explanation in await kit.ask(shown, n=self.samples, sampling=sampling):
                said = Message(role="assistant", content=explanation.text)
                (answer,) = await kit.ask((*shown, said, REPAIR), sampling=sampling)
                right = await assess(kit, one.task, one.prompt, answer.text)
                if right.passed and explanation.text.strip():
                    yield _dialogue(Revision(wrong=one, right=right), explanation.text)


def _explain(wrong: Solution) -> Message:
    known = "\n".join(("Rejected.", *(wrong.failing[:_MAX_CHECKS] or wrong.said), "Say what is wrong."))
    return Message(role="user", content=known)


def _explanation(revision: Revision) -> tuple[str, ...]:
    """Returns what was said; nothing where that is no more than failing checks, which are told anyway."""
    said = revision.said
    return () if set(said) <= set(revision.wrong.failing) else ("\n".join(said),)


def _dialogue(revision: Revision, explanation: str = "") -> Solution:
    """Returns the wrong answer (flagged), its explanation and the repair as one dialogue.

    Without an explanation the repair is asked for at once, in the words that agents use.
    """
    wrong, right = revision.wrong, revision.right
    told = list(retry(wrong)[-1:])
    if explanation:
        told = [_explain(wrong), Message(role="assistant", content=explanation), REPAIR]
    return msgspec.structs.replace(
        right,
        prompt=wrong.prompt,
        turns=(*wrong.turns, *told, *right.turns),
        tools=wrong.tools,
        sampled=(),
        flagged=wrong.steps,
        sources=revision.sources,
        trust=revision.trust,
    )
