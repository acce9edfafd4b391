"""Verifiers by short name or dotted path.

verifier = load_verifier(VerifierSpec(kind="numeric", params={"expected": 3.14, "abs_tol": 0.01}))
verdicts = await verify_all(task, run, sandboxes)
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import TypeAlias

from whet.core.errors import RefusedError, VerifierError
from whet.core.records import Json, Run, Task, Verdict, VerifierSpec
from whet.feedback.verifier import FreshSandboxes, Verifier
from whet.feedback.verifiers.configured import ConfiguredVerifier
from whet.sandboxes.sandbox import Sandbox, SandboxSpec

__all__ = ["KINDS", "VerifierFactory", "check_spec", "judges_of", "load_verifier", "verify_all"]

VerifierFactory: TypeAlias = Callable[[dict[str, Json], FreshSandboxes | None], Verifier]

KINDS = {
    "asking": "whet.feedback.verifiers.asking:Asking",
    "aspects_judge": "whet.feedback.judges.rubric:Aspects",
    "command": "whet.feedback.verifiers.command:Command",
    "exact": "whet.feedback.verifiers.text:Exact",
    "judge": "whet.feedback.judges.checklist:Checklist",
    "followup_judge": "whet.feedback.judges.followup:FollowUpJudge",
    "json_schema": "whet.feedback.verifiers.text:JsonSchema",
    "numeric": "whet.feedback.verifiers.text:Numeric",
    "panel_judge": "whet.feedback.judges.panel:Panel",
    "python_tests": "whet.feedback.verifiers.python_tests:PythonTests",
    "reference_judge": "whet.feedback.judges.rubric:OwnAnswer",
    "regex": "whet.feedback.verifiers.text:Regex",
    "rubric_judge": "whet.feedback.judges.rubric:Rubric",
}


def load_verifier(spec: VerifierSpec, sandboxes: FreshSandboxes | None = None) -> Verifier:
    """Returns the verifier that a spec describes.

    Args:
        spec: a short name of ``KINDS`` or a dotted path ``package.module:Factory``, with its parameters. A factory is
            called with (params, sandboxes).
        sandboxes: where verifiers that execute something get their fresh sandboxes.

    Raises:
        VerifierError: no such kind, unknown or wrong parameters, or a verifier that needs sandboxes and has none.
    """
    path = KINDS.get(spec.kind, spec.kind)
    module_name, _, name = path.partition(":")
    if not name:
        raise VerifierError(
            f"no verifier {spec.kind!r}; one of {', '.join(sorted(KINDS))}, or a dotted path 'package.module:Factory'"
        )
    try:
        factory: VerifierFactory = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise VerifierError(f"the verifier {spec.kind!r} cannot be imported: {error}") from error
    return factory(spec.params, sandboxes)


class _NoSandboxes:
    """Stands in where a verifier is only built, never run."""

    def fresh(self, spec: SandboxSpec) -> AbstractAsyncContextManager[Sandbox]:
        raise RefusedError("this verifier was loaded to check its parameters; load it with a SandboxPool to run it")


def check_spec(spec: VerifierSpec) -> None:
    """Raises ``VerifierError`` where ``load_verifier`` would, without needing sandboxes."""
    load_verifier(spec, _NoSandboxes())


def judges_of(task: Task) -> list[str]:
    """Returns the names of those verifiers of a task that are judges: their verdicts are of kind ``model``.

    Raises:
        VerifierError: one of the verifiers is misconfigured.
    """
    made = [load_verifier(spec, _NoSandboxes()) for spec in task.verifiers]
    return [one.name for one in made if isinstance(one, ConfiguredVerifier) and one.verdict_kind == "model"]


async def verify_all(task: Task, run: Run, sandboxes: FreshSandboxes | None = None) -> list[Verdict]:
    """Returns one verdict per verifier of the task, in their order; they run at the same time.

    Raises:
        VerifierError: one of the verifiers is misconfigured (nothing has run then).
    """
    verifiers = [load_verifier(spec, sandboxes) for spec in task.verifiers]
    return await asyncio.gather(*(verifier.verify(task, run) for verifier in verifiers))
