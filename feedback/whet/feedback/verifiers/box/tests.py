"""The tests' process: runs the task's tests against the proxy of the answer and reports every assert.

Standard library only. ``main`` reads a job from standard input and writes two lines: the job's nonce, the report.
"""

import ast
import builtins
import copy
import json
import operator
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping

from whet.feedback.verifiers.box.codec import Data, NotDataError, cut, decode, encode, short_repr
from whet.feedback.verifiers.box.frames import Ended
from whet.feedback.verifiers.box.remote import AnswerChannel, Remote, fork_answer, set_dumpable, show_exception

WATCH = "__whet__"
MAX_VALUES = 6 << 20  # bytes of results in a report
MAX_DETAILED = 1000  # checks beyond these are told in detail only when they fail
OPERATORS: dict[type[ast.cmpop], tuple[str, Callable[[object, object], object]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),  # type: ignore[dict-item]
    ast.LtE: ("<=", operator.le),  # type: ignore[dict-item]
    ast.Gt: (">", operator.gt),  # type: ignore[dict-item]
    ast.GtE: (">=", operator.ge),  # type: ignore[dict-item]
    ast.Is: ("is", operator.is_),
    ast.IsNot: ("is not", operator.is_not),
    ast.In: ("in", lambda left, right: left in right),  # type: ignore[operator]
    ast.NotIn: ("not in", lambda left, right: left not in right),  # type: ignore[operator]
}


class Infrastructure(BaseException):
    """The tests themselves cannot run; nothing is known of the answer."""


class Site:
    """One assert of the tests: where it stands and what became of it, its first failure kept."""

    def __init__(self, index: int, test: ast.expr) -> None:
        self.index, self.name = index, f"assert {index + 1}"
        self.symbol, self.right = "", ""
        self.wanted = True
        self.left = ast.unparse(test)
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            self.symbol = OPERATORS[type(test.ops[0])][0]
            self.left, self.right = ast.unparse(test.left), ast.unparse(test.comparators[0])
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.left, self.wanted = ast.unparse(test.operand), False
        self.reached = False
        self.failed = False
        self.detail: dict[str, Data] = {}

    def record(self, passed: bool, **detail: Data) -> None:
        """Keeps the first failure, or else the last success."""
        self.reached = True
        if not self.failed:
            self.failed, self.detail = not passed, detail

    def as_check(self, aborted: bool) -> dict[str, Data] | None:
        """Returns the check, or ``None`` for an assert that a completed test had no reason to reach."""
        if not self.reached and not aborted:
            return None
        if not self.reached:
            self.detail = {"message": "not reached"}
        elif self.index >= MAX_DETAILED and not self.failed:
            self.detail = {}
        return {"name": self.name, "passed": self.reached and not self.failed, **self.detail}


class AssertRewriter(ast.NodeTransformer):
    """Makes every assert report to ``__whet__`` and go on, so that one failure does not hide the others."""

    def __init__(self, entry: str) -> None:
        self.sites: list[Site] = []
        self._entry = entry

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        """Returns the statement that reports this assert; one of a true constant says nothing and stays."""
        if isinstance(node.test, ast.Constant) and node.test.value:
            return node
        index = len(self.sites)
        self.sites.append(Site(index, self._renamed(node.test)))
        if isinstance(node.test, ast.Compare) and len(node.test.ops) == 1:
            operands: list[ast.expr] = [node.test.left, node.test.comparators[0]]
        elif isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not):
            operands = [node.test.operand]
        else:
            operands = [node.test]
        template = f"try:\n {WATCH}.begin({index})\n {WATCH}.judge({index})\nexcept Exception as {WATCH}e:\n"
        (statement,) = ast.parse(f"{template} {WATCH}.failed({index}, {WATCH}e)").body
        judge = statement.body[1]  # type: ignore[attr-defined]
        judge.value.args += operands
        return ast.fix_missing_locations(ast.copy_location(statement, node))

    def _renamed(self, test: ast.expr) -> ast.expr:
        test = copy.deepcopy(test)
        for node in ast.walk(test):
            if isinstance(node, ast.Name) and node.id == "candidate" and self._entry:
                node.id = self._entry
        return test


class Watch:
    """What rewritten asserts report to."""

    def __init__(self, sites: list[Site], channel: AnswerChannel) -> None:
        self._sites, self._channel = sites, channel
        self._first = 0

    def begin(self, index: int) -> None:
        """An assert is about to be evaluated."""
        self._first = len(self._channel.calls)

    def judge(self, index: int, left: object, *right: object) -> None:
        """Records an evaluated assert."""
        site = self._sites[index]
        if right:
            passed = bool(_by_symbol(site.symbol)(left, right[0]))
            expected = short_repr(right[0]) if site.symbol in ("==", "is") else f"{site.symbol} {short_repr(right[0])}"
        else:
            passed, expected = bool(left) is site.wanted, str(site.wanted)
        self._record(site, passed, short_repr(left), cut(expected))

    def failed(self, index: int, error: Exception) -> None:
        """Records an assert whose evaluation raised."""
        site, origin = self._sites[index], self._channel.origin(error)
        if origin is None and isinstance(error, (ImportError, NotDataError)):
            raise Infrastructure(f"the tests cannot run: {error}") from None
        expected = site.right if site.symbol in ("==", "is") else f"{site.symbol} {site.right}".strip()
        line = origin.get("line") if origin else None
        self._record(site, False, show_exception(error, origin), cut(expected or str(site.wanted)), line)

    def _record(self, site: Site, passed: bool, got: str, expected: str, line: Data = None) -> None:
        calls, message = self._channel.calls[self._first :], ""
        # The call with its values says more than the source, which may only name variables.
        call = calls[0][0] if len(calls) == 1 and _is_call(site.left) else cut(site.left)
        if not calls and self._channel.calls and not passed:
            message = "after {} returned {}".format(*self._channel.calls[-1])
        site.record(passed, call=call, got=got, expected=expected, line=line, message=message)


def _by_symbol(symbol: str) -> Callable[[object, object], object]:
    return next(function for name, function in OPERATORS.values() if name == symbol)


def _is_call(source: str) -> bool:
    return isinstance(ast.parse(source, mode="eval").body, ast.Call)


# --- a job ------------------------------------------------------------------------------------------------------------


class Job:
    """One verification: load the answer, then run tests or calls against it."""

    def __init__(self, channel: AnswerChannel, job: Mapping[str, Data]) -> None:
        self._channel = channel
        self._entry, self._tests = str(job["entry"]), str(job["tests"])
        self._program, self._preamble = str(job["program"]), str(job["preamble"])
        self._calls = decode(job["calls"])
        self._form = job["form"]
        self._rewriter = AssertRewriter(self._entry)
        self._extra: list[dict[str, Data]] = []
        self._values: list[Data] = []
        self._aborted = True

    def run(self) -> dict[str, Data]:
        """Returns the report."""
        report: dict[str, Data] = {"infra": None, "load": None, "ended": None, "python": sys.version.split()[0]}
        try:
            tree = self._rewriter.visit(ast.parse(self._tests))
            report["load"] = self._channel.load(self._program) or self._missing_entry()
            if report["load"] is None:
                self._run(ast.fix_missing_locations(tree))
        except Ended as ended:
            # A call without a result is the one during which it ended.
            pending = [call for call, result in self._channel.calls[-1:] if not result]
            report["ended"] = [ended.how, ": ".join([*pending, ended.detail])]
        except Infrastructure as error:
            report["infra"] = str(error)
        except SyntaxError as error:
            report["infra"] = f"the tests are no valid Python: {error}"
        checks = [site.as_check(self._aborted) for site in self._rewriter.sites]
        return {**report, "checks": [*filter(None, checks), *self._extra], "values": self._values}

    def _missing_entry(self) -> dict[str, Data] | None:
        try:
            self._entry_point()
        except AttributeError:
            return {"type": "NameError", "message": f"{self._entry} is not defined", "line": None, "missing": None}
        except Exception as error:  # only an answer that broke its own process raises anything else
            return self._channel.origin(error)
        return None

    def _run(self, tree: ast.Module) -> None:
        if self._form == "cases":
            self._run_calls()
            return
        random.seed(0)  # tests that draw inputs draw the same ones for every answer
        space: dict[str, object] = {"__name__": "tests", WATCH: Watch(self._rewriter.sites, self._channel)}
        try:
            self._prepare(space)
            space.update(self._answers(tree, space))
            self._execute(tree, space)
            if self._form == "check":
                self._call_check(space)
            self._aborted = False
        except (Ended, Infrastructure):
            raise
        except BaseException as error:  # the tests are the task's, and may raise anything, pytest's outcomes included
            self._abort(error)
        if not self._rewriter.sites and not self._extra:
            self._extra.append({"name": "tests", "passed": not self._aborted})

    def _prepare(self, space: dict[str, object]) -> None:
        """Defines the helpers of the task's prompt; its own stub of the entry point gives way to the answer's."""
        try:
            self._execute(self._preamble, space)
        except Exception as error:
            raise Infrastructure(f"the task's prompt cannot run: {type(error).__name__}: {error}") from None
        space.pop(self._entry, None)

    def _execute(self, source: str | ast.Module, space: dict[str, object]) -> None:
        exec(compile(source, "<tests>", "exec", dont_inherit=True), space)  # noqa: S102 - the task's tests, in the box

    def _call_check(self, space: Mapping[str, object]) -> None:
        check = space.get("check")
        if not callable(check):
            raise Infrastructure("the tests define no check(candidate)")
        check(self._entry_point())

    def _entry_point(self) -> object:
        return getattr(Remote(self._channel, 0, ""), self._entry) if self._entry else None

    def _abort(self, error: BaseException) -> None:
        origin = self._channel.origin(error)
        if origin is None and isinstance(error, (ImportError, NotDataError)):
            raise Infrastructure(f"the tests cannot run: {error}") from None
        call = self._channel.calls[-1][0] if origin and self._channel.calls else ""
        line = origin.get("line") if origin else None
        got = show_exception(error, origin)
        self._extra.append({"name": "tests", "passed": False, "call": call, "got": got, "line": line})

    def _answers(self, tree: ast.Module, space: Mapping[str, object]) -> dict[str, object]:
        """Returns the answer's objects under the names that the tests use and nobody else defines."""
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        bound = _bound_names(tree) | set(space) | set(dir(builtins))
        answer, found = Remote(self._channel, 0, ""), {}
        for name in sorted({*names, self._entry} - bound - {""}):
            try:
                found[name] = getattr(answer, name)
            except Exception:  # AttributeError, or whatever a broken answer raises
                continue  # using it is a NameError of the tests, as it would be in one namespace
        return found

    def _run_calls(self) -> None:
        function, room = self._entry_point(), MAX_VALUES
        for args in self._calls:  # type: ignore[attr-defined]
            try:
                value = encode(function(*args), lambda item: ["ref", 0, repr(item)])  # type: ignore[operator]
                size = len(json.dumps(value))
                if size > room:
                    raise OverflowError("the result is too large")
                room -= size
                self._values.append({"value": value})
            except Exception as error:
                origin = self._channel.origin(error)
                line = origin.get("line") if origin else None
                self._values.append({"raised": show_exception(error, origin), "line": line})


def _bound_names(tree: ast.AST) -> set[str]:
    """Returns every name that the code itself assigns, imports, defines or takes as an argument, in any scope."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    return names


def main() -> None:
    """Runs the job of standard input and ends the process."""
    set_dumpable(False)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a signal sent by the answer ends this process visibly
    channel = fork_answer()
    job = json.loads(sys.stdin.buffer.read())
    channel.seconds = job["seconds"]
    _write(job["nonce"] + "\n")  # from here on, an end without a report is the answer's doing
    report = Job(channel, job).run()
    channel.kill()
    _write(json.dumps(report) + "\n")
    os._exit(0)


def _write(text: str) -> None:
    data = memoryview(text.encode())
    while data:
        data = data[os.write(1, data) :]
