"""Learners from experience on the command line: what just went wrong, a correction of a step, and plain refusals."""

from collections.abc import Callable
from typing import Any

import pytest

Whet = Callable[..., Any]


def test_what_just_went_wrong_is_told_on_request(ran: Whet) -> None:
    assert ran("memory", "tend", "--json").json["items"] == []
    (noted,) = ran("memory", "tend", "--errors", "--json").json["items"]
    assert (noted["status"], noted["source"]) == ("active", "errors")
    assert "What is the question?" in noted["text"]
    assert "every lesson holds" in ran("memory", "tend", "--errors").err
    assert "negative" in ran("memory", "list", "--json").out


def test_feedback_may_be_about_a_step(ran: Whet) -> None:
    first, second = ran("run", "list", "-o", "id").out.split()
    step = ran("run", "steps", first, "--json").json["items"][0]["id"]
    said = ran("feedback", "add", first, "comment", "Think before you speak.", "--step", step, "--json").json
    assert said["step_id"] == step
    refused = ran("feedback", "add", second, "comment", "Think before you speak.", "--step", step, code=2)
    assert f"is one of run '{first}'" in refused.err


def test_learners_from_experience_are_listed_and_refuse_in_a_line(ran: Whet) -> None:
    names = {row["name"] for row in ran("learn", "--list", "--json").json["items"]}
    assert {"corrections", "errors", "propositions", "reformulation", "scope", "shortcuts", "tips"} <= names
    assert ran("learn", "shortcuts", "--dry-run", "--json").json["proposals"] == []
    proposed = ran("learn", "errors", "--dry-run").out
    assert "1 error" in proposed
    assert "min_tasks='1'" not in ran("learn", "shortcuts", "--set", "min_tasks=1", code=2).err
    assert "tips needs a model that writes" in ran("learn", "tips", code=2).err


def test_a_learner_that_finds_nothing_says_what_it_needs(whet: Whet) -> None:
    whet("init")
    for name, needs in (("scope", "judged runs in which lessons were told and withheld"), ("errors", "judged runs")):
        assert whet("learn", name).err == f"0 proposals: there is nothing new to learn from; needed: {needs}\n"
    assert whet("learn", "skills", "--json").json["proposals"] == []
    tried = whet("learn", "exemplars", "--tasks", "world:7?n=20", "--calls", "1").err
    assert tried.startswith("0 proposals: nothing tried within the limits is better; needed: tasks that are solved")


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("errors", "nearest=0"),
        ("reformulation", "gap=-1"),
        ("reformulation", "min_sessions=0"),
        ("shortcuts", "purity=3"),
        ("shortcuts", "at_most=0"),
        ("workflows", "min_share=2"),
        ("workflows", "tasks=0"),
    ],
)
def test_numbers_out_of_range_are_refused_in_a_line(whet: Whet, name: str, setting: str) -> None:
    whet("init")
    said = whet("learn", name, "--set", setting, code=2).err
    assert said.count("\n") == 1
    option, _, value = setting.partition("=")
    assert option in said
    assert value in said
