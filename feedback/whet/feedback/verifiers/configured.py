"""What every built-in verifier shares: typed parameters, a name, timing, retries, and the making of the verdict."""

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, Generic, TypeVar

import msgspec

from whet.core.errors import ModelError, RefusedError, SandboxError, UserError, VerifierError
from whet.core.ids import digest
from whet.core.records import Check, Json, Outcome, Record, Run, Task, Verdict, VerdictKind
from whet.core.wire import encode
from whet.feedback.verifier import FreshSandboxes
from whet.sandboxes.sandbox import Sandbox, SandboxSpec

__all__ = ["ConfiguredVerifier", "Finding", "Params", "in_fresh_sandbox"]

TRIES = 3
MAX_ANSWER = 4 << 20


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every verifier's parameters; unknown names are refused."""


class Finding(Record, frozen=True, kw_only=True):
    """What a verifier found; the fields are those of a ``Verdict``."""

    outcome: Outcome
    score: float = 0.0
    checks: tuple[Check, ...] = ()
    detail: str = ""
    environment: str = ""

    @classmethod
    def of(cls, checks: tuple[Check, ...], *, detail: str = "", environment: str = "") -> "Finding":
        """Returns pass when every check passed, else fail; the score is the fraction that passed."""
        score = sum(check.passed for check in checks) / len(checks) if checks else 0.0
        outcome: Outcome = "pass" if checks and all(check.passed for check in checks) else "fail"
        return cls(outcome=outcome, score=score, checks=checks, detail=detail, environment=environment)


P = TypeVar("P", bound=Params)


class ConfiguredVerifier(ABC, Generic[P]):
    """A verifier with typed parameters; a subclass says how to judge an answer."""

    kind: ClassVar[str]
    params_type: ClassVar[type[Params]]
    verdict_kind: ClassVar[VerdictKind] = "rule"
    executes: ClassVar[bool] = False

    def __init__(self, params: dict[str, Json], sandboxes: FreshSandboxes | None = None) -> None:
        try:
            self.params: P = msgspec.convert(params, self.params_type)  # type: ignore[assignment]
        except msgspec.ValidationError as error:
            allowed = ", ".join(self.params_type.__struct_fields__)
            raise VerifierError(f"verifier {self.kind!r}: {error}; its parameters are {allowed}") from error
        if self.executes and sandboxes is None:
            raise VerifierError(f"verifier {self.kind!r} executes code; pass a SandboxPool as 'sandboxes'")
        self._sandboxes = sandboxes
        self._name = f"{self.kind}@{digest(encode(params))[:8]}"
        self.check_params()

    @property
    def name(self) -> str:
        """The kind and a digest of the parameters, e.g. ``exact@1f0c22ab``."""
        return self._name

    @property
    def sandboxes(self) -> FreshSandboxes:
        """Where fresh sandboxes come from; only for verifiers that execute."""
        if self._sandboxes is None:
            raise VerifierError(f"verifier {self.kind!r} has no sandboxes")
        return self._sandboxes

    @property
    def longest(self) -> int:
        """How many characters an answer may have; a longer one fails."""
        return MAX_ANSWER

    def check_params(self) -> None:
        """Raises ``VerifierError`` for parameters that are each valid but not together."""

    @abstractmethod
    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding on an answer; may raise ``SandboxError``, ``ModelError`` or ``RefusedError``."""

    async def verify(self, task: Task, run: Run) -> Verdict:
        """Returns the verdict on the run's answer; never raises for what the answer did."""
        started = time.monotonic()
        try:
            finding = await self._judge(task, run)
        except (SandboxError, ModelError, RefusedError, UserError) as error:
            # A ModelError is that of a judge's model. A UserError is the sandbox's answer to files that the task or the
            # verifier cannot have there.
            finding = Finding(outcome="infra_error", detail=str(error))
        return Verdict(
            run_id=run.id,
            task_id=task.id,
            verifier=self.name,
            outcome=finding.outcome,
            score=finding.score,
            kind=self.verdict_kind,
            checks=finding.checks,
            detail=finding.detail,
            environment=finding.environment,
            seconds=time.monotonic() - started,
            scope=run.scope,
        )

    async def _judge(self, task: Task, run: Run) -> Finding:
        if run.answer is not None and len(run.answer) > self.longest:
            return Finding(outcome="fail", detail=f"the answer has more than {self.longest} characters")
        if run.answer is not None:
            return await self.judge(task, run.answer)
        if run.status == "done":
            return Finding(outcome="fail", detail="the run gave no answer")
        return Finding(outcome="abstain", detail=f"the run is {run.status}: {run.error or 'it has no answer'}")


R = TypeVar("R")


async def in_fresh_sandbox(
    sandboxes: FreshSandboxes, spec: SandboxSpec, action: Callable[[Sandbox], Awaitable[R]]
) -> R:
    """Returns what the action returns in a new sandbox; a lost sandbox is replaced, up to ``TRIES`` in all.

    Raises:
        SandboxError: every sandbox was lost.
        RefusedError: the spec asks for what cannot be had.
    """
    for left in reversed(range(TRIES)):
        try:
            async with sandboxes.fresh(spec) as box:
                return await action(box)
        except SandboxError:
            if not left:
                raise
    raise SandboxError("no sandbox was tried")
