"""The texts of a policy that a prompt learner may change, by name.

    read_parts(view, policy)                        # {"principles": "", "reviewer": "Say what…", "system": "You…"}
    write_parts(policy, {"system": "You write…"})   # the policy with prompts/system.md replaced

``principles`` is the file ``principles.md``; a path is the script of a skill, ``skills/NAME/scripts/…``; every other
name is a prompt that the agent reads, ``prompts/NAME.md``.
"""

import re
from collections.abc import Mapping

from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.learners.view import TrainMemory

__all__ = ["PRINCIPLES", "path_of", "pick_parts", "read_parts", "write_parts"]

PRINCIPLES = "principles"
_SCRIPT = re.compile(r"skills/[^/]+/scripts/.+\.py")


def path_of(part: str) -> str:
    """Returns the file of the policy that holds a part."""
    if "/" in part:
        return part
    return "principles.md" if part == PRINCIPLES else f"prompts/{part}.md"


def read_parts(view: TrainMemory, policy: Policy) -> dict[str, str]:
    """Returns the text of every part that the agent reads under a policy, its graph's defaults filled in."""
    scripts = {path: policy.text(path) for path in policy.files if _SCRIPT.fullmatch(path)}
    return {**view.prompts(policy), PRINCIPLES: policy.text(path_of(PRINCIPLES)), **scripts}


def pick_parts(found: Mapping[str, str], wanted: str) -> dict[str, str]:
    """Returns the parts named in a list with commas.

    Raises:
        UserError: the agent reads no such part, or none is named.
    """
    names = [name for name in wanted.replace(" ", "").split(",") if name]
    if unknown := sorted(set(names) - set(found)) or not names:
        said = repr(unknown[0]) if isinstance(unknown, list) else "none"
        raise UserError(f"parts={wanted!r}: {said} is no part of this agent; there are {', '.join(sorted(found))}")
    return {name: found[name] for name in names}


def write_parts(policy: Policy, parts: Mapping[str, str]) -> Policy:
    """Returns the policy with these parts replaced; an empty one is removed."""
    return policy.edit({path_of(part): text if text.strip() else None for part, text in parts.items()})
