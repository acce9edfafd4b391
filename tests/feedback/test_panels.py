"""Panels of judges and of critics, and what a critic is worth by what it repairs."""

import json
import random
from collections.abc import Sequence

import pytest

from whet.core import (
    Completion,
    Critique,
    Json,
    Message,
    Run,
    Sampling,
    Task,
    ToolSpec,
    UserError,
    Verdict,
    VerifierError,
    VerifierSpec,
)
from whet.core.calibration import Share
from whet.core.models import ScriptedModel
from whet.feedback import CheckCritic, Critic, check_spec
from whet.feedback.critics import PanelCritic
from whet.feedback.critics.repair import Failure, repair, reviser
from whet.feedback.dawid_skene import Vote, fit
from whet.feedback.judges import Checklist, Panel
from whet.feedback.judges.testing import PlantedModel

TASK = Task(id="t", messages=(Message(role="user", content="What is 6 times 7?"),))
ITEMS: list[Json] = ["It is right."]


def run(answer: str) -> Run:
    return Run(id=answer, task_id="t", agent="a", status="done", answer=answer)


def right(answer: str) -> bool:
    return answer.startswith("right")


def planted(error: float, name: str) -> Checklist:
    return Checklist({"items": ITEMS}, model=PlantedModel(right, error=error, name=name))


# --- judges ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_weights_learned_without_ground_truth_make_a_panel_better_than_its_majority() -> None:
    judges = [planted(error, f"m{n}") for n, error in enumerate((0.05, 0.42, 0.44, 0.45, 0.4))]
    rng = random.Random(0)
    runs = [run(f"{'right' if rng.random() < 0.5 else 'wrong'} {i}") for i in range(400)]
    votes = []
    for judge in judges:
        for one in runs:
            outcome = (await judge.verify(TASK, one)).outcome
            votes.append(Vote(item=one.id, source=judge.name, passed=outcome == "pass"))
    weights: list[Json] = [fit(votes).sources[judge.name].weight for judge in judges]
    fresh = [run(f"{'right' if rng.random() < 0.5 else 'wrong'} new {i}") for i in range(300)]
    shares = []
    for params in ({}, {"weights": weights}):
        panel = Panel(params, judges=judges)  # type: ignore[arg-type]
        found = [(await panel.verify(TASK, one)).outcome == "pass" for one in fresh]
        shares.append(sum(said == right(one.answer or "") for said, one in zip(found, fresh, strict=True)) / 300)
    majority, weighted = shares
    assert weighted > majority + 0.1
    assert weighted > 0.9


@pytest.mark.asyncio
async def test_a_panel_says_who_voted_what_and_abstains_without_a_quorum() -> None:
    silent = Checklist({"items": ITEMS}, model=ScriptedModel(["?"] * 4, name="silent"))
    panel = Panel({}, judges=[planted(0, "one"), planted(0, "two"), silent])
    verdict = await panel.verify(TASK, run("right"))
    assert (verdict.outcome, verdict.score, verdict.kind, verdict.environment) == ("pass", 1.0, "model", "one, two")
    assert [check.got for check in verdict.checks] == ["pass", "pass", "abstain"]
    alone = Panel({"quorum": 0.9}, judges=[planted(0, "one"), silent])
    assert (await alone.verify(TASK, run("right"))).outcome == "abstain"


def test_a_panel_is_made_from_specifications_and_refuses_what_does_not_fit() -> None:
    inner = {"kind": "judge", "params": {"model": "tiny", "items": ITEMS}}
    check_spec(VerifierSpec(kind="panel_judge", params={"judges": [inner, inner]}))
    for params in ({"judges": []}, {"judges": [inner], "weights": [1, 2]}, {"judges": [inner], "weights": [0]}):
        with pytest.raises(VerifierError, match="weight"):
            check_spec(VerifierSpec(kind="panel_judge", params=params))  # type: ignore[arg-type]
    with pytest.raises(VerifierError, match="no items"):
        check_spec(
            VerifierSpec(kind="panel_judge", params={"judges": [{"kind": "judge", "params": {"model": "tiny"}}]})
        )


# --- critics ---------------------------------------------------------------------------------------------------------


class Says:
    """A critic with one thing to say."""

    def __init__(self, name: str, *texts: str) -> None:
        self.name, self._texts = name, texts

    async def critique(self, task: Task, run: Run, verdicts: Sequence[Verdict]) -> list[Critique]:
        ids = tuple(verdict.id for verdict in verdicts)
        return [Critique(run_id=run.id, text=text, source=self.name, verdict_ids=ids) for text in self._texts]


FAILED = Verdict(run_id="41", task_id="t", verifier="exact@1", outcome="fail", kind="rule")


def groups(*found: tuple[list[int], str, str]) -> str:
    return json.dumps({"groups": [{"remarks": a, "why": "…", "class": b, "text": c} for a, b, c in found]})


@pytest.mark.asyncio
async def test_remarks_that_say_the_same_are_merged_and_wrong_ones_dropped() -> None:
    critics = [Says("one", "It is one short.", "Too curt."), Says("two", "41 is not 42."), Says("three", "Use pounds.")]
    reply = groups(([3], "empty", ""), ([1, 2 + 1], "right", ""))
    model = ScriptedModel(
        [reply, groups(([2], "empty", ""), ([1, 3], "right", "It is one too few."), ([4], "wrong", ""))]
    )
    panel = PanelCritic(critics, meta=model)
    assert isinstance(panel, Critic)
    (merged,) = await panel.critique(TASK, run("41"), [FAILED])
    assert (merged.text, merged.source, merged.verdict_ids) == ("It is one too few.", "panel:scripted", (FAILED.id,))
    assert "1. It is one short.\n2. Too curt.\n3. 41 is not 42.\n4. Use pounds." in model.asked[0].messages[1].content
    model.close()  # the first reply named a remark twice and left others out, so it was asked again


@pytest.mark.asyncio
async def test_without_a_readable_meta_critique_every_remark_stands_and_one_needs_none() -> None:
    critics = [Says("one", "a", "b"), Says("two", "c", "d")]
    found = await PanelCritic(critics, meta=ScriptedModel(["?", "??"]), limit=3).critique(TASK, run("41"), [FAILED])
    assert [one.text for one in found] == ["a", "b", "c"]
    (alone,) = await PanelCritic([Says("one", "a")], meta=ScriptedModel([])).critique(TASK, run("41"), [FAILED])
    assert alone.source == "one"
    with pytest.raises(UserError):
        PanelCritic([], meta=ScriptedModel([]))


@pytest.mark.asyncio
async def test_a_remark_that_nobody_else_made_stays_whose_it_is() -> None:
    model = ScriptedModel([groups(([2], "right", "Clearer."), ([1], "right", ""))])
    found = await PanelCritic([Says("one", "a"), Says("two", "b")], meta=model).critique(TASK, run("41"), [FAILED])
    assert [(one.text, one.source) for one in found] == [("Clearer.", "two"), ("a", "one")]


class Pupil:
    """Writes a right answer when it is told what to do, and by luck in a fifth of all cases."""

    name = "pupil"

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        number = int(messages[0].content.rsplit(" ", 1)[-1])
        told = "say right" in messages[-1].content
        return Completion(text="right" if told or number % 5 == 0 else "wrong")


@pytest.mark.asyncio
async def test_critics_are_scored_by_what_is_repaired_beyond_a_second_try() -> None:
    checker = planted(0, "checker")

    async def verify(task: Task, one: Run) -> list[Verdict]:
        return [await checker.verify(task, one)]

    tasks = [Task(id=f"t{i}", messages=(Message(role="user", content=f"Task {i}"),)) for i in range(50)]
    failures = [
        Failure(task=task, run=Run(task_id=task.id, agent="a", status="done", answer="wrong"), verdicts=(FAILED,))
        for task in tasks
    ]
    good = await repair(Says("good", "say right"), failures, reviser(Pupil()), verify)
    assert (good.after.value, good.alone.value, good.silent) == (1.0, 0.2, 0)
    assert good.gain.value == pytest.approx(0.8)
    assert good.gain.low > 0.6
    smooth = await repair(Says("smooth", "Try to be more precise."), failures, reviser(Pupil()), verify)
    assert smooth.gain.value == 0.0
    assert smooth.gain.low < 0 < smooth.gain.high
    mute = await repair(Says("mute"), failures, reviser(Pupil()), verify)
    assert (mute.silent, mute.gain.value) == (50, 0.0)
    with pytest.raises(UserError, match="no failures"):
        await repair(CheckCritic(), [], reviser(Pupil()), verify)


def test_paired_shares() -> None:
    assert Share.paired([]) == Share(value=0.0, low=-1.0, high=1.0, n=0)
    found = Share.paired([(True, False)] * 10 + [(False, True)] * 4 + [(True, True)] * 30)
    assert found.value == pytest.approx(6 / 44)
    assert found.low < found.value < found.high
    assert found.low == pytest.approx(6 / 46 - 1.96 * (15 / 46 - (6 / 46) ** 2) ** 0.5 / 46**0.5, abs=1e-4)
