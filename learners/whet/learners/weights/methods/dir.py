"""DIR: the policy as critic is rewarded by how much its critique improves the answer."""

from collections.abc import Sequence

from whet.core.records import Completion, Message, Sampling
from whet.learners.weights.advantages import improvement, informative
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, RewardKind
from whet.learners.weights.methods.groups import Clipped, attempts
from whet.learners.weights.methods.hindsight import Revision, ask_revisions, critic_prompt, retry_prompt, together
from whet.learners.weights.rows import Row, answer_row

__all__ = ["ImprovementReward"]


class ImprovementReward(Clipped, frozen=True, kw_only=True):
    """Dynamic improvement reward: a critique earns what the answer revised after it earns more than before.

    The policy criticises ``rejected`` answers of each task ``critiques`` times, and revises after each. An empty
    critique costs ``silent``. ``joint``: the revised answers are trained too, on their own reward (the second stage);
    without it only critiques are.
    """

    info = Info(
        name="dir",
        family="policy-gradient",
        title="learn to criticise, by what the critique improves",
        paper="arXiv 2510.08240",
        needs=("judged runs, some of them rejected",),
    )
    rollouts = Rollouts()
    reward: RewardKind = "score"
    rejected: int = 2
    critiques: int = 4
    silent: float = 0.5
    joint: bool = False

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns rows in which critiques count by their improvement.

        Raises:
            UserError: no run was judged, or the learner has no model to ask.
        """
        chosen = list[Conversation]()
        for group in attempts(experience, self.info.name, lambda turn: turn.reward(self.reward)).values():
            failed = [one for one in group if one.turns[-1].passed is False]
            chosen += kit.rng.sample(failed, min(self.rejected, len(failed)))
        found = await together(self._criticised(one, kit) for one in chosen)
        return [row for rows in found for row in rows]

    async def _criticised(self, one: Conversation, kit: Kit) -> list[Row]:
        last = one.turns[-1].attempt
        asked = critic_prompt(last.messages, last.text)
        critiques = await kit.ask(asked, n=self.critiques, sampling=Sampling(temperature=1.0))
        revised = await together(self._revised(one, critique, kit) for critique in critiques)
        kept = [(critique, found[0]) for critique, found in zip(critiques, revised, strict=True) if found]
        after = [revision.reward for _, revision in kept]
        gains = improvement([one.turns[-1].reward(self.reward) or 0.0] * len(kept), after)
        earned = [gain - self.silent * (not said.text.strip()) for gain, (said, _) in zip(gains, kept, strict=True)]
        rows = self._rows(one, [(asked, said) for said, _ in kept], earned, "critique")
        if self.joint:
            answers = [(revision.after.attempt.messages, revision.after.attempt.completion) for _, revision in kept]
            rows += self._rows(one, answers, after, "revision")
        return rows

    async def _revised(self, one: Conversation, critique: Completion, kit: Kit) -> list[Revision]:
        last = one.turns[-1].attempt
        asked = retry_prompt(last.messages, last.text, [critique.text])
        return await ask_revisions(kit, one, asked, self.reward, n=1, temperature=1.0)

    def _rows(
        self,
        one: Conversation,
        said: Sequence[tuple[tuple[Message, ...], Completion]],
        earned: Sequence[float],
        part: str,
    ) -> list[Row]:
        if not informative(earned):
            return []
        return [
            answer_row(
                prompt,
                completion,
                weight=advantage,
                group=f"{one.episode.run.id}/{part}",
                reward=reward,
                task_id=one.task.id,
                sources=one.sources,
                trust=one.episode.run.trust,
            )
            for (prompt, completion), advantage, reward in zip(said, self.advantage(earned), earned, strict=True)
        ]
