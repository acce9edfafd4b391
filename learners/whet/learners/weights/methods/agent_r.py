"""Agent-R: a bad trajectory up to its first bad step, a revision, and the good trajectory from where they part.

rows = await AgentR(good_share=0.5).build(experience, kit)
"""

from collections.abc import Sequence

import msgspec

from whet.core.errors import UserError
from whet.core.prompting import render_retry
from whet.core.records import Message
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.selection import balanced, distinct, grouped
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["AgentR", "common_prefix", "first_bad_step", "splice"]

THOUGHTS = (
    "That step was wrong. I go back to where it was still right.",
    "Wait: this does not lead to the goal. I take another way from here.",
    "I made a mistake in the last step, so I correct it now.",
    "This is not what was asked for. Let me revise what I did.",
    "The result shows that my last action was wrong; I try another one.",
    "I should not have done that. I go on differently.",
)


class AgentR(Method, frozen=True, kw_only=True):
    """Learns to turn round at the first error (Yuan et al. 2025, arXiv 2501.11425).

    ``margin``: how much higher the good trajectory has to score. ``good_share``: share of unspliced good trajectories
    among the rows. ``thoughts``: what the policy says before it goes on with tools, one is drawn for each row.
    """

    info = Info(
        name="agent-r",
        family="imitation",
        title="Agent-R: revision at the first bad step",
        paper="arXiv 2501.11425",
        needs=("good and bad runs of one task",),
    )
    per_task: int = 4
    margin: float = 0.2
    good_share: float = 0.5
    thoughts: tuple[str, ...] = THOUGHTS

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns spliced trajectories, and good ones among them.

        Raises:
            UserError: no task has both a good and a bad trajectory; or ``good_share`` is no share below 1.
        """
        if not 0 <= self.good_share < 1:
            raise UserError(f"agent-r: good_share is {self.good_share!r}; it is from 0 to below 1 (for 1 there is rft)")
        spliced, good = list[Solution](), list[Solution]()
        for group in grouped(distinct(solutions(experience))).values():
            right = [one for one in group if one.passed]
            wrong = [one for one in group if one.passed is False]
            found = [made for bad in wrong for made in self._splices(bad, right, kit)]
            spliced += balanced(found, self.per_task, kit.rng)
            good += right if found else []
        need(spliced, "agent-r", "good and bad runs of one task", "run training tasks again with another --seed")
        rows = [one.row(one.unflagged) for one in spliced]
        return rows + self._unspliced(good, len(spliced), kit)

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood."""
        return {"": NLL()}

    def training(self) -> TrainConfig:
        """Returns two epochs."""
        return TrainConfig(epochs=2)

    def _unspliced(self, good: list[Solution], spliced: int, kit: Kit) -> list[Row]:
        """Returns good trajectories for their share; where there are too few, each weighs more."""
        wanted = round(spliced * self.good_share / (1 - self.good_share))
        drawn = kit.rng.sample(good, min(wanted, len(good)))
        return [one.row(scale=wanted / len(drawn)) for one in drawn]

    def _splices(self, bad: Solution, right: Sequence[Solution], kit: Kit) -> list[Solution]:
        """Returns the bad trajectory with the good one that goes along with it longest."""
        better = [one for one in right if (one.score or 0.0) - (bad.score or 0.0) >= self.margin]
        if not better:
            return []
        good = max(better, key=lambda one: common_prefix(bad.turns, one.turns))
        made = splice(bad, good.under(bad.prompt), kit.rng.choice(self.thoughts) if self.thoughts else "")
        return [made] if made else []


def splice(bad: Solution, good: Solution, thought: str) -> Solution | None:
    """Returns the bad trajectory through its first bad step (flagged) and the good one from where they part.

    Before a call of tools the policy says the thought. A wrong answer that nothing came after is rejected by a user
    message, with what was said of it, as an agent that revises would; ``None`` where nothing was.
    """
    shared = common_prefix(bad.turns, good.turns)
    end = first_bad_step(bad, shared) + 1
    while end < len(bad.turns) and bad.turns[end].role == "tool":
        end += 1
    before, after = list(bad.turns[:end]), list(good.turns[shared:])
    if not after:
        return None
    if before[-1].role == "assistant":
        if not bad.said:
            return None
        before.append(Message(role="user", content=render_retry(bad.said)))
    elif after[0].tool_calls and thought:
        after[0] = msgspec.structs.replace(after[0], content=f"{thought}\n{after[0].content}".strip())
    return msgspec.structs.replace(
        good,
        turns=(*before, *after),
        sampled=(),
        flagged=tuple(range(end)),
        sources=tuple(dict.fromkeys((*bad.sources, *good.sources))),
        trust="tainted" if "tainted" in (bad.trust, good.trust) else "trusted",
    )


def common_prefix(one: Sequence[Message], other: Sequence[Message]) -> int:
    """Returns how many turns are the same, up to the begin of a step; ids of calls do not matter."""
    same = 0
    while same < min(len(one), len(other)) and _essence(one[same]) == _essence(other[same]):
        same += 1
    while 0 < same < len(other) and other[same].role == "tool":
        same -= 1
    return same


def first_bad_step(bad: Solution, shared: int) -> int:
    """Returns the position of the first step that failed or was criticised, at or after where the two part.

    Where nothing was said of single steps, it is the first one that the good trajectory did not take.
    """
    steps = [step for step in bad.steps if step >= shared]
    flagged = [step for step in bad.flagged if step in steps and step != bad.steps[-1]]
    return min(flagged or steps or bad.steps[-1:])


def _essence(turn: Message) -> tuple[object, ...]:
    return (turn.role, turn.content.strip(), tuple((call.name, call.arguments) for call in turn.tool_calls))
