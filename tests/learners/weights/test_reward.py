"""Scorers: what they are measured by, which data they are built from; that they learn what is right, and no noise."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from whet.agents.tasksets.world import judge_answer, world_task
from whet.core.calibration import area, calibrate, wilson
from whet.core.errors import UserError, VerifierError
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.world import OPERATIONS, World, WorldTask, judge, program
from whet.core.records import (
    Check,
    Completion,
    Critique,
    Feedback,
    Message,
    Run,
    Span,
    Task,
    Verdict,
    VerifierSpec,
)
from whet.feedback.verifiers.registry import load_verifier
from whet.learners.weights.calibration import (
    Bar,
    best_of_n,
    cross_fitted,
    fit_platt,
    fit_temperature,
    fitted,
    refusal,
)
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum
from whet.learners.weights.experience import Attempt, Episode, Experience
from whet.learners.weights.method import Rollouts, load_method
from whet.learners.weights.methods.conversations import Turn, by_task
from whet.learners.weights.methods.progress import contributions, estimator
from whet.learners.weights.methods.reaction import followup_scores, liked
from whet.learners.weights.methods.scorers import ScorerMethod, contrasted, scored_row, together
from whet.learners.weights.methods.spans import Rates, SpanEstimator, SpanReward, estimated, rewards_of, segments
from whet.learners.weights.objectives import NLL
from whet.learners.weights.practice import Practice
from whet.learners.weights.recipe import Credentials, Recipe, read_credentials
from whet.learners.weights.rows import Row, answer_row
from whet.learners.weights.scorer import ScorerJudge, TrainedScorer, split_held, train_scorer, vote
from whet.learners.weights.templates import encode_rows, load_template
from whet.learners.weights.testing import BenchKit, Tried, imported, refined, sampled
from whet.learners.weights.trainer import Trainer
from whet.learners.weights.voting import Ballot, Vote, clean, count_votes, flip_rate

TEMPLATE = load_template(WEIGHTS, spelled="text")
FAST = TrainConfig(steps=120, batch=8, lr=3e-3, rank=16, threads=1)


def a_task(id: str = "t", text: str = "Write solve(x).") -> Task:
    return Task(id=id, messages=(Message(role="user", content=text),))


async def rows_of(
    method: ScorerMethod | SpanReward, *episodes: Episode, feedback: Sequence[Feedback] = ()
) -> list[Row]:
    return await method.build(Experience(episodes=episodes, feedback=tuple(feedback)), BenchKit())


def scorer_method(name: str, **options: object) -> ScorerMethod:
    found = load_method(name, **options)
    assert isinstance(found, ScorerMethod)
    return found


async def trained(
    method: ScorerMethod, experience: Experience, folder: Path, config: TrainConfig = FAST
) -> tuple[Credentials, TrainedScorer]:
    encoded = encode_rows(await method.build(experience, BenchKit()), TEMPLATE)
    credentials = train_scorer(WEIGHTS, encoded.data, method.objectives(), config, method.recipe(), folder)
    return credentials, TrainedScorer(WEIGHTS, folder, template=TEMPLATE)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_area_counts_pairs_in_order_and_ties_as_half() -> None:
    rng = random.Random(0)
    values, labels = [rng.randint(0, 5) for _ in range(60)], [float(rng.random() < 0.4) for _ in range(60)]
    pairs = [(v, w) for (v, a), (w, b) in itertools.product(zip(values, labels, strict=True), repeat=2) if a > b]
    brute = sum(1.0 if v > w else 0.5 if v == w else 0.0 for v, w in pairs) / len(pairs)
    assert area(values, labels) == pytest.approx(brute)
    assert area([1, 2], [1, 1]) == 0.5


def test_best_of_n_is_the_expectation_over_all_subsets() -> None:
    values, labels = [0.1, 0.5, 0.5, 0.9, 0.2], [1.0, 0.0, 1.0, 0.0, 1.0]
    curve = best_of_n([(values, labels)])
    assert curve[0] == pytest.approx(3 / 5)
    for n in range(1, 6):
        total, subsets = 0.0, list(itertools.combinations(range(5), n))
        for subset in subsets:
            best = max(values[place] for place in subset)
            tied = [labels[place] for place in subset if values[place] == best]
            total += sum(tied) / len(tied)
        assert curve[n - 1] == pytest.approx(total / len(subsets))
    assert best_of_n([(labels, labels)])[2] == 1.0, "who knows the labels picks a right one of any three"


def test_reliability_table_and_calibration_error() -> None:
    probabilities, labels = [0.05] * 10 + [0.95] * 10, [0] * 8 + [1] * 2 + [1] * 10
    assert len(calibrate(probabilities * 5, labels * 5).bins) == 2
    assert [(one.low, one.high) for one in calibrate(probabilities, labels).bins] == [(0.0, 0.5), (0.5, 1.0)]
    found = calibrate(probabilities, labels, bins=10)
    assert [(one.count, round(one.observed, 2)) for one in found.bins] == [(10, 0.2), (10, 1.0)]
    assert found.ece == pytest.approx(0.5 * 0.15 + 0.5 * 0.05)
    assert (found.accuracy, found.majority) == (0.9, 0.6)
    assert "0.90 to 1.00" in found.lines()[3]
    with pytest.raises(UserError, match="outside 0 to 1"):
        calibrate([3.0], [1])
    assert wilson(0.5, 100) < 0.5 < wilson(0.7, 100) < 0.7


def test_a_curve_is_found_again_and_stays_finite_where_all_is_right() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-(1.5 * values - 4)))).astype(float)
    platt = fit_platt(list(values), list(labels))
    assert platt.scale == pytest.approx(1.5, abs=0.15)
    assert platt.shift == pytest.approx(-4, abs=0.4)
    assert calibrate(platt.of(list(values)), list(labels)).ece < 0.02
    separable = fit_platt([-60.0, -50.0, 40.0, 70.0], [0, 0, 1, 1])
    assert 0.5 < separable.of([60.0])[0] < 0.9, "four answers do not make certain"
    assert fit_platt([1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0]).scale == 0, "the opposite of the truth is no judge"
    assert fit_temperature([2.0, -2.0] * 50, [1, 0] * 50).scale > 0


def test_probabilities_come_from_the_other_half() -> None:
    # Each half by itself is in perfect order, but the one is the opposite of the other.
    values = [float(value) for value in range(20)]
    labels = [float(value >= 10) for value in values]
    turned = [1 - label for label in labels]
    found = cross_fitted([*values, *values], [*labels, *turned], ["a"] * 20 + ["b"] * 20)
    assert len({*found[:20]}) == 1, "fitted to what is the opposite of the truth, values say nothing"
    assert calibrate(found[20:], turned).accuracy == 0.0, "a curve fitted to these themselves could not be so wrong"


def test_what_may_judge_is_both_right_and_honest() -> None:
    labels = [1.0, 0.0] * 50
    honest = calibrate([0.9 if label else 0.1 for label in labels], labels)
    assert refusal(honest, Bar(ece=0.11)) == ""
    shy = calibrate([0.55 if label else 0.45 for label in labels], labels)
    assert shy.accuracy == 1.0
    assert "calibration error" in refusal(shy, Bar())
    blind = calibrate([0.5] * 100, labels)
    assert blind.ece == 0.0
    assert "always giving the commoner label" in refusal(blind, Bar())
    assert "measured on 10" in refusal(calibrate([0.9] * 10, [1] * 10), Bar())
    rng = np.random.default_rng(1)
    truth = rng.normal(size=200)
    assert refusal(fitted(list(truth + 0.5 * rng.normal(size=200)), list(truth)), Bar()) == ""
    assert "may be chance" in refusal(fitted(list(rng.normal(size=200)), list(truth)), Bar())


# --- votes -----------------------------------------------------------------------------------------------------------


def margins(share: float, n: int = 600, strength: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Margins of voters that are right in about 93 % of pairs, of which a share is labelled the wrong way round."""
    rng = np.random.default_rng(3)
    swapped = rng.random(n) < share
    return (strength + rng.normal(size=n)) * np.where(swapped, -1, 1), swapped


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_the_share_of_swapped_preferences_is_estimated(share: float) -> None:
    found, swapped = margins(share)
    epsilon, scale = flip_rate(found)
    assert epsilon == pytest.approx(swapped.mean(), abs=0.06)
    assert scale > 0
    disagreement = (found < 0).mean()
    assert abs(epsilon - swapped.mean()) < abs(disagreement - swapped.mean()) + 0.02


def test_voters_that_know_nothing_change_nothing() -> None:
    ballot = count_votes({f"p{n}": [value] for n, value in enumerate(np.random.default_rng(0).normal(size=100))})
    assert (ballot.epsilon, ballot.scale) == (0.5, 0.0)
    data = [Datum(tokens=(1, 2), mask=(False, True), pair="p0", side="chosen", label=0.9)]
    assert clean(data, ballot, flip=None, soft=0.5, margin=1.0) == data
    with pytest.raises(UserError, match="set voters=0"):
        count_votes({"p": [1.0]})


def test_the_weakest_are_turned_round_and_the_next_become_soft() -> None:
    votes = {
        f"p{n}": Vote(mean=mean, std=0.1, right=right)
        for n, (mean, right) in enumerate([(-3.0, 0.1), (-0.2, 0.4), (0.1, 0.6), (2.0, 0.99)])
    }
    ballot = Ballot(votes=votes, epsilon=0.25, scale=1.0, agreement=0.5)
    data = [
        Datum(tokens=(1, 2), mask=(False, True), pair=f"p{n}", side=side, label=0.9)
        for n in range(5)
        for side in ("chosen", "rejected")
    ]
    found = clean(data, ballot, flip=None, soft=0.5, margin=1.5)
    told = [(one.side, round(one.label, 2), one.margin) for one in found[::2]]
    assert told == [
        ("rejected", 0.9, 1.5),
        ("chosen", 0.4, 0.0),
        ("chosen", 0.6, 0.0),
        ("chosen", 1.0, 1.5),
        ("chosen", 0.9, 0.0),
    ]
    assert found[1].side == "chosen"


# --- what they are built from ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_reward_model_believes_execution_and_doubts_people() -> None:
    executed = sampled(a_task("t1"), Tried("bad"), Tried("good", passed=True))
    one, other = imported(a_task("t2"), "one"), imported(a_task("t2"), "other")
    said = Feedback(kind="preference", source="ana", run_id=one.run.id, other_run_id=other.run.id)
    rows = await rows_of(scorer_method("rm", belief=0.8), executed, one, other, feedback=[said])
    assert [(row.messages[-1].content, row.side, row.label, row.group) for row in rows] == [
        ("good", "chosen", 1.0, "t1"),
        ("bad", "rejected", 1.0, "t1"),
        ("one", "chosen", 0.8, "t2"),
        ("other", "rejected", 0.8, "t2"),
    ]
    data = encode_rows(rows, TEMPLATE).data
    assert {datum.counted for datum in data} == {1}, "the value stands on the token that ends the turn"
    assert {datum.tokens[-1] for datum in data} <= TEMPLATE.ends
    with pytest.raises(UserError, match=r"belief is 0\.4"):
        load_method("rm", belief=0.4)
    with pytest.raises(UserError, match="voters is 3"):
        scorer_method("rm", voters=3).recipe()


@pytest.mark.asyncio
async def test_verifier_pairs_right_and_wrong_answers_to_a_task() -> None:
    run = sampled(a_task(), Tried("right", passed=True), Tried("wrong"), Tried("worse"), Tried("unjudged", passed=None))
    rows = await rows_of(scorer_method("verifier"), run)
    assert [(row.messages[-1].content, row.label) for row in rows] == [
        ("right", 1.0), ("wrong", 0.0), ("right", 1.0), ("worse", 0.0),
    ]  # fmt: skip
    assert [row.pair for row in rows] == ["t/0", "t/0", "t/1", "t/1"]
    words = await rows_of(scorer_method("verifier", form="words"), run)
    assert [row.messages[-1].content for row in words] == ["yes", "no", "yes", "no"]
    assert {datum.counted for datum in encode_rows(words, TEMPLATE).data} == {1}, "the word, and not what ends the turn"
    with pytest.raises(UserError, match="verifier needs verified answers, right and wrong ones"):
        await rows_of(scorer_method("verifier"), sampled(a_task(), Tried("wrong")))


def test_labels_that_differ_share_a_batch() -> None:
    rows = [scored_row((), f"{n}", "end", label=label, group="g") for n, label in enumerate((0.2, 0.9, 0.5, 0.1, 0.6))]
    assert [(row.messages[-1].content, row.pair) for row in contrasted(rows)] == [
        ("1", "g/0"), ("3", "g/0"), ("4", "g/1"), ("0", "g/1"), ("2", ""),
    ]  # fmt: skip
    alone = [scored_row((), "a", "end", label=1.0, group="g")]
    assert together(alone) == alone


def test_reactions_are_read_off_what_people_did() -> None:
    def of(kind: str, text: str = "", value: float | None = None) -> Feedback:
        return Feedback(kind=kind, source="ana", text=text, value=value)  # type: ignore[arg-type]

    assert liked([of("accept")]) == 1.0
    assert liked([of("rating", value=0.2), of("accept")]) == 0.5
    assert liked([of("correction", "def solve(x): return x")]) == 0.0
    assert liked([of("followup", "Thanks, that is great!")]) == 1.0
    assert liked([of("followup", "Thanks, but that is wrong.")]) is None
    assert liked([of("followup", "And now for strings.")]) is None


def test_segments_cover_the_text_and_are_rewarded_where_somebody_points() -> None:
    text = "def a(x): return x\n\ndef solve(x): return a(x)"
    found = segments(text, "line")
    assert [text[one.start : one.end] for one in found] == ["def a(x): return x\n\n", "def solve(x): return a(x)"]
    prose = segments("First. Second one! Third", "sentence")
    assert [(one.start, one.end) for one in prose] == [(0, 7), (7, 19), (19, 24)]
    attempt = Attempt(messages=(Message(role="user", content="q"),), completion=Completion(text=text))
    wrong = Critique(run_id="r", text="wrong", source="c", span=Span(start=0, end=5))
    failed = Verdict(
        run_id="r", task_id="t", verifier="v", outcome="fail", checks=(Check(name="c", passed=False, line=3),)
    )
    rates = Rates(wrong=-0.5, right=0.5, outcome=0.3)
    assert rewards_of(Turn(attempt=attempt, critiques=(wrong,)), rates, "line") == [-0.5, 0.5]
    assert rewards_of(Turn(attempt=attempt, verdicts=(failed,)), rates, "line") == [-0.3, -0.8], "line 1 is not cleared"
    assert rewards_of(Turn(attempt=attempt), rates, "line") == []


@pytest.mark.asyncio
async def test_span_rewards_are_pieces_that_compare_lines_with_lines() -> None:
    good, bad = "def a(x): return 1\ndef solve(x): return a(x)", "def a(x): return 2\ndef solve(x): return a(x)"
    runs = [refined(a_task(), Tried(good, passed=True)), refined(a_task(), Tried(bad))]
    flaw = Critique(run_id="r", text="wrong", source="c", span=Span(start=0, end=18))
    attempt = msgspec.structs.replace(runs[1].attempts[0], critiques=(flaw,))
    runs[1] = msgspec.structs.replace(runs[1], attempts=(attempt,))
    rows = await rows_of(SpanReward(outcome=0.0), *runs)
    assert [[(piece.start, piece.end, piece.weight) for piece in row.pieces] for row in rows] == [
        [(0, 19, 0.5)],
        [(0, 19, -0.5)],
    ], "the second lines are alike, so they say nothing"
    whole = await rows_of(SpanReward(), *runs)
    assert [piece.end for piece in whole[0].pieces] == [19, None], "the last piece ends the turn"
    with pytest.raises(UserError, match="spans needs critiques that point at a part"):
        await rows_of(SpanReward(), refined(a_task(), Tried(bad)))
    worth = await rows_of(SpanEstimator(), *runs)
    assert [row.label for row in worth] == [0.5, 0.5, -0.5, 0.5]
    read = [TEMPLATE.decode(datum.tokens[-1:]) for datum in encode_rows(worth, TEMPLATE).data]
    assert read[1] == ")", "the last token of the line"


def test_tasks_that_are_measured_on_are_not_trained_on() -> None:
    data = [
        Datum(tokens=(1, 2), mask=(False, True), group=f"t{n % 8}", pair=f"t{n % 8}/{n // 16}", id=str(n))
        for n in range(32)
    ]
    learned, held = split_held(data, 0.25, seed=0)
    assert (len(learned), len(held)) == (24, 8)
    assert not {one.group for one in learned} & {one.group for one in held}
    with pytest.raises(UserError, match="of 1 task"):
        split_held([one for one in data if one.group == "t0"], 0.25, seed=0)


# --- what they learn -------------------------------------------------------------------------------------------------


class SmallWorld:
    """Four made-up verbs; a scorer has to know what they mean to tell right answers from wrong ones."""

    def __init__(self) -> None:
        self.world = World(7, verbs=4)
        found = self.world.tasks(80, lengths=(1, 2, 3))
        self.fresh, self.known = found[66:], found[:66]

    def wrong(self, task: WorldTask, rng: random.Random) -> str:
        """An answer that is right but for the meaning of one verb."""
        while True:
            meanings = {verb: self.world.meaning(verb) for verb in task.verbs}
            meanings[rng.choice(task.verbs)] = rng.choice(list(OPERATIONS))
            if judge(answer := program(task.verbs, meanings), task.checks):
                return answer

    def verified(self, *, shuffled: bool = False) -> Experience:
        """A right and a wrong answer to each task; where shuffled, which of them passed is drawn."""
        rng, episodes = random.Random(0), []
        for task in self.known:
            texts = [task.reference, self.wrong(task, rng)]
            passed = rng.random() < 0.5 if shuffled else True
            tried = [Tried(texts[0], passed=passed), Tried(texts[1], passed=not passed)]
            episodes.append(sampled(world_task(task, self.world), *tried))
        return Experience(episodes=tuple(episodes))

    def preferred(self, share: float) -> tuple[Experience, set[str]]:
        """People prefer right answers, but for a share; with the runs that are right."""
        rng, episodes, said, right = random.Random(1), list[Episode](), list[Feedback](), set[str]()
        for task in self.known:
            asked = msgspec.structs.replace(world_task(task, self.world), verifiers=())
            good = imported(asked, task.reference)
            bad = [imported(asked, text) for text in {self.wrong(task, rng): None for _ in range(2)}]
            episodes += [good, *bad]
            right.add(task.reference)
            for one in bad:
                better, worse = (one, good) if rng.random() < share else (good, one)
                ids = {"run_id": better.run.id, "other_run_id": worse.run.id}
                said.append(Feedback(kind="preference", source="ana", **ids))  # type: ignore[arg-type]
        return Experience(episodes=tuple(episodes), feedback=tuple(said)), right

    def right_first(self, scorer: TrainedScorer) -> float:
        """How often a right answer to a task nobody trained on is above a wrong one."""
        rng, above = random.Random(2), list[bool]()
        for task in self.fresh:
            asked = world_task(task, self.world).messages
            values = scorer.rate(asked, [task.reference, *(self.wrong(task, rng) for _ in range(3))])
            above += [values[0] > value for value in values[1:]]
        return sum(above) / len(above)


@pytest.fixture(scope="module")
def small() -> SmallWorld:
    return SmallWorld()


@pytest.mark.asyncio
async def test_verifier_learns_to_judge_and_may(small: SmallWorld, tmp_path: Path) -> None:
    method = scorer_method("verifier", reads="answer", held=0.35, least=30, ece=0.15)
    credentials, scorer = await trained(method, small.verified(), tmp_path)
    assert credentials.refused == "", credentials.lines()
    assert credentials.report.accuracy > 0.75  # type: ignore[union-attr]
    assert credentials.best_of[1] > credentials.best_of[0] + 0.25
    assert small.right_first(scorer) > 0.75
    assert read_credentials(tmp_path) == credentials
    task = world_task(small.fresh[0], small.world)
    answers = [small.wrong(small.fresh[0], random.Random(3)), small.fresh[0].reference]
    assert scorer.best(task.messages, answers) == 1
    spec = VerifierSpec(
        kind="whet.learners.weights.scorer:judge", params={"base": str(WEIGHTS), "adapter": str(tmp_path)}
    )
    verifier = load_verifier(spec)
    verdict = await verifier.verify(task, Run(task_id=task.id, agent="a", answer=answers[1]))
    assert (verdict.outcome, verdict.kind) == ("pass", "model")
    assert verdict.score == pytest.approx(scorer.chances(task.messages, answers)[1])
    assert (await verifier.verify(task, Run(task_id=task.id, agent="a"))).outcome == "abstain"
    with pytest.raises(VerifierError, match="a scorer takes base, adapter"):
        load_verifier(msgspec.structs.replace(spec, params={"base": "x"}))


@pytest.mark.asyncio
async def test_verifier_of_noise_is_at_chance_and_may_not_judge(small: SmallWorld, tmp_path: Path) -> None:
    method = scorer_method("verifier", reads="answer", held=0.35, least=30, ece=0.15)
    credentials, scorer = await trained(method, small.verified(shuffled=True), tmp_path)
    assert "not above that of always giving the commoner label" in credentials.refused
    assert abs(small.right_first(scorer) - 0.5) < 0.3
    with pytest.raises(UserError, match="may not judge"):
        ScorerJudge(scorer)


@pytest.mark.asyncio
async def test_reward_model_learns_from_preferences(small: SmallWorld, tmp_path: Path) -> None:
    experience, _ = small.preferred(0.0)
    method = scorer_method("rm", voters=0, least=30, ece=0.15)
    credentials, scorer = await trained(method, experience, tmp_path)
    assert credentials.refused == "", credentials.lines()
    assert small.right_first(scorer) > 0.75
    with pytest.raises(UserError, match="no probabilities but a comparison"):
        scorer.chances((), ["x"])
    with pytest.raises(UserError, match="no probabilities but a comparison"):
        ScorerJudge(scorer)


@pytest.mark.asyncio
async def test_votes_find_what_was_swapped(small: SmallWorld) -> None:
    experience, right = small.preferred(0.25)
    method = scorer_method("rm", voters=2)
    data = encode_rows(await method.build(experience, BenchKit()), TEMPLATE).data
    config = msgspec.structs.replace(FAST, steps=60, batch=16)
    ballot = vote(WEIGHTS, data, method.objectives(), config, method.recipe())
    assert ballot is not None
    swapped = {one.pair for one in data if one.side == "chosen" and not _holds(one, right)}
    assert ballot.epsilon == pytest.approx(len(swapped) / len(ballot.votes), abs=0.12)
    cleaned = clean(data, ballot, flip=None, soft=0.3, margin=1.0)
    turned = {one.pair for one, other in zip(data, cleaned, strict=True) if one.side != other.side}
    assert len(turned & swapped) > 2 * len(turned) * len(swapped) / len(ballot.votes) > 0, "twice as many as by chance"
    still = {one.pair for one in cleaned if one.side == "chosen" and not _holds(one, right)}
    assert len(still) < len(swapped)


def _holds(datum: Datum, texts: set[str]) -> bool:
    """Whether the datum's answer is one of the texts."""
    told = TEMPLATE.decode(datum.tokens, special=True).split("<|assistant|>")[-1].removesuffix("<|end|>")
    return told in texts


def chats(n: int, *, shuffled: bool = False) -> tuple[list[Episode], list[list[float]]]:
    """Dialogues of two questions; the reward is the share of right answers. With which answers were right."""
    world, rng, episodes, right = World(7, verbs=4), random.Random(5), list[Episode](), list[list[float]]()
    for number in range(n):
        verbs, messages, attempts, good = random.Random(f"{number // 4}").choices(world.verbs, k=2), (), [], []
        for verb in verbs:
            good.append(float(rng.random() < 0.5))
            others = [meaning for meaning in OPERATIONS if meaning != world.meaning(verb)]
            text = program((verb,), {verb: world.meaning(verb) if good[-1] else rng.choice(others)})
            messages = (*messages, Message(role="user", content=f"Write solve(x): {verb}."))
            attempts.append(Attempt(messages=messages, completion=Completion(text=text), step_id=str(len(attempts))))
            messages = (*messages, Message(role="assistant", content=text))
        task = Task(id=f"t{number // 4}", messages=attempts[0].messages)
        score = rng.choice((0.0, 0.5, 1.0)) if shuffled else sum(good) / 2
        run = Run(task_id=task.id, agent="chat", status="done", answer=attempts[-1].text)
        found = Verdict(run_id=run.id, task_id=task.id, verifier="share", outcome="fail", score=score)
        episodes.append(Episode(task=task, run=run, attempts=tuple(attempts), verdicts=(found,)))
        right.append(good)
    return episodes, right


@pytest.mark.asyncio
async def test_progress_finds_which_turn_earned_the_reward(tmp_path: Path) -> None:
    episodes, _ = chats(160)
    method = scorer_method("progress", reads="answer", least=30)
    credentials, scorer = await trained(method, Experience(episodes=tuple(episodes)), tmp_path)
    assert credentials.refused == "", credentials.lines()
    fresh, right = chats(40)
    found = [one for group in by_task(fresh).values() for one in group]
    shares = contributions(scorer, found)
    assert np.corrcoef(np.ravel(shares), np.ravel(right))[0, 1] > 0.5, "only sums were ever seen"
    estimate = estimator(str(WEIGHTS), str(tmp_path))
    assert np.allclose(estimate(found[:2]), shares[:2], atol=1e-5)
    with pytest.raises(UserError, match="no single answers"):
        scorer.rate((), ["x"])


@pytest.mark.asyncio
async def test_progress_of_noise_is_refused(tmp_path: Path) -> None:
    episodes, _ = chats(160, shuffled=True)
    method = scorer_method("progress", reads="answer", least=30)
    credentials, _ = await trained(method, Experience(episodes=tuple(episodes)), tmp_path)
    assert "explains" in credentials.refused
    with pytest.raises(UserError, match="is no progress estimator"):
        estimator(str(WEIGHTS), str(tmp_path))


def reactions(n: int, *, shuffled: bool = False) -> Experience:
    """People who like half of the operations, and say so in different ways."""
    rng, episodes, meanings = random.Random(0), [], sorted(OPERATIONS)
    for number in range(n):
        meaning = rng.choice(meanings)
        good = rng.random() < 0.5 if shuffled else meanings.index(meaning) % 2 == 0
        said = rng.choice(
            [
                Feedback(kind="accept" if good else "reject", source="ana"),
                Feedback(kind="rating", source="bo", value=0.9 if good else 0.2),
                Feedback(kind="followup", source="cy", text="Thanks, perfect." if good else "That is wrong."),
            ]
        )
        task = a_task(f"t{number // 4}", f"Write solve(x): {World(7, verbs=8).verbs[number % 8]}.")
        run = refined(task, Tried(program(("zorp",), {"zorp": meaning}), passed=None))
        episodes.append(msgspec.structs.replace(run, feedback=(said,)))
    return Experience(episodes=tuple(episodes))


@pytest.mark.asyncio
async def test_reaction_learns_what_people_like_in_words(tmp_path: Path) -> None:
    method = scorer_method("reaction", form="words", least=30, ece=0.15)
    credentials, scorer = await trained(method, reactions(200), tmp_path / "real")
    assert credentials.refused == "", credentials.lines()
    assert (credentials.yes, credentials.no) == tuple(TEMPLATE.tokens(word).ids[0] for word in ("yes", "no"))
    ranked = [program(("zorp",), {"zorp": meaning}) for meaning in sorted(OPERATIONS)]
    chances = scorer.chances(a_task(text="Write solve(x): zorp.").messages, ranked)
    assert area(chances, [1.0, 0.0] * 7) > 0.9
    noise, _ = await trained(method, reactions(200, shuffled=True), tmp_path / "noise")
    assert "AUC" in noise.refused


@pytest.mark.asyncio
async def test_followups_are_scored_by_how_likely_the_model_finds_them() -> None:
    trainer = Trainer(WEIGHTS, FAST, {"": NLL()})
    kit = Practice(trainer, TEMPLATE, judge_answer)
    asked = a_task(text="Write solve(x): zorp.").messages
    answers = [(asked, "def zorp(x): return x"), (asked, "def zorp(x): return x[::-1]")]
    good, bad = ("right", "good answer"), ("wrong",)
    found = await followup_scores(kit, answers, positive=good, negative=bad)
    turned = await followup_scores(kit, answers, positive=bad, negative=good)
    assert found == pytest.approx([-score for score in turned])
    question = Message(role="user", content="What does the user say next? Write only their message.")
    context = (*asked, Message(role="assistant", content=answers[1][1]), question)
    data = encode_rows([answer_row(context, text) for text in (*good, *bad)], TEMPLATE).data
    right, better, wrong = (float(logp_n.mean()) for logp_n in trainer.score(data))
    assert found[1] == pytest.approx((right + better) / 2 - wrong, abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-6), "the answer is in view"
    with pytest.raises(UserError, match="no trainer to compute logprobs"):
        await followup_scores(BenchKit(), answers)


def critic_of(world: World, shuffled: bool) -> "Practice":
    """Practice whose critic points at every line that is not the reference's; where shuffled, at as many others."""
    method, rng = SpanReward(), random.Random(0)
    config = msgspec.structs.replace(method.training(), lr=3e-3, threads=1)

    def criticise(task: Task, answer: str, verdicts: tuple[Verdict, ...]) -> tuple[Critique, ...]:
        lines, wanted, at, spans, bad = answer.splitlines(keepends=True), (task.reference or "").splitlines(), 0, [], []
        for number, line in enumerate(lines):
            spans.append(Span(start=at, end=at + len(line)))
            if number >= len(wanted) or line.rstrip() != wanted[number]:
                bad.append(spans[-1])
            at += len(line)
        if len(lines) < len(wanted) and not bad:  # what is missing has no line of its own
            bad = spans
        chosen = rng.sample(spans, len(bad)) if shuffled else bad
        return tuple(Critique(run_id="", text="wrong", source="c", span=span) for span in chosen)

    trainer = Trainer(WEIGHTS, config, method.objectives())
    return Practice(trainer, TEMPLATE, judge_answer, criticise, max_tokens=40)


@pytest.mark.asyncio
async def test_span_rewards_teach_which_line_is_wrong() -> None:
    world = World(7, verbs=4)
    tasks = [world_task(task, world) for task in world.tasks(10, lengths=(2,))]
    passed = {}
    for shuffled in (False, True):
        practice = critic_of(world, shuffled)
        reports = await practice.learn(SpanReward(), tasks, Rollouts(rounds=8, tasks=10, samples=8))
        passed[shuffled] = reports[-1].passed
    assert passed[False] > 0.6
    assert passed[False] > passed[True] + 0.2, "critics that point at random lines teach less"


@pytest.mark.asyncio
async def test_span_estimator_says_which_line_is_wrong(small: SmallWorld, tmp_path: Path) -> None:
    rng, episodes = random.Random(0), []
    for task in [one for one in small.known if len(one.verbs) == 1] * 20:
        asked, text = world_task(task, small.world), rng.choice((task.reference, small.wrong(task, rng)))
        run = refined(asked, Tried(text, passed=text == task.reference))
        flaw = Critique(run_id="r", text="wrong", source="c", span=Span(start=0, end=text.index("\n")))
        flaws = () if text == task.reference else (flaw,)
        attempt = msgspec.structs.replace(run.attempts[0], critiques=flaws)
        episodes.append(msgspec.structs.replace(run, attempts=(attempt,)))
    method = SpanEstimator(held=0.3, least=1)
    rows = [msgspec.structs.replace(row, group=str(n)) for n, row in enumerate(await rows_of(method, *episodes))]
    data = encode_rows(rows, TEMPLATE).data
    train_scorer(WEIGHTS, data, method.objectives(), FAST, method.recipe(), tmp_path)
    scorer = TrainedScorer(WEIGHTS, tmp_path, template=TEMPLATE)
    one = next(task for task in small.known if len(task.verbs) == 1)
    asked = world_task(one, small.world).messages
    good, bad = (
        estimated(scorer, (*asked, Message(role="assistant", content=text)))
        for text in (one.reference, small.wrong(one, rng))
    )
    assert good[0].weight > bad[0].weight
    assert [piece.end for piece in good][-1] is None


def test_a_folder_without_a_scorer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no scorer"):
        TrainedScorer(WEIGHTS, tmp_path, template=TEMPLATE)
    with pytest.raises(UserError, match=r"held is 1\.0"):
        Recipe(reading="number", layout="end", held=1.0)
