"""GRPO and what became of it: answers to one task are compared with each other, and the better ones made likelier."""

from collections.abc import Sequence
from typing import Literal

from whet.learners.weights.advantages import Advantage, group_center, group_std, overlong, per_step_index
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method, Rollouts
from whet.learners.weights.methods.conversations import Conversation, RewardKind, Turn, by_task, need
from whet.learners.weights.objectives import Objective, PolicyGradient
from whet.learners.weights.rows import Row

__all__ = ["GRPO", "Grouped", "Weights", "comparable"]

Weights = list[float | None]

HOW = "run each task several times under seeds of their own (whet improve TASKS --repeats 8)"


class Grouped(Method, frozen=True, kw_only=True):
    """Base of the methods that compare the runs of one task: the options they share, and their loss.

    ``reward``: 1 for a pass, or the score. ``std``: divide by the group's standard deviation (GRPO); without, easy and
    hard tasks count alike (Dr. GRPO). ``credit``: a turn gets the advantage of the first verdict after it, among the
    same verdicts of the other runs; or that of the run's last one. ``max_length`` in tokens: answers longer than that
    less ``buffer`` lose up to 1. The others are those of the loss.
    """

    reward: RewardKind = "pass"
    std: bool = False
    credit: Literal["verdict", "run"] = "verdict"
    max_length: int | None = None
    buffer: int = 64
    clip_low: float = 0.2
    clip_high: float | None = 0.28
    level: Literal["token", "sequence"] = "token"
    aggregate: Literal["token", "sequence", "constant"] = "token"
    length: int = 256
    kl: float = 0.0

    @property
    def advantage(self) -> Advantage:
        """How a group's rewards become advantages."""
        return group_std if self.std else group_center

    def earned(self, turn: Turn) -> float | None:
        """Returns the turn's reward, less what its length costs; ``None`` where nobody judged it."""
        reward = turn.reward(self.reward)
        if reward is None or self.max_length is None:
            return reward
        return reward + overlong(turn.tokens, self.max_length, self.buffer)

    def compare(self, group: Sequence[Conversation]) -> list[Weights]:
        """Returns the advantage of every turn of a group; ``None`` where it says nothing."""
        earned = [self._verdicts(conversation) for conversation in group]
        compared = per_step_index([list(own.values()) for own in earned], self.advantage)
        return [
            _spread(len(conversation.turns), dict(zip(own, found, strict=True)), self.credit == "run")
            for conversation, own, found in zip(group, earned, compared, strict=True)
        ]

    def _verdicts(self, conversation: Conversation) -> dict[int, float]:
        """Returns the rewards of the turns that were judged, by their index; only the last for credit by runs."""
        rewards = {index: self.earned(turn) for index, turn in enumerate(conversation.turns)}
        known = {index: reward for index, reward in rewards.items() if reward is not None}
        return dict(list(known.items())[-1:]) if self.credit == "run" else known

    def loss(self, shape: float = 0.0) -> PolicyGradient:
        """Returns the loss with the options given; ``shape`` is that of rows written under another prompt."""
        return PolicyGradient(
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            level=self.level,
            aggregate=self.aggregate,
            length=self.length,
            kl=self.kl,
            shape=shape,
        )

    def objectives(self) -> dict[str, Objective]:
        """Returns the clipped policy gradient."""
        return {"": self.loss()}

    def training(self) -> TrainConfig:
        """Returns the trainer's defaults without warm-up and decay: rounds are short, and many."""
        return TrainConfig(warmup=0.0, schedule="constant", batch=64)


class GRPO(Grouped, frozen=True, kw_only=True):
    """Group-relative policy optimisation, with the repairs of Dr. GRPO and DAPO as options."""

    info = Info(
        name="grpo",
        family="policy-gradient",
        title="make the better of several answers likelier",
        paper="arXiv 2402.03300, 2503.20783, 2503.14476",
        needs=("several judged runs of each task",),
    )
    rollouts = Rollouts()

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each conversation whose group differs in rewards; none where no group does."""
        rows = []
        for task_id, group in comparable(experience, self).items():
            for conversation, weights in zip(group, self.compare(group), strict=True):
                rows += counted(conversation, weights, task_id)
        return rows


def comparable(experience: Experience, method: Grouped) -> dict[str, list[Conversation]]:
    """Returns the judged conversations of every task that has several.

    Raises:
        UserError: no task has two.
    """
    judged = {
        task_id: [one for one in found if any(method.earned(turn) is not None for turn in one.turns)]
        for task_id, found in by_task(experience.episodes).items()
    }
    groups = {task_id: found for task_id, found in judged.items() if len(found) > 1}
    need(groups, method.info.name, "several judged runs of one task", HOW)
    return groups


def counted(conversation: Conversation, weights: Weights, group: str) -> list[Row]:
    """Returns the conversation's row, or nothing where none of its turns counts."""
    if all(weight is None for weight in weights):
        return []
    return [conversation.row(weights, group=group, reward=conversation.final)]


def _spread(turns: int, known: dict[int, float | None], everywhere: bool) -> Weights:
    """Returns a weight for each turn: that of the first known one at or after it, or of the only one there is."""
    found: Weights = [None] * turns
    weight = next(iter(known.values()), None) if everywhere else None
    for index in reversed(range(turns)):
        weight = known.get(index, weight)
        found[index] = weight
    return found
