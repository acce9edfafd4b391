"""From a model's answer to a Python program: fenced code is found, a bare function body is put under its signature.

program = python_program("```python\\ndef add(a, b):\\n    return a + b\\n```", entry_point="add")
program.source                  # "def add(a, b):\\n    return a + b\\n"
program.answer_line(2)          # 3: the line of the answer that line 2 of the program is
"""

import json
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from whet.core.records import Json

__all__ = ["Block", "Program", "extract_code", "fenced_blocks", "json_values", "list_items", "python_program", "quoted"]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language mark in lower case, its text and the line of the answer (from 1) it starts on."""

    language: str
    code: str
    first: int


_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.+)$")
_PYTHON = ("", "python", "py", "python3")


@dataclass(frozen=True)
class Program:
    """Source text that holds the answer's code after ``added`` lines of the task's own.

    ``first`` is the line of the answer (from 1) on which its code starts, ``length`` the number of its lines.
    """

    source: str
    added: int
    first: int
    length: int

    def answer_line(self, line: int | None) -> int | None:
        """Returns the line of the answer for a line of the program, or ``None`` where the task wrote it."""
        if line is None or not 0 < line - self.added <= self.length:
            return None
        return line - self.added + self.first - 1


def extract_code(answer: str, entry_point: str = "") -> tuple[str, int]:
    """Returns the Python code of an answer and the line (from 1) on which it starts.

    Without a Markdown fence the whole answer is code. With fences it is the last Python block (marked ``python``,
    ``py`` or not at all) that defines ``entry_point``, or else the last one. A fence left open ends with the answer.
    """
    blocks = fenced_blocks(answer, _PYTHON)
    if not blocks:
        return answer, 1
    defining = [block for block in blocks if entry_point and _mentions(block.code, entry_point)]
    block = (defining or blocks)[-1]
    return block.code, block.first


def fenced_blocks(answer: str, languages: tuple[str, ...]) -> list[Block]:
    """Returns the Markdown blocks fenced by three back-ticks whose language mark is one of ``languages``."""
    blocks = (
        Block(match[1].lower(), match[2], answer.count("\n", 0, match.start(2)) + 1)
        for match in _FENCE.finditer(answer)
    )
    return [block for block in blocks if block.language in languages]


def json_values(text: str) -> Iterator[Json]:
    """Yields the JSON lists and objects in a text that are not empty, in order, whatever stands around them."""
    decoder, after = json.JSONDecoder(), 0
    for start, character in enumerate(text):
        if character in "[{" and start >= after:
            try:
                value, end = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):
                continue
            if value:
                after = end
                yield value


def list_items(text: str) -> list[str]:
    """Returns the items of a Markdown list, bulleted or numbered; other lines are left out."""
    return [match[1].strip() for match in map(_ITEM.match, text.splitlines()) if match]


def quoted(text: str) -> str:
    """Returns a text in a Markdown fence that nothing in it can close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def python_program(answer: str, *, prompt: str = "", entry_point: str = "") -> Program:
    """Returns the program of an answer to a task whose prompt may be the head of a program.

    With a ``prompt`` (imports, helpers, the signature of ``entry_point``) the answer may be the whole program, which
    is put after the prompt's head, or the missing body, which is put after the prompt; a body that lost its
    indentation is indented. What is no valid Python is passed on as it is: loading it will say where.
    """
    code, first = extract_code(answer, entry_point)
    if not prompt:
        return _program("", code, first)
    if entry_point and _mentions(code, entry_point):
        return _program(_head(prompt, entry_point), code, first)
    # A body that lost the indentation of its first line, or of all its lines, gets it back.
    repaired = [re.sub(r"\A(\s*\n)?[ \t]*", r"\1    ", code), textwrap.indent(textwrap.dedent(code), "    ")]
    indented = code.lstrip("\r\n")[:1] in (" ", "\t")
    candidates = [code, *repaired] if indented else [*repaired, code]
    body = next((body for body in candidates if _compiles(prompt + body)), code)
    return _program(prompt, body, first)


def _program(added: str, code: str, first: int) -> Program:
    return Program(source=added + code, added=added.count("\n"), first=first, length=code.count("\n") + 1)


def _head(prompt: str, entry_point: str) -> str:
    """Returns the prompt up to the line that defines the entry point: its imports and helpers."""
    found = list(re.finditer(rf"^(?:async )?def {re.escape(entry_point)}\b", prompt, re.MULTILINE))
    return prompt[: found[-1].start()] if found else ""


def _mentions(code: str, name: str) -> bool:
    """Whether the code defines the name at its top level; text that does not parse counts by its looks."""
    escaped = re.escape(name)
    return bool(re.search(rf"^(?:(?:async )?def|class) {escaped}\b|^{escaped} *[:=]", code, re.MULTILINE))


def _compiles(source: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes and comparisons in a stranger's code
        try:
            compile(source, "<answer>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
