"""Judges of a memory: measured against what outranks them, probed, and kept from the gate until they agree with it.

    reports = await measured_judges(memory)                          # one for each judge that gave verdicts
    await measure_judge(memory, judge, limit=200)                    # lets it judge runs whose truth is known
    await refuse_unheard(memory, ["judge@1f0c22ab"])                 # RefusedError: see whet judge report

A judge is known by its name, which changes with its model and its rubric: what was measured of one says nothing of
another.
"""

from collections.abc import Collection, Sequence

from whet.core.errors import RefusedError, UserError
from whet.core.ids import now_ms
from whet.core.records import Actor, Feedback, Job, Json, Run, Task, Verdict, VerifierSpec
from whet.core.wire import decode, encode
from whet.feedback.dawid_skene import Reliability
from whet.feedback.judge import Comparer
from whet.feedback.judges.asking import gathered
from whet.feedback.probes import Case, Probed, probe
from whet.feedback.report import MIN_TRUST, JudgeReport, judge_reports
from whet.feedback.verifier import Verifier
from whet.feedback.verifiers.registry import load_verifier
from whet.feedback.votes import learned_trust, majority, opinions, truths
from whet.learners.view import chunks
from whet.memory import Memory

__all__ = [
    "measure_judge",
    "measured_judges",
    "measured_weights",
    "probe_cases",
    "probe_judge",
    "refuse_unheard",
    "weighted_panel",
]

PROBES = "judge_probes"
_AT_ONCE = 8


async def measured_judges(memory: Memory) -> list[JudgeReport]:
    """Returns a report for each judge that gave verdicts on final answers, with what probes found of it last."""
    ids = sorted({verdict.run_id for verdict in await memory.find(Verdict, where={"kind": "model"})})
    verdicts = [one for part in chunks(ids) for one in await memory.find(Verdict, where={"run_id": part})]
    feedback = [one for part in chunks(ids) for one in await memory.find(Feedback, where={"run_id": part})]
    runs = [run for part in chunks(ids) for run in await memory.find(Run, where={"id": part})]
    families = {actor.id: actor.family for actor in await memory.find(Actor) if actor.family}
    probed = {
        str(job.config.get("judge")): decode(encode(job.state), Probed)
        for job in await memory.find(Job, where={"kind": PROBES, "status": "done"})
    }
    return judge_reports(verdicts, feedback, runs, families=families, probed=probed)


async def measured_weights(memory: Memory) -> dict[str, Reliability]:
    """Returns how reliable each judge and each person is, by Dawid and Skene; the weightiest first."""
    found = learned_trust(await memory.find(Verdict), await memory.find(Feedback))
    sources = found.sources if found else {}
    return dict(sorted(sources.items(), key=lambda item: -item[1].weight))


async def refuse_unheard(memory: Memory | None, judges: Collection[str], min_trust: float = MIN_TRUST) -> None:
    """Lets the gate hear these judges, or does not.

    Raises:
        RefusedError: one of them was not measured, or its agreement is not surely as high as ``min_trust``.
    """
    if not judges:
        return
    reports = {} if memory is None else {report.judge: report for report in await measured_judges(memory)}
    for judge in sorted(judges):
        reason = reports[judge].refusal(min_trust) if judge in reports else "it was not measured"
        if reason:
            raise RefusedError(
                f"the gate does not hear {judge!r}: {reason}; see whet judge report, measure it with whet judge "
                "measure, or leave it out of the tasks"
            )


async def measure_judge(memory: Memory, judge: Verifier, *, limit: int = 200) -> list[Verdict]:
    """Returns the judge's verdicts on the newest runs whose truth is known and that it did not judge yet, recorded.

    Where its model could not be asked, the verdict is ``infra_error``, and the run is left for the next time.
    Held-out and sealed tasks are left out: nothing but the gate and the final report reads them.

    Raises:
        BudgetError: the budget of ``judging_under`` does not allow a call; what was judged before is recorded.
    """
    before = await memory.find(Verdict, where={"verifier": judge.name})
    mine = {one.run_id for one in before if one.outcome != "infra_error"}
    left = [(task, run) for task, run, _ in await _known(memory) if run.id not in mine][:limit]
    made: list[Verdict] = []
    for start in range(0, len(left), _AT_ONCE):
        some = left[start : start + _AT_ONCE]
        found = await gathered(judge.verify, some)
        await memory.put(*found, actor=judge.name, reason="the judge is measured")
        made += found
    return made


async def weighted_panel(memory: Memory, judges: Sequence[VerifierSpec]) -> VerifierSpec:
    """Returns the specification of a panel of judges, each weighted by what was measured of it.

    Raises:
        VerifierError: one of them is misconfigured.
        UserError: one of them was not measured, or none of them knows anything.
    """
    known = {report.judge: report.trust.weight for report in await measured_judges(memory) if report.trust is not None}
    names = [load_verifier(spec).name for spec in judges]
    if missing := [name for name in names if name not in known]:
        raise UserError(f"judge {missing[0]!r} was not measured, so its vote has no weight; see whet judge measure")
    weights: list[Json] = [known[name] for name in names]
    if not any(weights):
        raise UserError(f"none of {', '.join(names)} is right more often than wrong; take other judges")
    members = decode(encode(list(judges)), list[Json])
    return VerifierSpec(kind="panel_judge", params={"judges": members, "weights": weights})


async def probe_judge(
    memory: Memory, judge: Verifier, *, limit: int = 50, comparer: Comparer | None = None
) -> Probed | None:
    """Returns what probes find of a judge on tasks that have a right run and a wrong one, recorded; ``None``: no task.

    Raises:
        BudgetError: the budget of ``judging_under`` does not allow the calls; nothing is recorded.
    """
    cases = (await probe_cases(memory))[:limit]
    if not cases:
        return None
    found = await probe(judge, cases, comparer=comparer)
    config: dict[str, Json] = {"judge": judge.name, "pairs": comparer.name if comparer else ""}
    state = decode(encode(found), dict[str, Json])
    await memory.put(Job(kind=PROBES, status="done", config=config, state=state, ended_at=now_ms()), actor="cli")
    return found


async def probe_cases(memory: Memory) -> list[Case]:
    """Returns a case for each training task on which one answer was found right and another wrong, newest first."""
    answers: dict[str, dict[bool, tuple[Task, str]]] = {}
    for task, run, right in await _known(memory):
        answers.setdefault(task.id, {}).setdefault(right, (task, run.answer or ""))
    both = [found for found in answers.values() if len(found) == 2]
    return [Case(task=found[True][0], right=found[True][1], wrong=found[False][1]) for found in both]


async def _known(memory: Memory) -> list[tuple[Task, Run, bool]]:
    """Returns the answered runs on training tasks whose truth verifiers or people told, the newest first."""
    verdicts, feedback = await memory.find(Verdict, where={"repetition": 0}), await memory.find(Feedback)
    truth = {**majority(opinions(verdicts, feedback)), **truths(verdicts)}
    tasks = {task.id: task for task in await memory.find(Task, where={"split": "train"})}
    runs = [run for part in chunks(sorted(truth)) for run in await memory.find(Run, where={"id": part})]
    runs.sort(key=lambda run: run.started_at, reverse=True)
    return [(tasks[run.task_id], run, truth[run.id]) for run in runs if run.task_id in tasks and run.answer is not None]
