"""The skills of a policy: read them, add one, take one out."""

from whet.core.errors import NotFoundError
from whet.core.policy import Policy
from whet.skills.skill import Skill

__all__ = ["install", "library", "remove"]


def library(policy: Policy) -> list[Skill]:
    """Returns the policy's skills, sorted by name.

    Raises:
        UserError: one of them breaks the format.
    """
    return [Skill.parse(policy.skill(name), folder=name) for name in policy.skill_names()]


def install(policy: Policy, skill: Skill) -> Policy:
    """Returns the policy with the skill in it, in place of an older one of that name.

    Raises:
        UserError: the skill breaks the format.
    """
    changes: dict[str, str | bytes | None] = {f"skills/{skill.name}/{path}": None for path in policy.skill(skill.name)}
    return policy.edit({**changes, **{f"skills/{skill.name}/{path}": data for path, data in skill.render().items()}})


def remove(policy: Policy, name: str) -> Policy:
    """Returns the policy without the skill.

    Raises:
        NotFoundError: the policy has no such skill; the message lists those it has.
    """
    paths = policy.skill(name)
    if not paths:
        raise NotFoundError(f"no skill {name!r}; the policy has {', '.join(policy.skill_names()) or 'none'}")
    return policy.edit({f"skills/{name}/{path}": None for path in paths})
