"""Critique-GRPO: beside the policy's own answers, the best one revised after a critique, as if it had come unaided."""

import random
from collections.abc import Sequence

from whet.learners.weights.advantages import informative
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, Turn, by_task
from whet.learners.weights.methods.groups import Rewarded, attempts, counted
from whet.learners.weights.methods.hindsight import (
    Revision,
    Wording,
    ask_revisions,
    recorded_revisions,
    teacher_context,
    together,
)
from whet.learners.weights.objectives import Objective
from whet.learners.weights.rows import Row, answer_row

__all__ = ["CritiqueGRPO", "Guided"]


class Guided(Rewarded, frozen=True, kw_only=True):
    """Base of the methods that put one revised answer into each group, under the prompt without the critique.

    ``context``: how a revision is asked for (``hindsight``). ``shape`` γ: a token of the revision counts p/(p+γ), p its
    probability; 0: it counts like any other.
    """

    context: Wording = "retry"
    shape: float = 0.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the rows of each group with its revision; none where all earned the same.

        Raises:
            UserError: no run on a training task was judged.
        """
        whole, groups = by_task(experience.episodes), attempts(experience, self.info.name, self.earned)
        revised = await together(self.revise(whole[task_id], group, kit) for task_id, group in groups.items())
        rows = []
        for (task_id, group), found in zip(groups.items(), revised, strict=True):
            rows += self._rows(task_id, group, found, kit.rng)
        return rows

    async def revise(self, whole: Sequence[Conversation], group: Sequence[Conversation], kit: Kit) -> list[Revision]:
        """Returns revisions of rejected answers of a group; ``whole`` are its runs to their ends.

        Raises:
            UserError: the learner has no model to ask.
            BudgetError: the budget does not allow it.
        """
        raise NotImplementedError

    def chosen(self, found: Sequence[Revision], rewards: Sequence[float]) -> Revision | None:
        """Returns the revision that joins the group: the best of those that passed."""
        passed = [revision for revision in found if revision.passed]
        return max(passed, key=lambda revision: revision.reward, default=None)

    def rewards(self, group: Sequence[Conversation], found: Sequence[Revision]) -> list[float]:
        """Returns what each first attempt of the group earned."""
        return [self.earned(one.turns[-1]) or 0.0 for one in group]

    def _rows(
        self, task_id: str, group: list[Conversation], found: Sequence[Revision], rng: random.Random
    ) -> list[Row]:
        rewards = self.rewards(group, found)
        revision = self.chosen(found, rewards)
        rejected = [index for index, one in enumerate(group) if one.turns[-1].passed is False]
        if revision is not None and len(group) > 1:
            # It takes the place of a rejected answer, so that a group has as many members as were sampled.
            left_out = rng.choice(rejected)
            group = [one for index, one in enumerate(group) if index != left_out]
            rewards = [value for index, value in enumerate(rewards) if index != left_out]
        if revision is not None:
            rewards.append(revision.reward)
        if not informative(rewards):
            return []
        advantages = self.advantage(rewards)
        rows = []
        for one, advantage in zip(group, advantages, strict=False):
            rows += counted(one, [advantage] * len(one.turns), task_id)
        return rows if revision is None else [*rows, _revised_row(revision, advantages[-1], task_id)]

    def objectives(self) -> dict[str, Objective]:
        """Returns the policy gradient, with the revisions shaped."""
        return {"": self.loss(self.shape)}


class CritiqueGRPO(Guided, frozen=True, kw_only=True):
    """GRPO with the best critique-guided revision in the group.

    ``revisions`` are asked for, of the policy, for each rejected answer of a group in which no recorded one passed;
    0: only recorded ones are used.
    """

    info = Info(
        name="critique-grpo",
        family="policy-gradient",
        title="grpo, with the best answer revised after a critique in the group",
        paper="arXiv 2506.03106",
        needs=("judged runs", "critiques"),
    )
    rollouts = Rollouts()
    revisions: int = 1
    clip_high: float | None = None

    async def revise(self, whole: Sequence[Conversation], group: Sequence[Conversation], kit: Kit) -> list[Revision]:
        """Returns what the runs revised themselves, and where none of it passed, revisions that are asked for."""
        found = [revision for one in whole if one.opens for revision in recorded_revisions(one, self.reward)]
        if self.revisions and not any(revision.passed for revision in found):
            rejected = [one for one in group if one.turns[-1].passed is False]
            asked = await together(self._ask(one, one.turns[-1], kit) for one in rejected)
            found += [revision for revisions in asked for revision in revisions]
        return found

    async def _ask(self, one: Conversation, turn: Turn, kit: Kit) -> list[Revision]:
        asked = teacher_context(turn.attempt.messages, turn.attempt.text, said=turn.said, wording=self.context)
        return await ask_revisions(kit, one, asked, self.reward, n=self.revisions, temperature=1.0)


def _revised_row(revision: Revision, advantage: float, task_id: str) -> Row:
    before = revision.before
    return answer_row(
        before.attempt.messages,
        revision.text,
        weight=advantage,
        tools=before.attempt.tools,
        off_policy=True,
        group=task_id,
        reward=revision.reward,
        task_id=task_id,
        sources=revision.sources,
        trust=revision.trust,
    )
