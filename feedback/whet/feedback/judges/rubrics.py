"""Rubrics that are learned: the text of a policy's ``rubrics/NAME.md``, put where a judge reads it.

    spec = VerifierSpec(kind="judge", params={"model": "openai:judge", "rubric": "rubrics/style.md"})
    task = msgspec.structs.replace(task, verifiers=(with_rubric(spec, policy),))

Who makes the tasks does this once, with a policy that the gate has let through. A run does not read the rubric of the
policy it runs under: a candidate could then pass by asking less of itself.
"""

import msgspec

from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.core.records import VerifierSpec

__all__ = ["with_rubric"]


def with_rubric(spec: VerifierSpec, policy: Policy) -> VerifierSpec:
    """Returns the specification with the text of the policy's file that its parameter ``rubric`` names.

    Raises:
        UserError: the parameter names no file of the policy.
    """
    named = str(spec.params.get("rubric", "")).strip()
    if named not in policy.files:
        there = ", ".join(path for path in policy.files if path.startswith("rubrics/")) or "none"
        raise UserError(f"rubric={named!r} is no file of the policy {policy.digest[:12]}; it has {there}")
    return msgspec.structs.replace(spec, params={**spec.params, "rubric": policy.text(named)})
