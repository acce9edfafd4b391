"""Workflows: programs that may call nothing but listed tools; checked, told as plain steps, run with the tools outside.

    code = "items = order_items(task.split()[-1])\\nanswer = sum([price(item) for item in items])"
    workflow_faults(code, ["order_items", "price"])        # []: each fault names its line
    plain_steps(code, ["order_items", "price"])            # ["1. Call `order_items(…)` and keep …", "2. Answer with …"]
    result = await run_workflow(sandbox, code, {"order_items": …, "price": …}, {"task": "Total of order 17"})

After FlowMind (Zeng et al. 2023): the model that writes the program never sees what the tools return. A program is
assignments, ``if`` and ``for`` over calls of listed tools, of a few built-in functions and of harmless methods.
"""

import ast
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from whet.core.errors import RefusedError, UserError
from whet.core.records import Json, Record
from whet.core.wire import decode, encode
from whet.sandboxes.sandbox import Sandbox

__all__ = ["WorkflowResult", "plain_steps", "run_workflow", "workflow_faults"]

ANSWER = "answer"
MAX_CALLS = 50
SECONDS = 20.0

_WORD = re.compile(r"\w+")
BUILTINS = frozenset(
    _WORD.findall(
        """
        abs all any bool dict enumerate float int len list max min range reversed round sorted str sum tuple zip
        """
    )
)
METHODS = frozenset(
    _WORD.findall(
        """
        append count endswith find get index isdigit items join keys lower lstrip partition removeprefix removesuffix
        replace rpartition rstrip split splitlines startswith strip title upper values
        """
    )
)
# No set: the order in which it is gone through changes from one run to the next.
_ALLOWED = (
    *(ast.Module, ast.Assign, ast.AugAssign, ast.Expr, ast.If, ast.For, ast.Break, ast.Continue),
    *(ast.Call, ast.keyword, ast.Name, ast.Constant, ast.Attribute, ast.Subscript, ast.Slice, ast.IfExp),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.List, ast.Tuple, ast.Dict),
    *(ast.JoinedStr, ast.FormattedValue, ast.ListComp, ast.DictComp, ast.GeneratorExp, ast.comprehension),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)

_GUEST = """
import builtins, json, sys

class Asked(BaseException):
    pass

given = json.load(sys.stdin)
results = iter(given["results"])

def bridged(name):
    def call(*args, **kwargs):
        asked = json.loads(json.dumps([name, args, kwargs]))
        called, value = next(results, (None, None))
        if called is None:
            raise Asked(json.dumps({"ask": asked}))
        if called != asked:
            raise RuntimeError(f"it called {name} where it called {called[0]} before")
        return value
    return call

space = {name: bridged(name) for name in given["tools"]} | given["inputs"]
space["__builtins__"] = {name: vars(builtins)[name] for name in given["builtins"]}
try:
    exec(compile(given["code"], "<workflow>", "exec"), space)
    said = json.dumps({"answer": str(space["answer"])})
except Asked as asked:
    said = str(asked)
except Exception as error:
    frames, line = error.__traceback__, 0
    while frames:
        line = frames.tb_lineno if frames.tb_frame.f_code.co_filename == "<workflow>" else line
        frames = frames.tb_next
    said = json.dumps({"error": f"line {line}: {type(error).__name__}"})
print(said)
"""

Function: TypeAlias = Callable[..., object]


class WorkflowResult(Record, frozen=True, kw_only=True):
    """What became of a workflow: its answer, or the line and kind of the error that ended it; and its tool calls."""

    answer: str | None = None
    error: str = ""
    calls: tuple[str, ...] = ()


class _Said(Record, frozen=True, kw_only=True):
    """What the program in the sandbox said: an answer, an error, or which tool it wants called."""

    answer: str | None = None
    error: str = ""
    ask: tuple[str, list[Json], dict[str, Json]] | None = None


def workflow_faults(code: str, tools: Collection[str]) -> list[str]:
    """Returns what a program holds that no workflow may, the first of each line; none for a workflow."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        return [f"line {error.lineno}: no valid Python: {error.msg}"]
    except (ValueError, RecursionError, MemoryError) as error:
        return [f"line 1: no valid Python: {error}"]
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found: dict[int, str] = {}
    for node in ast.walk(tree):
        if fault := _fault(node, frozenset(tools) | BUILTINS, called):
            found.setdefault(node.lineno if isinstance(node, ast.stmt | ast.expr) else 0, fault)
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    missing = [] if ANSWER in assigned else [f"the program never sets {ANSWER!r}"]
    return [f"line {line}: {fault}" for line, fault in sorted(found.items()) if line] + missing


def _fault(node: ast.AST, callable_names: Collection[str], called: Collection[int]) -> str:
    """Returns what is wrong with one node, seen by itself; empty for nothing."""
    if not isinstance(node, _ALLOWED):
        return f"{type(node).__name__} is not allowed"
    if isinstance(node, ast.Call):
        return _call_fault(node, callable_names)
    if isinstance(node, ast.Attribute) and id(node) not in called:
        return f"the attribute {node.attr!r} is not allowed"
    if isinstance(node, ast.Name):
        if node.id.startswith("_"):
            return f"the name {node.id!r} is not allowed"
        if node.id in callable_names and id(node) not in called:
            return f"{node.id!r} may only be called"
    return ""


def _call_fault(node: ast.Call, callable_names: Collection[str]) -> str:
    if any(isinstance(each, ast.Starred) for each in node.args) or any(each.arg is None for each in node.keywords):
        return "a call with * or ** is not allowed"
    if isinstance(node.func, ast.Name) and node.func.id in callable_names:
        return ""
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        return ""
    return f"the call of {ast.unparse(node.func)!r} is not allowed"


# --- plain steps ----------------------------------------------------------------------------------------------------


def plain_steps(code: str, tools: Collection[str]) -> list[str]:
    """Returns what a workflow does as numbered lines that a person can read; steps within steps are 2.1, 2.2, ….

    Raises:
        UserError: the program is no workflow over these tools; the message has the first fault.
    """
    if faults := workflow_faults(code, tools):
        raise UserError(f"no workflow over {', '.join(sorted(tools))}: {faults[0]}")
    return list(_numbered(_steps(ast.parse(code).body, tools), ""))


_Step: TypeAlias = tuple[str, "Sequence[_Step]"]


def _numbered(steps: Iterable[_Step], prefix: str) -> Iterator[str]:
    for number, (text, below) in enumerate(steps, 1):
        yield f"{prefix}{number}. {text}"
        yield from _numbered(below, f"{prefix}{number}.")


def _steps(body: Sequence[ast.stmt], tools: Collection[str]) -> list[_Step]:
    return [step for node in body for step in _step(node, tools)]


def _step(node: ast.stmt, tools: Collection[str]) -> Iterator[_Step]:
    match node:
        case ast.If():
            yield from _branches(node, tools, "If")
        case ast.For():
            yield f"For each {_code(node.target)} in {_value(node.iter, tools)}:", _steps(node.body, tools)
            if node.orelse:
                yield "When none of them stopped this:", _steps(node.orelse, tools)
        case ast.Break():
            yield "Stop going through them.", ()
        case ast.Continue():
            yield "Go on with the next one.", ()
        case ast.Assign():
            yield _assignment(" and ".join(map(_code, node.targets)), node.value, tools), ()
        case ast.AugAssign():
            changed = ast.BinOp(node.target, node.op, node.value)
            yield f"Change {_code(node.target)} to {_value(changed, tools)}.", ()
        case ast.Expr():
            yield f"Do {_value(node.value, tools)}.", ()


def _branches(node: ast.If, tools: Collection[str], word: str) -> Iterator[_Step]:
    yield f"{word} {_value(node.test, tools)}:", _steps(node.body, tools)
    if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        yield from _branches(node.orelse[0], tools, "Otherwise, if")
    elif node.orelse:
        yield "Otherwise:", _steps(node.orelse, tools)


def _assignment(target: str, value: ast.expr, tools: Collection[str]) -> str:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in tools:
        result = "answer with the result" if target == _quoted(ANSWER) else f"keep the result as {target}"
        return f"Call {_code(value)} and {result}."
    said = _value(value, tools)
    return f"Answer with {said}." if target == _quoted(ANSWER) else f"Let {target} be {said}."


def _value(node: ast.expr, tools: Collection[str]) -> str:
    """Returns an expression, and which tools it calls."""
    names = (each.func.id for each in ast.walk(node) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name))
    called = list(dict.fromkeys(name for name in names if name in tools))
    return _code(node) + (f" (this calls {', '.join(map(_quoted, called))})" if called else "")


def _code(node: ast.expr) -> str:
    return _quoted(ast.unparse(node))


def _quoted(text: str) -> str:
    return f"`{text}`"


# --- execution ------------------------------------------------------------------------------------------------------


async def run_workflow(
    sandbox: Sandbox,
    code: str,
    tools: Mapping[str, Function],
    inputs: Mapping[str, Json],
    *,
    max_calls: int = MAX_CALLS,
) -> WorkflowResult:
    """Returns what became of a workflow, run in the sandbox while its tools are called out here, each call once.

    The program stops at a call whose result it was not given, and is run again from its beginning with that result: it
    is deterministic, so it comes back to the same place. Results have to be JSON. A tool that raises ends the workflow.

    Raises:
        RefusedError: the program is no workflow over these tools; nothing was run.
        SandboxError: the sandbox failed.
    """
    if faults := workflow_faults(code, tools):
        raise RefusedError(f"no workflow over {', '.join(sorted(tools))}: {'; '.join(faults)}")
    results: list[Json] = []
    calls: list[str] = []
    while True:
        given = {"code": code, "tools": [*tools], "builtins": [*BUILTINS], "inputs": {**inputs}, "results": results}
        ended = await sandbox.run_python(_GUEST, stdin=json.dumps(given).encode(), timeout=SECONDS)
        said = _read(ended.stdout) if ended.ok else _Said(error=f"it ended as {ended.status}")
        if said.ask is None:
            return WorkflowResult(answer=said.answer, error=said.error, calls=tuple(calls))
        name, args, kwargs = said.ask
        calls.append(f"{name}({', '.join([*map(repr, args), *(f'{key}={each!r}' for key, each in kwargs.items())])})")
        if len(calls) > max_calls:
            return WorkflowResult(error=f"more than {max_calls} tool calls", calls=tuple(calls[:max_calls]))
        value, error = await _call(tools[name], args, kwargs)
        if error:
            return WorkflowResult(error=f"{name} raised {error}", calls=tuple(calls))
        results.append([[name, args, kwargs], value])


async def _call(function: Function, args: Sequence[Json], kwargs: Mapping[str, Json]) -> tuple[Json, str]:
    """Returns what a tool returned, and the kind of its error, if it raised: a tool is a guest, and may fail."""
    try:
        value = function(*args, **kwargs)
        value = await value if isinstance(value, Awaitable) else value
        return decode(encode(value), object), ""  # type: ignore[return-value]
    except Exception as error:  # a tool may raise what it likes
        return None, type(error).__name__


def _read(stdout: str) -> _Said:
    try:
        return msgspec.json.decode(stdout, type=_Said)
    except msgspec.DecodeError:
        return _Said(error="it said nothing that can be read")
