"""Builders of the preference methods: which pairs they make of which experience, and what they refuse."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from whet.agents import Agent, run_tasks
from whet.core.errors import UserError
from whet.core.models import ScriptedModel, load_model
from whet.core.models.tiny.world import OPERATIONS, read_definitions
from whet.core.policy import Policy
from whet.core.records import Feedback, Message, Sampling, Task, Verdict, VerifierSpec
from whet.learners.view import TrainMemory
from whet.learners.weights.collect import collect
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Kit, load_method
from whet.learners.weights.methods.anyprefer import read_ranking
from whet.learners.weights.methods.c3po import advised, scopes
from whet.learners.weights.methods.cpl import segments
from whet.learners.weights.methods.hn_dpo import weighted
from whet.learners.weights.methods.kto import mismatched
from whet.learners.weights.methods.osp import ranked_pairs, strength
from whet.learners.weights.methods.pairs import people_pairs, verdict_pairs
from whet.learners.weights.methods.rdpo import audit, flip_rate, robust_label
from whet.learners.weights.methods.solutions import solutions, solutions_of
from whet.learners.weights.objectives import Distillation, Preference, Unpaired
from whet.learners.weights.rows import Row
from whet.learners.weights.templates import encode_rows, load_template
from whet.learners.weights.testing import BenchKit, Tried, acted, imported, refined, sampled, verdict
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Tasks = Callable[..., list[Task]]

WRONG, RIGHT = "def solve(x): return x", "def solve(x): return x[::-1]"
GREEDY = Sampling(temperature=0.0)
NAMES = ("dpo", "rdpo", "osp", "hn-dpo", "cpl", "kto", "anyprefer", "c3po")


def task(id: str = "t1", *, text: str = "", verifiers: bool = True) -> Task:
    specs = (VerifierSpec(kind="exact", params={"expected": RIGHT}),) if verifiers else ()
    return Task(id=id, messages=(Message(role="user", content=text or f"Write solve(x), {id}."),), verifiers=specs)


def by_text(asked: Task, answer: str) -> tuple[Verdict, ...]:
    """The verifier of these tasks: only RIGHT passes."""
    return verdict(asked, Tried(answer, passed=answer == RIGHT))


async def build(name: str, *episodes: Episode, kit: Kit | None = None, **options: object) -> list[Row]:
    return await load_method(name, **options).build(Experience(episodes=episodes), kit or BenchKit(judge=by_text))


def sides(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The last texts of chosen and rejected, pair by pair."""
    made: dict[str, dict[str, str]] = {}
    for row in rows:
        made.setdefault(row.pair, {})[row.side] = row.messages[-1].content
    return [(pair["chosen"], pair["rejected"]) for pair in made.values()]


def both(id: str = "t1", **score: float) -> Episode:
    return sampled(task(id), Tried(WRONG, score=score.get("wrong", 0.0)), Tried(RIGHT, passed=True))


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_pairs_of_verdicts_share_a_prompt_and_keep_what_was_sampled() -> None:
    rows = await build("dpo", both())
    assert sides(rows) == [(RIGHT, WRONG)]
    assert rows[0].messages[:-1] == rows[1].messages[:-1]
    assert [row.off_policy for row in rows] == [False, False]
    other = sampled(task(), Tried(WRONG), system="Another prompt.")
    rows = await build("dpo", other, sampled(task(), Tried(RIGHT, passed=True)))
    assert rows[0].messages[:-1] == rows[1].messages[:-1]
    assert [row.off_policy for row in rows] == [False, True], "the worse one was sampled under another prompt"


@pytest.mark.asyncio
async def test_pairs_are_capped_by_task_and_what_people_said_comes_first() -> None:
    many = sampled(task("t1"), *(Tried(f"{n}") for n in range(9)), Tried(RIGHT, passed=True))
    assert len(await build("dpo", many, both("t2"), per_task=3)) == 2 * (3 + 1)
    one, other = imported(task("t1"), "a"), imported(task("t1"), "b")
    said = Feedback(kind="preference", source="ana", run_id=other.run.id, other_run_id=one.run.id)
    rows = await load_method("dpo", per_task=1).build(
        Experience(episodes=(many, one, other), feedback=(said,)), BenchKit(judge=by_text)
    )
    assert sides(rows) == [("b", "a")]
    assert said.id in rows[0].sources


def test_ratings_by_one_person_make_pairs_where_they_are_clear() -> None:
    def rated(answer: str, *values: tuple[str, float]) -> Episode:
        return imported(task(), answer, *(Feedback(kind="rating", source=who, value=value) for who, value in values))

    runs = (rated("a", ("ana", 0.9), ("bo", 0.5)), rated("b", ("ana", 0.2)), rated("c", ("ana", 0.3), ("bo", 0.6)))
    found = people_pairs(Experience(episodes=runs))
    assert sorted((pair.chosen.text, pair.rejected.text) for pair in found) == [("a", "b"), ("a", "c")]


def test_execution_outranks_people() -> None:
    run, other = imported(task(), RIGHT, passed=True), imported(task(), WRONG, passed=False)
    said = Feedback(kind="preference", source="ana", run_id=other.run.id, other_run_id=run.run.id)
    experience = Experience(episodes=(run, other), feedback=(said,))
    assert people_pairs(experience) == []
    (pair,) = people_pairs(experience, outranked=True)
    assert pair.executed is False
    assert [(one.chosen.text, one.executed) for one in verdict_pairs(experience)] == [(RIGHT, True)]


@pytest.mark.asyncio
async def test_edits_are_better_than_what_they_correct_unless_they_fail() -> None:
    right, wrong = (Feedback(kind="correction", source="ana", text=text) for text in (RIGHT, "def solve(x): return 1"))
    assert sides(await build("dpo", imported(task(), WRONG, right))) == [(RIGHT, WRONG)]
    with pytest.raises(UserError, match="dpo needs better and worse answers"):
        await build("dpo", imported(task(), WRONG, wrong))
    with pytest.raises(UserError, match="dpo needs"):
        await build("dpo", imported(task(), WRONG, right), edits=False)
    rows = await build("dpo", imported(task(verifiers=False), WRONG, wrong))
    assert sides(rows) == [(wrong.text, WRONG)]


def test_a_pair_is_tainted_by_its_answers_and_by_who_prefers() -> None:
    one, other = imported(task(), "a"), imported(task(), "b")
    said = Feedback(kind="preference", source="eve", run_id=one.run.id, other_run_id=other.run.id, trust="tainted")
    (pair,) = people_pairs(Experience(episodes=(one, other), feedback=(said,)))
    assert (pair.trust, said.id in pair.sources) == ("tainted", True)


# --- rdpo -------------------------------------------------------------------------------------------------------------


def compared(agree: int, disagree: int, open_: int = 1) -> Experience:
    """Preferences of which execution confirms some and contradicts some; the open ones were never executed."""
    episodes, feedback = [], []
    for number in range(agree + disagree + open_):
        executed = number < agree + disagree
        asked = task(f"t{number}", verifiers=executed)
        run = imported(asked, f"{RIGHT} #{number}", passed=True if executed else None)
        other = imported(asked, f"{WRONG} #{number}", passed=False if executed else None)
        better, worse = (other, run) if agree <= number < agree + disagree else (run, other)
        episodes += [run, other]
        feedback.append(Feedback(kind="preference", source="ana", run_id=better.run.id, other_run_id=worse.run.id))
    return Experience(episodes=tuple(episodes), feedback=tuple(feedback))


def test_the_share_of_swapped_preferences_is_measured_against_execution() -> None:
    assert audit(people_pairs(compared(18, 4, 3), outranked=True)) == (18, 4)
    assert flip_rate(18, 2) == pytest.approx(3 / 22)
    assert flip_rate(0, 0) == 0.5
    assert robust_label(0.2) == pytest.approx(4 / 3)


def test_the_robust_label_is_unbiased_under_flips() -> None:
    """E over flips of −p·logσ(±m) − (1−p)·logσ(∓m) is −logσ(m), the loss without flips."""
    flip, margin = 0.3, 0.7
    p = robust_label(flip)
    loss = [-p * _logsigmoid(m) - (1 - p) * _logsigmoid(-m) for m in (margin, -margin)]
    assert (1 - flip) * loss[0] + flip * loss[1] == pytest.approx(-_logsigmoid(margin))


def _logsigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def test_on_a_log_linear_policy_the_robust_label_recovers_the_scale_that_swaps_take_away() -> None:
    """Bradley–Terry pairs over features, a share of them swapped: how far the margins' weights are from the truth."""
    plain, robust = (sum(_error(0.2, p, seed) for seed in range(3)) / 3 for p in (1.0, robust_label(0.2)))
    assert robust < plain / 2, (plain, robust)
    assert plain > 0.6 > 0.2 > _error(0.0, 1.0, 0), "without swaps there is nothing to correct"


def _error(flip: float, p: float, seed: int, size: int = 16, pairs: int = 4000) -> float:
    rng = np.random.default_rng(seed)
    truth, weights = rng.normal(size=size), np.zeros(size)
    difference = rng.normal(size=(pairs, size)) * 2**0.5
    better = rng.random(pairs) < 1 / (1 + np.exp(-difference @ truth))
    difference = np.where((better ^ (rng.random(pairs) < flip))[:, None], difference, -difference)
    for _ in range(300):
        slope = p - 1 / (1 + np.exp(-difference @ weights))  # of p·logσ(m) + (1 − p)·logσ(−m)
        weights += 0.5 * slope @ difference / pairs
    return float(np.linalg.norm(weights - truth) / np.linalg.norm(truth))


@pytest.mark.asyncio
async def test_rdpo_labels_what_nobody_executed_by_the_measured_share() -> None:
    rows = await load_method("rdpo").build(compared(18, 2, 1), BenchKit())
    assert [row.label for row in rows if row.task_id == "t20"] == pytest.approx([robust_label(3 / 22)] * 2)
    assert {row.label for row in rows if row.task_id != "t20"} == {1.0}, "execution decides these"
    smooth = await load_method("rdpo", form="conservative", flip=0.1).build(compared(0, 0, 1), BenchKit())
    assert {row.label for row in smooth} == {0.9}


@pytest.mark.asyncio
async def test_rdpo_refuses_what_cannot_be_measured_or_says_nothing() -> None:
    with pytest.raises(UserError, match=r"cannot measure.*2 of their comparisons.*it takes 10; give flip"):
        await load_method("rdpo").build(compared(2, 0), BenchKit())
    with pytest.raises(UserError, match=r"share of wrong preferences is 0\.50"):
        await load_method("rdpo").build(compared(10, 10), BenchKit())
    with pytest.raises(UserError, match=r"rdpo: flip is 0\.60"):
        await load_method("rdpo", flip=0.6).build(compared(0, 0), BenchKit())
    with pytest.raises(UserError, match=r"rdpo needs pairs by people.*there is dpo"):
        await build("rdpo", both(), flip=0.1)


# --- hn-dpo, osp ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_hn_dpo_takes_the_failures_that_came_closest() -> None:
    run = sampled(task(), *(Tried(f"w{n}", score=n / 10) for n in (1, 9, 5)), Tried(RIGHT, passed=True))
    rows = await build("hn-dpo", run, per_task=2)
    assert sides(rows) == [(RIGHT, "w9"), (RIGHT, "w5")]
    assert [row.scale for row in rows[::2]] == [pytest.approx(1.9 / 1.7), pytest.approx(1.5 / 1.7)]
    pairs = verdict_pairs(Experience(episodes=(run,)))
    assert {pair.scale for pair in weighted(pairs, 0.0)} == {1.0}


@pytest.mark.asyncio
async def test_osp_pairs_by_rank_and_labels_by_the_difference_of_scores() -> None:
    run = sampled(task(), *(Tried(f"s{n}", passed=n == 9, score=n / 9) for n in (0, 3, 5, 9)))
    rows = await build("osp", run)
    assert sorted(sides(rows)) == [("s5", "s3"), ("s9", "s0")]
    assert sorted({row.label for row in rows}) == pytest.approx([0.5 + 1 / 9, 1.0])
    assert ranked_pairs(solutions_of(run)[:1]) == []
    assert strength(1.0, 0.0) == 1.0
    assert strength(0.5, 0.5) == 0.5
    with pytest.raises(UserError, match="osp needs better and worse answers to one task, with scores that differ"):
        await build("osp", sampled(task(), Tried("a", score=0.5), Tried("b", score=0.5)))


@pytest.mark.asyncio
async def test_osp_votes_in_both_orders_cancel_a_liking_for_a_place() -> None:
    run = sampled(task(), Tried("a", passed=None), Tried("b", passed=None))
    async with ScriptedModel(["A", "A", "A", "A"]) as model:
        with pytest.raises(UserError, match="osp needs"):
            await build("osp", run, kit=BenchKit(model), strength="votes", votes=2)
    async with ScriptedModel(["Answer B.", "B", "A", "I cannot tell."]) as model:
        rows = await build("osp", run, kit=BenchKit(model), strength="votes", votes=2)
    assert sides(rows) == [("b", "a")]
    assert {row.label for row in rows} == {0.875}, "for b: 2 of 2, then 1.5 of 2"
    assert rows[0].messages[:-1] == rows[1].messages[:-1]
    assert len(ranked_pairs(solutions_of(run))) == 1


# --- cpl, kto ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_cpl_compares_segments_of_steps_from_the_end() -> None:
    good = acted(task(), Tried("42", "", True, calls=(("ls", "b"), ("cat b", "42"))))
    bad = acted(task(), Tried("0", "", False, calls=(("ls", "b"), ("cat a", "no"), ("cat c", "no"))))
    rows = await build("cpl", good, bad, length=2, discount=0.5)
    assert [(row.side, [piece.weight for piece in row.pieces]) for row in rows] == [
        ("chosen", [1.0, 0.5]),
        ("rejected", [1.0, 0.5]),
        ("chosen", [1.0]),
        ("rejected", [1.0, 0.5]),
    ]
    assert len({row.pair for row in rows}) == 2
    assert rows[0].messages[-1].content == "42"
    assert len(rows[2].messages) == 2, "the first segment ends with the first call"
    assert [segments(solutions_of(bad)[0], 3)] == [[(2, 4, 6), (0,)]]
    objective = load_method("cpl").objectives()[""]
    assert isinstance(objective, Preference)
    assert (objective.reference, objective.bias) == (False, 0.5)


@pytest.mark.asyncio
async def test_kto_needs_no_pairs_and_balances_the_sides() -> None:
    runs = [sampled(task("a"), Tried(RIGHT, passed=True))]
    runs += [sampled(task(id), Tried(f"{WRONG} {id}")) for id in ("b", "c", "d")]
    rows = await build("kto", *runs)
    scales = {row.side: row.scale for row in rows}
    assert scales["desirable"] == pytest.approx(2.0)
    assert scales["undesirable"] == pytest.approx(2 / 3)
    assert [row.side for row in rows].count("kl") == 4
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert other.messages[:-1] == one.messages[:-1], "the answer to another task, under this prompt"
        assert other.messages[-1] != one.messages[-1]
        assert other.off_policy
    assert isinstance(load_method("kto").objectives()[""], Unpaired)
    accepted = imported(task("e"), "fine", Feedback(kind="accept", source="ana", value=1.0))
    assert len(await build("kto", accepted, runs[1])) == 4
    with pytest.raises(UserError, match="judged answers to a second task"):
        await build("kto", both())
    found = solutions(Experience(episodes=(runs[0], runs[1])))
    assert [one.text for one in mismatched(found, BenchKit().rng)] == [found[1].text, found[0].text]


# --- anyprefer --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_anyprefer_corrects_the_judge_by_what_the_tool_found() -> None:
    """The judge prefers a failed answer, hears of it, and is asked again; the rule stays for the next task."""
    run = refined(task("t1", text="Write solve(x), t1."), Tried(WRONG, "It does not reverse."))

    def rank(messages: Sequence[Message], first: str) -> str:
        text = messages[-1].content
        return "1, 2" if text.index(f":\n{first}\n") < text.index(f":\n{_other(first)}\n") else "2, 1"

    replies = [RIGHT, lambda messages: rank(messages, WRONG), lambda messages: rank(messages, RIGHT)]
    async with ScriptedModel(replies) as model:
        rows = await build("anyprefer", run, kit=BenchKit(model, by_text), samples=1)
    assert sides(rows) == [(RIGHT, WRONG)]
    first, second = model.asked[1].messages[-1].content, model.asked[2].messages[-1].content
    assert "Mind what you got wrong before:" not in first
    assert "You preferred an answer that failed: It does not reverse." in second
    assert "Tool: it passed its checks." in first


def _other(text: str) -> str:
    return WRONG if text == RIGHT else RIGHT


@pytest.mark.asyncio
async def test_anyprefer_falls_back_on_the_tool_alone() -> None:
    async with ScriptedModel([RIGHT, "I like both.", "Hard to say."]) as model:
        rows = await build("anyprefer", refined(task(), Tried(WRONG, "no")), kit=BenchKit(model, by_text), samples=1)
    assert sides(rows) == [(RIGHT, WRONG)]
    async with ScriptedModel(["other", "?", "?"]) as model:
        with pytest.raises(UserError, match="anyprefer needs answers to one task that the judge or its tools"):
            await build("anyprefer", refined(task(), Tried(WRONG, "no")), kit=BenchKit(model, by_text), samples=1)
    assert read_ranking("Best: 2, then 3 and 1.", 3) == [1, 2, 0]
    assert read_ranking("2 > 2 > 1", 3) == []
    assert read_ranking("none", 2) == []


# --- c3po -------------------------------------------------------------------------------------------------------------


def about(verbs: str, passed: bool = False) -> Episode:
    asked = task(verbs, text=f"Write solve(x): {verbs}.", verifiers=False)
    return sampled(asked, Tried(f"answer to {verbs}", passed=passed))


def test_scope_is_the_share_of_rare_words() -> None:
    tasks = [task(verbs, text=f"Write solve(x): {verbs}.") for verbs in ("zorp", "zorp, then blick", "blick", "mip")]
    found = scopes(tasks, "the task mentions zorp")
    assert found == {"zorp": 1.0, "zorp, then blick": 1.0, "blick": 0.0, "mip": 0.0}
    both_words = scopes(tasks, "Write solve(x): zorp, then blick.")
    assert both_words["zorp, then blick"] == pytest.approx(1.0)
    assert 0 < both_words["blick"] < 0.6
    assert scopes(tasks, "nothing in common") == dict.fromkeys(found, 0.0)


@pytest.mark.asyncio
async def test_c3po_pairs_in_scope_and_keeps_the_rest() -> None:
    said = Feedback(kind="comment", source="ana", text="def zorp(x): return x[::-1]", applies_when="zorp")
    runs = [about(verbs) for verbs in ("zorp", "zorp, then mip", "blick", "mip")]
    experience = Experience(episodes=tuple(runs), feedback=(said,))
    async with ScriptedModel(["better", "answer to zorp"] * 2) as model:
        rows = await load_method("c3po").build(experience, BenchKit(model))
    assert all(said.text in asked.messages[0].content for asked in model.asked)
    assert sorted(sides([row for row in rows if row.pair])) == [
        ("better", "answer to zorp"),
        ("better", "answer to zorp, then mip"),
    ]
    assert all("def zorp" not in message.content for row in rows for message in row.messages), "it is internalised"
    kept = [row for row in rows if not row.pair]
    assert sorted((row.term, row.task_id) for row in kept) == [("out", "blick"), ("out", "mip")]
    assert all(row.teacher == row.messages[:-1] for row in kept)
    assert said.id in rows[0].sources
    near = load_method("c3po").objectives()["near"]
    assert isinstance(near, Distillation)
    assert (near.alpha, near.teacher, near.coefficient) == (0.0, "initial", 0.3)


@pytest.mark.asyncio
async def test_c3po_asks_for_the_scope_and_takes_a_correction_as_the_answer() -> None:
    run = about("zorp")
    said = Feedback(kind="correction", source="ana", text=RIGHT, run_id=run.run.id)
    edited = Episode(task=run.task, run=run.run, attempts=run.attempts, verdicts=run.verdicts, feedback=(said,))
    async with ScriptedModel(["NO", "Nearly.", "no"]) as model:
        method = load_method("c3po", scope="ask", feedback=said.id[:12])
        rows = await method.build(Experience(episodes=(edited, about("mip"), about("blick"))), BenchKit(model))
    assert sides(rows[:2]) == [(RIGHT, "answer to zorp")]
    assert [(row.term, row.task_id) for row in rows[2:]] == [("near", "mip"), ("out", "blick")]


@pytest.mark.asyncio
async def test_c3po_says_which_feedback_there_is_and_what_is_missing() -> None:
    said = Feedback(kind="comment", source="ana", text="Be brief.", applies_when="zorp")
    rating = Feedback(kind="rating", source="ana", value=0.1)
    with pytest.raises(UserError, match="c3po needs feedback in words"):
        await load_method("c3po").build(Experience(episodes=(about("mip"),), feedback=(rating,)), BenchKit())
    experience = Experience(episodes=(about("mip"), about("blick")), feedback=(said,))
    with pytest.raises(UserError, match=f"no feedback 'zzz'.*{said.id[:16]}"):
        await load_method("c3po", feedback="zzz").build(experience, BenchKit())
    with pytest.raises(UserError, match="c3po needs runs on tasks in the scope"):
        await load_method("c3po").build(experience, BenchKit())
    prompt = advised((Message(role="system", content="Write Python."), Message(role="user", content="hi")), "Be brief.")
    assert prompt[0].content == "Write Python.\n\n# Lessons\nBe brief."
    assert len(prompt) == 2


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", NAMES)
async def test_without_experience_it_says_what_is_missing_and_how_to_get_it(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} needs .*; .*(run|set|whet)") as caught:
        await build(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_says_of_itself_is_whole(name: str) -> None:
    method = load_method(name)
    assert (method.info.name, method.info.family) == (name, "preference")
    assert method.info.paper.startswith("arXiv ")
    assert method.objectives()[""]
    assert method.training().lr_scale < 1
    with pytest.raises(UserError, match="takes no colour"):
        load_method(name, colour="red")


@pytest.mark.asyncio
async def test_rows_of_real_runs_encode_without_loss(memory: Memory, pool: SandboxPool, world_tasks: Tasks) -> None:
    """The embedded model samples real tasks, a person comments, and every method's rows become data."""
    tasks = world_tasks(8, lengths=(1,))
    policy = Policy.of({"settings.toml": "max_tokens = 120\ntemperature = 1.3\nrounds = 5"})
    async with Agent("refine", load_model("tiny"), memory=memory, sandbox=pool) as agent:
        results = await run_tasks(agent, tasks, policy=policy, progress=lambda result: None)
    verb = str(tasks[0].meta["verbs"][0])  # type: ignore[index]
    definition = str(tasks[0].reference).splitlines()[0]
    said = Feedback(kind="comment", source="ana", run_id=results[0].run.id, text=definition, applies_when=verb)
    await memory.put(said)
    experience = await collect(TrainMemory(memory))
    template = load_template("core/whet/core/models/tiny/weights")
    solved = {one.task.id for one in solutions(experience) if one.passed}
    for name in sorted({*NAMES} - {"rdpo"}):
        rows = await load_method(name).build(experience, BenchKit(load_model("tiny"), by_reference))
        encoded = encode_rows(rows, template)
        assert encoded.report.drops == (), (name, encoded.report.lines())
        assert len(encoded.data) == len(rows) > 0
        assert name in ("anyprefer", "c3po", "osp") or {row.task_id for row in rows if row.pair} <= solved, name


def by_reference(asked: Task, answer: str) -> tuple[Verdict, ...]:
    return verdict(asked, Tried(answer, passed=answer.strip() == asked.reference))


# --- learning ---------------------------------------------------------------------------------------------------------


LEARNING: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "dpo": ({}, {"steps": 70, "lr_scale": 1.0}),
    "hn-dpo": ({}, {"steps": 70, "lr_scale": 1.0}),
    "osp": ({}, {"steps": 70, "lr_scale": 1.0}),
    "cpl": ({}, {"steps": 50, "lr_scale": 1.0}),
    "kto": ({}, {"steps": 90, "lr_scale": 0.5}),
    "anyprefer": ({"tasks": 16}, {"steps": 90, "lr_scale": 1.0}),
}
"""Of each method: its options, and the trainer's settings."""


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("name", LEARNING)
async def test_it_learns_from_what_is_true_and_not_from_chance(
    name: str, bench: Any, refined: Experience, unfounded: Experience, chance: Any
) -> None:
    """The gate promotes what the embedded model learned from its own runs, and nothing that chance had judged.

    It is judged on chains of verbs that it was not trained on.
    """
    options, settings = LEARNING[name]
    method = load_method(name, **options)
    learned = await bench.decide(await bench.fit(method, refined, **settings))
    assert learned.decision == "promoted", learned
    control = await bench.decide(await bench.fit(method, unfounded, judge=chance, **settings))
    assert control.decision != "promoted", control


def by_a_person(experience: Experience, swapped: float) -> Experience:
    """Pairs of a right and a wrong answer that nobody executed, compared by a person who swaps some of them."""
    rng = random.Random(0)
    episodes: list[Episode] = []
    said: list[Feedback] = []
    for group in experience.groups().values():
        answers = [attempt for episode in group for attempt in episode.attempts]
        good, bad = [one for one in answers if one.passed], [one for one in answers if not one.passed]
        for right, wrong in zip(rng.choices(good, k=4), rng.choices(bad, k=4), strict=True) if good and bad else ():
            asked = msgspec.structs.replace(group[0].task, verifiers=())
            pair = [imported(asked, one.text) for one in (right, wrong)]
            ids = [run.run.id for run in pair]
            better, worse = reversed(ids) if rng.random() < swapped else ids
            said.append(Feedback(kind="preference", source="ana", run_id=better, other_run_id=worse))
            episodes += pair
    return Experience(episodes=tuple(episodes), feedback=tuple(said))


@pytest.mark.slow
@pytest.mark.asyncio
async def test_rdpo_learns_from_a_person_who_is_wrong_one_time_in_five_and_not_from_a_coin(
    bench: Any, refined: Experience
) -> None:
    method = load_method("rdpo", flip=0.2)
    for swapped, promoted in ((0.2, True), (0.5, False)):
        trainer = await bench.fit(method, by_a_person(refined, swapped), steps=80, lr_scale=1.0)
        promotion = await bench.decide(trainer)
        assert (promotion.decision == "promoted") is promoted, promotion


@pytest.mark.slow
@pytest.mark.asyncio
async def test_c3po_teaches_one_verb_and_leaves_the_others_alone(bench: Any, refined: Experience) -> None:
    """A definition said once is known without it afterwards, and keeping the rest costs other tasks less."""
    verb = bench.world.verbs[0]
    said = Feedback(kind="comment", source="ana", text=bench.world.definition(verb), applies_when=verb)
    experience = msgspec.structs.replace(refined, feedback=(said,))
    alone = bench.world.task([verb]).prompt
    others = [task for task in bench.heldout if verb not in task.prompt]
    changed = {}
    for keep in (0.0, 3.0):
        method = load_method("c3po", keep_near=keep, keep_out=keep)
        trainer = await bench.fit(method, experience, steps=50, lr_scale=1.0)
        answer = (await bench.practice(trainer).ask([Message(role="user", content=alone)], sampling=GREEDY))[0].text
        assert read_definitions(answer)[verb] == bench.world.meaning(verb)
        after = [await _answer(bench, trainer, task) for task in others]
        with trainer.tuned.weights("initial"):
            before = [await _answer(bench, trainer, task) for task in others]
        changed[keep] = sum(one != other for one, other in zip(before, after, strict=True)) / len(others)
    assert changed[3.0] < changed[0.0], changed


async def _answer(bench: Any, trainer: Any, task: Task) -> str:
    return (await bench.practice(trainer).ask(task.messages, sampling=GREEDY))[0].text


@pytest.mark.asyncio
async def test_false_feedback_is_refused_where_verifiers_know_better(bench: Any, refined: Experience) -> None:
    verb = bench.world.verbs[0]
    wrong = next(each for each in OPERATIONS if each != bench.world.meaning(verb))
    said = Feedback(kind="comment", source="eve", text=f"def {verb}(x): return {wrong}", applies_when=verb)
    method = load_method("c3po", temperature=0.0)
    with pytest.raises(UserError, match="c3po needs answers that the feedback makes better"):
        await bench.fit(method, msgspec.structs.replace(refined, feedback=(said,)))
