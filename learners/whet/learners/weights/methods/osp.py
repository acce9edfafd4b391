"""OSP: answers of the policy itself, ranked, each pair with the strength of its preference as a soft label.

rows = await OSP(strength="votes", votes=4).build(experience, kit)
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import msgspec

from whet.core.records import Message, Sampling
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.dpo import WHAT
from whet.learners.weights.methods.pairs import Pair, capped, pair_rows
from whet.learners.weights.methods.selection import distinct, grouped, until_spent
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import Objective, Preference
from whet.learners.weights.rows import Row

__all__ = ["OSP", "ranked_pairs", "strength"]

_VERDICT = re.compile(r"\b([AB])\b")


class OSP(Method, frozen=True, kw_only=True):
    """Learns from self-generated answers with the strength of each preference (arXiv 2405.14103).

    ``strength``: ``scores`` takes p = (1 + s_w − s_l)/2 from the answers' scores; ``votes`` asks the policy which of
    two is better, ``votes`` times in each order, so that a liking for the first (or second) place cancels. Pairs with
    p below ``clear`` are left out. ``beta``, ``nll`` as in DPO.
    """

    info = Info(
        name="osp",
        family="preference",
        title="Online self-preferring: soft preferences",
        paper="arXiv 2405.14103",
        needs=("several answers to one task, with scores (or a policy that can judge them)",),
    )
    per_task: int = 4
    strength: Literal["scores", "votes"] = "scores"
    votes: int = 4
    clear: float = 0.55
    beta: float = 0.1
    nll: float = 0.2

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the two rows of each pair, labelled with the strength of its preference.

        Raises:
            UserError: no task has answers that can be told apart.
            BudgetError: votes have to be asked for, and the budget does not allow it.
        """
        found = distinct(one for one in solutions(experience) if one.score is not None or self.strength == "votes")
        pairs = [pair for group in grouped(found).values() for pair in ranked_pairs(group)]
        pairs = capped(pairs, self.per_task, kit.rng)
        if self.strength == "votes":
            pairs = await until_spent(self._voted(pairs, kit))
        pairs = [pair for pair in pairs if pair.label >= self.clear]
        need(pairs, "osp", f"{WHAT}, with scores that differ", "run training tasks several times (--graph best_of_n)")
        return pair_rows(pairs)

    def objectives(self) -> dict[str, Objective]:
        """Returns the logistic loss with soft labels."""
        return {"": Preference(beta=self.beta, nll=self.nll)}

    def training(self) -> TrainConfig:
        """Returns a tenth of the usual learning rate."""
        return TrainConfig(lr_scale=0.1)

    async def _voted(self, pairs: Sequence[Pair], kit: Kit) -> AsyncIterator[Pair]:
        for pair in pairs:
            first = await self._count(pair.chosen, pair.rejected, kit)
            second = 1 - await self._count(pair.rejected, pair.chosen, kit)
            label = (first + second) / 2
            if label < 0.5:
                chosen, rejected = pair.rejected.under(pair.chosen.prompt), pair.chosen
                pair, label = msgspec.structs.replace(pair, chosen=chosen, rejected=rejected), 1 - label
            yield msgspec.structs.replace(pair, label=label, origin="judge")

    async def _count(self, first: Solution, second: Solution, kit: Kit) -> float:
        """Returns the share of votes for the first of two answers; a vote for neither counts half."""
        text = (
            f"Task:\n{first.task.prompt}\n\nAnswer A:\n{first.text}\n\nAnswer B:\n{second.text}\n\n"
            "Which answer is better? Reply with A or B."
        )
        asked = [Message(role="user", content=text)]
        replies = await kit.ask(asked, n=self.votes, sampling=Sampling(temperature=1.0))
        found = [_VERDICT.search(reply.text) for reply in replies]
        return sum(0.5 if match is None else float(match[1] == "A") for match in found) / len(found)


def ranked_pairs(group: Sequence[Solution]) -> list[Pair]:
    """Returns the answers to a task paired by rank, the best with the worst and so on inwards, with their strength."""
    ranked = sorted(group, key=lambda one: -(one.score or 0.0))
    half = len(ranked) // 2
    return [
        Pair(chosen=good, rejected=bad.under(good.prompt), label=strength(good.score or 0.0, bad.score or 0.0))
        for good, bad in zip(ranked[:half], reversed(ranked[len(ranked) - half :]), strict=True)
    ]


def strength(better: float, worse: float) -> float:
    """Returns p = (1 + s_w − s_l)/2 of two scores in [0, 1]: one half for equal ones, 1 for a pass against nothing."""
    return (1 + better - worse) / 2
