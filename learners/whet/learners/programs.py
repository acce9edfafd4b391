"""Programs taken apart: the helper functions an answer defines, and the entry point that puts them together.

    parts = dissect("def zorp(x): return x[::-1]\\ndef solve(x): return zorp(x)", "solve")
    parts.helpers["zorp"].source       # "def zorp(x): return x[::-1]"
    parts.alone                        # "zorp": solve does what zorp does, so a check of one is a check of the other

Nothing is executed here: only the syntax tree is read.
"""

import ast
import builtins
import textwrap
from collections.abc import Iterator

import msgspec

from whet.core.records import Record

__all__ = ["Helper", "Parts", "dissect", "rename"]

MAX_LINES = 40
MAX_LINE = 120
_BUILTINS = frozenset(dir(builtins))


class Helper(Record, frozen=True, kw_only=True):
    """A top-level function: its source (on one line where it is one expression) and the names it takes from outside."""

    name: str
    source: str
    needs: tuple[str, ...] = ()

    @property
    def body(self) -> str:
        """The source without the name: equal bodies do the same."""
        return self.source.removeprefix(f"def {self.name}")


class Parts(Record, frozen=True, kw_only=True):
    """An answer's program: its entry point, the helpers reachable from it, and its import lines.

    ``alone`` names the helper that the entry point only passes its arguments on to, where that is all it does.
    """

    entry: Helper
    helpers: dict[str, Helper] = msgspec.field(default_factory=dict)
    imports: tuple[str, ...] = ()
    alone: str | None = None


def dissect(source: str, entry_point: str) -> Parts | None:
    """Returns the parts of a program; ``None`` where it does not parse, or has no entry point that could run.

    Helpers that take in anything but built-ins, imports and other helpers are left out: they would not work elsewhere.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if entry_point not in functions:
        return None
    imports = tuple(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    known = {name for node in tree.body for name in _imported(node)} | set(functions)
    found = {name: _helper(node, source) for name, node in functions.items()}
    entry = found.pop(entry_point)
    usable = {name: helper for name, helper in found.items() if helper.source and set(helper.needs) <= known}
    reached = _reached(entry, usable)
    if not set(entry.needs) <= known:
        return None
    return Parts(
        entry=entry,
        helpers={name: usable[name] for name in usable if name in reached},
        imports=imports,
        alone=_passed_on(functions[entry_point], reached),
    )


def rename(helper: Helper, name: str) -> Helper:
    """Returns the same function under another name.

    A function that calls itself keeps its old name inside; such a one is not worth renaming and fails its checks.
    """
    return Helper(name=name, source=f"def {name}{helper.body}", needs=helper.needs)


def _helper(node: ast.FunctionDef, source: str) -> Helper:
    """Returns the function; with an empty source when it is decorated or long."""
    text = _one_line(node, source) or textwrap.dedent(ast.get_source_segment(source, node) or "")
    if node.decorator_list or text.count("\n") >= MAX_LINES:
        text = ""
    return Helper(name=node.name, source=text.strip(), needs=tuple(sorted(_free(node))))


def _one_line(node: ast.FunctionDef, source: str) -> str:
    """Returns ``def name(args): return expression`` with the expression as it was written, where that is all."""
    last = node.body[-1]
    documented = len(node.body) == 2 and isinstance(node.body[0], ast.Expr)
    if not isinstance(last, ast.Return) or last.value is None or len(node.body) > 1 + documented:
        return ""
    value = ast.get_source_segment(source, last.value) or ""
    line = f"def {node.name}({ast.unparse(node.args)}): return {value}"
    return line if "\n" not in line and len(line) <= MAX_LINE else ""


def _free(node: ast.FunctionDef) -> set[str]:
    """Returns the names a function takes from outside, built-ins left out."""
    names = [child for child in ast.walk(node) if isinstance(child, ast.Name)]
    bound = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
    bound |= {child.arg for child in ast.walk(node) if isinstance(child, ast.arg)}
    bound |= {child.name for child in ast.walk(node) if isinstance(child, ast.FunctionDef)} - {node.name}
    bound |= {child.name for child in ast.walk(node) if isinstance(child, ast.ExceptHandler) and child.name}
    return {name.id for name in names if isinstance(name.ctx, ast.Load)} - bound - _BUILTINS - {node.name}


def _imported(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0]


def _reached(entry: Helper, helpers: dict[str, Helper]) -> set[str]:
    """Returns the helpers that the entry point calls, directly or through others."""
    reached: set[str] = set()
    waiting = list(entry.needs)
    while waiting:
        name = waiting.pop()
        if name in helpers and name not in reached:
            reached.add(name)
            waiting += helpers[name].needs
    return reached


def _passed_on(node: ast.FunctionDef, helpers: set[str]) -> str | None:
    """Returns the helper that the function calls with its own arguments and nothing else."""
    last = node.body[-1]
    call = last.value if isinstance(last, ast.Return) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in helpers:
        return None
    given = [arg.id for arg in call.args if isinstance(arg, ast.Name)]
    plain = not call.keywords and len(given) == len(call.args) and len(node.body) == 1
    return call.func.id if plain and given == [arg.arg for arg in node.args.args] else None
