"""The judge that needs no training and no rubric: how likely the next message is that of a content user.

    spec = VerifierSpec(kind="followup_judge", params={"model": "hf:./model"})
    judge = FollowUpJudge({}, model=TinyModel())

FLR (Follow-up Likelihood as Reward, arXiv 2409.13948): the mean log-likelihood of positive follow-ups less that of
negative ones, given the task and the answer, under a model whose weights are here.
"""

import math
from collections.abc import Sequence

from whet.core.errors import VerifierError
from whet.core.models import need_scoring
from whet.core.records import Check, Message, Task
from whet.feedback.judges.asking import bounded
from whet.feedback.judges.judging import JudgeParams, ModelJudge
from whet.feedback.verifiers.configured import Finding

__all__ = ["NEGATIVE", "POSITIVE", "FollowUpJudge", "FollowUpParams", "contrast", "followed"]

POSITIVE = ("Thank you, that works.", "Perfect, that is what I wanted.", "Great, this is right.")
NEGATIVE = ("That is wrong.", "No, this is not what I asked for.", "This does not work, try again.")
"""What people say after answers that they like, and after others; a user of another language gives their own."""

_ASK = "What does the user say next? Write only their message."


class FollowUpParams(JudgeParams, frozen=True, kw_only=True):
    """``positive`` and ``negative``: follow-ups. The score is σ(``scale`` · contrast + ``shift``), the contrast in nats
    per token; fit both to a report's reliability table where the scores are to be probabilities."""

    positive: tuple[str, ...] = POSITIVE
    negative: tuple[str, ...] = NEGATIVE
    scale: float = 1.0
    shift: float = 0.0
    threshold: float = 0.5


class FollowUpJudge(ModelJudge[FollowUpParams]):
    """Scores an answer by what the model expects the user to say to it."""

    kind = "followup_judge"
    params_type = FollowUpParams

    def check_params(self) -> None:
        """Raises ``VerifierError`` where follow-ups of a kind are missing, or for what it does not look at."""
        if not self.params.positive or not self.params.negative:
            raise VerifierError(f"verifier {self.kind!r} needs positive and negative follow-ups, at least one of each")
        if self.params.rubric or self.params.show_reference or self.params.temperature:
            raise VerifierError(
                f"verifier {self.kind!r} reads no rubric and no reference and samples nothing; leave them out"
            )

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding; as many passes through the model as there are follow-ups.

        Raises:
            UserError: the model does not tell how likely a given text is.
        """
        said = (*self.params.positive, *self.params.negative)
        model = need_scoring(bounded(self.model))
        found = [await model.logprobs(followed(task.messages, answer), text) for text in said]
        value = contrast(found, len(self.params.positive))
        score = (1 + math.tanh((self.params.scale * value + self.params.shift) / 2)) / 2  # σ, and never overflows
        check = Check(name="follow-up", passed=score >= self.params.threshold, got=f"{value:.3f} nats per token")
        return self.found(score, (check,))


def followed(prompt: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """Returns the conversation after which the model writes the user's next message.

    It is asked for, since a model was trained to write its own turns only.
    """
    return (*prompt, Message(role="assistant", content=answer), Message(role="user", content=_ASK))


def contrast(logprobs: Sequence[Sequence[float]], positive: int) -> float:
    """Returns the mean logprob per token of the first ``positive`` follow-ups less that of the others, in nats."""
    means = [sum(one) / len(one) for one in logprobs]
    good, bad = means[:positive], means[positive:]
    return sum(good) / len(good) - sum(bad) / len(bad)
