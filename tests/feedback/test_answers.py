"""From answers to programs: fences, whole programs, bodies, and the way back to the answer's lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.feedback.answers import extract_code, fenced_blocks, python_program

PROMPT = 'import math\n\ndef helper(x):\n    return x\n\ndef area(r):\n    """Area of a circle."""\n'


def run(source: str) -> dict[str, object]:
    space: dict[str, object] = {}
    exec(source, space)  # noqa: S102 - the programs of this file
    return space


@pytest.mark.parametrize(
    "answer",
    [
        "    return math.pi * r * r\n",
        "return math.pi * r * r",
        "return math.pi * r * r\n",
        "\n\nreturn math.pi * r * r\n",
        "square = r * r\n    return math.pi * square",
        "square = r * r\nreturn math.pi * square",
        "def area(r):\n    return math.pi * r * r",
        "```python\ndef area(r):\n    return math.pi * r * r\n```",
        "```\nreturn math.pi * r * r\n```",
        "First\n```py\ndef area(r):\n    return 0\n```\nor\n```python\ndef area(r):\n    return math.pi * r * r\n```",
        "```python\ndef area(r):\n    return math.pi * r * r\n```\nUse:\n```python\nprint(area(2))\n```",
        "```bash\nls\n```\n```python\ndef area(r):\n    return math.pi * r * r",
        "from math import pi\narea = lambda r: pi * r * r",
    ],
)
def test_a_body_or_a_program_becomes_the_same_function(answer: str) -> None:
    area = run(python_program(answer, prompt=PROMPT, entry_point="area").source)["area"]
    assert area(1) == pytest.approx(3.14159, abs=1e-4)  # type: ignore[operator]


def test_without_a_prompt_the_code_is_the_program() -> None:
    program = python_program("Here it is.\n\n```python\nx = 1\ny = 2\n```\n", entry_point="x")
    assert program.source == "x = 1\ny = 2\n"
    assert [program.answer_line(line) for line in (0, 1, 2, 9)] == [None, 4, 5, None]


def test_lines_of_the_prompt_are_not_lines_of_the_answer() -> None:
    program = python_program("    return 1 / 0", prompt=PROMPT, entry_point="area")
    assert program.answer_line(1) is None
    assert program.answer_line(PROMPT.count("\n") + 1) == 1
    assert program.answer_line(None) is None


def test_the_head_of_the_prompt_stays_before_a_whole_program() -> None:
    program = python_program("def area(r):\n    return helper(r)", prompt=PROMPT, entry_point="area")
    assert "def helper" in program.source
    assert program.source.count("def area") == 1


def test_code_that_does_not_parse_is_passed_on() -> None:
    assert "return (" in python_program("return (", prompt=PROMPT, entry_point="area").source


def test_other_languages_are_no_python() -> None:
    answer = "```json\n{}\n```"
    assert extract_code(answer) == (answer, 1)
    assert [block.code for block in fenced_blocks(answer, ("json",))] == ["{}\n"]


@given(st.text())
def test_any_text_gives_a_program_whose_lines_lead_back(answer: str) -> None:
    program = python_program(answer, prompt=PROMPT, entry_point="area")
    lines = [program.answer_line(line) for line in range(1, program.source.count("\n") + 2)]
    known = [line for line in lines if line is not None]
    assert known == sorted(known)
    assert all(1 <= line <= answer.count("\n") + 2 for line in known)
