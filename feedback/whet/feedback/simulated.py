"""Simulated users and annotators, for tests and benchmarks: with a persona, noise and a known truth.

    annotator = crowd(13, flip=0.25)[0]                             # AlpacaFarm's noise
    annotator.opinion("run1", right=True)                           # accept, or, one time in four, reject
    user = SimulatedUser(Need(wish="Book a table.", wants=("7 pm",), facts={"how many people": "Four."}))
    session = await interact(respond, user, turns=5, proposals=2)   # MINT's protocol
    session.satisfied, session.proposals

The same seed says the same. No model is needed; one may word what a user says (``SimulatedUser(model=…)``).
"""

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeAlias

import msgspec

from whet.core.errors import UserError
from whet.core.models import Model
from whet.core.records import Feedback, Message, Record, Sampling
from whet.feedback import feedback
from whet.feedback.signals import likeness

__all__ = [
    "Annotator",
    "Judge",
    "Need",
    "Persona",
    "Reply",
    "Respond",
    "Session",
    "SimulatedUser",
    "crowd",
    "interact",
    "success_by_turn",
]

Respond: TypeAlias = Callable[[Sequence[Message]], Awaitable[str]]
Judge: TypeAlias = Callable[[str], Sequence[str]]
"""From an answer to what is wrong with it, in words; nothing for a right one."""

_ANSWERS = 0.3  # likeness from which a question is about a fact
_WORDING = "You are {name}, a user of an assistant. Say this in your own words, in one or two sentences: {text}"


class Persona(Record, frozen=True, kw_only=True):
    """Who judges, and how well.

    ``flip``: how often an opinion is the opposite of the truth. ``lean``: added to ratings in [0, 1]; ``spread``:
    standard deviation of ratings. ``attention``: how often something wrong is noticed. ``explains``: how often a
    complaint says what is wrong (0 is the lazy user of MINT, who only says that it is). ``thanks``: how often a right
    answer is thanked for.
    """

    name: str = "user"
    flip: float = 0.0
    lean: float = 0.0
    spread: float = 0.0
    attention: float = 1.0
    explains: float = 1.0
    thanks: float = 1.0


class Annotator:
    """Judges runs whose truth is known, as a persona would. The same seed judges the same run the same way."""

    def __init__(self, persona: Persona, seed: int = 0) -> None:
        self.persona, self._seed = persona, seed

    def opinion(self, run_id: str, *, right: bool) -> Feedback:
        """Returns an accept of a right run and a reject of a wrong one, or the opposite by mistake."""
        thumb = feedback.accept if right != self._mistaken(run_id) else feedback.reject
        return thumb(self.persona.name, run_id=run_id)

    def rating(self, run_id: str, *, score: float) -> Feedback:
        """Returns a rating of a run whose true score lies in [0, 1]: leaning, spread, and now and then upside down."""
        true = 1 - score if self._mistaken(run_id) else score
        value = true + self.persona.lean + self._draw(run_id, "spread").gauss(0, self.persona.spread)
        return feedback.rating(self.persona.name, run_id=run_id, value=min(1.0, max(0.0, value)))

    def preference(self, run_id: str, other_run_id: str, *, score: float, other: float) -> Feedback:
        """Returns which of two runs is better by their true scores, or the other by mistake; equals by chance."""
        key = f"{run_id}/{other_run_id}"
        first = self._draw(key, "tie").random() < 0.5 if score == other else score > other
        best, worst = (run_id, other_run_id) if first != self._mistaken(key) else (other_run_id, run_id)
        return feedback.preference(self.persona.name, run_id=best, other_run_id=worst)

    def _mistaken(self, key: str) -> bool:
        return self._draw(key, "flip").random() < self.persona.flip

    def _draw(self, key: str, what: str) -> Random:
        return Random(f"{self._seed}/{self.persona.name}/{what}/{key}")


def crowd(n: int = 13, *, flip: float = 0.25, spread: float = 0.1, seed: int = 0) -> list[Annotator]:
    """Returns annotators that vary: by default as many as AlpacaFarm simulates (Dubois et al. 2023, arXiv 2305.14387),
    with a quarter of the labels flipped; each leans towards praise or blame by up to ``spread``.

    Raises:
        UserError: there is nobody, or ``flip`` is no share.
    """
    if n < 1 or not 0 <= flip <= 1:
        raise UserError(f"a crowd of {n!r} that flips {flip!r} of its labels; at least 1, and a share from 0 to 1")
    leans = [Random(f"{seed}/lean/{i}").uniform(-spread, spread) for i in range(n)]
    return [Annotator(Persona(name=f"annotator-{i}", flip=flip, lean=leans[i], spread=spread), seed) for i in range(n)]


class Need(Record, frozen=True, kw_only=True):
    """What a user came for.

    ``wish`` is said first, ``facts`` (topic to answer) are told when asked about; a right answer holds all texts of
    ``wants``.
    """

    wish: str
    wants: tuple[str, ...] = ()
    facts: dict[str, str] = msgspec.field(default_factory=dict)

    def missing(self, answer: str) -> list[str]:
        """Returns what is wrong with an answer, in words."""
        return [f"{want} is missing." for want in self.wants if want.casefold() not in answer.casefold()]


class Reply(Record, frozen=True, kw_only=True):
    """What a user says next. ``proposal``: whether it was an answer that is judged; ``wrong``: what truly was wrong.

    ``done``: the user is satisfied, rightly or by mistake.
    """

    text: str
    proposal: bool
    wrong: tuple[str, ...] = ()
    done: bool = False


class SimulatedUser:
    """A user with an information need, who answers questions and gives feedback (ConvSim, Owoicho et al. 2023, arXiv
    2304.13874).

    What ends in a question mark is a question: the fact most like it is told, or that the user does not know. Anything
    else is taken for an answer and judged, by ``judge`` (tests, a verifier) or by what the need wants. A complaint
    never holds the solution; a lazy persona's does not even say what is wrong.
    """

    def __init__(
        self,
        need: Need,
        persona: Persona | None = None,
        *,
        seed: int = 0,
        judge: Judge | None = None,
        model: Model | None = None,
    ) -> None:
        self.need, self.persona = need, persona or Persona()
        self._random = Random(f"{seed}/{self.persona.name}/{need.wish}")
        self._judge = judge or need.missing
        self._model = model

    async def reply(self, said: str) -> Reply:
        """Returns what the user says to the agent's last message.

        Raises:
            ModelError: the model that words it could not be asked.
        """
        if said.rstrip().endswith("?"):
            return Reply(text=await self._worded(self._told(said)), proposal=False)
        wrong = tuple(self._judge(said))
        unhappy = bool(wrong) and self._random.random() < self.persona.attention
        if self._random.random() < self.persona.flip:
            unhappy = not unhappy
        text = self._complaint(wrong) if unhappy else self._praise()
        return Reply(text=await self._worded(text), proposal=True, wrong=wrong, done=not unhappy)

    def _told(self, question: str) -> str:
        topics = sorted(self.need.facts, key=lambda topic: likeness(question, topic), reverse=True)
        if topics and likeness(question, topics[0]) >= _ANSWERS:
            return self.need.facts[topics[0]]
        return "I do not know."

    def _complaint(self, wrong: Sequence[str]) -> str:
        if wrong and self._random.random() < self.persona.explains:
            return f"No, that is wrong. {wrong[0]}"
        return "No, that is wrong."

    def _praise(self) -> str:
        return "Thanks, that works." if self._random.random() < self.persona.thanks else "Now something else."

    async def _worded(self, text: str) -> str:
        if self._model is None:
            return text
        ask = Message(role="user", content=_WORDING.format(name=self.persona.name, text=text))
        return (await self._model.complete([ask], sampling=Sampling(temperature=0.0))).text.strip() or text


class Session(Record, frozen=True, kw_only=True):
    """What came of an interaction: the messages, and the user's replies to each of the agent's.

    ``satisfied`` is the truth about the last answer, whatever the user thought of it.
    """

    messages: tuple[Message, ...]
    replies: tuple[Reply, ...]

    @property
    def proposals(self) -> int:
        """How many answers the agent proposed."""
        return sum(reply.proposal for reply in self.replies)

    @property
    def satisfied(self) -> bool:
        """Whether the last message was a right answer."""
        return bool(self.replies) and self.replies[-1].proposal and not self.replies[-1].wrong


async def interact(respond: Respond, user: SimulatedUser, *, turns: int = 5, proposals: int = 2) -> Session:
    """Returns an interaction after MINT (Wang et al. 2023, arXiv 2309.10691).

    The agent has at most ``turns`` messages, of which at most ``proposals`` may be answers. It ends early when the user
    is satisfied.

    Raises:
        UserError: a limit is below 1.
    """
    if turns < 1 or proposals < 1:
        raise UserError(f"turns={turns!r}, proposals={proposals!r}: at least one of each is needed")
    messages = [Message(role="user", content=user.need.wish)]
    replies: list[Reply] = []
    while len(replies) < turns and sum(reply.proposal for reply in replies) < proposals:
        said = await respond(messages)
        reply = await user.reply(said)
        replies.append(reply)
        messages += [Message(role="assistant", content=said), Message(role="user", content=reply.text)]
        if reply.done:
            break
    return Session(messages=tuple(messages), replies=tuple(replies))


def success_by_turn(sessions: Sequence[Session], turns: int) -> list[float]:
    """Returns the share of sessions that had a right answer within 1, 2, … ``turns`` messages (MINT's success rate).

    Raises:
        UserError: there are no sessions.
    """
    if not sessions:
        raise UserError("there are no sessions to count; run interact first")
    right = [[reply.proposal and not reply.wrong for reply in session.replies] for session in sessions]
    return [sum(any(each[:k]) for each in right) / len(sessions) for k in range(1, turns + 1)]
