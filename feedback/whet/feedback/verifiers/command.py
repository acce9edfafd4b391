"""A command in a fresh sandbox: its exit code, or a JSON metric that it writes.

    VerifierSpec(kind="command", params={
        "command": ["python3", "grade.py", "answer.txt"],
        "files": {"grade.py": "…"},
        "metric": {"key": "accuracy", "threshold": 0.9},
    })

The task's files, then the answer, then the verifier's files are written to the workspace. The command and the answer
share one sandbox: a command that executes the answer can be told lies by it. For Python use ``python_tests``.
"""

import json
import math

import msgspec

from whet.core.errors import UserError, VerifierError
from whet.core.records import Check, ExecResult, Json, Outcome, Task
from whet.feedback.answers import extract_code
from whet.feedback.verifiers.box.codec import cut, short_repr
from whet.feedback.verifiers.configured import ConfiguredVerifier, Finding, Params, in_fresh_sandbox
from whet.sandboxes.sandbox import Limits, Sandbox, SandboxSpec

__all__ = ["Command", "CommandParams", "Metric"]


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number in JSON: the last line of standard output, or the file ``path``; ``key`` is dotted (``a.b``).

    The score is its place between ``low`` (0) and ``high`` (1); with ``low`` above ``high`` less is better. It passes
    when the score reaches that of ``threshold`` (``high`` where none is given).
    """

    key: str
    path: str = ""
    low: float = 0.0
    high: float = 1.0
    threshold: float | None = None

    def score(self, value: float) -> float:
        """Returns the value's place between ``low`` and ``high``, in [0, 1]."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def passes(self, value: float) -> bool:
        """Whether the value reaches the threshold, from the side of ``low``."""
        bound = self.high if self.threshold is None else self.threshold
        return value >= bound if self.high > self.low else value <= bound


class CommandParams(Params, frozen=True, kw_only=True):
    """What is executed. A list is executed as it is, a text by ``/bin/sh -c``; without ``metric``, exit code 0 passes.

    ``answer_file``: where the answer goes; ``extract``: only its fenced code does. ``files`` are written after it, so
    that the answer cannot take their place.
    """

    command: str | tuple[str, ...]
    answer_file: str = "answer.txt"
    extract: bool = False
    files: dict[str, str] = msgspec.field(default_factory=dict)
    metric: Metric | None = None
    packages: tuple[str, ...] = ()
    seconds: float = 30.0


_STATUS: dict[str, tuple[Outcome, str]] = {
    "timeout": ("timeout", "the command did not end in time"),
    "oom": ("fail", "the command used more memory than allowed"),
    "output_limit": ("fail", "the command wrote too much"),
    "disk_full": ("fail", "the command filled the disk"),
}
_NOT_RUNNABLE = (126, 127)


class Command(ConfiguredVerifier[CommandParams]):
    """Runs a command on the answer in a fresh sandbox."""

    kind = "command"
    params_type = CommandParams
    verdict_kind = "execution"
    executes = True

    def check_params(self) -> None:
        """Raises ``VerifierError`` for an empty command or a metric without a range."""
        if not self.params.command:
            raise VerifierError("command: 'command' is empty")
        if self.params.answer_file in self.params.files:
            raise VerifierError(f"command: {self.params.answer_file!r} is both the answer's file and one of 'files'")
        metric = self.params.metric
        if metric is not None and metric.low == metric.high:
            raise VerifierError(f"command: the metric's low and high are both {metric.low!r}")

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding on an answer."""
        params = self.params
        text = extract_code(answer)[0] if params.extract else answer
        # A lone surrogate is text to Python and cannot be written to a file.
        files: dict[str, str | bytes] = {
            **task.files,
            params.answer_file: text.encode("utf-8", "replace"),
            **params.files,
        }
        limits = Limits(wall_seconds=max(30.0, params.seconds), cpu_seconds=max(30.0, params.seconds))
        spec = SandboxSpec(packages=params.packages, limits=limits, isolation="fresh")

        async def run(sandbox: Sandbox) -> tuple[ExecResult, bytes, str]:
            for path, content in files.items():
                await sandbox.write(path, content)
            result = await sandbox.exec(params.command, timeout=params.seconds)
            return result, await self._written(sandbox, result), sandbox.tier

        result, written, tier = await in_fresh_sandbox(self.sandboxes, spec, run)
        finding = self._finding(result, written)
        return msgspec.structs.replace(finding, environment=tier)

    async def _written(self, sandbox: Sandbox, result: ExecResult) -> bytes:
        if self.params.metric is None or not self.params.metric.path:
            return (result.stdout.strip().splitlines() or [""])[-1].encode()
        try:
            return await sandbox.read(self.params.metric.path)
        except UserError:
            return b""

    def _finding(self, result: ExecResult, written: bytes) -> Finding:
        if result.status in _STATUS:
            outcome, detail = _STATUS[result.status]
            return Finding(outcome=outcome, detail=f"{detail}: {result.detail}".rstrip(": "))
        shown = cut((result.stderr or result.stdout).strip())
        if result.exit_code in _NOT_RUNNABLE:
            return Finding(
                outcome="infra_error", detail=f"the command cannot be run (exit code {result.exit_code}): {shown}"
            )
        if self.params.metric is not None:
            return _metric_finding(self.params.metric, result, written)
        got = f"signal {result.signal}" if result.status == "signal" else f"exit code {result.exit_code}"
        command = self.params.command if isinstance(self.params.command, str) else " ".join(self.params.command)
        check = Check(name="exit code", passed=result.ok, call=command, expected="exit code 0", got=got, message=shown)
        return Finding.of((check,))


def _metric_finding(metric: Metric, result: ExecResult, written: bytes) -> Finding:
    value = _value(written, metric.key)
    if value is None:
        shown = cut((result.stderr or result.stdout).strip())
        where = metric.path or "the last line of standard output"
        return Finding(outcome="fail", detail=f"no finite number {metric.key!r} as JSON in {where}: {shown}")
    bound = metric.high if metric.threshold is None else metric.threshold
    sign = ">=" if metric.high > metric.low else "<="
    check = Check(
        name=metric.key,
        passed=metric.passes(value),
        call=metric.key,
        expected=f"{sign} {bound!r}",
        got=short_repr(value),
    )
    return msgspec.structs.replace(Finding.of((check,)), score=metric.score(value))


def _value(written: bytes, key: str) -> float | None:
    try:
        value: Json = json.loads(written)
    except (ValueError, RecursionError):
        return None
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
