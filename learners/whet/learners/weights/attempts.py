"""From the steps of a run to its attempts: each model call with the verdicts and critiques that belong to it.

    attempts_of(run, steps, verdicts, critiques)        # in the order of the calls

What a run heard while it worked was recorded with the digest of the answer it judges; what came later judges the run's
answer. Either way it belongs to the calls that wrote this answer.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from whet.core.ids import digest
from whet.core.records import Completion, Critique, CritiqueGiven, ModelCall, Run, Step, Verdict, VerdictGiven
from whet.learners.weights.experience import Attempt

__all__ = ["attempts_of"]

_TICK = 0.005
"""Seconds by which two clocks may disagree on which of two calls came first."""


class _Call:
    """A model call that was answered, and its step."""

    def __init__(self, step: Step, body: ModelCall, completion: Completion) -> None:
        self.step, self.body, self.completion = step, body, completion
        self.end = step.at / 1000
        self.start = self.end - completion.usage.seconds


class _Answers:
    """Which calls wrote which answer, by the answer's digest."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self.calls = calls
        self.places: dict[str, list[int]] = defaultdict(list)
        for place, call in enumerate(calls):
            for text in {call.completion.text, call.completion.text.strip()}:
                self.places[digest(text)].append(place)

    def of(self, answer: str) -> list[int]:
        """Returns the places of the calls that wrote an answer.

        All that a run with one call says is about that call. An answer without words is that of the last call that
        wrote none: a call of tools has no words either.
        """
        if len(self.calls) == 1:
            return [0]
        found = self.places.get(answer, [])
        return found[-1:] if answer == digest("") else found

    def nth(self, number: int) -> list[int]:
        """Returns the places of the ``number``-th different answer, from 1."""
        names = list(dict.fromkeys(digest(call.completion.text) for call in self.calls))
        return self.of(names[number - 1]) if 0 < number <= len(names) else []


def attempts_of(
    run: Run, steps: Sequence[Step], verdicts: Iterable[Verdict], critiques: Iterable[Critique]
) -> tuple[Attempt, ...]:
    """Returns the run's answered model calls in order, each with what was said of it; not those of further models.

    An attempt that is the run's answer has the verdicts on that answer, where any of them judged; the others have those
    that the run heard while it worked.
    """
    calls = [
        _Call(step, step.body, step.body.completion)
        for step in steps
        if isinstance(step.body, ModelCall) and step.body.completion is not None and not step.body.role
    ]
    answers = _Answers(calls)
    judged = _place_verdicts(run, answers, steps, verdicts)
    said = _place_critiques(run, answers, steps, critiques)
    return tuple(
        Attempt(
            messages=call.body.messages,
            completion=call.completion,
            tools=call.body.tools,
            sampling=call.body.sampling,
            verdicts=tuple(judged[place]),
            critiques=tuple(said[place]),
            step_id=call.step.id,
            parent_id=call.step.parent_id,
            node=call.step.node,
            seconds=_seconds(call, calls, run),
        )
        for place, call in enumerate(calls)
    )


def _place_verdicts(
    run: Run, answers: _Answers, steps: Sequence[Step], verdicts: Iterable[Verdict]
) -> dict[int, list[Verdict]]:
    given = {step.body.verdict_id: step.body.answer for step in steps if isinstance(step.body, VerdictGiven)}
    heard: dict[int, list[Verdict]] = defaultdict(list)
    final: dict[int, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.repetition == 0:
            for place in answers.of(digest(run.answer or "")):
                final[place].append(verdict)
        else:
            known = given.get(verdict.id)
            for place in answers.nth(verdict.repetition) if known is None else answers.of(known):
                heard[place].append(verdict)
    for place, found in final.items():
        # The final verdicts repeat those that were heard, or come from verifiers that the run may not hear.
        if any(verdict.judged for verdict in found) or not heard[place]:
            heard[place] = found
    return heard


def _place_critiques(
    run: Run, answers: _Answers, steps: Sequence[Step], critiques: Iterable[Critique]
) -> dict[int, list[Critique]]:
    given = {step.body.critique_id: step for step in steps if isinstance(step.body, CritiqueGiven)}
    said: dict[int, list[Critique]] = defaultdict(list)
    for critique in critiques:
        step = given.get(critique.id)
        if step is not None and isinstance(step.body, CritiqueGiven):
            found = [place for place in answers.of(step.body.answer) if answers.calls[place].step.seq < step.seq]
        elif critique.step_id is not None:
            found = [place for place, call in enumerate(answers.calls) if call.step.id == critique.step_id]
        else:
            found = answers.of(digest(run.answer or ""))
        for place in found[-1:]:
            said[place].append(critique)
    return said


def _seconds(call: _Call, calls: Sequence[_Call], run: Run) -> float:
    """Returns the seconds from the beginning of a call to that of the next one, or to the end of the run.

    Calls that were under way at the same time do not follow each other.
    """
    later = [other.start for other in calls if other is not call and other.start >= call.end - _TICK]
    ended = run.ended_at / 1000 if run.ended_at is not None else call.end
    return max(min(later, default=ended) - call.start, 0.0)
