"""SPA: the final reward is shared out over the steps by what each contributed, and every step learns from its share."""

from collections.abc import Sequence
from typing import Protocol

from whet.core.errors import UserError
from whet.core.loading import load_object
from whet.learners.weights.advantages import contributions, informative, progress
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, Turn
from whet.learners.weights.methods.groups import Rewarded, comparable, counted
from whet.learners.weights.rows import Row

__all__ = ["SPA", "Estimator"]


class Estimator(Protocol):
    """Estimates how much each turn of each conversation of a group contributed to the final reward."""

    def __call__(self, group: Sequence[Conversation]) -> Sequence[Sequence[float]]:
        """Returns an estimate for each turn; they need not sum to the reward, what is missing is spread evenly."""
        ...


class SPA(Rewarded, frozen=True, kw_only=True):
    """Stepwise progress attribution for runs of several turns.

    ``estimator``: ``package.module:name`` of an ``Estimator`` (a trained head, see the method ``progress``); unless
    given, shares are fitted to the other runs of the group by least squares with the penalty ``ridge``. ``grounded``:
    bonus of a turn all of whose tool calls ran without an error.
    """

    info = Info(
        name="spa",
        family="policy-gradient",
        title="credit for each step by its share in the outcome",
        paper="arXiv 2505.20732",
        needs=("several judged runs of each task, of several turns",),
    )
    rollouts = Rollouts()
    estimator: str = ""
    ridge: float = 1.0
    grounded: float = 0.5

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each conversation of a group whose steps did not all contribute the same.

        Raises:
            UserError: no task has several judged runs, or there is no such estimator.
        """
        estimate = self._estimator()
        rows = []
        for task_id, group in comparable(experience, self).items():
            shares = self._shares(group, estimate)
            flat = [share for own in shares for share in own]
            if informative(flat):
                # Shares are what a step changed, so a step's own share is all it has to answer for.
                centred = iter(self.advantage(flat))
                for one, own in zip(group, shares, strict=True):
                    rows += counted(one, [next(centred) for _ in own], task_id)
        return rows

    def _shares(self, group: Sequence[Conversation], estimate: Estimator | None) -> list[list[float]]:
        finals = [self._final(one) for one in group]
        if estimate is None:
            shares = contributions([[_deed(turn) for turn in one.turns] for one in group], finals, self.ridge)
        else:
            shares = [progress(own, final) for own, final in zip(estimate(group), finals, strict=True)]
        return [
            [share + self.grounded * _ran(one, index) for index, share in enumerate(own)]
            for one, own in zip(group, shares, strict=True)
        ]

    def _final(self, one: Conversation) -> float:
        rewards = [self.earned(turn) for turn in one.turns]
        return next(reward for reward in reversed(rewards) if reward is not None)

    def _estimator(self) -> Estimator | None:
        if not self.estimator:
            return None
        found = load_object(self.estimator, what=f"estimator {self.estimator!r}")
        if not callable(found):
            raise UserError(f"estimator {self.estimator!r} is {found!r}; it has to be a function of conversations")
        return found


def _deed(turn: Turn) -> str:
    """Returns what a turn did, as text: its tool calls, or what it said where it called none."""
    calls = [f"{call.name}({call.arguments})" for call in turn.attempt.completion.tool_calls]
    return "\n".join(calls) or turn.attempt.text.strip()


def _ran(one: Conversation, index: int) -> bool:
    """Whether a turn called tools, and each ran without an error."""
    calls = one.turns[index].attempt.completion.tool_calls
    results = {reply.tool_call_id: reply.content for reply in one.replies(index) if reply.role == "tool"}
    return bool(calls) and all(call.id in results and not results[call.id].startswith("error: ") for call in calls)
