"""Chain of hindsight: a good and a bad answer to one prompt, one after the other in both orders, each said to be so.

rows = await ChainOfHindsight().build(experience, kit)
policy = policy.edit(ChainOfHindsight().serving(policy, experience))
"""

import random
import re
from collections.abc import Mapping

import msgspec

from whet.core.policy import Policy
from whet.core.records import Message
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.pairs import Pair, capped, edit_pairs, people_pairs, verdict_pairs
from whet.learners.weights.methods.slots import serving_slot, with_slot
from whet.learners.weights.methods.solutions import Solution
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["ChainOfHindsight"]

SLOT = "Quality of the answer"


class ChainOfHindsight(Method, frozen=True, kw_only=True):
    """Learns answers given what is said of their quality, and of each other (Liu et al. 2023, arXiv 2302.02676).

    ``mask``: share of the words of the first answer that the second does not see, so that it is not copied; 0 leaves it
    whole. ``good``, ``bad``: how quality is named; the policy's prompt asks for ``good``.
    """

    info = Info(
        name="coh",
        family="imitation",
        title="Chain of hindsight",
        paper="arXiv 2302.02676",
        needs=("better and worse answers to one task: verdicts, preferences, ratings or corrections",),
    )
    per_task: int = 4
    mask: float = 0.15
    good: str = "good"
    bad: str = "bad"

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the chains of each pair in both orders.

        Raises:
            UserError: no task has a better and a worse answer.
        """
        found = [*verdict_pairs(experience), *people_pairs(experience), *await edit_pairs(experience, kit)]
        pairs = capped(found, self.per_task, kit.rng)
        how = "run each training task several times (--graph best_of_n), or compare runs (whet feedback add)"
        need(pairs, "coh", "better and worse answers to one task", how)
        return [row for pair in pairs for row in self._chains(pair, kit.rng)]

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood."""
        return {"": NLL()}

    def training(self) -> TrainConfig:
        """Returns two epochs."""
        return TrainConfig(epochs=2)

    def serving(self, policy: Policy, experience: Experience) -> Mapping[str, str]:
        """Returns the prompt that asks for a good answer."""
        return serving_slot(policy, SLOT, self.good)

    def _chains(self, pair: Pair, rng: random.Random) -> list[Row]:
        good, bad = (pair.chosen, self.good), (pair.rejected, self.bad)
        fields: dict[str, object] = {"sources": pair.sources, "trust": pair.trust}
        chains = [_chain(first, second, self.mask, rng) for first, second in ((bad, good), (good, bad))]
        if not self.mask:
            return [chain.row(**fields) for chain in chains]
        # What is masked for the answer after it cannot count itself: each answer counts in a row of its own.
        alone = [one.under(with_slot(one.prompt, SLOT, quality)) for one, quality in (bad, good)]
        second = [chain.row(chain.unflagged, **fields) for chain in chains]
        return [*(one.row(**fields) for one in alone), *second]


def _chain(first: tuple[Solution, str], second: tuple[Solution, str], mask: float, rng: random.Random) -> Solution:
    """Returns both answers in one dialogue, the first one flagged."""
    (one, quality), (other, other_quality) = first, second
    told = Message(role="user", content=f"{SLOT}: {other_quality}")
    shown = tuple(_masked(turn, mask, rng) for turn in one.turns)
    return msgspec.structs.replace(
        other,
        prompt=with_slot(one.prompt, SLOT, quality),
        turns=(*shown, told, *other.turns),
        sampled=(),
        flagged=one.steps,
    )


def _masked(turn: Message, share: float, rng: random.Random) -> Message:
    if turn.role != "assistant" or not share:
        return turn
    words = [word for word in re.split(r"(?<=\s)", turn.content) if word.isspace() or rng.random() >= share]
    return msgspec.structs.replace(turn, content="".join(words))
