"""The house rules that a program can check."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "sandboxes", "memory", "feedback", "skills", "agents", "learners", "apps")
FILES = sorted(path for room in ROOMS for path in (ROOT / room / "whet").rglob("*.py"))
LONGEST = 60


def module_name(path: Path) -> str:
    """Returns the name a file is imported by."""
    room = path.relative_to(ROOT).parts[0]
    parts = path.relative_to(ROOT / room).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Returns all functions of a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_there_are_files() -> None:
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_are_short_and_modules_say_what_they_are(path: Path) -> None:
    too_long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > LONGEST
    ]
    assert not too_long
    assert ast.get_docstring(ast.parse(path.read_text())), "a module begins with its contract in a sentence"


@pytest.mark.parametrize("room", ROOMS)
def test_all_names_exactly_what_a_room_offers(room: str) -> None:
    module = importlib.import_module(f"whet.{room}")
    names = getattr(module, "__all__", ())
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_a_readme(room: str) -> None:
    assert (ROOT / room / "README.md").read_text().count("\n") >= 4


def test_there_is_no_module_that_would_break_the_namespace() -> None:
    assert not list(ROOT.glob("*/whet/__init__.py"))
