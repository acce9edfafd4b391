"""Groups: what the policy-gradient methods share, from the reward of a turn to the weight it gets, and the loss.

    class Mine(Grouped, frozen=True, kw_only=True):
        async def build(self, experience, kit):
            for task_id, group in comparable(experience, self).items():
                for one, weights in zip(group, self.compare(group), strict=True): ...

Three bases, each with the options it obeys: ``Clipped`` (the loss), ``Rewarded`` (what a turn earns), ``Grouped`` (how
the turns of several runs are compared).
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from whet.core.errors import UserError
from whet.learners.weights.advantages import Advantage, group_center, group_std, overlong, per_step_index
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Method
from whet.learners.weights.methods.conversations import Conversation, RewardKind, Turn, by_task, need
from whet.learners.weights.objectives import Objective, PolicyGradient
from whet.learners.weights.rows import Row

__all__ = ["HOW", "Clipped", "Grouped", "Rewarded", "Weights", "attempts", "comparable", "counted"]

Weights: TypeAlias = list[float | None]

HOW = (
    "run each task several times under seeds of their own (whet improve TASKS --repeats 8); what only a model judged "
    "counts with reward=score"
)


class Clipped(Method, frozen=True, kw_only=True):
    """Base of the methods that learn from advantages within a group, by the clipped policy gradient.

    ``std``: divide by the group's standard deviation (GRPO); without, easy and hard tasks count alike (Dr. GRPO). The
    others are those of the loss (``PolicyGradient``).
    """

    std: bool = False
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


class Rewarded(Clipped, frozen=True, kw_only=True):
    """Base of the methods whose reward is what verifiers (else people) said of an answer.

    ``reward``: 1 for a pass, or the score. ``max_length`` in tokens: answers longer than that less ``buffer`` lose up
    to 1.
    """

    reward: RewardKind = "pass"
    max_length: int | None = None
    buffer: int = 64

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        if self.max_length is not None and not 0 <= self.buffer <= self.max_length:
            raise UserError(f"buffer is {self.buffer!r}; it is a part of max_length, {self.max_length!r} tokens")

    def earned(self, turn: Turn) -> float | None:
        """Returns the turn's reward, less what its length costs; ``None`` where nobody judged it."""
        reward = turn.reward(self.reward)
        if reward is None or self.max_length is None:
            return reward
        return reward + overlong(turn.tokens, self.max_length, self.buffer)


class Grouped(Rewarded, frozen=True, kw_only=True):
    """Base of the methods that compare the turns of a task's runs.

    ``credit``: a turn gets the advantage of the first verdict after it, among the same verdicts of the other runs, to
    which later ones add ``discount`` to the power of how much later; or (``run``) that of the run's last verdict.
    """

    credit: Literal["verdict", "run"] = "verdict"
    discount: float = 0.0

    def compare(self, group: Sequence[Conversation]) -> list[Weights]:
        """Returns the advantage of every turn of a group; ``None`` where it says nothing."""
        earned = [self._returns(conversation) for conversation in group]
        compared = per_step_index([list(own.values()) for own in earned], self.advantage)
        return [
            _spread(len(conversation.turns), dict(zip(own, found, strict=True)), self.credit == "run")
            for conversation, own, found in zip(group, earned, compared, strict=True)
        ]

    def _returns(self, conversation: Conversation) -> dict[int, float]:
        """Returns the returns of the turns that were judged, by their index; only the last for credit by runs."""
        rewards = {index: self.earned(turn) for index, turn in enumerate(conversation.turns)}
        known = {index: reward for index, reward in rewards.items() if reward is not None}
        if self.credit == "run":
            return dict(list(known.items())[-1:])
        total = 0.0
        for index in reversed(known):
            known[index] = total = known[index] + self.discount * total
        return known


def comparable(experience: Experience, method: Rewarded) -> dict[str, list[Conversation]]:
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


def attempts(
    experience: Experience, method: str, earned: Callable[[Turn], float | None]
) -> dict[str, list[Conversation]]:
    """Returns, by task, what the runs did until their first verdict, where that earned something known.

    Raises:
        UserError: there is none.
    """
    groups = by_task(experience.episodes)
    firsts = {task_id: [one.attempt for one in group if one.opens] for task_id, group in groups.items()}
    known = {task_id: [one for one in found if earned(one.turns[-1]) is not None] for task_id, found in firsts.items()}
    found = {task_id: group for task_id, group in known.items() if group}
    need(found, method, "judged runs", HOW)
    return found


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
