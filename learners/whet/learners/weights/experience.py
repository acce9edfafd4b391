"""Experience: what a memory holds on training tasks, arranged for the builders of data sets. Records only.

for episode in experience.episodes:
    for attempt in episode.attempts: print(attempt.text, attempt.passed, [c.text for c in attempt.critiques])
experience.groups()          # episodes by task
"""

from collections.abc import Iterable

import msgspec

from whet.core.records import Completion, Critique, Feedback, Message, Record, Run, Sampling, Task, ToolSpec, Verdict

__all__ = ["Attempt", "Episode", "Experience", "outcome"]


def outcome(verdicts: Iterable[Verdict]) -> bool | None:
    """Returns whether all that judged passed, ``None`` where nothing but a model judged."""
    judged = [verdict for verdict in verdicts if verdict.judged]
    if not any(verdict.kind != "model" for verdict in judged):
        return None
    return all(verdict.outcome == "pass" for verdict in judged)


class Attempt(Record, frozen=True, kw_only=True):
    """One model call of a run: what was asked, what came back, and what was said of it.

    ``step_id`` and ``parent_id`` place it in the run's tree; ``seconds`` is how long it took until the next one, tools
    included.
    """

    messages: tuple[Message, ...]
    completion: Completion
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    verdicts: tuple[Verdict, ...] = ()
    critiques: tuple[Critique, ...] = ()
    step_id: str = ""
    parent_id: str | None = None
    node: str = ""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """What the model wrote."""
        return self.completion.text

    @property
    def passed(self) -> bool | None:
        """Whether it passed; ``None`` where nobody judged it."""
        return outcome(self.verdicts)

    @property
    def score(self) -> float | None:
        """The mean score of the verdicts that judged it."""
        return _mean([verdict.score for verdict in self.verdicts if verdict.judged])


class Episode(Record, frozen=True, kw_only=True):
    """A finished run on a training task, with its model calls in order and all that was said about it.

    ``verdicts`` judge its final answer. An imported run has no attempts, only the answer.
    """

    task: Task
    run: Run
    attempts: tuple[Attempt, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    critiques: tuple[Critique, ...] = ()
    feedback: tuple[Feedback, ...] = ()

    @property
    def answer(self) -> str:
        """The run's answer, empty where it gave none."""
        return self.run.answer or ""

    @property
    def passed(self) -> bool | None:
        """Whether the answer passed; ``None`` where nobody judged it."""
        return outcome(self.verdicts)

    @property
    def score(self) -> float | None:
        """The mean score of the verdicts that judged the answer, in [0, 1]."""
        return _mean([verdict.score for verdict in self.verdicts if verdict.judged])

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the agent was told before its first answer: the run's system message, where recorded, and the task."""
        if self.attempts:
            return self.attempts[0].messages
        system = self.run.meta.get("system")
        told = (Message(role="system", content=system),) if isinstance(system, str) and system else ()
        return (*told, *self.task.messages)

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the run and of the verdicts on its answer."""
        return (self.run.id, *(verdict.id for verdict in self.verdicts))


class Experience(Record, frozen=True, kw_only=True):
    """Episodes, oldest first, and feedback on training tasks that belongs to no run.

    ``tasks`` are the training tasks at hand. ``left_out`` says how much was not taken, by reason.
    """

    episodes: tuple[Episode, ...] = ()
    feedback: tuple[Feedback, ...] = ()
    tasks: tuple[Task, ...] = ()
    left_out: dict[str, int] = msgspec.field(default_factory=dict)

    def groups(self) -> dict[str, list[Episode]]:
        """Returns the episodes of each task, in order."""
        found: dict[str, list[Episode]] = {}
        for episode in self.episodes:
            found.setdefault(episode.task.id, []).append(episode)
        return found


def _mean(scores: list[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None
