"""Follow-ups: what the user wrote next tells, in hindsight, how the answer should have been."""

from typing import Literal

from whet.core.records import Message, Trust
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import Conversation, Turn, conversations, need
from whet.learners.weights.methods.hindsight import Wording, hinted, visible
from whet.learners.weights.objectives import Distillation, Objective
from whet.learners.weights.rows import Row

__all__ = ["FollowUp"]

_HINT = "In hindsight, the user's next message was:\n{said}\n\nAnswer with it in mind."


class FollowUp(Method, frozen=True, kw_only=True):
    """SDPO from user interactions: logs of conversations suffice, without rewards or groups.

    The teacher knows the user's next message: recorded as feedback of kind ``followup``, or written in the same
    conversation. ``context``: as the next message of the conversation (``retry``), or added to the prompt (``hint``).
    ``token``: the paper's form, on sampled tokens alone; else over the ``top_k`` likeliest tokens, the same gradient
    without the sampling noise.
    """

    info = Info(
        name="followup",
        family="self-distillation",
        title="learn from what users write next",
        paper="arXiv 2603.12273",
        needs=("feedback of kind followup, or conversations of several turns",),
    )
    context: Wording = "retry"
    token: bool = False
    top_k: int | None = 100
    teacher: Literal["live", "initial", "ema"] = "ema"

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each answer that a user replied to.

        Raises:
            UserError: there is none.
        """
        rows = [
            one.alone(index, teacher=self._told(turn, said), trust=trust)
            for episode in experience.episodes
            for one in conversations(episode)
            for index, turn in enumerate(one.turns)
            for said, trust in _next(one, index, turn)
        ]
        how = "record them: whet feedback add RUN followup TEXT"
        need(rows, self.info.name, "answers with a follow-up message", how)
        return rows

    def _told(self, turn: Turn, said: Message) -> tuple[Message, ...]:
        attempt = turn.attempt
        if self.context == "hint":
            return hinted(attempt.messages, _HINT.format(said=said.content))
        return (*attempt.messages, Message(role="assistant", content=visible(attempt.text)), said)

    def objectives(self) -> dict[str, Objective]:
        """Returns the reverse divergence from the teacher, without correction for who sampled."""
        return {"": Distillation(alpha=1.0, top_k=self.top_k, teacher=self.teacher, token=self.token, cap=None)}

    def training(self) -> TrainConfig:
        """Returns the trainer's defaults for logs: one pass."""
        return TrainConfig(batch=16, epochs=1.0)


def _next(one: Conversation, index: int, turn: Turn) -> list[tuple[Message, Trust]]:
    """Returns the user messages that followed a turn, and whom they come from."""
    run = one.episode.run.trust
    inside = [(reply, run) for reply in one.replies(index) if reply.role == "user"][:1]
    for item in turn.feedback:
        if item.kind == "followup" and item.text.strip():
            said = Message(role="user", content=item.text)
            inside.append((said, "tainted" if "tainted" in (run, item.trust) else "trusted"))
    return inside
