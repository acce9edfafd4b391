"""Next-state signals: each is seen, none is seen where there is none, and their worth is measured on simulated logs."""

import asyncio
from collections.abc import Sequence

import pytest

from whet.core import Feedback, Message, Verdict
from whet.core.ids import now_ms
from whet.feedback.signals import GUESS, IDLE, Turn, calibrate, kept_share, likeness, signals, turns_of
from whet.feedback.simulated import Need, Persona, SimulatedUser, interact
from whet.feedback.trust import agreements, standing

NOW = 1_000_000_000
ASKED = "write a function that sorts a list of numbers"


def after(reply: str | None, **first: object) -> list[Feedback]:
    """The signals of a turn that is followed by this reply."""
    turns = [Turn(run_id="r1", said=ASKED, answer="def f(x): return sorted(x)", at=NOW, **first)]  # type: ignore[arg-type]
    if reply is not None:
        turns.append(Turn(run_id="r2", said=reply, answer="…", at=NOW + 1000))
    return [item for item in signals(turns, now=NOW + 2000) if item.run_id == "r1"]


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("Write a function that sorts the list of numbers please", "reask"),
        ("write function sorts list of numbers", "reask"),
        ("No, I meant in descending order", "correction"),
        ("that's not what I asked for", "correction"),
        ("It doesn't work for an empty list.", "correction"),
        ("No, write a function that sorts a list of numbers", "correction"),
        ("Thanks, perfect!", "thanks"),
        ("No problem, thank you", "thanks"),
        ("And how do I open a file?", None),
        ("Notes on sorting, next chapter", None),
    ],
)
def test_the_next_message_tells(reply: str, name: str | None) -> None:
    found = after(reply)
    assert [item.source for item in found] == ([f"signal:{name}"] if name else [])
    if name:
        (item,) = found
        assert (item.kind, item.value, item.text, item.at) == ("rating", GUESS[name], reply, NOW + 1000)
        assert item.meta["likeness"] == likeness(ASKED, reply)


@pytest.mark.parametrize(
    ("kept", "name"),
    [
        ("def f(x): return sorted(x)", "kept"),
        ("def f(items): return sorted(x)", "edited"),
        ("def sort(items): items.sort()", "rewritten"),
    ],
)
def test_what_the_user_kept_tells(kept: str, name: str) -> None:
    (item,) = after(None, kept=kept, kept_at=NOW + 500)
    assert (item.source, item.at) == (f"signal:{name}", NOW + 500)
    assert item.text == ("" if name == "kept" else kept)


def test_silence_is_abandonment_only_after_a_while_and_without_use() -> None:
    turn = Turn(run_id="r", said=ASKED, answer="x", at=NOW)
    assert signals([turn], now=NOW + IDLE - 1) == []
    (item,) = signals([turn], now=NOW + IDLE)
    assert (item.source, item.at) == ("signal:abandoned", NOW + IDLE)
    assert after("And how do I open a file?") == []
    assert signals([Turn(run_id="r", said=ASKED, answer="x")], now=now_ms()) == [], "a turn is said now unless given"
    assert signals([]) == []


def test_strangers_words_are_tainted_and_persons_are_known() -> None:
    turns = [
        Turn(run_id="r1", said=ASKED, answer="x", at=NOW, person="ana"),
        Turn(run_id="r2", said="no, wrong", answer="y", at=NOW + 1, person="eve", trust="tainted"),
    ]
    (item,) = signals(turns, now=NOW + 2)
    assert (item.run_id, item.person, item.trust) == ("r1", "eve", "tainted")


def test_a_later_step_reverses_an_earlier_one_and_both_are_on_record() -> None:
    said = signals(
        [
            Turn(run_id="r1", said=ASKED, answer="a b c", at=NOW, kept="z y x w", kept_at=NOW + 86_400_000),
            Turn(run_id="r2", said="thanks!", answer="…", at=NOW + 1000),
        ],
        now=NOW + 2000,
    )
    assert [item.source for item in said] == ["signal:thanks", "signal:rewritten"]
    assert [item.source for item in standing(said)] == ["signal:rewritten"]


def test_the_edit_distance_is_that_of_levenshtein_in_words() -> None:
    assert kept_share("a b c d", "a b c d") == 1.0
    assert kept_share("a b c d", "a x c d") == 0.75
    assert kept_share("a b", "b a") == 0.0
    assert kept_share("a b c d", "b c d e") == 0.5
    assert (kept_share("", ""), kept_share("a", "")) == (1.0, 0.0)


PERSONA = Persona(name="ana", attention=0.9, flip=0.1, explains=0.5, thanks=0.6)


def simulated(n: int, right: float = 0.6) -> tuple[list[list[Turn]], dict[str, bool]]:
    """Sessions of a user who is right about most answers, and the truth about each."""
    logs, truth = [], {}
    for i in range(n):
        answer = "It is 42 metres." if i / n < right else "It is 42."

        async def respond(messages: Sequence[Message], answer: str = answer) -> str:
            return answer

        need = Need(wish="How long is the bridge?", wants=("metres",))
        user = SimulatedUser(need, PERSONA, seed=i)
        session = asyncio.run(interact(respond, user, proposals=1))
        logs.append(turns_of(session.messages, [f"r{i}", f"s{i}"], at=NOW))
        truth[f"r{i}"] = session.satisfied
    return logs, truth


def test_calibrated_values_are_the_truth_of_simulated_logs() -> None:
    """By Bayes, from the persona: who complains of 9 in 10 wrong answers, and is mistaken one time in ten."""
    logs, truth = simulated(800)
    verdicts = [
        Verdict(run_id=id, task_id="t", verifier="python_tests@1", outcome="pass" if right else "fail")
        for id, right in truth.items()
    ]
    worth = calibrate([item for log in logs for item in signals(log, now=NOW)], verdicts)
    complains_of_right, complains_of_wrong = 0.1, 0.9 * 0.9 + 0.1 * 0.1
    expected = {
        "correction": 0.6 * complains_of_right / (0.6 * complains_of_right + 0.4 * complains_of_wrong),
        "thanks": 0.6 * 0.9 / (0.6 * 0.9 + 0.4 * (1 - complains_of_wrong)),
    }
    assert worth == pytest.approx(expected, abs=0.05)
    again = [item for log in logs for item in signals(log, worth, now=NOW)]
    assert {item.value for item in again} == set(worth.values())
    tally = agreements(again, verdicts)
    assert tally["signal:correction"].agree > 5 * tally["signal:correction"].disagree


def test_signals_that_nobody_could_judge_stay_guesses() -> None:
    assert calibrate(after("Thanks!"), []) == {}
