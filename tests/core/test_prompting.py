"""How learned text is worded for a model: the embedded model was trained on exactly this."""

from hypothesis import given
from hypothesis import strategies as st

from whet.core.prompting import describe_failure, render_retry, render_system

texts = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)


def test_a_system_message_has_its_parts_in_order() -> None:
    message = render_system("You write Python.\n", "Be short.", [("verbs", "zorp reverses\n")], ["one", " two "])
    assert message == "You write Python.\n\nBe short.\n\n# Skill: verbs\nzorp reverses\n\n# Lessons\none\ntwo"


def test_with_nothing_to_say_there_is_no_message() -> None:
    assert render_system() == ""
    assert render_system(" ", "\n") == ""


@given(st.lists(texts, max_size=3), st.lists(st.tuples(texts, texts), max_size=3))
def test_everything_learned_is_in_the_message(lessons: list[str], skills: list[tuple[str, str]]) -> None:
    message = render_system("prompt", skills=skills, lessons=lessons)
    assert all(lesson in message for lesson in lessons)
    assert all(f"# Skill: {name}\n{body}" in message for name, body in skills)
    assert ("# Lessons" in message) == bool(lessons)


def test_a_failure_is_one_line() -> None:
    assert describe_failure("solve([2, 1])", "[2, 1]", "[1, 2]") == "solve([2, 1]) returned [2, 1], expected [1, 2]."
    raised = describe_failure("solve(1)", "raised ValueError: no", "2")
    assert raised == "solve(1) raised ValueError: no, expected 2."


def test_a_retry_lists_the_critiques() -> None:
    assert render_retry(["a ", "b"]) == "Rejected.\na\nb\nWrite a corrected answer."
