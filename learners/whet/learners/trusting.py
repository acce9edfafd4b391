"""How far each source of a memory is trusted, measured from all that is recorded, and kept with the sources.

    for actor in await measured_trust(memory):     # ana 0.83 after 10 opinions, judge@1 0.61 after 40
        print(actor.id, actor.agreement, actor.observations)
    await update_trust(memory)                     # writes what changed; ``improve`` does so after every round

Everything is counted anew each time, so that doing it twice is doing it once, and forgetting takes its part back.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from whet.core.records import Actor, Feedback, Verdict, VerdictKind
from whet.feedback.trust import SIGNAL, Tally, agreements, standing, update, verdict_agreements
from whet.learners.view import chunks
from whet.memory import Memory

__all__ = ["measured_trust", "update_trust"]

ActorKind: TypeAlias = Literal["person", "model", "verifier", "learner", "tool"]

_JUDGED_BY: Mapping[VerdictKind, ActorKind] = {"model": "model", "human": "person", "rule": "verifier"}


async def measured_trust(memory: Memory) -> list[Actor]:
    """Returns every source whose opinion could be compared with execution, and every actor known, in order of id.

    Of several opinions of one speaker on one run the latest counts; verdicts count where they judge final answers.
    An actor about whom nothing is recorded any more has no agreement.
    """
    feedback = standing(await memory.find(Feedback))
    judged = await memory.find(Verdict, where={"kind": list(_JUDGED_BY)})
    about = {item.run_id for item in feedback} | {item.other_run_id for item in feedback}
    verdicts = [*judged, *await _executions(memory, about | {verdict.run_id for verdict in judged})]
    final = [verdict for verdict in verdicts if verdict.repetition == 0]
    tallies = {**agreements(feedback, final), **verdict_agreements(final)}
    known = {actor.id: actor for actor in await memory.find(Actor)}
    kinds = {verdict.actor or verdict.verifier: _JUDGED_BY[verdict.kind] for verdict in judged}
    return [
        _measured(known.get(id) or Actor(id=id, kind=kinds.get(id) or _speaker(id)), tallies.get(id, Tally()))
        for id in sorted({*known, *tallies})
    ]


async def update_trust(memory: Memory) -> list[Actor]:
    """Returns the actors whose measured agreement changed, after they were written."""
    known = {actor.id: actor for actor in await memory.find(Actor)}
    changed = [actor for actor in await measured_trust(memory) if known.get(actor.id) != actor]
    if changed:
        await memory.put(*changed, actor="trust", reason="agreement with execution, measured anew")
    return changed


async def _executions(memory: Memory, run_ids: Iterable[str | None]) -> Sequence[Verdict]:
    parts = chunks(sorted(id for id in run_ids if id))
    return [
        verdict for part in parts for verdict in await memory.find(Verdict, where={"run_id": part, "kind": "execution"})
    ]


def _measured(actor: Actor, tally: Tally) -> Actor:
    nothing = msgspec.structs.replace(actor, agreement=None, observations=0)
    return update(nothing, tally) if tally != Tally() else nothing


def _speaker(source: str) -> ActorKind:
    return "tool" if source.startswith(SIGNAL) else "person"
