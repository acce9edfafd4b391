"""Reaction: how probably a person will like an answer, from what people did with answers before.

rows = await Reaction().build(experience, kit)
scores = await followup_scores(kit, [(prompt, answer), (prompt, other)])      # without any training
"""

import re
from collections.abc import Sequence

from whet.core.records import Feedback, Message
from whet.feedback.judges.followup import NEGATIVE, POSITIVE, contrast, followed
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit
from whet.learners.weights.methods.conversations import Conversation, Turn, by_task, need
from whet.learners.weights.methods.scorers import AnswerScorer, scored_row, together
from whet.learners.weights.rows import Row, answer_row

__all__ = ["NEGATIVE", "POSITIVE", "Reaction", "followup_scores", "liked", "reaction"]

_THANKS = re.compile(r"\b(thank|thanks|thx|perfect|great|awesome|excellent|works now|love it)\b", re.IGNORECASE)
_COMPLAINT = re.compile(
    r"\b(wrong|incorrect|does(n't| not) work|not what i|try again|still (fails|broken))\b", re.IGNORECASE
)
_HOW = "people have to accept, reject or rate runs, or answer them (whet feedback add)"


class Reaction(AnswerScorer, frozen=True, kw_only=True):
    """Learns from live feedback how probably an answer is liked (RLUF, arXiv 2505.14946).

    An answer was liked where people accepted it, rated it at least ``threshold`` or thanked for it, and was not where
    they rejected, corrected or complained; where they differ, the mean decides. Whoever trains on this alone gets
    answers that please: it is one objective among others, and verifiers outrank it.
    """

    info = Info(
        name="reaction",
        family="reward",
        title="How probably people like an answer",
        paper="arXiv 2505.14946, 2409.13948",
        needs=("accepted and rejected answers, ratings, or messages that follow an answer",),
    )
    threshold: float = 0.5

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each answer that people reacted to, labelled 1 or 0.

        Raises:
            UserError: there was no reaction, or all were of one kind.
        """
        rows = []
        for group in by_task(experience.episodes).values():
            for one in group:
                for index, turn in enumerate(one.turns):
                    label = liked(turn.feedback, self.threshold)
                    if label is not None:
                        rows.append(self._row(one, index, turn, label))
        both = {row.label >= 0.5 for row in rows} == {True, False}
        need(rows if both else [], "reaction", "reactions of people, good and bad ones", _HOW)
        return together(rows)

    def _row(self, one: Conversation, index: int, turn: Turn, label: float) -> Row:
        said = Message(role="assistant", content=turn.attempt.text, tool_calls=turn.attempt.completion.tool_calls)
        tainted = "tainted" in {one.episode.run.trust, *(item.trust for item in turn.feedback)}
        return scored_row(
            turn.attempt.messages,
            [said],
            self.layout,
            label=float(label >= 0.5),
            tools=turn.attempt.tools,
            group=one.task.id,
            task_id=one.task.id,
            sources=(one.episode.run.id, *(item.id for item in turn.feedback)),
            trust="tainted" if tainted else "trusted",
        )


def liked(feedback: Sequence[Feedback], threshold: float = 0.5) -> float | None:
    """Returns the mean of what people thought, from 0 to 1; ``None`` where nothing says so."""
    known = [value for item in feedback if (value := reaction(item, threshold)) is not None]
    return sum(known) / len(known) if known else None


def reaction(item: Feedback, threshold: float = 0.5) -> float | None:
    """Returns 1 where somebody liked an answer, 0 where they did not, ``None`` where it is not clear.

    Of messages and comments only thanks and complaints are clear, and not both at once.
    """
    if item.kind in ("accept", "reject"):
        return float(item.kind == "accept")
    if item.kind == "correction":
        return 0.0
    if item.kind == "rating":
        return None if item.value is None else float(item.value >= threshold)
    if item.kind in ("followup", "comment"):
        thanked, complained = bool(_THANKS.search(item.text)), bool(_COMPLAINT.search(item.text))
        return None if thanked == complained else float(thanked)
    return None


async def followup_scores(
    kit: Kit,
    answers: Sequence[tuple[Sequence[Message], str]],
    *,
    positive: Sequence[str] = POSITIVE,
    negative: Sequence[str] = NEGATIVE,
) -> list[float]:
    """Returns, for each prompt and answer, how much likelier the model finds it that the user is content.

    That is the mean logprob per token of the positive follow-ups less that of the negative ones, in nats (FLR, arXiv
    2409.13948). Nothing is trained. The model is asked for the user's next message, as it was trained to write only its
    own turns.

    Raises:
        UserError: the kit computes no logprobs.
    """
    said = (*positive, *negative)
    rows = [answer_row(followed(prompt, answer), text) for prompt, answer in answers for text in said]
    found = await kit.logprobs(rows)
    return [contrast(found[start : start + len(said)], len(positive)) for start in range(0, len(found), len(said))]
