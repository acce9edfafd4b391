"""Lessons: admission, versions, duplicates, taint, worth, and why they say what they say."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.core import (
    Candidate,
    ConflictError,
    Feedback,
    Lesson,
    NotFoundError,
    Outcome,
    Promotion,
    Run,
    Use,
    UserError,
    Verdict,
)
from whet.memory import Memory
from whet.memory.similar import resemblance
from whet.memory.worth import _estimate

TEXT = "Back off exponentially when the server answers 429, and honour Retry-After"


async def _run(
    memory: Memory, outcome: Outcome | None = "pass", *, task: str = "t", seed: int = 0, **fields: str
) -> Run:
    run = msgspec.structs.replace(Run(task_id=task, agent="a", seed=seed, status="done"), **fields)
    await memory.put(run)
    if outcome is not None:
        score = float(outcome == "pass")
        await memory.put(Verdict(run_id=run.id, task_id=task, verifier="v", outcome=outcome, score=score))
    return run


async def _added(memory: Memory, *runs: Run, text: str = TEXT) -> Lesson:
    lesson = Lesson(text=text, derived_from=tuple(run.id for run in runs), status="active")
    return (await memory.lessons.add(lesson)).lesson


@pytest.mark.asyncio
async def test_a_lesson_is_born_proposed_and_admitted_by_two_independent_runs(memory: Memory) -> None:
    lesson = await _added(memory, await _run(memory), await _run(memory, seed=1))
    assert lesson.status == "proposed"
    admission = await memory.lessons.admit(lesson.id)
    assert (admission.admitted, admission.runs, admission.passed) == (True, 2, 2)
    assert (admission.lesson.status, admission.lesson.kind, admission.lesson.version) == ("active", "lesson", 2)
    again = await memory.lessons.admit(lesson.id)
    assert (again.admitted, again.reason) == (False, "it is active, not proposed")


@pytest.mark.asyncio
async def test_a_single_run_and_its_replay_are_not_two(memory: Memory) -> None:
    run = await _run(memory)
    replay = await _run(memory, seed=1, parent_id=run.id)
    admission = await memory.lessons.admit((await _added(memory, run, replay)).id)
    assert (admission.admitted, admission.runs) == (False, 1)
    assert "two are needed" in admission.reason


@pytest.mark.asyncio
@pytest.mark.parametrize("outcome", ["infra_error", "abstain", "timeout", None])
async def test_what_did_not_judge_is_no_evidence(memory: Memory, outcome: Outcome | None) -> None:
    runs = [await _run(memory, outcome, seed=seed) for seed in range(3)]
    admission = await memory.lessons.admit((await _added(memory, *runs)).id)
    assert (admission.admitted, admission.reason) == (False, "no verdict judged a run that it rests on")


@pytest.mark.asyncio
async def test_what_only_failed_comes_in_as_negative(memory: Memory) -> None:
    runs = [await _run(memory, "fail", seed=seed) for seed in range(2)]
    admission = await memory.lessons.admit((await _added(memory, *runs)).id)
    assert (admission.admitted, admission.lesson.kind) == (True, "negative")


@pytest.mark.asyncio
@pytest.mark.parametrize(("shown", "withheld", "admitted"), [("pass", "fail", True), ("fail", "pass", False)])
async def test_a_paired_replay_decides(memory: Memory, shown: Outcome, withheld: Outcome, admitted: bool) -> None:
    lesson = await _added(memory, await _run(memory, "fail"), await _run(memory, "pass", seed=1))
    first, second = await _run(memory, shown, task="u", seed=5), await _run(memory, withheld, task="u", seed=5)
    await memory.put(
        Use(run_id=first.id, item=lesson.id, kind="shown"), Use(run_id=second.id, item=lesson.id, kind="withheld")
    )
    admission = await memory.lessons.admit(lesson.id)
    assert (admission.admitted, admission.pairs) == (admitted, 1)
    assert abs(admission.replay) == 1


@pytest.mark.asyncio
async def test_evidence_may_be_verdicts_or_feedback(memory: Memory) -> None:
    one, two = await _run(memory), await _run(memory, seed=1)
    [verdict] = await memory.find(Verdict, {"run_id": one.id})
    said = Feedback(kind="comment", source="ada", run_id=two.id, text="wait longer")
    await memory.put(said)
    lesson = (await memory.lessons.add(Lesson(text=TEXT, derived_from=(said.id,), supports=(verdict.id,)))).lesson
    assert (await memory.lessons.admit(lesson.id)).runs == 2


@pytest.mark.asyncio
async def test_a_duplicate_adds_its_evidence(memory: Memory) -> None:
    first = await _added(memory, await _run(memory))
    other = await _run(memory, seed=1)
    added = await memory.lessons.add(Lesson(text=TEXT.upper() + "!", derived_from=(other.id,)))
    assert (added.outcome, added.lesson.id, added.lesson.supports) == ("duplicate", first.id, (other.id,))
    assert await memory.count(Lesson, {"valid_to": None}) == 1
    assert (await memory.lessons.admit(first.id)).admitted
    different = await memory.lessons.add(Lesson(text="Cache the token until it expires"))
    assert different.outcome == "added"


@pytest.mark.asyncio
async def test_duplicates_that_came_in_by_other_ways_are_found(memory: Memory) -> None:
    lessons = [
        Lesson(text=TEXT, status="active", valid_from=1),
        Lesson(text=f"{TEXT}!", status="active", valid_from=2),
        Lesson(text="Cache the token until it expires", status="active", valid_from=3),
        Lesson(text=TEXT, status="retired", valid_from=4),
    ]
    await memory.put(*lessons)
    [group] = await memory.lessons.duplicates()
    assert group == lessons[:2]
    await memory.lessons.merge([lesson.id for lesson in group], reason="the same", actor="ada")
    assert await memory.lessons.duplicates() == []


@pytest.mark.asyncio
async def test_recalled_text_is_not_taken_in_again(memory: Memory) -> None:
    lesson = await _added(memory, await _run(memory))
    run = await _run(memory, seed=1)
    await memory.put(Use(run_id=run.id, item=lesson.id, kind="shown"))
    echo = Lesson(text=f"Remember: {TEXT}, always.", derived_from=(run.id,))
    added = await memory.lessons.add(echo)
    assert (added.outcome, added.lesson.id) == ("recalled", lesson.id)
    assert await memory.count(Lesson) == 1


@pytest.mark.asyncio
async def test_versions_keep_the_id_and_close_the_one_before(memory: Memory) -> None:
    lesson = await _added(memory, await _run(memory))
    await memory.lessons.revise(lesson.id, text="Wait, then retry", reason="shorter", actor="ada")
    await memory.lessons.retire(lesson.id, reason="wrong", actor="ada")
    first, second, third = await memory.lessons.history(lesson.id[:12])
    assert [each.version for each in (first, second, third)] == [1, 2, 3]
    assert [each.status for each in (first, second, third)] == ["proposed", "proposed", "retired"]
    assert first.valid_to == second.valid_from
    assert second.valid_to == third.valid_from
    assert third.valid_to is None
    assert (second.text, third.reason) == ("Wait, then retry", "wrong")
    assert await memory.get(Lesson, lesson.id) == third
    with pytest.raises(UserError, match="retired already"):
        await memory.lessons.retire(lesson.id, reason="again", actor="ada")
    with pytest.raises(UserError, match="needs a reason"):
        await memory.lessons.approve(lesson.id, reason="", actor="ada")
    with pytest.raises(UserError, match="says that already"):
        await memory.lessons.revise(lesson.id, text="Wait, then retry", reason="r", actor="ada")
    with pytest.raises(NotFoundError):
        await memory.lessons.retire("ffff", reason="r", actor="ada")


@pytest.mark.asyncio
async def test_a_known_id_or_an_empty_text_is_refused(memory: Memory) -> None:
    lesson = await _added(memory, await _run(memory))
    with pytest.raises(ConflictError, match="change it with revise"):
        await memory.lessons.add(Lesson(id=lesson.id, text="Something else altogether"))
    with pytest.raises(UserError, match="needs a text"):
        await memory.lessons.add(Lesson(text="  "))


@pytest.mark.asyncio
async def test_merging_keeps_the_evidence_of_all(memory: Memory) -> None:
    one, two = await _run(memory), await _run(memory, seed=1)
    first, second = await _added(memory, one), await _added(memory, two, text="Cache the token until it expires")
    merged = await memory.lessons.merge([first.id, second.id], text="Both", reason="same advice", actor="ada")
    assert (merged.id, merged.text, merged.derived_from, merged.supports) == (first.id, "Both", (one.id,), (two.id,))
    assert (await memory.get(Lesson, second.id)).status == "retired"
    with pytest.raises(UserError, match="two lessons or more"):
        await memory.lessons.merge([first.id, first.id], reason="r", actor="ada")


@pytest.mark.asyncio
async def test_taint_is_inherited_and_waits_for_a_person(memory: Memory) -> None:
    runs = [await _run(memory, trust="tainted"), await _run(memory, seed=1)]
    lesson = await _added(memory, *runs)
    assert lesson.trust == "tainted"
    assert "a person has to approve" in (await memory.lessons.admit(lesson.id)).reason
    approved = await memory.lessons.approve(lesson.id, reason="checked", actor="ada")
    assert (approved.status, approved.trust) == ("active", "tainted")


@pytest.mark.asyncio
async def test_taint_found_later_reaches_everything_that_rests_on_it(memory: Memory) -> None:
    run = await _run(memory)
    said = Feedback(kind="comment", source="ada", run_id=run.id, text="wait longer")
    await memory.put(said)
    lesson = await _added(memory, run)
    lesson = await memory.lessons.approve(lesson.id, reason="ok", actor="ada")
    child = (await memory.lessons.add(Lesson(text="Cache the token", derived_from=(lesson.id, said.id)))).lesson
    tainted = await memory.lessons.taint(run.id, reason="prompt injection", actor="ada")
    assert {each.id: (each.trust, each.status) for each in tainted} == {
        lesson.id: ("tainted", "quarantined"),
        child.id: ("tainted", "proposed"),
    }


# --- worth ----------------------------------------------------------------------------------------------------------


async def _use(memory: Memory, item: str, kind: str, score: float, **fields: str) -> None:
    run = msgspec.structs.replace(Run(task_id="t", agent="a"), **fields)
    outcome: Outcome = "pass" if score > 0.5 else "fail"
    await memory.put(
        run,
        Use(run_id=run.id, item=item, kind="shown" if kind == "shown" else "withheld"),
        Verdict(run_id=run.id, task_id="t", verifier="v", outcome=outcome, score=score),
        Verdict(run_id=run.id, task_id="t", verifier="w", outcome="infra_error"),
    )


@pytest.mark.asyncio
async def test_worth_is_the_difference_of_means_with_its_interval(memory: Memory) -> None:
    assert (await memory.worth("skill:x")).mean is None
    for score in (1.0, 1.0, 0.5, 1.0):
        await _use(memory, "skill:x", "shown", score)
    for score in (0.0, 0.0, 1.0):
        await _use(memory, "skill:x", "withheld", score)
    await _use(memory, "skill:x", "shown", 0.0, purpose="gate")
    worth = await memory.worth("skill:x")
    assert (worth.n_shown, worth.n_withheld) == (4, 3)
    assert worth.mean == pytest.approx(0.875 - 1 / 3)
    assert worth.low < 0
    assert worth.high > 0.875 - 1 / 3
    assert worth.proven == 0


@settings(derandomize=True, max_examples=50)
@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(20, 60))
def test_the_interval_holds_the_difference_nearly_always(p: float, q: float, n: int) -> None:
    rng = random.Random(f"{p} {q} {n}")
    held = 0
    for _ in range(200):
        a, b = sum(rng.random() < p for _ in range(n)), sum(rng.random() < q for _ in range(n))
        worth = _estimate("x", (n, float(a)), (n, float(b)))
        held += worth.low <= p - q <= worth.high
    assert held >= 172  # 95 % of 200 is 190, with a standard deviation of 3; 86 % would be far off


# --- why ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_why_shows_sources_with_their_verdicts_and_worth(memory: Memory) -> None:
    run, against = await _run(memory), await _run(memory, "fail", seed=1)
    lesson = await _added(memory, run)
    await memory.lessons.revise(lesson.id, contradicts=[against.id], supports=["gone"], reason="r", actor="ada")
    why = await memory.why(lesson.id[:10])
    assert [(source.relation, source.kind, source.id) for source in why.sources] == [
        ("derived_from", "runs", run.id),
        ("supports", "missing", "gone"),
        ("contradicts", "runs", against.id),
    ]
    assert [judgement.outcome for source in why.sources for judgement in source.verdicts] == ["pass", "fail"]
    assert (why.lesson.version, len(why.versions), why.worth.n_shown) == (2, 2, 0)


@pytest.mark.asyncio
async def test_used_by_names_uses_and_what_rests_on_a_lesson(memory: Memory) -> None:
    lesson = await _added(memory, await _run(memory))
    child = (await memory.lessons.add(Lesson(text="Cache the token", derived_from=(lesson.id,)))).lesson
    use = Use(run_id="r", item=lesson.id, kind="shown")
    candidate = Candidate(policy="p", parent="", learner="l", evidence=(child.id,))
    promotion = Promotion(decision="rejected", policy="p", incumbent="", candidate_id=candidate.id)
    await memory.put(use, candidate, promotion)
    used = await memory.used_by(lesson.id)
    assert (used.uses, used.lessons, used.candidates, used.promotions) == ((use,), (child,), (candidate,), (promotion,))
    assert (await memory.used_by("skill:none")).uses == ()


def test_resemblance() -> None:
    assert resemblance("sort the list", "sort the list") == 1
    assert resemblance("", "") == 1
    assert resemblance("sort the list", "cook some rice") == 0
    assert 0.3 < resemblance("sort the list in place", "sort the list by key") < 0.8
