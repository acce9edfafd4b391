"""Which bodies a task opens: deterministic, by name, keyword or description, within a token limit."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core.errors import NotFoundError
from whet.core.policy import Policy
from whet.skills import (
    Skill,
    catalogue,
    disclose,
    disclosure_cost,
    estimate_tokens,
    install,
    library,
    relevance,
    remove,
)


@pytest.fixture
def policy(verbs: Skill) -> Policy:
    invoices = Skill(
        name="invoice-total", description="Adds up the positions of an invoice with tax.", body="Tax is 19 %."
    )
    return install(install(Policy(), verbs), invoices)


def test_names_and_descriptions_are_always_available(policy: Policy, verbs: Skill) -> None:
    assert [name for name, _ in catalogue(policy)] == ["invoice-total", "verbs"]
    assert catalogue(policy)[1][1] == verbs.description


@pytest.mark.parametrize(
    ("task", "opened"),
    [
        ("Write solve(x): zorp, then frob.", ["verbs"]),
        ("BLICK it", ["verbs"]),
        ("Sum the positions of this invoice", ["invoice-total"]),
        ("Explain the invoice total", ["invoice-total"]),
        ("zorp the total of each invoice with tax", ["invoice-total", "verbs"]),
        ("Write a function that returns a list", []),
        ("zorpy", []),
        ("", []),
    ],
)
def test_a_body_opens_when_the_task_calls_for_it(policy: Policy, task: str, opened: list[str]) -> None:
    assert [name for name, _ in disclose(policy, task)] == opened


def test_the_body_is_what_the_skill_says_and_the_limit_holds(policy: Policy, verbs: Skill) -> None:
    assert disclose(policy, "zorp") == [("verbs", verbs.body)]
    assert disclose(policy, "zorp", max_tokens=verbs.body_tokens) == [("verbs", verbs.body)]
    assert disclose(policy, "zorp", max_tokens=verbs.body_tokens - 1) == []


@given(st.text(max_size=80))
def test_relevance_does_not_depend_on_case_or_order(text: str) -> None:
    skill = Skill(name="tax-total", description="Adds positions with tax", body="", metadata={"keywords": "vat"})
    words = text.split()
    assert relevance(skill, " ".join(words)) == relevance(skill, " ".join(reversed(words)))
    assert relevance(skill, text + " vat") >= 2


def test_installing_replaces_the_old_files_and_removing_takes_all(policy: Policy, verbs: Skill) -> None:
    newer = install(policy, msgspec.structs.replace(verbs, files={}))
    assert library(newer)[1].files == {}
    assert remove(policy, "verbs").skill_names() == ["invoice-total"]
    with pytest.raises(NotFoundError, match="the policy has invoice-total"):
        remove(remove(policy, "verbs"), "verbs")


def test_tokens_are_counted() -> None:
    assert estimate_tokens("") == 0
    assert estimate_tokens("def zorp(x): return x[::-1]") == 14
    assert estimate_tokens("extraordinarily") == 3


def test_each_level_of_disclosure_has_its_cost(verbs: Skill) -> None:
    cost = disclosure_cost(verbs)
    assert cost.always == estimate_tokens(f"verbs: {verbs.description}")
    assert cost.body == estimate_tokens(verbs.body)
    more = msgspec.structs.replace(verbs, files={**verbs.files, "references/more.md": b"one two three"})
    assert disclosure_cost(more).files == cost.files + 3
    assert (disclosure_cost(more).always, disclosure_cost(more).body) == (cost.always, cost.body)
