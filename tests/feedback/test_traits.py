"""Rubrics as files: what is written is read again, by hand written ones are read too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core import Policy, UserError
from whet.feedback.traits import Trait, read_rubric, rubric_path, write_rubric

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1).filter(str.strip)
lines = texts.map(lambda text: " ".join(text.split())).filter(
    lambda text: text[:1] not in "-*•#" and not text[0].isdigit()
)
traits = st.builds(
    Trait,
    name=lines,
    definition=st.lists(texts.map(str.strip), min_size=1).map("\n".join),
    good=st.lists(lines, max_size=3).map(tuple),
    bad=st.lists(lines, max_size=3).map(tuple),
)


@given(st.lists(traits, max_size=4))
def test_a_rubric_is_read_as_it_was_written(found: list[Trait]) -> None:
    text = write_rubric("style", found)
    again = read_rubric(text)
    assert [(trait.name, trait.good, trait.bad) for trait in again] == [(t.name, t.good, t.bad) for t in found]
    assert write_rubric("style", again) == text


def test_what_would_read_as_a_heading_stays_in_its_trait() -> None:
    (trait,) = read_rubric(write_rubric("x", [Trait(name="a", definition="## b\nGood:\n- c\nd", good=("e",))]))
    assert (trait.name, trait.good) == ("a", ("e",))
    assert "- c" in trait.definition


def test_one_by_hand_is_read() -> None:
    text = "Our style.\n\n## Units\nEvery number\nhas its unit.\n\nBad:\n * 5\n 1. five\n\n## Tone\n\nBe kind.\n"
    assert read_rubric(text) == (
        Trait(name="Units", definition="Every number\nhas its unit.", bad=("5", "five")),
        Trait(name="Tone", definition="Be kind."),
    )
    assert read_rubric("Just be kind.") == ()


def test_names_are_file_names() -> None:
    assert Policy.of({rubric_path("style-2"): "x"}).files
    for name in ("", "a/b", "../a", " a"):
        with pytest.raises(UserError, match="no name for a rubric"):
            rubric_path(name)
