"""The report recovers what was planted in a judge: errors, biases, what it gives up; nothing in a fair one."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from whet.core import Budget, BudgetError, Message, Run, Task, Verdict
from whet.core.calibration import Share
from whet.core.records import VerdictKind
from whet.feedback import feedback
from whet.feedback.judges import Checklist, Pairwise, Rubric, judging_under
from whet.feedback.judges.testing import PlantedModel
from whet.feedback.probes import DISTRACTORS, Case, Probed, flips, probe, remark, revising, wavering
from whet.feedback.report import MIN_TRUST, JudgeReport, judge_reports

ITEMS = ["The answer is right."]


def right(answer: str) -> bool:
    return answer.startswith("right")


def task(number: int) -> Task:
    return Task(id=f"t{number}", messages=(Message(role="user", content=f"Task {number}."),))


def attempts(n: int, seed: int = 0) -> list[Run]:
    """Runs half of which are right, half of them long, half of them by a model of the planted family."""
    rng, found = random.Random(seed), []
    for i in range(n):
        words = " ".join(["word"] * (200 if rng.random() < 0.5 else rng.randint(5, 15)))
        model = rng.choice(["lab/planted-9b", "lab/other-9b"])
        text = f"{'right' if rng.random() < 0.5 else 'wrong'} {i} {words}" + (" ~me" if "planted" in model else "")
        found.append(Run(id=f"r{i}", task_id=f"t{i}", agent="a", status="done", answer=text, model=model))
    return found


def known(run: Run, kind: VerdictKind = "execution") -> Verdict:
    outcome = right(run.answer or "")
    return Verdict(
        run_id=run.id, task_id=run.task_id, verifier=kind, kind=kind, outcome="pass" if outcome else "fail",
        score=float(outcome),
    )  # fmt: skip


async def judged(model: PlantedModel, runs: Sequence[Run]) -> list[Verdict]:
    judge = Checklist({"items": [*ITEMS]}, model=model)
    return await asyncio.gather(*(judge.verify(task(i), run) for i, run in enumerate(runs)))


async def reported(model: PlantedModel, n: int = 1200) -> JudgeReport:
    runs = attempts(n)
    verdicts = [*await judged(model, runs), *map(known, runs)]
    (report,) = judge_reports(verdicts, runs=runs)
    return report


# --- from records ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_fair_judge_has_no_bias_and_is_heard() -> None:
    report = await reported(PlantedModel(right))
    assert (report.judged, report.abstained, report.model) == (1200, 0, "planted")
    assert report.verifiers.all.value == 1.0
    assert report.verifiers.all.low > 0.99
    assert not report.length.shown
    assert not report.family.shown
    assert report.calibration is not None
    assert (report.calibration.brier, report.calibration.ece) == (0.0, 0.0)
    assert report.refusal() == ""
    assert report.lines()[-1] == "the gate hears it"


@pytest.mark.asyncio
async def test_a_planted_error_rate_comes_back_with_an_interval_that_holds_it() -> None:
    report = await reported(PlantedModel(right, error=0.15))
    for share in (report.verifiers.all, report.verifiers.right, report.verifiers.wrong):
        assert share.low < 0.85 < share.high
        assert share.high - share.low < 0.08
    assert report.calibration is not None
    assert report.calibration.brier == pytest.approx(0.15, abs=0.03)
    assert report.calibration.ece == pytest.approx(0.15, abs=0.03)  # it is always sure, and wrong that often
    assert not report.length.shown
    assert report.trust is not None
    assert report.trust.balanced == pytest.approx(0.85, abs=0.03)


@pytest.mark.asyncio
async def test_planted_length_bias_and_self_preference_come_back_each_by_itself() -> None:
    longer = await reported(PlantedModel(right, longer=0.4))
    assert longer.length.wrong is not None
    assert longer.length.wrong.low < 0.4 < longer.length.wrong.high
    assert longer.length.right is not None
    assert longer.length.right.value == pytest.approx(0.0)
    assert not longer.family.shown
    vain = await reported(PlantedModel(right, own=0.3, signed="~me", seed=1))
    assert vain.family.wrong is not None
    assert vain.family.wrong.low < 0.3 < vain.family.wrong.high
    assert not vain.length.shown


@pytest.mark.asyncio
async def test_a_judge_that_passes_everything_is_not_heard_however_often_that_is_right() -> None:
    runs = [run for run in attempts(600) if right(run.answer or "") or int(run.id[1:]) % 10 == 0]
    verdicts = [*await judged(PlantedModel(lambda answer: True), runs), *map(known, runs)]
    (report,) = judge_reports(verdicts, runs=runs)
    assert report.standard.all.value > 0.88
    assert report.standard.balanced == 0.5
    assert f"{MIN_TRUST:g} is needed" in report.refusal()


@pytest.mark.asyncio
async def test_few_runs_are_not_enough_to_be_heard_and_none_are_said_to_be_none() -> None:
    runs = attempts(8)
    verdicts = await judged(PlantedModel(right), runs)
    (alone,) = judge_reports(verdicts, runs=runs)
    assert alone.refusal() == "no run that it judged was judged by a verifier or a person"
    assert alone.calibration is None
    (few,) = judge_reports([*verdicts, *map(known, runs)], runs=runs)
    assert few.standard.all.value == 1.0
    assert "is needed" in few.refusal()
    wrong = [run for run in runs if not right(run.answer or "")]
    (half,) = judge_reports([*verdicts, *map(known, wrong)], runs=runs)
    assert half.refusal() == f"of the runs that it judged 0 are right and {len(wrong)} wrong; both are needed"
    assert "right ones" not in " ".join(line for line in half.lines() if line.startswith("agreement"))


@pytest.mark.asyncio
async def test_people_are_the_standard_where_no_verifier_was_and_never_against_one() -> None:
    runs = attempts(200)
    mine = await judged(PlantedModel(right), runs)
    said = [
        (feedback.accept if right(run.answer or "") else feedback.reject)("ana", run_id=run.id) for run in runs[:120]
    ]
    crossed = [feedback.reject("bob", run_id=run.id) for run in runs[150:] if right(run.answer or "")]
    verdicts = [*mine, *(known(run) for run in runs[150:])]
    (report,) = judge_reports(verdicts, [*said, *crossed], runs)
    assert (report.verifiers.all.n, report.people.all.n) == (50, 120 + len(crossed))
    assert report.people.all.value < 0.9
    assert (report.standard.all.n, report.standard.all.value) == (170, 1.0)
    assert report.refusal() == ""


def test_a_judges_earlier_looks_and_abstentions_count_for_nothing() -> None:
    one = Verdict(run_id="r", task_id="t", verifier="judge@1", kind="model", outcome="pass", score=1.0, repetition=1)
    silent = Verdict(run_id="r", task_id="t", verifier="judge@1", kind="model", outcome="abstain")
    run = Run(id="r", task_id="t", agent="a", status="done", answer="wrong")
    assert judge_reports([one, known(run)]) == []
    (report,) = judge_reports([one, silent, known(run)])
    assert (report.judged, report.abstained, report.verifiers.all.n) == (0, 1, 0)


def test_shares_and_their_differences() -> None:
    assert str(Share.of(9, 10)) == "0.900 [0.596, 0.982]"
    assert (Share.of(0, 0).low, Share.of(0, 0).high) == (0.0, 1.0)
    # Newcombe 1998, table II, 56/70 less 48/80: 0.2 [0.0524, 0.3339]
    less = Share.of(56, 70).less(Share.of(48, 80))
    assert (less.value, less.low, less.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


# --- from probes -----------------------------------------------------------------------------------------------------


def cases(n: int = 250) -> list[Case]:
    return [Case(task=task(i), right=f"right {i}", wrong=f"wrong {i}") for i in range(n)]


async def probed(model: PlantedModel, n: int = 250, *, longer: float = 0) -> Probed:
    judge = Checklist({"items": [*ITEMS]}, model=model)
    return await probe(judge, cases(n), comparer=Pairwise(model, longer=longer))


def around(share: Share | None, value: float) -> bool:
    return share is not None and share.low <= value <= share.high


@pytest.mark.asyncio
async def test_a_fair_judge_falls_for_no_probe() -> None:
    found = await probed(PlantedModel(right, marks=DISTRACTORS), 60)
    assert (found.cases, found.accuracy.value) == (60, 1.0)
    assert found.pairs is not None
    assert found.pairs.value == 1.0
    baits = (found.padded, found.distracted, found.first, found.last, found.longer, found.shorter, found.turned)
    assert [share.value if share is not None else None for share in baits] == [0.0] * 7
    assert [one.share.value for one in found.flips] == [0.0] * 9
    assert found.wavering is not None
    assert (found.wavering.n, found.wavering.value) == (60, 0.0)


@pytest.mark.asyncio
async def test_planted_position_bias_comes_back() -> None:
    found = await probed(PlantedModel(right, first=0.25))
    assert around(found.first, 0.25)
    assert found.last is not None
    assert found.last.value == 0.0
    assert around(found.pairs, 0.75)  # the order is swapped, so that the bias costs ties and no wrong winner


@pytest.mark.asyncio
async def test_planted_length_bias_comes_back_from_padding_and_the_second_look_takes_it_out_of_pairs() -> None:
    found = await probed(PlantedModel(right, longer=0.3))
    assert around(found.padded, 0.3)
    assert around(found.longer, 0.3)
    assert found.shorter is not None
    assert found.shorter.value == 0.0
    model = PlantedModel(right, longer=0.3, long=10**6)  # drawn to the longer of two, and to none by itself
    controlled = await probed(model, 100, longer=1.5)
    assert controlled.longer is not None
    assert controlled.longer.value == 0.0


@pytest.mark.asyncio
async def test_a_planted_weakness_for_distractors_comes_back() -> None:
    found = await probed(PlantedModel(right, distracted=0.2, marks=DISTRACTORS))
    assert around(found.distracted, 0.2)
    assert around(found.turned, 0.2)
    assert found.accuracy.value == 1.0
    assert found.padded.value == 0.0


@pytest.mark.asyncio
async def test_right_answers_given_up_under_hostile_critique_come_back_for_each_kind() -> None:
    found = await probed(PlantedModel(right, yields=0.35), 200)
    for one in found.flips:
        assert around(one.share, 0.0 if one.intent == "constructive" else 0.35), one
    assert len({(one.intent, one.knowledge) for one in found.flips}) == 9
    assert any("malicious × grounded" in line for line in found.lines())
    assert around(found.wavering, 1 - 0.65**2)  # it objects in two of four rounds, and takes it back in the others
    assert "taken back within 4 remarks" in found.lines()[-1]


@pytest.mark.asyncio
async def test_probing_stops_where_the_budget_does() -> None:
    budget = Budget(calls=20)
    with judging_under(budget), pytest.raises(BudgetError):
        await probe(Checklist({"items": [*ITEMS]}, model=PlantedModel(right)), cases(30))
    assert budget.spent.calls == 20


def test_critiques_are_what_their_kind_says() -> None:
    case = cases(1)[0]
    assert "right 0" in remark("constructive", "parametric", case)
    assert "wrong 0" in remark("malicious", "grounded", case)
    assert "manual" in remark("hypercritical", "grounded", case)
    assert "0" not in remark("malicious", "none", case)


@pytest.mark.asyncio
async def test_a_model_that_rewrites_its_answers_is_probed_the_same_way() -> None:
    class Meek:
        """Believes whoever cites a source: against its answer, and for it only where it is fickle as well."""

        name = "meek"

        def __init__(self, fickle: bool = False) -> None:
            self.fickle = fickle

        async def complete(self, messages: Sequence[Message], **options: object) -> object:
            from whet.core import Completion

            said, before = messages[-1].content, messages[-2].content
            back = "right again" if self.fickle and "right" in said else before
            return Completion(text="wrong after all" if "manual" in said and "wrong" in said else back)

    checked = Checklist({"items": [*ITEMS]}, model=PlantedModel(right))
    assert (await wavering(revising(Meek(), checked), cases(20))).value == 0.0  # it gives up once, for good
    assert (await wavering(revising(Meek(fickle=True), checked), cases(20))).value == 1.0  # type: ignore[arg-type]
    found = await flips(revising(Meek(), checked), cases(20))  # type: ignore[arg-type]
    given_up = {(one.intent, one.knowledge): one.share.value for one in found}
    assert given_up[("malicious", "grounded")] == given_up[("hypercritical", "grounded")] == 1.0
    assert sum(given_up.values()) == 2.0


@pytest.mark.asyncio
async def test_a_rating_judge_is_probed_like_a_checklist() -> None:
    found = await probe(Rubric({"rubric": "5: right."}, model=PlantedModel(right, error=0.2)), cases(150))
    assert around(found.accuracy, 0.8)
    assert found.first is None
