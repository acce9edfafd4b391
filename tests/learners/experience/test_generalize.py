"""Anti-unification: the least general template, and the same parameter where the same differs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.agents.shortcuts import PLACE, fill
from whet.core.records import Json
from whet.learners.experience.generalize import General, generalize


def test_what_differs_alike_is_one_parameter() -> None:
    found = generalize([{"command": f"sort {name}.txt > {name}.out"} for name in ("a", "b", "my-file")])
    assert found == General(
        template={"command": "sort {{value1}}.txt > {{value1}}.out"}, values={"value1": ("a", "b", "my-file")}
    )


@pytest.mark.parametrize(
    ("terms", "template"),
    [
        (["same", "same"], "same"),
        (["wc -l < x", "wc -l < y"], "wc -l < {{value1}}"),
        (["abc", "def"], "{{value1}}"),
        ([{"a": 1, "b": True}, {"a": 2, "b": True}], {"a": "{{value1}}", "b": True}),
        ([[1, 2], [2, 1]], ["{{value1}}", "{{value2}}"]),
        (["cut a off", "cut b c off"], "cut {{value1}} off"),
    ],
)
def test_templates(terms: list[Json], template: Json) -> None:
    found = generalize(terms)
    assert found is not None
    assert found.template == template


@pytest.mark.parametrize(
    "terms", [[{"a": 1}, {"b": 1}], [[1], [1, 2]], [{"a": []}, {"a": {}}], ["{{x}} a", "b"], [[1], 1]]
)
def test_terms_of_another_form_have_nothing_in_common(terms: list[Json]) -> None:
    assert generalize(terms) is None


TEXTS = st.text(alphabet="ab 1.-/", max_size=12)


@given(
    st.lists(st.fixed_dictionaries({"x": TEXTS, "y": st.lists(TEXTS, min_size=1, max_size=1)}), min_size=1, max_size=4)
)
def test_every_term_comes_back_from_the_template(terms: list[Json]) -> None:
    found = generalize(terms)
    assert found is not None
    for number, term in enumerate(terms):
        assert fill(found.template, {name: values[number] for name, values in found.values.items()}) == term
    assert not PLACE.search(str(terms))
