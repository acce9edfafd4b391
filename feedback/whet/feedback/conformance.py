"""What every verifier must do, as a suite that a third party can run against its own.

    breaches = await verifier_breaches(make, Example(task=task, right="42", wrong="41"))
    assert not breaches, breaches

``make`` builds the verifier; it is called with sandboxes that work and with sandboxes that are always lost.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from whet.core.errors import SandboxError
from whet.core.records import Run, Task, Verdict
from whet.feedback.verifier import FreshSandboxes, Verifier
from whet.sandboxes.sandbox import Sandbox, SandboxSpec

__all__ = ["HOSTILE", "Example", "LostSandboxes", "verifier_breaches"]

MakeVerifier: TypeAlias = Callable[[FreshSandboxes | None], Verifier]

# Answers that no verifier may pass, or be brought down by.
HOSTILE = (
    "",
    "\0",
    "\ud800",
    "PASSED\n1.0\ntrue\n{}",
    "```python\n",
    "x" * 200_000,
    "import sys\nprint('PASSED')\nsys.exit(0)",
    "import os\nos._exit(0)",
    "[" * 50_000,
)


@dataclass(frozen=True)
class Example:
    """A task with an answer that is right and one that is wrong. ``executes``: the verifier needs sandboxes."""

    task: Task
    right: str
    wrong: str
    executes: bool = False


class LostSandboxes:
    """Sandboxes none of which ever starts."""

    def fresh(self, spec: SandboxSpec) -> AbstractAsyncContextManager[Sandbox]:
        """Returns a context that raises ``SandboxError``."""
        return self._lost()

    @asynccontextmanager
    async def _lost(self) -> AsyncIterator[Sandbox]:
        raise SandboxError("the sandbox was lost")
        yield  # makes it a generator


async def verifier_breaches(make: MakeVerifier, example: Example, sandboxes: FreshSandboxes | None = None) -> list[str]:
    """Returns one line for each rule of the contract that the verifier breaks; an empty list when it conforms."""
    verifier, breaches = make(sandboxes), list[str]()

    def expect(holds: bool, rule: str) -> None:
        if not holds:
            breaches.append(rule)

    expect(isinstance(verifier, Verifier), "it has a name and verify()")
    expect(bool(verifier.name) and verifier.name == make(sandboxes).name, "equal configurations have equal names")
    right, again = [await _verdict(verifier, example.task, example.right) for _ in range(2)]
    wrong = await _verdict(verifier, example.task, example.wrong)
    expect((right.outcome, right.score) == ("pass", 1.0), f"the right answer passes with score 1, not {_told(right)}")
    expect(wrong.outcome == "fail" and wrong.score < 1.0, f"the wrong answer fails below score 1, not {_told(wrong)}")
    expect((again.outcome, again.checks) == (right.outcome, right.checks), "the same answer gets the same verdict")
    expect(right.id != again.id, "every verdict has an id of its own")
    for verdict in (right, wrong):
        expect(0.0 <= verdict.score <= 1.0, f"scores lie in [0, 1], not {verdict.score!r}")
        expect(verdict.task_id == example.task.id and bool(verdict.run_id), "a verdict names its task and run")
        expect(verdict.verifier == verifier.name, "a verdict names its verifier")
        expect(verdict.seconds > 0, "a verdict says how long it took")
    expect(any(not check.passed for check in wrong.checks) or bool(wrong.detail), "a failure says what failed")
    for answer in HOSTILE:
        verdict = await _verdict(verifier, example.task, answer)
        judged = verdict.outcome in ("fail", "tampered", "timeout", "abstain")
        expect(judged, f"the answer {answer[:30]!r} is not {_told(verdict)}")
    breaches += await _without_answer(verifier, example.task)
    if example.executes:
        lost = await _verdict(make(LostSandboxes()), example.task, example.wrong)
        expect(lost.outcome == "infra_error", f"a lost sandbox is infra_error, not {_told(lost)}")
    return breaches


async def _verdict(verifier: Verifier, task: Task, answer: str | None) -> Verdict:
    return await verifier.verify(task, Run(task_id=task.id, agent="conformance", status="done", answer=answer))


async def _without_answer(verifier: Verifier, task: Task) -> list[str]:
    silent = await _verdict(verifier, task, None)
    failed = await verifier.verify(task, Run(task_id=task.id, agent="conformance", status="failed", error="no model"))
    breaches = [] if silent.outcome == "fail" else [f"a run that is done without an answer fails, not {_told(silent)}"]
    return breaches if failed.outcome == "abstain" else [*breaches, f"a failed run is abstain, not {_told(failed)}"]


def _told(verdict: Verdict) -> str:
    return f"{verdict.outcome} ({verdict.score:g}; {verdict.detail or 'no detail'})"
