"""Skills in quarantine: those that rest on what strangers wrote, stored and not in force until a person approves.

    candidate = await quarantine(memory, fetch_skill("https://example.org/dates.git"))
    await waiting(memory)                                  # what nobody decided on yet
    await approve(memory, candidate.id, reason="read it", actor="ana")

A skill in quarantine is a tainted candidate, whether somebody installed it or a learner drew it from tainted runs. The
gate can decide on it as well, once a person lets it (``whet gate decide ID TASKS --tainted``).
"""

from typing import Literal

from whet.core.errors import ConflictError, NotFoundError
from whet.core.policy import Policy
from whet.core.records import Candidate, Promotion
from whet.core.wire import decode, encode
from whet.memory import Memory
from whet.skills import Found, Skill, inspect_skill, install

__all__ = ["approve", "find", "quarantine", "quarantined_skill", "reject", "waiting"]

NAME = "install"


async def quarantine(memory: Memory, found: Found, *, actor: str = NAME) -> Candidate:
    """Returns the candidate that holds the skill beside the policy in force; nothing changes for any run.

    Raises:
        ConflictError: the policy in force holds this very skill.
    """
    head, skill = await memory.policies.head(), found.skill
    policy = install(head, skill)
    if policy == head:
        raise ConflictError(f"skill {skill.name!r} is in force already, exactly as it is in {found.source!r}")
    await memory.policies.put(policy)
    candidate = Candidate(
        policy=policy.digest,
        parent=head.digest,
        learner=NAME,
        config={
            "skill": skill.name,
            "source": found.source,
            "commit": found.commit,
            "digest": skill.digest,
            "safety": decode(encode(inspect_skill(skill)), dict),
        },
        summary=f"skill {skill.name} from {found.source}",
        trust="tainted",
    )
    await memory.put(candidate, actor=actor)
    return candidate


async def waiting(memory: Memory) -> list[Candidate]:
    """Returns the tainted candidates with a skill that nobody decided on, oldest first."""
    tainted = [each for each in await memory.find(Candidate) if each.trust == "tainted" and "skill" in each.config]
    decided = {each.candidate_id for each in await memory.find(Promotion) if each.candidate_id}
    return sorted((each for each in tainted if each.id not in decided), key=lambda each: each.at)


async def approve(memory: Memory, name: str, *, reason: str, actor: str) -> Promotion:
    """Puts a waiting skill in force, on top of the policy of now, and returns the commit.

    ``name`` is the skill's, or the beginning of the candidate's id.

    Raises:
        NotFoundError: nothing, or several, wait by that name.
        ConflictError: the head moved meanwhile, or holds this very skill.
    """
    candidate = await _one(memory, name)
    head = await memory.policies.head()
    policy = install(head, await quarantined_skill(memory, candidate))
    if policy == head:
        raise ConflictError(f"skill {candidate.config['skill']!r} is in force already; reject the candidate")
    await memory.policies.put(policy)
    return await _log(memory, candidate, policy, head, "committed", reason, actor)


async def reject(memory: Memory, name: str, *, reason: str, actor: str) -> Promotion:
    """Logs that a waiting skill shall not come into force, and returns the decision; raises like ``approve``."""
    head = await memory.policies.head()
    candidate = await _one(memory, name)
    return await _log(memory, candidate, await memory.policies.get(candidate.policy), head, "rejected", reason, actor)


async def quarantined_skill(memory: Memory, candidate: Candidate) -> Skill:
    """Returns the skill that a candidate is about.

    Raises:
        NotFoundError: the candidate's policy is not stored.
    """
    return Skill.parse((await memory.policies.get(candidate.policy)).skill(str(candidate.config["skill"])))


async def find(memory: Memory, name: str) -> list[Candidate]:
    """Returns the candidates that wait by this name of a skill, or beginning of an id, oldest first."""
    return [each for each in await waiting(memory) if name == each.config["skill"] or each.id.startswith(name)]


async def _one(memory: Memory, name: str) -> Candidate:
    chosen = await find(memory, name)
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        listed = ", ".join(each.id for each in chosen)
        raise NotFoundError(f"{len(chosen)} versions of {name!r} wait: {listed}; name one by its id")
    listed = ", ".join(str(each.config["skill"]) for each in await waiting(memory)) or "none"
    raise NotFoundError(f"no skill {name!r} waits in quarantine; there are: {listed}")


async def _log(
    memory: Memory,
    candidate: Candidate,
    policy: Policy,
    head: Policy,
    decision: Literal["committed", "rejected"],
    reason: str,
    actor: str,
) -> Promotion:
    promotion = Promotion(
        decision=decision,
        policy=policy.digest,
        incumbent=head.digest,
        candidate_id=candidate.id,
        reason=reason,
        actor=actor,
    )
    await memory.policies.promote(promotion)
    return promotion
