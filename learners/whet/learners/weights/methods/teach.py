"""Teachable dialogues: tasks become dialogues of a student, who answers, and a teacher, who knows the checks.

rows = await Teach(teacher=True).build(experience, kit)
"""

import msgspec

from whet.core.errors import UserError
from whet.core.records import Message
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.hindsight import critic_prompt
from whet.learners.weights.methods.revisions import recorded, retry, revisions
from whet.learners.weights.methods.selection import balanced, distinct
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import NLL, Objective
from whet.learners.weights.rows import Row

__all__ = ["Teach"]


class Teach(Method, frozen=True, kw_only=True):
    """Learns both sides of correction: to use a teacher's feedback, and to give it (arXiv 2602.16066).

    ``student``: dialogues that end well; the answer after the last feedback counts. ``teacher``: what was said of an
    answer, asked of the policy itself, so that it can correct itself where there is no teacher; ``praise`` is what it
    says of a right one, ``teacher_weight`` how much this role weighs. ``samples``: revisions to ask for where none is
    recorded.
    """

    info = Info(
        name="teach",
        family="imitation",
        title="Teachable dialogues",
        paper="arXiv 2602.16066",
        needs=("rejected answers with critiques or comments, and revisions that pass",),
    )
    student: bool = True
    teacher: bool = True
    teacher_weight: float = 0.1
    per_task: int = 4
    praise: str = "Nothing is wrong."
    samples: int = 0
    temperature: float = 1.0

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the student's rows, then the teacher's (term ``teacher``).

        Raises:
            UserError: neither role is to be learned, or there is no dialogue to learn it from.
            BudgetError: revisions have to be asked for, and the budget does not allow it.
        """
        if not (self.student or self.teacher):
            raise UserError("teach with student=false and teacher=false learns nothing; leave one of them on")
        students = await self._students(experience, kit) if self.student else []
        teachers = self._teachers(experience, kit) if self.teacher else []
        how = "run training tasks with --graph refine, add comments and corrections, or set samples above 0"
        need(students or teachers, "teach", "rejected answers with feedback", how)
        rows = [one.row(_after_feedback(one)) for one in students]
        return rows + [one.row(_after_feedback(one), term="teacher") for one in teachers]

    def objectives(self) -> dict[str, Objective]:
        """Returns the negative log-likelihood of both roles."""
        return {"": NLL(), "teacher": NLL(coefficient=self.teacher_weight)}

    def training(self) -> TrainConfig:
        """Returns two epochs."""
        return TrainConfig(epochs=2)

    async def _students(self, experience: Experience, kit: Kit) -> list[Solution]:
        whole = [one for one in solutions(experience, whole=True) if one.passed and one.flagged and _corrected(one)]
        known = {revision.right.key for revision in recorded(experience)}
        others = await revisions(experience, kit, samples=self.samples, temperature=self.temperature)
        made = [
            msgspec.structs.replace(
                other.right,
                turns=(*retry(other.wrong)[len(other.wrong.prompt) :], *other.right.turns),
                prompt=other.wrong.prompt,
                sampled=(),
                sources=other.sources,
                trust=other.trust,
            )
            for other in others
            if other.said and other.right.key not in known
        ]
        return balanced(distinct([*whole, *made]), self.per_task, kit.rng)

    def _teachers(self, experience: Experience, kit: Kit) -> list[Solution]:
        """Returns answers with what was said of them; at most as many right ones as wrong ones."""
        found = distinct(solutions(experience))
        wrong = balanced([one for one in found if one.passed is False and one.said], self.per_task, kit.rng)
        right = balanced([one for one in found if one.passed], self.per_task, kit.rng)
        right = kit.rng.sample(right, min(len(right), len(wrong)))
        told = [("\n".join(one.said), one) for one in wrong] + [(self.praise, one) for one in right]
        return [_asked(one, text) for text, one in told]


def _asked(one: Solution, text: str) -> Solution:
    asked, said = critic_prompt(one.prompt, one.text)[-1], Message(role="assistant", content=text)
    return msgspec.structs.replace(one, turns=(*one.turns, asked, said), sampled=())


def _corrected(one: Solution) -> bool:
    """Whether a user said something between the answers."""
    return any(turn.role == "user" for turn in one.turns)


def _after_feedback(one: Solution) -> tuple[int, ...]:
    """Returns the steps after the last message of a user."""
    last = max(place for place, turn in enumerate(one.turns) if turn.role == "user")
    return tuple(step for step in one.steps if step > last)
