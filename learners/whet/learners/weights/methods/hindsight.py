"""Hindsight: what a teacher is told that the student was not, and answers that were revised with it.

    context = teacher_context(prompt, answer, said=["solve([2, 1]) returned [2, 1], expected [1, 2]."], wording="retry")
    answer_row(prompt, completion, teacher=context)

Two wordings. ``retry`` is the conversation an agent itself leads after a rejected attempt: the attempt, then
``whet.core.prompting.render_retry``; whoever can revise understands it. ``hint`` leaves the attempt out and appends
what is known to the task, as SDPO does (arXiv 2601.20802), for models that follow instructions.
"""

import asyncio
import re
from collections.abc import Coroutine, Iterable, Sequence
from typing import Literal, TypeAlias, TypeVar

import msgspec

from whet.core.errors import UserError
from whet.core.prompting import render_retry
from whet.core.records import Message, Record, Sampling, Trust
from whet.learners.weights.experience import Attempt, Experience
from whet.learners.weights.method import Kit
from whet.learners.weights.methods.conversations import Conversation, RewardKind, Turn
from whet.learners.weights.methods.selection import corrections, distinct, grouped
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.rows import Row, answer_row

__all__ = [
    "Revision",
    "Wording",
    "ask_revisions",
    "check_lift",
    "critic_prompt",
    "hinted",
    "known_right",
    "recorded_revisions",
    "retry_prompt",
    "teacher_context",
    "together",
    "verify_prompt",
    "visible",
]

T = TypeVar("T")
Wording: TypeAlias = Literal["retry", "hint"]

_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_MOST = 32  # answers that the lift is measured on


class Revision(Record, frozen=True, kw_only=True):
    """A rejected turn, a later answer given with what was said of it in view, and what that answer earned."""

    before: Turn
    after: Turn
    reward: float
    sources: tuple[str, ...] = ()
    trust: Trust = "trusted"

    @property
    def text(self) -> str:
        """The revised answer."""
        return self.after.attempt.text

    @property
    def passed(self) -> bool:
        """Whether it passed."""
        return bool(self.after.passed)


def teacher_context(
    prompt: Sequence[Message], answer: str, *, said: Sequence[str] = (), solution: str = "", wording: Wording = "retry"
) -> tuple[Message, ...]:
    """Returns what the teacher sees: the prompt and what is known in hindsight, in a wording."""
    known = [text for text in (*said, solution) if text.strip()]
    if wording == "retry":
        return retry_prompt(prompt, answer, known)
    parts = [f"A correct solution:\n{solution}"] if solution.strip() else []
    if said:
        parts.append("Feedback on an earlier attempt that failed:\n" + "\n".join(text.strip() for text in said))
    return hinted(prompt, "\n\n".join([*parts, "Now answer the task itself."]))


def retry_prompt(prompt: Sequence[Message], answer: str, said: Sequence[str]) -> tuple[Message, ...]:
    """Returns the conversation in which an answer was rejected, and a corrected one is asked for."""
    rejected = Message(role="assistant", content=answer)
    return (*prompt, rejected, Message(role="user", content=render_retry(said)))


def hinted(prompt: Sequence[Message], hint: str) -> tuple[Message, ...]:
    """Returns the prompt with a hint after its last user message; as a message of its own where there is none."""
    at = max((index for index, message in enumerate(prompt) if message.role == "user"), default=None)
    if at is None:
        return (*prompt, Message(role="user", content=hint))
    asked = msgspec.structs.replace(prompt[at], content=f"{prompt[at].content}\n\n{hint}")
    return (*prompt[:at], asked, *prompt[at + 1 :])


def critic_prompt(prompt: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """Returns the conversation in which the policy is asked to criticise an answer."""
    given = Message(role="assistant", content=answer)
    return (*prompt, given, Message(role="user", content="Say what is wrong with this answer."))


def verify_prompt(prompt: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """Returns the conversation in which the policy is asked whether an answer is right."""
    given = Message(role="assistant", content=answer)
    return (*prompt, given, Message(role="user", content="Is this answer right? Reply with yes or no."))


def visible(text: str) -> str:
    """Returns an answer without the thinking before it."""
    return _THINKING.sub("", text).strip()


async def known_right(experience: Experience, kit: Kit) -> dict[str, list[Solution]]:
    """Returns the answers that are known to be right, by task: those that passed, and people's corrections."""
    found = [*solutions(experience), *await corrections(experience, kit)]
    return grouped(distinct(solution for solution in found if solution.passed))


def recorded_revisions(conversation: Conversation, kind: RewardKind) -> list[Revision]:
    """Returns what a run revised itself: the judged answers after a first one that was rejected."""
    first = len(conversation.attempt.turns)
    if conversation.turns[first - 1].passed is not False:
        return []
    revised = [_revision(conversation, first - 1, turn, kind) for turn in conversation.turns[first:]]
    return [revision for revision in revised if revision is not None]


async def ask_revisions(
    kit: Kit, rejected: Conversation, asked: Sequence[Message], kind: RewardKind, *, n: int, temperature: float
) -> list[Revision]:
    """Returns ``n`` revisions of a conversation's last answer by the policy, judged by the task's own verifiers.

    Raises:
        UserError: the learner has no model to ask.
        BudgetError: the budget does not allow it.
    """
    answers = await kit.ask(asked, n=n, sampling=Sampling(temperature=temperature))
    judged = await together(kit.judge(rejected.task, answer.text) for answer in answers)
    turns = [
        Turn(attempt=Attempt(messages=tuple(asked), completion=answer), verdicts=verdicts)
        for answer, verdicts in zip(answers, judged, strict=True)
    ]
    found = [_revision(rejected, len(rejected.turns) - 1, turn, kind) for turn in turns]
    return [revision for revision in found if revision is not None]


async def together(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Returns the results of what runs side by side, in order; when one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _revision(conversation: Conversation, before: int, turn: Turn, kind: RewardKind) -> Revision | None:
    reward = turn.reward(kind)
    if reward is None:
        return None
    rejected = conversation.turns[before]
    return Revision(
        before=rejected,
        after=turn,
        reward=reward,
        sources=tuple(dict.fromkeys((conversation.episode.run.id, *rejected.sources, *turn.sources))),
        trust=conversation.episode.run.trust,
    )


async def check_lift(kit: Kit, rows: Sequence[Row], good: Sequence[str], method: str) -> float | None:
    """Returns how much likelier known-good answers are to the teacher than to the policy, in nats per answer.

    ``good`` holds for each row an answer known to be right, empty where none is. ``None`` where there is none at all.

    Raises:
        UserError: they are no likelier: the model does not understand what the teacher is told.
    """
    known = [(row, text) for row, text in zip(rows, good, strict=True) if text]
    if not known:
        return None
    chosen = kit.rng.sample(known, min(_MOST, len(known)))
    probes = [answer_row(row.messages[: row.pieces[0].message], text, teacher=row.teacher) for row, text in chosen]
    student = [sum(logprobs) for logprobs in await kit.logprobs(probes)]
    teacher = [sum(logprobs) for logprobs in await kit.logprobs(probes, teacher=True)]
    without, told = sum(student) / len(probes), sum(teacher) / len(probes)
    if told <= without:
        raise UserError(
            f"{method}: told what was said of its answers, the model finds right ones no likelier (mean logprob "
            f"{told:.2f}, untold {without:.2f}, {len(probes)} answers), so it can teach itself nothing: what was said "
            "is wrong, or in words it does not understand; set context to retry or hint, learn with grpo or ilf, or "
            "train all the same with preflight=false"
        )
    return told - without
