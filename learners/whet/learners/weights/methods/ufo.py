"""UFO: rejected answers are tried again in the same conversation, told no more than that they were rejected."""

import msgspec

from whet.core.records import Sampling
from whet.learners.weights.advantages import informative, unary
from whet.learners.weights.experience import Attempt, Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, Turn, by_task, need
from whet.learners.weights.methods.groups import HOW, Clipped, counted
from whet.learners.weights.methods.hindsight import retry_prompt, together, visible
from whet.learners.weights.rows import Row

__all__ = ["UFO"]


class UFO(Clipped, frozen=True, kw_only=True):
    """Unary feedback as observation: whole conversations of attempts, the sooner solved the better.

    A conversation earns ``gamma`` to the power of its rejected answers if it solves the task, less ``repetition`` times
    the share of answers that repeat an earlier one. Recorded runs are taken up to ``turns`` answers; rejected ones that
    ended sooner go on, with the policy told only that it was rejected.
    """

    info = Info(
        name="ufo",
        family="policy-gradient",
        title="learn to try again, and not the same",
        paper="arXiv 2507.14295",
        needs=("several judged runs of each task",),
    )
    rollouts = Rollouts()
    turns: int = 5
    gamma: float = 0.9
    repetition: float = 0.5

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each conversation of the groups that differ in what they earned.

        Raises:
            UserError: no run on a training task was judged.
        """
        groups = by_task(experience.episodes)
        judged = {key: [one for one in found if one.opens and _judged(one)] for key, found in groups.items()}
        need([one for found in judged.values() for one in found], self.info.name, "judged runs", HOW)
        tried = iter(await together(self._tried(one, kit) for found in judged.values() for one in found))
        rows = []
        for task_id, found in judged.items():
            group = [next(tried) for _ in found]
            earned = [self._earned(one) for one in group]
            if informative(earned):
                for one, advantage in zip(group, self.advantage(earned), strict=True):
                    rows += counted(one, [advantage] * len(one.turns), task_id)
        return rows

    async def _tried(self, one: Conversation, kit: Kit) -> Conversation:
        """Returns the conversation with further attempts, until one passes or there are enough."""
        turns = list(one.turns[: self.turns])
        while turns[-1].passed is False and len(turns) < self.turns:
            last = turns[-1].attempt
            asked = retry_prompt(last.messages, last.text, ())
            completion = (await kit.ask(asked, sampling=Sampling(temperature=1.0)))[0]
            attempt = Attempt(messages=asked, completion=completion, tools=last.tools)
            turns.append(Turn(attempt=attempt, verdicts=await kit.judge(one.task, completion.text)))
        return msgspec.structs.replace(one, turns=tuple(turns))

    def _earned(self, one: Conversation) -> float:
        answers = [visible(turn.attempt.text) for turn in _judged(one)]
        solved = bool(_judged(one)[-1].passed)
        return unary(len(answers), solved, len(set(answers)), self.gamma, self.repetition)


def _judged(one: Conversation) -> list[Turn]:
    return [turn for turn in one.turns if turn.passed is not None]
