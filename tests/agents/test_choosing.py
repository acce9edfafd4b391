"""Choosing without trusted tests: each rule against its formula, and where they part."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import betaln

from whet.agents.choosing import RULES, agree, b4, choose, codet, majority, max_pass, next_question


def b4_by_the_letter(passes: Sequence[Sequence[bool]], alpha: float, beta: float) -> list[float]:
    """The posterior of each program, group by group and cell by cell as the paper writes it."""
    matrix = [[int(cell) for cell in row] for row in passes]
    scores = []
    for row in matrix:
        group = [other for other in matrix if other == row]
        others = [other for other in matrix if other != row]
        ones = [other[test] for other in others for test, passed in enumerate(row) if passed]
        zeros = [other[test] for other in others for test, passed in enumerate(row) if not passed]
        scores.append(
            betaln(sum(row) + alpha, len(row) - sum(row) + 1)
            + betaln(len(group) + alpha, len(matrix) - len(group) + 1)
            + betaln(1 + sum(ones), 1 + len(ones) - sum(ones))
            + betaln(1 + sum(zeros), beta + len(zeros) - sum(zeros))
        )
    return scores


@pytest.mark.parametrize("seed", range(8))
def test_b4_is_the_papers_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    passes = rng.random((7, 4)) < 0.6
    found = b4(passes, alpha=10.0, beta=50.0)
    assert found == pytest.approx(b4_by_the_letter(passes.tolist(), 10.0, 50.0))


def test_the_other_rules_weigh_tests_and_programs() -> None:
    passes = [[True, True, True], [True, False, False], [True, False, False], [True, False, False]]
    assert max_pass(passes).tolist() == [3, 1, 1, 1]
    assert majority(passes).tolist() == [1, 3, 3, 3]
    assert codet(passes) == pytest.approx([3, 3**0.5, 3**0.5, 3**0.5])
    assert [choose(rule(passes)) for rule in (codet, max_pass, majority)] == [0, 0, 1]


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_depends_on_the_order_of_programs_and_tests(rule) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    passes = rng.random((9, 6)) < 0.5
    programs, tests = rng.permutation(9), rng.permutation(6)
    assert rule(passes[programs][:, tests]) == pytest.approx(rule(passes)[programs])


@pytest.mark.parametrize("rule", RULES)
def test_programs_without_tests_are_all_alike(rule) -> None:  # type: ignore[no-untyped-def]
    assert choose(rule([(), (), ()])) == 0
    assert len(set(rule([(), (), ()]).tolist())) == 1


def generated(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Few right programs, few right tests: wrong programs pass a right test half the time, a wrong one seldom."""
    rng = np.random.default_rng(seed)
    right, good = rng.random(50) < 0.05, rng.random(50) < 0.3
    right[rng.integers(50)] = True
    passes = np.where(good, rng.random((50, 50)) < 0.5, rng.random((50, 50)) < 0.1)
    passes[right] = good
    return passes, right


def test_b4_finds_the_few_right_programs_where_the_heuristics_do_not() -> None:
    share = {rule.__name__: 0.0 for rule in RULES}
    for seed in range(60):
        passes, right = generated(seed)
        for rule in RULES:
            share[rule.__name__] += right[choose(rule(passes))] / 60
    assert share["b4"] > 0.9
    assert share["b4"] > share["codet"] + 0.1
    assert share["b4"] > share["majority"] + 0.05
    assert share["b4"] > share["max_pass"] + 0.5


# --- questions --------------------------------------------------------------------------------------------------------


def test_answers_leave_the_programs_that_pass_the_right_tests_and_the_tests_that_are_not_wrong() -> None:
    passes = [[True, False, True], [True, True, False], [False, True, True]]
    assert agree(passes, {}) == ([0, 1, 2], [0, 1, 2])
    assert agree(passes, {0: True, 2: False}) == ([0, 1], [0, 1])
    assert agree(passes, {0: False, 1: False, 2: False}) == ([0, 1, 2], [])
    assert agree([[False], [False]], {0: True}) == ([0, 1], [0]), "nobody passes: nobody is better"


def test_only_tests_that_divide_what_is_left_are_asked_about() -> None:
    passes = [[True, False, True], [True, False, False], [True, False, False]]
    assert next_question(passes, {}) == 2
    assert next_question(passes, {2: True}) is None
    assert next_question([[True, False]] * 3, {}) is None
    assert next_question([[], []], {}) is None


def test_questions_lead_to_a_right_program_where_the_rule_alone_fails() -> None:
    right_tests = [True, True, False, False, False]
    wrong = [False, True, True, True, True]
    passes = [right_tests, *[wrong] * 5]
    assert choose(b4(passes)) != 0
    answers: dict[int, bool] = {}
    while (test := next_question(passes, answers)) is not None:
        answers[test] = right_tests[test]
    programs, _ = agree(passes, answers)
    assert programs == [0]
    assert len(answers) <= 5
