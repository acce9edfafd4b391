"""OpenClaw-RL: every turn learns from what came next: whether it was well received, and how it should have been."""

from collections.abc import Iterable
from typing import Literal

from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import Conversation, Turn, conversations, need
from whet.learners.weights.methods.hindsight import Wording, teacher_context, visible
from whet.learners.weights.objectives import Distillation, Objective, PolicyGradient
from whet.learners.weights.rows import Row

__all__ = ["OPD"]

_SHORTEST = 10  # characters of a hint worth the name


class OPD(Method, frozen=True, kw_only=True):
    """Binary rewards and hint-guided on-policy distillation, from runs as they happen; no groups are needed.

    A turn earns the majority of its votes, +1 or −1, weighed by ``binary``: of verifiers, and of people who accepted,
    rejected, rated or corrected it. What was said of it is the teacher's hint (``context``: in which words), weighed by
    ``hints``. ``token``: the form with sampled tokens; else the reverse KL over the student's ``top_k`` likeliest ones.
    """

    info = Info(
        name="opd",
        family="self-distillation",
        title="learn from what came after each turn, run by run",
        paper="arXiv 2603.10165",
        needs=("judged or criticised runs",),
    )
    context: Wording = "retry"
    binary: float = 1.0
    hints: float = 1.0
    token: bool = False
    top_k: int | None = 50
    teacher: Literal["live", "initial", "ema"] = "ema"
    clip_low: float = 0.2
    clip_high: float | None = 0.28
    kl: float = 0.01

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each conversation with votes, and one for each turn with a hint.

        Raises:
            UserError: no turn has either.
        """
        rows = []
        for episode in experience.episodes:
            for one in conversations(episode):
                rows += [*self._voted(one), *self._hinted(one)]
        how = "run tasks with verifiers and critics, or add what people said (whet feedback add)"
        need(rows, self.info.name, "turns that were judged or criticised", how)
        return rows

    def _voted(self, one: Conversation) -> list[Row]:
        weights = [majority(turn) or None for turn in one.turns]
        return [one.row(weights, reward=one.final)] if self.binary and any(weights) else []

    def _hinted(self, one: Conversation) -> list[Row]:
        rows = []
        for index, turn in enumerate(one.turns):
            hint = _hint(turn)
            if self.hints and len("".join(hint)) > _SHORTEST and not (turn.passed and self.context == "retry"):
                told = teacher_context(
                    turn.attempt.messages, visible(turn.attempt.text), said=hint, wording=self.context
                )
                rows.append(one.alone(index, teacher=told, term="hint", trust=trust_of(one, turn)))
        return rows

    def objectives(self) -> dict[str, Objective]:
        """Returns the policy gradient on votes, and the distillation from hints."""
        voted = PolicyGradient(coefficient=self.binary, clip_low=self.clip_low, clip_high=self.clip_high, kl=self.kl)
        told = Distillation(coefficient=self.hints, alpha=1.0, top_k=self.top_k, teacher=self.teacher, token=self.token)
        return {"": voted, "hint": told}

    def training(self) -> TrainConfig:
        """Returns the trainer's defaults for small batches as they come."""
        return TrainConfig(warmup=0.0, schedule="constant", batch=16)


def majority(turn: Turn) -> float:
    """Returns the majority of the votes on a turn: 1, −1, or 0 for none and for a tie."""
    votes = [1 if verdict.outcome == "pass" else -1 for verdict in turn.verdicts if verdict.judged]
    votes += [-1 for verdict in turn.verdicts if verdict.outcome in ("timeout", "tampered")]
    for item in turn.feedback:
        if item.kind in ("accept", "reject", "correction"):
            votes.append(1 if item.kind == "accept" else -1)
        elif item.kind == "rating" and item.value is not None and item.value != 0.5:
            votes.append(1 if item.value > 0.5 else -1)
    return float((sum(votes) > 0) - (sum(votes) < 0))


def _hint(turn: Turn) -> list[str]:
    """Returns what the teacher is told: critics' and people's remarks, and how people would have answered."""
    corrected = [item.text for item in turn.feedback if item.kind == "correction"]
    return [text for text in _distinct((*turn.said, *corrected)) if text.strip()]


def trust_of(one: Conversation, turn: Turn) -> str:
    """Returns ``tainted`` where the run is, or a remark on the turn comes from a stranger."""
    tainted = one.episode.run.trust == "tainted" or any(item.trust == "tainted" for item in turn.feedback)
    return "tainted" if tainted else "trusted"


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
