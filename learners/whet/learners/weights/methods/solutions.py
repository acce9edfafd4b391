"""Solutions: every answer on the record, under the prompt that its run began with, and how it was judged.

    for found in solutions(experience):
        print(found.text, found.passed, found.said)
    rows = [found.row() for found in solutions(experience) if found.passed]

It stands under that prompt because that is what the policy will be asked: a revision without the attempts before it;
calls of tools with what they returned. Where it was sampled under exactly that prompt, its recorded tokens come along.
"""

from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import msgspec

from whet.core.prompting import describe_failure
from whet.core.records import Completion, Message, Record, Run, Task, ToolSpec, Trust
from whet.learners.weights.experience import Attempt, Episode, Experience
from whet.learners.weights.methods.conversations import Conversation, Turn, conversations
from whet.learners.weights.rows import Piece, Row, Sampled

__all__ = ["Evidence", "Solution", "judged_answer", "solutions", "solutions_of"]

Evidence: TypeAlias = Literal["verifier", "person", ""]

_REMARKS = ("followup", "reject", "rating")


class Solution(Record, frozen=True, kw_only=True):
    """What was written after a prompt, and how it was judged.

    ``turns``: one answer, or calls of tools, what they returned, and the answer. ``sampled``: those of them that were
    sampled after exactly the messages before, with their tokens. ``flagged``: positions of turns that failed or were
    criticised. ``passed``: by verifiers, else by people, and ``evidence`` says which; ``score`` in [0, 1].
    ``failing``: the failing checks in words; ``said``: what critics and people said against it, or else these.
    ``dialogue`` numbers the conversations of a run. ``sources``: ids of the records it comes from.
    """

    task: Task
    prompt: tuple[Message, ...]
    turns: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampled: tuple[Sampled, ...] = ()
    flagged: tuple[int, ...] = ()
    passed: bool | None = None
    score: float | None = None
    evidence: Evidence = ""
    failing: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    dialogue: int = 0
    temperature: float | None = None
    run_id: str = ""
    sources: tuple[str, ...] = ()
    trust: Trust = "trusted"

    @property
    def text(self) -> str:
        """The answer: the last turn's text."""
        return self.turns[-1].content

    @property
    def steps(self) -> tuple[int, ...]:
        """The positions of the turns that the policy wrote."""
        return tuple(place for place, turn in enumerate(self.turns) if turn.role == "assistant")

    @property
    def unflagged(self) -> tuple[int, ...]:
        """The steps that nothing speaks against."""
        return tuple(step for step in self.steps if step not in self.flagged)

    @property
    def off_policy(self) -> bool:
        """Whether some of it was not sampled as it stands here."""
        return len(self.sampled) < len(self.steps)

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for equal answers to one task: the texts and calls, without the ids of calls."""
        calls = [call.name + call.arguments for turn in self.turns for call in turn.tool_calls]
        return (self.task.id, *(turn.content.strip() for turn in self.turns), *calls)

    def under(self, prompt: tuple[Message, ...]) -> "Solution":
        """Returns the same answer under another prompt; its tokens stay behind where that differs."""
        return self if prompt == self.prompt else msgspec.structs.replace(self, prompt=prompt, sampled=())

    def row(self, steps: Collection[int] | None = None, /, **fields: object) -> Row:
        """Returns the row in which the given steps count (all of them unless given); ``fields`` are further fields."""
        start, counted = len(self.prompt), sorted(self.steps if steps is None else steps)
        sampled = tuple(item for item in self.sampled if item.message - start in counted)
        given: dict[str, object] = {"task_id": self.task.id, "sources": self.sources, "trust": self.trust}
        return Row(
            messages=(*self.prompt, *self.turns),
            pieces=tuple(Piece(message=start + step) for step in counted),
            tools=self.tools,
            sampled=sampled,
            off_policy=len(sampled) < len(counted),
            **(given | fields),  # type: ignore[arg-type]
        )


def solutions(experience: Experience, *, whole: bool = False) -> list[Solution]:
    """Returns every answer on the record, oldest run first."""
    return [found for episode in experience.episodes for found in solutions_of(episode, whole=whole)]


def solutions_of(episode: Episode, *, whole: bool = False) -> list[Solution]:
    """Returns the answers of a run, in order.

    Every answer stands alone under the run's prompt. ``whole``: rather each dialogue as it was, with the rejected
    attempts (flagged) and what was said of them in it.
    """
    if not episode.attempts:
        return [_imported(episode)] if episode.answer else []
    found = conversations(episode)
    turns = [turn for each in found for turn in each.turns]
    made = []
    for number, each in enumerate(found):
        last = each.turns[-1]
        answers = [last] if whole else [turn for turn in each.turns if turn is last or not _calls(turn)]
        placed = [_solution(each, turn, turns, whole=whole) for turn in answers]
        if _led_to_answer(each, found) and placed[-1].passed is None:
            placed[-1] = msgspec.structs.replace(placed[-1], **_outcome_of(episode))
        made += [msgspec.structs.replace(solution, dialogue=number) for solution in placed]
    return made


def judged_answer(
    turn: Turn, *, task: Task, prompt: tuple[Message, ...], before: Sequence[Message] = (), run: Run | None = None
) -> Solution:
    """Returns a turn's answer under a prompt, with what was said of it; ``before`` are turns between the two."""
    passed, evidence = _passed(turn)
    failing = () if passed else _failing(turn)
    said = () if passed else _remarks(turn)
    # A stranger's remark that nothing is taken from must not taint what execution found.
    heard = turn.feedback if said or evidence == "person" else ()
    ids = [item.id for item in turn.verdicts] + [item.id for item in turn.critiques] + [item.id for item in heard]
    tainted = "tainted" in {item.trust for item in heard} | {run.trust if run else "trusted"}
    return Solution(
        task=task,
        prompt=prompt,
        turns=(*before, _said_by(turn.attempt)),
        passed=passed,
        score=turn.score,
        evidence=evidence,
        failing=failing,
        said=said,
        run_id=run.id if run else "",
        sources=(*((run.id,) if run else ()), *ids),
        trust="tainted" if tainted else "trusted",
    )


def _imported(episode: Episode) -> Solution:
    turn = Turn(
        attempt=Attempt(messages=episode.prompt, completion=Completion(text=episode.answer)),
        verdicts=episode.verdicts,
        critiques=episode.critiques,
        feedback=episode.feedback,
    )
    return judged_answer(turn, task=episode.task, prompt=episode.prompt, run=episode.run)


def _solution(conversation: Conversation, turn: Turn, turns: Sequence[Turn], *, whole: bool) -> Solution:
    """Returns a turn's answer under the run's prompt; ``turns`` are all of the run."""
    episode, messages = conversation.episode, turn.attempt.messages
    prompt = episode.prompt if messages[: len(episode.prompt)] == episode.prompt else conversation.prompt
    start = len(prompt)
    if not whole:
        start = max((start, *(place + 1 for place, message in enumerate(messages) if message.role == "user")))
    exact = [each for each in turns if each is turn or _stands_in(each.attempt, messages, start)]
    made = judged_answer(turn, task=episode.task, prompt=prompt, before=messages[start:], run=episode.run)
    sampled = [Sampled(message=len(each.attempt.messages), completion=each.attempt.completion) for each in exact]
    return msgspec.structs.replace(
        made,
        tools=conversation.turns[0].attempt.tools,
        sampled=tuple(sampled) if start == len(prompt) else (),
        flagged=tuple(len(each.attempt.messages) - start for each in exact if _flagged(each)),
        temperature=turn.attempt.sampling.temperature,
    )


def _passed(turn: Turn) -> tuple[bool | None, Evidence]:
    """Returns whether it passed and who says so; what people corrected was wrong in their eyes."""
    executed = msgspec.structs.replace(turn, feedback=()).passed
    if executed is not None:
        return executed, "verifier"
    if turn.passed is not None:
        return turn.passed, "person"
    corrected = any(item.kind == "correction" for item in turn.feedback)
    return (False, "person") if corrected else (None, "")


def _remarks(turn: Turn) -> tuple[str, ...]:
    """Returns what was said of it, with what people said beside their ratings and in their next message."""
    texts = [item.text for item in turn.feedback if item.kind in _REMARKS and item.text.strip()]
    return tuple(dict.fromkeys((*turn.said, *texts)))


def _failing(turn: Turn) -> tuple[str, ...]:
    checks = [check for verdict in turn.verdicts for check in verdict.checks if not check.passed]
    worded = [describe_failure(check.call, check.got, check.expected) for check in checks if check.call]
    return tuple(worded)


def _said_by(attempt: Attempt) -> Message:
    return Message(role="assistant", content=attempt.text, tool_calls=attempt.completion.tool_calls)


def _calls(turn: Turn) -> bool:
    return bool(turn.attempt.completion.tool_calls)


def _flagged(turn: Turn) -> bool:
    criticised = any(critique.sign == "negative" for critique in turn.critiques)
    return turn.passed is False or (turn.passed is None and criticised)


def _stands_in(attempt: Attempt, messages: Sequence[Message], start: int) -> bool:
    """Whether the attempt's answer stands in a later call's messages, at ``start`` or after it."""
    place = len(attempt.messages)
    if not start <= place < len(messages) or messages[place] != _said_by(attempt):
        return False
    return messages[:place] == attempt.messages


def _led_to_answer(conversation: Conversation, found: Sequence[Conversation]) -> bool:
    """Whether it is another role's part in the answer (a plan, say), and the only one under its prompt."""
    answer = conversation.episode.answer
    same = [each for each in found if each.prompt == conversation.prompt]
    answering = {each.prompt for each in found for turn in each.turns if turn.attempt.text == answer}
    return len(same) == 1 and bool(answering) and conversation.prompt not in answering


def _outcome_of(episode: Episode) -> dict[str, object]:
    return {"passed": episode.passed, "score": episode.score, "evidence": "verifier" if episode.verdicts else ""}
