"""What a judge is: a ``Verifier`` whose verdicts are of kind ``model``; and beside it the comparison of two answers.

    spec = VerifierSpec(kind="judge", params={"model": "openai:judge", "items": ["It is polite."]})
    verdict = await load_verifier(spec).verify(task, run)
    comparison = await comparer.compare(task, first_run, second_run)      # Comparison(winner="first", …)

A verdict's ``score`` is the judge's forecast that the answer is right, its ``environment`` the name of the model.
"""

from typing import Literal, Protocol, TypeAlias, runtime_checkable

from whet.core.records import Feedback, Record, Run, Task
from whet.feedback import feedback

__all__ = ["Comparer", "Comparison", "Winner"]

Winner: TypeAlias = Literal["first", "second", "tie", "abstain"]


class Comparison(Record, frozen=True, kw_only=True):
    """Which of two runs is better, by whom and why.

    ``votes`` are the winners found in each order of showing, both named as ``first`` and ``second`` of this record:
    two that differ make a tie. ``abstain``: a reply could not be read.
    """

    winner: Winner
    first_run_id: str
    second_run_id: str
    judge: str
    votes: tuple[Winner, ...] = ()
    text: str = ""

    @property
    def swayed(self) -> bool:
        """Whether the order of showing decided: each order had a winner, and not the same."""
        return set(self.votes) == {"first", "second"}

    def preference(self) -> Feedback | None:
        """Returns the comparison as feedback of kind ``preference``; ``None`` where there is no winner."""
        if self.winner not in ("first", "second"):
            return None
        pair = (self.first_run_id, self.second_run_id)
        better, worse = pair if self.winner == "first" else pair[::-1]
        return feedback.preference(self.judge, run_id=better, other_run_id=worse, text=self.text)


@runtime_checkable
class Comparer(Protocol):
    """Says which of two answers to one task is better."""

    @property
    def name(self) -> str:
        """The judge's name with a digest of its configuration."""
        ...

    async def compare(self, task: Task, first: Run, second: Run) -> Comparison:
        """Returns the comparison; ``abstain`` where the model's reply could not be read.

        Raises:
            ModelError: the model could not be reached.
            BudgetError: the budget does not allow the call.
        """
        ...
