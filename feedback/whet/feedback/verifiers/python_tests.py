"""Python tests in a fresh sandbox, with the detail of every assert and partial credit.

    spec = VerifierSpec(kind="python_tests", params={"form": "check", "entry_point": "add", "test": '''
    def check(candidate):
        assert candidate(1, 2) == 3
    '''})
    verdict = await load_verifier(spec, pool).verify(task, run)
    verdict.checks[0]       # Check(name="assert 1", passed=False, call="add(1, 2)", expected="3", got="None", ...)

One sandbox and one execution per verification. How an answer is kept from forging its verdict is told in
``whet.feedback.verifiers.box``; what remains is told in ``docs/feedback.md``.
"""

import ast
import json
import re
import secrets
from typing import Literal, TypeVar

import msgspec

from whet.core.errors import VerifierError
from whet.core.records import Check, ExecResult, Outcome, Record, Task
from whet.feedback.answers import Program, python_program
from whet.feedback.verifiers import box
from whet.feedback.verifiers.box.codec import cut, decode, encode, short_repr
from whet.feedback.verifiers.configured import ConfiguredVerifier, Finding, Params, in_fresh_sandbox
from whet.sandboxes.sandbox import Limits, Sandbox, SandboxSpec

__all__ = ["PythonTests", "PythonTestsParams"]

MAX_REPORT = 8 << 20  # bytes
GRACE = 10.0  # seconds beyond the answer's own, in which the tests' process starts, imports and reports


class PythonTestsParams(Params, frozen=True, kw_only=True):
    """What is tested and how.

    ``form``: ``humaneval`` (``test`` defines ``check(candidate)``, ``prompt`` is the head of the program), ``check``
    (the same without a prompt), ``asserts`` (module-level asserts that use the answer's names), ``cases`` (pairs of an
    argument list and the expected result, both Python literals: ``["[2, 1], True", "[1, 2]"]``).
    ``packages``: pip requirements of the tests. ``seconds``: wall time that loading and calling the answer may take.
    """

    form: Literal["humaneval", "check", "asserts", "cases"]
    test: str = ""
    prompt: str = ""
    entry_point: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    packages: tuple[str, ...] = ()
    seconds: float = 15.0


class _Exception(Record, frozen=True, kw_only=True):
    """What the box says of an exception at load."""

    type: str
    message: str
    line: int | None = None
    missing: str | None = None


class _CheckReport(Record, frozen=True, kw_only=True):
    """What the box says of one assert."""

    name: str
    passed: bool
    call: str = ""
    expected: str = ""
    got: str = ""
    line: int | None = None
    message: str = ""


class _Result(Record, frozen=True, kw_only=True):
    """What one call of form ``cases`` gave."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    raised: str | None = None
    line: int | None = None


class _Report(Record, frozen=True, kw_only=True):
    """What the box says of a job."""

    infra: str | None
    load: _Exception | None
    ended: tuple[str, str] | None
    python: str
    checks: tuple[_CheckReport, ...]
    values: tuple[_Result, ...]


_ENDED: dict[str, Outcome] = {"timeout": "timeout", "tampered": "tampered", "died": "fail"}
_STATUS: dict[str, tuple[Outcome, str]] = {
    "timeout": ("timeout", "the tests did not end in time"),
    "oom": ("fail", "the answer used more memory than allowed"),
    "output_limit": ("tampered", "more output than the tests write"),
    "disk_full": ("fail", "the answer filled the disk"),
    "signal": ("tampered", "the tests' process was killed"),
}


class PythonTests(ConfiguredVerifier[PythonTestsParams]):
    """Runs tests on an answer in a fresh sandbox; the score is the fraction of asserts (or cases) that pass."""

    kind = "python_tests"
    params_type = PythonTestsParams
    verdict_kind = "execution"
    executes = True

    def check_params(self) -> None:
        """Raises ``VerifierError`` for what a form lacks or cannot use."""
        params = self.params
        if params.form == "cases":
            if not params.cases or not params.entry_point or params.test:
                raise VerifierError("python_tests, form 'cases': needs 'entry_point' and 'cases', and has no 'test'")
            self._cases = [_literal_case(args, expected) for args, expected in params.cases]
        elif not params.test or params.cases or (params.form != "asserts" and not params.entry_point):
            needs = "'test'" if params.form == "asserts" else "'test' and 'entry_point'"
            raise VerifierError(f"python_tests, form {params.form!r}: needs {needs}, and has no 'cases'")
        if not 0 < params.seconds <= 600:
            raise VerifierError(f"python_tests: seconds={params.seconds!r} is not between 0 and 600")

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding on an answer."""
        params = self.params
        program = python_program(answer, prompt=params.prompt, entry_point=params.entry_point)
        nonce = secrets.token_hex(16)
        seconds = max(30.0, params.seconds + GRACE)
        limits = Limits(wall_seconds=seconds, cpu_seconds=seconds, output_bytes=MAX_REPORT)
        spec = SandboxSpec(packages=params.packages, limits=limits, isolation="fresh")

        async def run(sandbox: Sandbox) -> tuple[ExecResult, str]:
            stdin = json.dumps({**self._job(program), "nonce": nonce}).encode()
            result = await sandbox.run_python(box.program(), stdin=stdin, timeout=params.seconds + GRACE)
            return result, sandbox.tier

        result, tier = await in_fresh_sandbox(self.sandboxes, spec, run)
        return self._finding(result, nonce, program, tier)

    def _job(self, program: Program) -> dict[str, object]:
        params = self.params
        return {
            "program": program.source,
            "form": "check" if params.form == "humaneval" else params.form,
            "entry": params.entry_point,
            "tests": params.test,
            # What the prompt defines is the task's own: tests use it from here, whatever the answer made of it.
            "preamble": f"{params.prompt}\n    pass\n" if params.prompt else "",
            "calls": encode([args for args, _ in self._cases]) if params.form == "cases" else encode([]),
            "seconds": params.seconds,
        }

    def _finding(self, result: ExecResult, nonce: str, program: Program, tier: str) -> Finding:
        if result.status in _STATUS:
            outcome, detail = _STATUS[result.status]
            return Finding(outcome=outcome, detail=f"{detail}: {result.detail}".rstrip(": "), environment=tier)
        begun, _, text = result.stdout.partition("\n")
        report = _read(text) if begun == nonce else None
        if report is None:
            said = cut((result.stderr or result.stdout).strip())
            detail = f"the tests' process gave no report (exit code {result.exit_code}): {said}"
            # Before it says the nonce nothing of the answer runs; afterwards the answer can break it (prlimit, memory).
            outcome = "tampered" if begun == nonce else "infra_error"
            return Finding(outcome=outcome, detail=detail, environment=tier)
        environment = f"{tier}, Python {report.python}"
        missing = report.load.missing if report.load else None
        infra = report.infra
        if infra is None and missing and missing.split(".")[0] in self._modules():
            infra = f"the task's module {missing!r} is missing in the sandbox"
        if infra is not None:
            return Finding(outcome="infra_error", detail=infra, environment=environment)
        finding = Finding.of(self._checks(report, program), environment=environment)
        if report.ended is None:
            return finding
        how, detail = report.ended
        outcome, score = _ENDED.get(how, "tampered"), finding.score
        return msgspec.structs.replace(
            finding, outcome=outcome, detail=detail, score=0.0 if outcome == "tampered" else score
        )

    def _checks(self, report: _Report, program: Program) -> tuple[Check, ...]:
        checks = self._case_checks(report, program) if self.params.form == "cases" else _assert_checks(report, program)
        if report.load is None:
            return checks
        got = f"raised {report.load.type}: {report.load.message}"
        load = Check(name="load", passed=False, got=got, line=program.answer_line(report.load.line))
        return (load, *checks)

    def _case_checks(self, report: _Report, program: Program) -> tuple[Check, ...]:
        checks = []
        for index, ((source, _), (_, expected)) in enumerate(zip(self.params.cases, self._cases, strict=True)):
            result = report.values[index] if index < len(report.values) else None
            passed, got = (False, "") if result is None else _compare(result, expected)
            check = Check(
                name=f"case {index + 1}",
                passed=passed,
                call=f"{self.params.entry_point}({cut(source)})",
                expected=short_repr(expected),
                got=got,
                line=program.answer_line(result.line) if result else None,
                message="" if result else "not reached",
            )
            checks.append(check)
        return tuple(checks)

    def _modules(self) -> set[str]:
        """Returns the top-level modules that the task itself needs, declared or imported by prompt and tests."""
        declared = {re.split(r"[^\w.-]", package)[0].replace("-", "_").lower() for package in self.params.packages}
        imported = re.findall(r"^[ \t]*(?:import|from)[ \t]+(\w+)", f"{self.params.prompt}\n{self.params.test}", re.M)
        return declared | set(imported)


T = TypeVar("T")


def _literal_case(args: str, expected: str) -> tuple[tuple[object, ...], object]:
    try:
        return ast.literal_eval(f"({args},)" if args.strip() else "()"), ast.literal_eval(expected)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise VerifierError(
            f"python_tests: the case {args!r} -> {expected!r} is no pair of literals: {error}"
        ) from error


def _read(text: str) -> _Report | None:
    """Returns the report, or ``None`` where the text is none."""
    try:
        return msgspec.json.decode(text, type=_Report)
    except (msgspec.DecodeError, RecursionError):
        return None


def _assert_checks(report: _Report, program: Program) -> tuple[Check, ...]:
    return tuple(
        Check(
            name=check.name,
            passed=check.passed,
            call=check.call,
            expected=check.expected,
            got=check.got,
            line=program.answer_line(check.line),
            message=check.message,
        )
        for check in report.checks
    )


def _compare(result: _Result, expected: object) -> tuple[bool, str]:
    """Returns whether a call gave what was expected, and what it gave; the values are compared here, on the host."""
    if result.raised is not None:
        return False, result.raised
    references: list[str] = []

    def refer(_: int, text: str) -> object:
        references.append(text)
        return object()

    try:
        value = decode(json.loads(bytes(result.value)), refer)
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError, AttributeError, ArithmeticError):
        return False, "<no data>"
    if references:
        return False, cut(references[0])
    return bool(value == expected), short_repr(value)
