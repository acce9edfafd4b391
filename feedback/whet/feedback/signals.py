"""What a user does next tells how the answer was received: next-state signals, read from logs of several turns.

    turns = [Turn(run_id="r1", said="sort this list", answer="…"), Turn(run_id="r2", said="no, descending", answer="…")]
    for item in signals(turns):
        print(item.source, item.run_id, item.value)        # signal:correction r1 0.25

Each signal is a rating of the run it is about, by a source of its own: ``signal:reask``, ``signal:correction``,
``signal:thanks``, ``signal:kept``, ``signal:edited``, ``signal:rewritten``, ``signal:abandoned``. Its value is how
probable a right answer is, given the signal: ``calibrate`` measures it on runs that tests judged, and until then it is
``GUESS``: 0.75 for good news, 0.25 for bad. A later step of the user's may reverse an earlier one
(``whet.feedback.trust.standing``); both stay on record.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

import msgspec

from whet.core.ids import now_ms
from whet.core.records import Feedback, Json, Message, Record, Trust, Verdict
from whet.feedback import feedback
from whet.feedback.trust import PRIOR, SIGNAL, execution_scores

__all__ = ["GUESS", "Turn", "calibrate", "kept_share", "likeness", "signals", "turns_of"]

GUESS: Mapping[str, float] = {
    "reask": 0.25,
    "correction": 0.25,
    "thanks": 0.75,
    "kept": 0.75,
    "edited": 0.75,
    "rewritten": 0.25,
    "abandoned": 0.25,
}
"""What an uncalibrated signal is worth: its direction, and no more."""

REASK = 0.6  # likeness from which a message asks the same again
KEPT, EDITED = 0.95, 0.5  # shares of the answer kept
IDLE = 30 * 60 * 1000  # milliseconds of silence that end a session
_WORD = re.compile(r"\w+")
_THANKS = re.compile(
    r"\b(thanks|thank you|thx|perfect|great|excellent|awesome|exactly (right|what)|that works|works (now|well|fine))\b",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"^\W*(no(?! (problem|worries))|nope|wrong|actually)\b"
    r"|\b(not what|i (meant|said|asked)|instead of|should (be|have)|that'?s (wrong|not)|is (wrong|incorrect))\b"
    r"|\b((does|did)(n'?t| not) work|still (wrong|fails|broken)|try again)\b",
    re.IGNORECASE,
)


class Turn(Record, frozen=True, kw_only=True):
    """One turn of a session: what the user said, and the run that answered.

    ``at`` is when the user said it, in UTC milliseconds. ``kept`` is the text the user ended up with, where that is
    known (a document saved, a message sent), and ``kept_at`` when. ``trust`` is tainted where a stranger wrote that.
    """

    run_id: str
    said: str
    answer: str
    at: int = msgspec.field(default_factory=now_ms)
    kept: str | None = None
    kept_at: int | None = None
    person: str | None = None
    trust: Trust = "trusted"


def signals(
    turns: Sequence[Turn], worth: Mapping[str, float] = GUESS, *, now: int | None = None, idle: int = IDLE
) -> list[Feedback]:
    """Returns what the turns of one session say of its answers, in order of the turns.

    A next message that corrects is a correction, else one that asks the same again a re-ask, else one that thanks
    thanks. A session whose last answer got no reply, and no use, for ``idle`` milliseconds was abandoned (silence may
    as well be content; calibration tells). Text of strangers makes tainted feedback.

    Args:
        worth: the value of each signal by its name, from ``calibrate``; those missing are guessed.
        now: UTC milliseconds; the clock's unless given.
    """
    known = {**GUESS, **worth}
    now = now_ms() if now is None else now
    found: list[Feedback] = []
    for turn, following in zip(turns, [*turns[1:], None], strict=False):
        for name, text, at, source, meta in _read(turn, following, now, idle):
            found.append(
                feedback.rating(
                    f"{SIGNAL}{name}",
                    run_id=turn.run_id,
                    value=known[name],
                    text=text,
                    person=source.person,
                    trust=source.trust,
                    meta=meta,
                    at=at,
                )
            )
    return found


def turns_of(messages: Sequence[Message], run_ids: Sequence[str], *, at: int = 0, gap: int = IDLE // 6) -> list[Turn]:
    """Returns the messages of a session as turns: the n-th user message, the next answer, and the n-th run.

    Where there is one id more than answers, the user's last words are a turn without an answer. Messages carry no time,
    so turns are ``gap`` milliseconds apart, from ``at`` on.
    """
    said = [message.content for message in messages if message.role == "user"]
    answers = [message.content for message in messages if message.role == "assistant"]
    rows = zip(run_ids, said, [*answers, ""], strict=False)
    return [Turn(run_id=id, said=words, answer=text, at=at + n * gap) for n, (id, words, text) in enumerate(rows)]


def calibrate(found: Iterable[Feedback], verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Returns, per signal, how probable a pass is given the signal: (1 + passed) / (2 + judged), over runs that tests
    judged (the mean of a Beta posterior with a uniform prior). Signals nobody could judge are left out.
    """
    scores = execution_scores(verdicts)
    outcomes: dict[str, list[bool]] = {}
    for item in found:
        if item.source.startswith(SIGNAL) and item.run_id in scores and item.run_id is not None:
            outcomes.setdefault(item.source.removeprefix(SIGNAL), []).append(scores[item.run_id][0])
    return {name: (PRIOR + sum(each)) / (2 * PRIOR + len(each)) for name, each in sorted(outcomes.items())}


def likeness(first: str, second: str) -> float:
    """Returns how much two messages ask the same, 0 to 1: twice the words in common, in order, over all words."""
    return SequenceMatcher(None, _words(first), _words(second), autojunk=False).ratio()


def kept_share(answer: str, kept: str) -> float:
    """Returns 1 minus the edit distance of two texts, in words, over the length of the longer one (1 for no words)."""
    before, after = answer.split(), kept.split()
    longest = max(len(before), len(after))
    return 1 - _distance(before, after) / longest if longest else 1.0


_Reading = tuple[str, str, int, Turn, dict[str, Json]]


def _read(turn: Turn, following: Turn | None, now: int, idle: int) -> Iterator[_Reading]:
    """Yields the name of each signal on a turn's answer, its text, its time, whose it is, and what was measured."""
    if following is not None and (name := _reply(turn.said, following.said)):
        yield name, following.said, following.at, following, {"likeness": likeness(turn.said, following.said)}
    if turn.kept is not None:
        share = kept_share(turn.answer, turn.kept)
        name = "kept" if share >= KEPT else "edited" if share >= EDITED else "rewritten"
        yield name, "" if share >= KEPT else turn.kept, turn.kept_at or turn.at, turn, {"kept": share}
    elif following is None and now - turn.at >= idle:
        yield "abandoned", "", turn.at + idle, turn, {"idle": now - turn.at}


def _reply(said: str, reply: str) -> str:
    """Returns the signal in the next message, the empty text where there is none."""
    if _CORRECTION.search(reply):
        return "correction"
    if likeness(said, reply) >= REASK:
        return "reask"
    return "thanks" if _THANKS.search(reply) else ""


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _distance(before: Sequence[str], after: Sequence[str]) -> int:
    """Returns the Levenshtein distance of two sequences."""
    row = list(range(len(after) + 1))
    for i, old in enumerate(before, 1):
        corner, row[0] = row[0], i
        for j, new in enumerate(after, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (old != new))
    return row[-1]
