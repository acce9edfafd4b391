"""What a critic is worth: whether answers are right after its critique, and would not be without it.

    found = await repair(critic, failures, reviser(model), verify)
    found.gain                                  # Share: repaired with its critique, less repaired without any

A critique that sounds right and repairs nothing is worth nothing: the revision is what MultiCritique prefers
critiques by (arXiv 2410.15287). The other arm is told only that the answer was rejected: part of what a critic
seems to repair, a second try repairs.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from whet.core.calibration import Share
from whet.core.errors import UserError
from whet.core.models import Model
from whet.core.prompting import render_retry
from whet.core.records import Critique, Message, Record, Run, Sampling, Task, Verdict
from whet.feedback.critic import Critic
from whet.feedback.judges.asking import bounded, gathered

__all__ = ["Failure", "Repaired", "Revise", "Verify", "repair", "reviser"]

Revise: TypeAlias = Callable[[Task, Run, Sequence[Critique]], Awaitable[str]]
Verify: TypeAlias = Callable[[Task, Run], Awaitable[Sequence[Verdict]]]


class Failure(Record, frozen=True, kw_only=True):
    """A run that failed, with the verdicts that say so."""

    task: Task
    run: Run
    verdicts: tuple[Verdict, ...]


class Repaired(Record, frozen=True, kw_only=True):
    """How many failures were right after a revision: with the critique (``after``), and without (``alone``).

    ``silent`` of them the critic said nothing about; they count as they are, with the retry alone.
    """

    after: Share
    alone: Share
    gain: Share
    silent: int = 0


async def repair(critic: Critic, failures: Sequence[Failure], revise: Revise, verify: Verify) -> Repaired:
    """Returns what the critic's critiques repair; two revisions for each failure, the gain paired.

    Raises:
        UserError: there are no failures.
    """
    if not failures:
        raise UserError("there are no failures to repair; run the agent on some tasks first")
    said = await gathered(critic.critique, [(one.task, one.run, one.verdicts) for one in failures])
    told = await gathered(_right, [(one, found, revise, verify) for one, found in zip(failures, said, strict=True)])
    alone = await gathered(_right, [(one, (), revise, verify) for one in failures])
    return Repaired(
        after=Share.of(sum(told), len(told)),
        alone=Share.of(sum(alone), len(alone)),
        gain=Share.paired(list(zip(told, alone, strict=True))),
        silent=sum(not found for found in said),
    )


async def _right(failure: Failure, critiques: Sequence[Critique], revise: Revise, verify: Verify) -> bool:
    answer = await revise(failure.task, failure.run, critiques)
    run = Run(task_id=failure.task.id, agent="repair", status="done", answer=answer, scope=failure.run.scope)
    judged = [verdict for verdict in await verify(failure.task, run) if verdict.judged]
    return bool(judged) and all(verdict.outcome == "pass" for verdict in judged)


def reviser(model: Model) -> Revise:
    """Returns what asks a model for a corrected answer, in the words an agent is asked in."""

    async def revise(task: Task, run: Run, critiques: Sequence[Critique]) -> str:
        said = render_retry([critique.text for critique in critiques])
        before = [Message(role="assistant", content=run.answer or ""), Message(role="user", content=said)]
        asked = [*task.messages, *before]
        return (await bounded(model).complete(asked, sampling=Sampling(temperature=0.0, seed=0))).text

    return revise
