"""SDPO: the policy, told in hindsight what it did not know, teaches itself untold, token by token."""

from collections.abc import Sequence
from typing import Literal

from whet.core.records import Record
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method, Rollouts
from whet.learners.weights.methods.conversations import Conversation, Turn, by_task, need
from whet.learners.weights.methods.hindsight import Wording, check_lift, known_right, teacher_context, visible
from whet.learners.weights.methods.solutions import Solution
from whet.learners.weights.objectives import Distillation, Objective
from whet.learners.weights.rows import Row

__all__ = ["SDPO", "Distilled", "Told"]


class Told(Record, frozen=True, kw_only=True):
    """A row with a teacher context, whether its answer passed, and an answer that is known to be right (or empty)."""

    row: Row
    passed: bool
    right: str = ""


class Distilled(Method, frozen=True, kw_only=True):
    """Base of the methods whose teacher is the policy with hindsight in its context.

    ``context``: how the teacher is told (``hindsight``). ``solutions``: whether it is shown an answer to the same task
    that passed, where there is one; what was said of the own attempt is told where there is none. ``preflight``:
    refuse, in the first round, where right answers that are known get no likelier to the teacher than to the policy.
    The others are those of the loss.
    """

    context: Wording = "retry"
    solutions: bool = True
    preflight: bool = True
    alpha: float = 0.5
    top_k: int | None = 100
    teacher: Literal["live", "initial", "ema"] = "ema"
    ema_rate: float = 0.05
    cap: float | None = 2.0
    token: bool = False

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each judged answer about which the teacher knows something.

        Raises:
            UserError: no run on a training task was judged, or the teacher is no better than the policy.
        """
        return [told.row for told in await self.taught(experience, kit)]

    async def taught(self, experience: Experience, kit: Kit) -> list[Told]:
        """Returns the rows with what else is known of their tasks; raises as ``build`` does."""
        groups = by_task(experience.episodes)
        judged = [turn for group in groups.values() for one in group for turn in one.turns if turn.passed is not None]
        need(judged, self.info.name, "judged runs", "run its tasks (whet improve TASKS), with refine for critiques")
        known = await known_right(experience, kit)
        found = [
            told
            for task_id, group in groups.items()
            for one in group
            for told in self.told(one, known.get(task_id, []))
        ]
        if self.preflight and kit.round == 0:
            await check_lift(kit, [told.row for told in found], [told.right for told in found], self.info.name)
        return found

    def told(self, conversation: Conversation, known: Sequence[Solution]) -> list[Told]:
        """Returns a row for each judged turn that the teacher can say something about; ``known`` are right answers."""
        found = []
        for index, turn in enumerate(conversation.turns):
            chosen = self._solution(turn, known)
            if turn.passed is None or not self._says_something(turn, chosen):
                continue
            context = teacher_context(
                turn.attempt.messages,
                visible(turn.attempt.text),
                said=() if chosen else turn.said,
                solution=visible(chosen.text) if chosen else "",
                wording=self.context,
            )
            row = conversation.alone(index, teacher=context, **_told_by(conversation, turn, chosen))
            right = known[0].text if known else conversation.task.reference or ""
            found.append(Told(row=row, passed=turn.passed, right=visible(right)))
        return found

    def _solution(self, turn: Turn, found: Sequence[Solution]) -> Solution | None:
        """Returns the first right answer that is another one than this."""
        others = (one for one in found if visible(one.text) != visible(turn.attempt.text))
        return next(others, None) if self.solutions else None

    def _says_something(self, turn: Turn, chosen: Solution | None) -> bool:
        """Whether the teacher knows more. An answer that passed was not rejected, so ``retry`` has no words for it."""
        if turn.passed:
            return chosen is not None and self.context == "hint"
        return chosen is not None or bool(turn.said)

    def objectives(self) -> dict[str, Objective]:
        """Returns the distillation from the teacher context."""
        return {"": self.loss()}

    def loss(self) -> Distillation:
        """Returns the loss with the options given."""
        return Distillation(
            alpha=self.alpha,
            top_k=self.top_k,
            teacher=self.teacher,
            ema_rate=self.ema_rate,
            cap=self.cap,
            token=self.token,
        )

    def training(self) -> TrainConfig:
        """Returns the trainer's defaults at a constant rate: rounds are short, and many."""
        return TrainConfig(warmup=0.0, schedule="constant", batch=32)


class SDPO(Distilled, frozen=True, kw_only=True):
    """Self-distillation policy optimisation: dense credit from solutions and from what critics said."""

    info = Info(
        name="sdpo",
        family="self-distillation",
        title="teach oneself what one answers with the feedback in view",
        paper="arXiv 2601.20802",
        needs=("judged runs", "critiques, or several runs of each task"),
    )
    rollouts = Rollouts()


def _told_by(conversation: Conversation, turn: Turn, chosen: Solution | None) -> dict[str, object]:
    """Returns the fields of a row that say where its teacher's knowledge comes from."""
    sources = (*conversation.sources, *(chosen.sources if chosen else turn.sources))
    tainted = conversation.episode.run.trust == "tainted" or (chosen is not None and chosen.trust == "tainted")
    return {
        "group": conversation.task.id,
        "reward": turn.score,
        "sources": tuple(dict.fromkeys(sources)),
        "trust": "tainted" if tainted else "trusted",
    }
