"""Simulated users and annotators do what their persona says, and the same seed says the same."""

from collections.abc import Callable, Sequence

import pytest

from whet.core import Message, UserError
from whet.core.models import ScriptedModel
from whet.feedback.signals import turns_of
from whet.feedback.simulated import (
    Annotator,
    Need,
    Persona,
    Respond,
    SimulatedUser,
    crowd,
    interact,
    success_by_turn,
)

NEED = Need(wish="Book a table.", wants=("four people", "7 pm"), facts={"people": "Four people.", "time": "At 7 pm."})


def saying(*texts: str) -> Respond:
    """An agent that says these, and then the last again."""

    async def respond(messages: Sequence[Message]) -> str:
        return texts[min(sum(message.role == "assistant" for message in messages), len(texts) - 1)]

    return respond


def test_a_quarter_of_the_labels_of_a_crowd_is_flipped_and_repeatably() -> None:
    annotators = crowd(13)
    asked = [(annotator, f"run{n}") for annotator in annotators for n in range(150)]
    accepted = [annotator.opinion(run, right=True).kind == "accept" for annotator, run in asked]
    assert sum(accepted) / len(accepted) == pytest.approx(0.75, abs=0.03)
    assert accepted == [annotator.opinion(run, right=True).kind == "accept" for annotator, run in asked]
    preferred = [annotator.preference(run, "other", score=1.0, other=0.0).run_id == run for annotator, run in asked]
    assert sum(preferred) / len(preferred) == pytest.approx(0.75, abs=0.03)
    assert len({annotator.persona.lean for annotator in annotators}) == 13
    assert crowd(3, seed=1)[0].persona.lean != annotators[0].persona.lean


def test_ratings_lean_and_spread_and_ties_are_broken_evenly() -> None:
    strict = Annotator(Persona(name="strict", lean=-0.3, spread=0.05))
    ratings = [strict.rating(f"run{n}", score=0.8).value or 0.0 for n in range(300)]
    assert sum(ratings) / 300 == pytest.approx(0.5, abs=0.02)
    assert all(0.0 <= value <= 1.0 for value in ratings)
    first = sum(strict.preference(f"run{n}", "other", score=0.5, other=0.5).run_id == f"run{n}" for n in range(400))
    assert first == pytest.approx(200, abs=45)
    sure = Annotator(Persona(name="sure"))
    assert sure.opinion("r", right=False).kind == "reject"
    assert sure.preference("r", "s", score=0.1, other=0.9).run_id == "s"


@pytest.mark.asyncio
async def test_a_user_answers_questions_from_the_need_and_judges_answers() -> None:
    user = SimulatedUser(NEED)
    assert (await user.reply("For how many people?")).text == "Four people."
    assert (await user.reply("What time?")).text == "At 7 pm."
    assert (await user.reply("Do you like olives?")).text == "I do not know."
    wrong = await user.reply("Booked for four people.")
    assert (wrong.text, wrong.wrong, wrong.done) == (
        "No, that is wrong. 7 pm is missing.",
        ("7 pm is missing.",),
        False,
    )
    right = await user.reply("Booked for FOUR people at 7 PM.")
    assert (right.text, right.wrong, right.done) == ("Thanks, that works.", (), True)
    lazy = SimulatedUser(NEED, Persona(explains=0.0))
    assert (await lazy.reply("Booked.")).text == "No, that is wrong."


@pytest.mark.asyncio
async def test_an_interaction_keeps_to_the_limits_of_turns_and_proposals() -> None:
    asks = await interact(saying("Why?"), SimulatedUser(NEED), turns=3)
    assert (len(asks.replies), asks.proposals, asks.satisfied) == (3, 0, False)
    stubborn = await interact(saying("Booked."), SimulatedUser(NEED), turns=5, proposals=2)
    assert (len(stubborn.replies), stubborn.proposals, stubborn.satisfied) == (2, 2, False)
    good = await interact(
        saying("How many people?", "Booked for four people.", "Booked for four people at 7 pm."), SimulatedUser(NEED)
    )
    assert (len(good.replies), good.proposals, good.satisfied) == (3, 2, True)
    assert [message.role for message in good.messages] == ["user", "assistant"] * 3 + ["user"]
    assert success_by_turn([asks, stubborn, good], 3) == [0.0, 0.0, 1 / 3]
    turns = turns_of(good.messages, ["a", "b", "c", "d"])
    assert [(turn.run_id, turn.said) for turn in turns][2:] == [
        ("c", "No, that is wrong. 7 pm is missing."),
        ("d", "Thanks, that works."),
    ]
    assert turns[3].answer == ""
    for make in (
        lambda: interact(saying("x"), SimulatedUser(NEED), turns=0),
        lambda: interact(saying("x"), SimulatedUser(NEED), proposals=0),
    ):
        with pytest.raises(UserError):
            await make()
    with pytest.raises(UserError):
        success_by_turn([], 3)


@pytest.mark.asyncio
async def test_a_user_who_does_not_look_is_content_with_a_wrong_answer_and_the_truth_is_kept() -> None:
    session = await interact(saying("Booked."), SimulatedUser(NEED, Persona(attention=0.0)))
    assert (session.replies[0].done, session.satisfied, session.messages[-1].content) == (
        True,
        False,
        "Thanks, that works.",
    )


@pytest.mark.asyncio
async def test_the_same_seed_says_the_same_and_a_model_may_word_it() -> None:
    noisy = Persona(name="noisy", flip=0.3, attention=0.7, explains=0.5, thanks=0.5)

    async def texts(seed: int) -> list[str]:
        user = SimulatedUser(NEED, noisy, seed=seed)
        return [(await user.reply("Booked.")).text for _ in range(12)]

    assert await texts(1) == await texts(1)
    assert await texts(1) != await texts(2)

    def reword(messages: Sequence[Message]) -> str:
        assert "No, that is wrong." in messages[0].content
        return "Nope."

    async with ScriptedModel([reword, "  "]) as model:
        user = SimulatedUser(NEED, Persona(explains=0.0), model=model)
        assert (await user.reply("Booked.")).text == "Nope."
        assert (await user.reply("Booked.")).text == "No, that is wrong.", "no words are no reply"


def test_a_crowd_of_nobody_is_refused() -> None:
    makes: list[Callable[[], object]] = [lambda: crowd(0), lambda: crowd(3, flip=1.5)]
    for make in makes:
        with pytest.raises(UserError):
            make()
