"""The generated family of tasks: exact, disjoint between training and evaluation, with a known best score."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core.errors import UserError
from whet.core.models.tiny.world import (
    LIST_ONLY,
    OPERATIONS,
    VERBS,
    World,
    chance,
    draw_input,
    judge,
    program,
    read_definitions,
    split_of,
)


def run_python(source: str, value: object) -> object:
    """Runs a world's own reference answer: text that this repository generated."""
    names: dict[str, object] = {}
    exec(source, names)  # noqa: S102
    solve = names["solve"]
    assert callable(solve)
    return solve(value)


@given(st.lists(st.integers(-9, 20), max_size=8))
def test_operations_are_the_python_they_are_written_as(value: list[int]) -> None:
    for expression, function in OPERATIONS.items():
        assert function(value) == eval(expression, {"x": value})  # noqa: S307


@given(st.integers(0, 10**6))
def test_operations_differ_pairwise_on_every_drawn_list(seed: int) -> None:
    value = draw_input(random.Random(seed))
    assert len({repr(function(value)) for function in OPERATIONS.values()}) == len(OPERATIONS)


@given(st.integers(0, 10**6), st.sampled_from(["list", "string", "mixed"]), st.integers(0, 2))
def test_reference_is_python_that_passes_its_checks(seed: int, kind: str, examples: int) -> None:
    world = World(seed, verbs=40)
    tasks = world.tasks(6, lengths=(1, 2, 3, 4, 5, 6), seed=seed, kind=kind, examples=examples)  # type: ignore[arg-type]
    for task in tasks:
        assert judge(task.reference, task.checks) == []
        assert all(run_python(task.reference, value) == expected for value, expected in task.checks)
        assert task.prompt.count("\n") == examples
        assert len(read_definitions(task.reference)) == len(set(task.verbs))


def test_same_seed_same_world_and_tasks() -> None:
    assert World(3).tasks(5, seed=1) == World(3).tasks(5, seed=1)
    assert World(3).tasks(5, seed=1) != World(3).tasks(5, seed=2)
    assert [World(3).meaning(verb) for verb in World(3).verbs] != [World(4).meaning(verb) for verb in World(4).verbs]


@given(st.integers(0, 10**9), st.integers(1, len(VERBS)))
def test_no_evaluation_world_can_be_a_training_world(seed: int, verbs: int) -> None:
    for split in ("train", "eval"):
        world = World(seed, verbs=verbs, split=split)  # type: ignore[arg-type]
        assert split_of({verb: world.meaning(verb) for verb in world.verbs}) == split


def test_definitions_hold_the_wanted_verbs_and_as_many_distractors() -> None:
    world = World(5)
    lines = world.definitions(world.verbs[:3], distractors=4)
    assert len(lines) == 7
    assert {world.definition(verb) for verb in world.verbs[:3]} <= set(lines)
    assert len(world.definitions(world.verbs[:1], distractors=1000)) == len(world.verbs)


def test_an_example_states_what_a_chain_does() -> None:
    world = World(5)
    verb = world.verbs[0]
    call, value = world.example(verb, seed=1).split(" == ")
    assert repr(world.apply([verb], eval(call[len(verb) :]))) == value  # noqa: S307


def test_strings_meet_only_verbs_that_take_strings() -> None:
    world = World(1)
    for task in world.tasks(20, kind="string"):
        assert all(world.meaning(verb) not in LIST_ONLY for verb in task.verbs)
        assert all(isinstance(value, str) for value, _ in task.checks)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_chance_is_what_counting_every_guess_gives(length: int) -> None:
    world = World(11)
    chain = world.verbs[:length]
    assignments = [dict(zip(chain, meanings, strict=True)) for meanings in _product(list(OPERATIONS), length)]
    probe = [3, 1, 6, 2, 7, 5, 4]
    right = sum(not judge(program(chain, guess), [(probe, world.apply(chain, probe))]) for guess in assignments)
    assert chance(chain, world) == pytest.approx(right / len(assignments))


def _product(items: list[str], length: int) -> list[tuple[str, ...]]:
    return [()] if not length else [(item, *rest) for item in items for rest in _product(items, length - 1)]


def test_chance_ties_repeated_verbs() -> None:
    world = World(11)
    verb = world.verbs[0]
    assert chance([verb, verb], world) >= 1 / len(OPERATIONS)


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        ("def solve(x): return zorp(x)", "raised NameError: name 'zorp' is not defined"),
        ("def zorp(x): return x[::-1]\ndef solve(x): return zorp(x))", "raised SyntaxError: invalid syntax"),
        ("def zorp(x): return __import__('os')\ndef solve(x): return zorp(x)", "raised SyntaxError: invalid syntax"),
        ("", "raised SyntaxError: invalid syntax"),
        ("def zorp(x): return [v+1 for v in x]\ndef solve(x): return zorp(x)", "raised TypeError: "),
    ],
)
def test_judge_says_what_a_wrong_answer_did(answer: str, got: str) -> None:
    (failure,) = judge(answer, [("bcd", "dcb")])
    assert failure.call == "solve('bcd')"
    assert failure.expected == "'dcb'"
    assert failure.got.startswith(got)


def test_mistakes_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(UserError, match="1 to 64 verbs"):
        World(0, verbs=0)
    with pytest.raises(UserError, match="no verb 'nope'"):
        World(0).meaning("nope")
    with pytest.raises(UserError, match="ask for fewer"):
        World(0, verbs=2).tasks(50, lengths=(1,))
