"""Choosing among programs without tests that can be trusted, from which program passes which test.

    passes = [[True, True, False], [True, True, False], [False, True, True]]        # programs × tests
    choose(b4(passes))                                                             # 0

Each rule returns a score for every program. Programs that pass the same tests are one group; its size and the tests it
passes speak for it, and each rule weighs the two in its own way. ``next_question`` says which test a person should look
at, and ``agree`` what follows from the answers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["RULES", "Passes", "agree", "b4", "choose", "codet", "majority", "max_pass", "next_question"]

Passes: TypeAlias = npt.NDArray[np.bool_ | np.float64] | Sequence[Sequence[bool]]
Scores: TypeAlias = npt.NDArray[np.float64]


def b4(passes: Passes, *, alpha: float = 1e3, beta: float = 1e5) -> Scores:
    """Returns the log posterior (up to a constant) that a program's group is right, and exactly the tests it passes.

    Chen et al. 2024, "B4: Towards Optimal Assessment of Plausible Code Solutions with Plausible Tests", arXiv
    2409.08692. For a group of x programs with row y it is ln B(|y=1|+α, |y=0|+1) + ln B(x+α, N−x+1)
    + ln B(1+ΣE₁, 1+|E₁|−ΣE₁) + ln B(1+ΣE₀, β+|E₀|−ΣE₀), where E₁ are the other programs on the tests that the group
    passes and E₀ on those it fails.

    Args:
        passes: programs × tests.
        alpha: how much is expected that programs and tests are right.
        beta: how little is expected that a wrong program passes a wrong test.
    """
    from scipy.special import betaln

    rows, group, sizes = _groups(passes)
    n, m = int(sizes.sum()), rows.shape[1]
    passed, others, per_test = rows.sum(axis=1), n - sizes, sizes @ rows
    right_cells, right_sum = others * passed, rows @ per_test - sizes * passed
    wrong_cells, wrong_sum = others * (m - passed), (1 - rows) @ per_test
    scores = (
        betaln(passed + alpha, m - passed + 1)
        + betaln(sizes + alpha, n - sizes + 1)
        + betaln(1 + right_sum, 1 + right_cells - right_sum)
        + betaln(1 + wrong_sum, beta + wrong_cells - wrong_sum)
    )
    return _per_program(scores, group)


def codet(passes: Passes) -> Scores:
    """Returns tests passed × √(size of the group): Chen et al. 2022, "CodeT", arXiv 2207.10397."""
    rows, group, sizes = _groups(passes)
    return _per_program(rows.sum(axis=1) * np.sqrt(sizes), group)


def max_pass(passes: Passes) -> Scores:
    """Returns how many tests each program passes."""
    scores: Scores = _matrix(passes).sum(axis=1)
    return scores


def majority(passes: Passes) -> Scores:
    """Returns the size of each program's group."""
    _, group, sizes = _groups(passes)
    return _per_program(sizes, group)


RULES: tuple[Callable[[Passes], Scores], ...] = (b4, codet, max_pass, majority)
"""The rules, in the order of the knob ``rule``."""


def choose(scores: Scores) -> int:
    """Returns the number of the program of the highest score, the first of equals."""
    return int(np.argmax(scores))


def agree(passes: Passes, answers: Mapping[int, bool]) -> tuple[list[int], list[int]]:
    """Returns the programs and tests that are left once a person said of some tests whether they are right.

    Left are the programs that pass the most of the right tests, and the tests that are not wrong.
    """
    matrix = _matrix(passes)
    right = [test for test, said in answers.items() if said]
    score = matrix[:, right].sum(axis=1)
    programs = [int(number) for number in np.flatnonzero(score == score.max(initial=0.0))]
    return programs, [test for test in range(matrix.shape[1]) if answers.get(test, True)]


def next_question(passes: Passes, answers: Mapping[int, bool]) -> int | None:
    """Returns the test that a person should say is right or wrong next; ``None`` where no answer could change a thing.

    After Dong et al. 2024, "ConAIR", arXiv 2411.15587: a person is asked about tests, not programs. It is the test on
    which the groups that are left, each weighed by the tests it passes, are most evenly divided.
    """
    programs, tests = agree(passes, answers)
    left = _matrix(passes)[programs]
    weights = max_pass(left[:, tests]) / majority(left[:, tests]) + 1e-9
    share = weights @ left / weights.sum()
    divided = [test for test in tests if test not in answers and left[:, test].any() and not left[:, test].all()]
    return min(divided, key=lambda test: abs(share[test] - 0.5)) if divided else None


def _matrix(passes: Passes) -> npt.NDArray[np.float64]:
    return np.atleast_2d(np.asarray(passes, dtype=np.float64))


def _per_program(scores: Scores, group: npt.NDArray[np.intp]) -> Scores:
    per_program: Scores = np.asarray(scores, dtype=np.float64)[group]
    return per_program


def _groups(passes: Passes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Returns the distinct rows, the row of each program, and how many programs have each."""
    rows, group, sizes = np.unique(_matrix(passes), axis=0, return_inverse=True, return_counts=True)
    return rows, group.reshape(-1), sizes.astype(np.float64)
