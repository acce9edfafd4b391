"""RISE: the policy learns to solve and, in episodes of their own, to tell whether an answer is right."""

import re
from collections.abc import Sequence

from whet.core.records import Completion, Sampling
from whet.learners.weights.advantages import informative
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, Turn
from whet.learners.weights.methods.groups import Clipped, attempts, counted
from whet.learners.weights.methods.hindsight import together, verify_prompt
from whet.learners.weights.rows import Row, answer_row

__all__ = ["RISE"]

_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class RISE(Clipped, frozen=True, kw_only=True):
    """Reinforced self-verification: solving and verifying in one batch.

    An answer earns 1 if it passes, ``wrong`` if it fails, and ``malformed`` if there is none or it cannot be loaded.
    For up to ``verified`` answers of a task, as many right as wrong ones, the policy is asked ``samples`` times whether
    it is right, and earns 1 where it says so correctly.
    """

    info = Info(
        name="rise",
        family="policy-gradient",
        title="learn to solve and to verify",
        paper="arXiv 2505.13445",
        needs=("several judged runs of each task",),
    )
    rollouts = Rollouts()
    wrong: float = -0.5
    malformed: float = -1.0
    verified: int = 2
    samples: int = 4

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns rows for solving and for verifying.

        Raises:
            UserError: no run on a training task was judged, or the learner has no model to ask.
        """
        rows, verified = list[Row](), list[Conversation]()
        for task_id, group in attempts(experience, self.info.name, self.earned).items():
            earned = [self.earned(one.turns[-1]) or 0.0 for one in group]
            if informative(earned):
                for one, advantage in zip(group, self.advantage(earned), strict=True):
                    rows += counted(one, [advantage] * len(one.turns), task_id)
            verified += self._balanced(group, kit)
        replied = await together(self._verify(one, kit) for one in verified)
        return [*rows, *(row for found in replied for row in found)]

    def earned(self, turn: Turn) -> float | None:
        """Returns what an answer earned; ``None`` where nobody judged it."""
        if turn.passed is None:
            return None
        if turn.passed:
            return 1.0
        broken = any(check.name == "load" and not check.passed for verdict in turn.verdicts for check in verdict.checks)
        return self.malformed if broken or not turn.attempt.text.strip() else self.wrong

    def _balanced(self, group: Sequence[Conversation], kit: Kit) -> list[Conversation]:
        """Returns answers to verify, by turns a right and a wrong one: one-sided episodes teach one reply."""
        right = [one for one in group if one.turns[-1].passed]
        wrong = [one for one in group if not one.turns[-1].passed]
        each = min(len(right), len(wrong), max(1, self.verified // 2)) if self.verified else 0
        return [*kit.rng.sample(right, each), *kit.rng.sample(wrong, each)]

    async def _verify(self, one: Conversation, kit: Kit) -> list[Row]:
        turn = one.turns[-1]
        asked = verify_prompt(turn.attempt.messages, turn.attempt.text)
        replies = await kit.ask(asked, n=self.samples, sampling=Sampling(temperature=1.0))
        earned = [float(_says(reply) == turn.passed) for reply in replies]
        if not informative(earned):
            return []
        fields = {"group": f"{one.task.id}/verify", "task_id": one.task.id, "sources": one.sources}
        return [
            answer_row(asked, reply, weight=advantage, reward=reward, trust=one.episode.run.trust, **fields)
            for reply, advantage, reward in zip(replies, self.advantage(earned), earned, strict=True)
        ]


def _says(reply: Completion) -> bool | None:
    """Returns the last yes or no of a reply, ``None`` where it says neither."""
    found = _VERDICT.findall(reply.text)
    return None if not found else found[-1].lower() == "yes"
