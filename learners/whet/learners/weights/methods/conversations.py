"""Conversations: the model calls of a run put back into the dialogues they came from, with what each turn earned.

    for task_id, found in by_task(experience.episodes).items():
        for conversation in found:
            print([turn.reward("pass") for turn in conversation.turns])
            conversation.row([0.5, None])                # the first turn counts, the second does not

An agent that revises or calls tools asks its model several times, each time with everything before. Those calls are one
conversation, and one row, in which every turn is trained under exactly the prompt it was sampled with. Calls that run
side by side (best of n, tree search) are conversations of their own.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from whet.core.errors import UserError
from whet.core.prompting import describe_failure
from whet.core.records import Critique, Feedback, Message, Record, Task, Verdict
from whet.learners.weights.experience import Attempt, Episode, outcome
from whet.learners.weights.rows import Piece, Row, Sampled

__all__ = ["Conversation", "RewardKind", "Turn", "by_task", "conversations", "need"]

RewardKind: TypeAlias = Literal["pass", "score"]

_MAX_CHECKS = 3
_HARMFUL = ("timeout", "tampered")  # outcomes that no verdict judges, and that must not pay


class Turn(Record, frozen=True, kw_only=True):
    """One answer of the policy, and what was said of it: by verifiers, by critics, and by people."""

    attempt: Attempt
    verdicts: tuple[Verdict, ...] = ()
    critiques: tuple[Critique, ...] = ()
    feedback: tuple[Feedback, ...] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """What critics found wrong with it and people's comments on it; else its first failing checks, in words."""
        negative = [critique.text for critique in self.critiques if critique.sign == "negative"]
        remarks = [item.text for item in self.feedback if item.kind == "comment" and item.text.strip()]
        failing = [check for verdict in self.verdicts for check in verdict.checks if not check.passed]
        worded = [describe_failure(c.call, c.got, c.expected) for c in failing if c.call and c.expected]
        return tuple(dict.fromkeys((*negative, *remarks))) or tuple(worded[:_MAX_CHECKS])

    @property
    def passed(self) -> bool | None:
        """Whether it passed: by verifiers, else by people's ratings; ``None`` where neither judged it."""
        if any(verdict.outcome in _HARMFUL for verdict in self.verdicts):
            return False
        found = outcome(self.verdicts)
        rating = _rating(self.feedback)
        return found if found is not None or rating is None else rating >= 0.5

    @property
    def score(self) -> float | None:
        """The mean score of its verdicts, else of people's ratings, in [0, 1]; ``None`` where nobody judged it."""
        if any(verdict.outcome in _HARMFUL for verdict in self.verdicts):
            return 0.0
        scores = [verdict.score for verdict in self.verdicts if verdict.judged]
        return sum(scores) / len(scores) if scores else _rating(self.feedback)

    @property
    def tokens(self) -> int:
        """How many tokens the policy wrote."""
        completion = self.attempt.completion
        return completion.usage.output_tokens if completion.token_ids is None else len(completion.token_ids)

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of what was said of it."""
        judged = [verdict.id for verdict in self.verdicts]
        return (*judged, *(critique.id for critique in self.critiques), *(item.id for item in self.feedback))

    def reward(self, kind: RewardKind) -> float | None:
        """Returns 1 or 0 for a pass or a fail, or the score."""
        if kind == "score":
            return self.score
        return None if self.passed is None else float(self.passed)


class Conversation(Record, frozen=True, kw_only=True):
    """A dialogue of a run: the turns that the policy took in it, each in answer to everything before."""

    episode: Episode
    turns: tuple[Turn, ...]

    @property
    def task(self) -> Task:
        """The task."""
        return self.episode.task

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What was said before the first of the turns."""
        return self.turns[0].attempt.messages

    @property
    def opens(self) -> bool:
        """Whether its first turn answers the task itself, rather than going on from an earlier answer."""
        return self.prompt == self.episode.prompt

    @property
    def attempt(self) -> "Conversation":
        """The same up to the first turn that was judged: what was done without having heard of a verdict."""
        ends = (index for index, turn in enumerate(self.turns) if turn.score is not None)
        return msgspec.structs.replace(self, turns=self.turns[: next(ends, len(self.turns)) + 1])

    @property
    def final(self) -> float | None:
        """The score of the last turn that was judged."""
        return next((turn.score for turn in reversed(self.turns) if turn.score is not None), None)

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the run, and of the verdicts and critiques on its turns."""
        said = [id for turn in self.turns for id in turn.sources]
        return tuple(dict.fromkeys((self.episode.run.id, *said)))

    def replies(self, index: int) -> tuple[Message, ...]:
        """Returns what was said between a turn and the next one: results of tools, or what the user wrote."""
        if index + 1 == len(self.turns):
            return ()
        return self.turns[index + 1].attempt.messages[len(self.turns[index].attempt.messages) + 1 :]

    def alone(self, index: int, **fields: object) -> Row:
        """Returns the row in which one turn counts, and the dialogue before it is context."""
        return self.row([1.0 if number == index else None for number in range(len(self.turns))], **fields)

    def row(self, weights: Sequence[float | None], **fields: object) -> Row:
        """Returns the row in which the turns count with these weights; a turn of ``None`` is context.

        Turns bring their recorded tokens along. ``fields`` are further fields of the row.
        """
        counted = [turn for turn, weight in zip(self.turns, weights, strict=True) if weight is not None]
        last = counted[-1].attempt
        said = Message(role="assistant", content=last.text, tool_calls=last.completion.tool_calls)
        places = [len(turn.attempt.messages) for turn in counted]
        values = [weight for weight in weights if weight is not None]
        given: dict[str, object] = {"task_id": self.task.id, "sources": self.sources, "trust": self.episode.run.trust}
        return Row(
            messages=(*last.messages, said),
            tools=last.tools,
            pieces=tuple(Piece(message=place, weight=value) for place, value in zip(places, values, strict=True)),
            sampled=tuple(
                Sampled(message=place, completion=turn.attempt.completion)
                for place, turn in zip(places, counted, strict=True)
            ),
            **(given | fields),  # type: ignore[arg-type]
        )


def conversations(episode: Episode) -> list[Conversation]:
    """Returns the conversations of a run, in the order in which they began."""
    chains: list[list[Attempt]] = []
    for attempt in episode.attempts:
        chain = next((chain for chain in reversed(chains) if _follows(chain[-1], attempt)), None)
        if chain is None:
            chains.append([attempt])
        else:
            chain.append(attempt)
    answering = _answering(episode)
    return [
        Conversation(episode=episode, turns=tuple(_turn(episode, one, one is answering) for one in chain))
        for chain in chains
    ]


def by_task(episodes: Iterable[Episode]) -> dict[str, list[Conversation]]:
    """Returns the conversations of all runs, by task."""
    found: dict[str, list[Conversation]] = {}
    for episode in episodes:
        found.setdefault(episode.task.id, []).extend(conversations(episode))
    return found


def need(found: object, method: str, what: str, how: str) -> None:
    """Refuses experience that lacks what a method needs.

    Raises:
        UserError: ``found`` is empty; the message says ``what`` is missing and ``how`` to get it.
    """
    if not found:
        raise UserError(f"{method} needs {what}, and the memory holds none on training tasks; {how}")


def _follows(before: Attempt, after: Attempt) -> bool:
    """Whether a call goes on from exactly what an earlier one was told and answered."""
    cut = len(before.messages)
    if len(after.messages) <= cut or after.tools != before.tools or after.messages[:cut] != before.messages:
        return False
    said = after.messages[cut]
    return said.role == "assistant" and said.content == before.text and said.tool_calls == before.completion.tool_calls


def _answering(episode: Episode) -> Attempt | None:
    """Returns the attempt that is the run's answer: the last of that text, or the last of all."""
    same = [attempt for attempt in episode.attempts if attempt.text == episode.run.answer]
    found = same or list(episode.attempts)
    return found[-1] if found else None


def _turn(episode: Episode, attempt: Attempt, answers: bool) -> Turn:
    # What judges the run's answer outranks what the agent consulted on the same text while it worked.
    about = [item for item in episode.feedback if item.step_id == attempt.step_id or (answers and not item.step_id)]
    return Turn(
        attempt=attempt,
        verdicts=(answers and episode.verdicts) or attempt.verdicts,
        critiques=(answers and episode.critiques) or attempt.critiques,
        feedback=tuple(about),
    )


def _rating(feedback: Iterable[Feedback]) -> float | None:
    """Returns the mean of what people rated, accepted (1) and rejected (0), in [0, 1]."""
    values = [item.value for item in feedback if item.kind == "rating" and item.value is not None]
    values += [float(item.kind == "accept") for item in feedback if item.kind in ("accept", "reject")]
    return sum(values) / len(values) if values else None
