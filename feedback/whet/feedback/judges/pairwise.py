"""The judge of pairs: both orders are shown, and a winner in one of them only is a tie.

    judge = Pairwise(model, rubric="Prefer what is right over what is long.")
    comparison = await judge.compare(task, first, second)          # Comparison(winner="second", …)
    comparison.preference()                                        # as feedback, for learners

Judges prefer what they are shown first or last, and what is longer (Zheng et al. 2023, arXiv 2306.05685, section 3.3);
distractors turn comparisons four times as often as scores of single answers (arXiv 2504.14716). So the order is
swapped, and a winner that is much the longer answer has to be the better one for a judge of single answers as well.
"""

from whet.core.errors import UserError
from whet.core.ids import digest
from whet.core.models import Model
from whet.core.records import Json, Message, Run, Sampling, Task
from whet.core.wire import encode
from whet.feedback.answers import json_values, quoted
from whet.feedback.judge import Comparison, Winner
from whet.feedback.judges.asking import DATA, ask, gathered
from whet.feedback.judges.rubric import Rubric
from whet.feedback.verifier import Verifier

__all__ = ["Pairwise", "read_winner"]

_SYSTEM = """\
You compare two answers to a task. {data} Which answer is A and which is B is chance.
Write first a critique of both. Then say which one is better, or that they are equally good. Reply with JSON only:
{{"critique": "…", "better": "A"}}        ("A", "B" or "tie")

# What counts
{rubric}"""

RIGHT = "5: right and complete. 4: right, with a gap. 3: partly right. 2: mostly wrong. 1: wrong."


class Pairwise:
    """Compares two answers in both orders.

    Args:
        model: what is asked, twice for each pair.
        rubric: what counts.
        longer: from this ratio of lengths on a longer winner has to be confirmed; 0 confirms nobody.
        confirm: the judge of single answers that confirms it: a ``Rubric`` on the same model unless given.

    Raises:
        UserError: ``longer`` is below 1 and not 0.
    """

    def __init__(
        self, model: Model, *, rubric: str = RIGHT, longer: float = 1.5, confirm: Verifier | None = None
    ) -> None:
        if longer and longer < 1:
            raise UserError(f"Pairwise(longer={longer!r}): a ratio of lengths is 1 or more; 0 turns the check off")
        self._model, self._rubric, self._longer = model, rubric, longer
        self._confirm = confirm or Rubric({"rubric": rubric}, model=model)
        self._system = Message(role="system", content=_SYSTEM.format(data=DATA, rubric=rubric))

    @property
    def name(self) -> str:
        """``pairwise@`` and a digest of model and configuration."""
        return f"pairwise@{digest(encode([self._model.name, self._rubric, self._longer, self._confirm.name]))[:8]}"

    async def compare(self, task: Task, first: Run, second: Run) -> Comparison:
        """Returns the comparison: a tie where the order decides, or where length does; abstain where unreadable."""
        orders = [(task, first, second), (task, second, first)]
        (one, why), (other, _) = await gathered(self._asked, orders)
        votes = (one, _turned(other))
        winner: Winner = votes[0] if votes[0] == votes[1] else "abstain" if "abstain" in votes else "tie"
        if winner in ("first", "second") and not await self._deserved(task, first, second, winner):
            winner = "tie"
        return Comparison(
            winner=winner, first_run_id=first.id, second_run_id=second.id, judge=self.name, votes=votes, text=why
        )

    async def _asked(self, task: Task, first: Run, second: Run) -> tuple[Winner, str]:
        answers = {"Task": task.prompt, "Answer A": first.answer or "", "Answer B": second.answer or ""}
        shown = "\n\n".join(f"# {name}\n{quoted(text)}" for name, text in answers.items())
        asked = [self._system, Message(role="user", content=shown)]
        return await ask(self._model, asked, read_winner, sampling=Sampling(temperature=0.0)) or ("abstain", "")

    async def _deserved(self, task: Task, first: Run, second: Run, winner: Winner) -> bool:
        """Whether the winner is not much the longer one, or is the better one by itself as well."""
        better, worse = (first, second) if winner == "first" else (second, first)
        if not self._longer or len(better.answer or "") <= self._longer * len(worse.answer or ""):
            return True
        mine, theirs = await gathered(self._confirm.verify, [(task, better), (task, worse)])
        return mine.judged and theirs.judged and mine.score > theirs.score


def read_winner(reply: str) -> tuple[Winner, str] | None:
    """Returns the winner (A is ``first``) and the critique of the last JSON in a reply that says one; else ``None``."""
    names: dict[str, Winner] = {"a": "first", "b": "second", "tie": "tie"}
    for value in reversed([*json_values(reply)]):
        better: Json = value.get("better") if isinstance(value, dict) else None
        if isinstance(value, dict) and (winner := names.get(str(better).strip().lower().removeprefix("answer "))):
            critique = value.get("critique")
            return winner, critique if isinstance(critique, str) else ""
    return None


def _turned(winner: Winner) -> Winner:
    swapped: dict[Winner, Winner] = {"first": "second", "second": "first"}
    return swapped.get(winner, winner)
