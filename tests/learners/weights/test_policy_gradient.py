"""Builders of the policy-gradient methods: which answers count how much, of which experience, and what they refuse."""

from collections.abc import Sequence

import msgspec
import pytest

from whet.agents import Agent, run_tasks
from whet.agents.tasksets.world import judge_answer, world_task
from whet.core.errors import UserError
from whet.core.models import ScriptedModel, load_model
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.core.prompting import render_retry
from whet.core.records import (
    Check,
    Completion,
    Critique,
    Feedback,
    Message,
    Task,
    Usage,
    Verdict,
    VerifierSpec,
)
from whet.learners.view import TrainMemory
from whet.learners.weights.collect import collect
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Kit, load_method
from whet.learners.weights.methods.conversations import Conversation, conversations
from whet.learners.weights.methods.f_grpo import phases
from whet.learners.weights.methods.hindsight import critic_prompt, verify_prompt
from whet.learners.weights.objectives import NLL, PolicyGradient
from whet.learners.weights.rows import Row
from whet.learners.weights.templates import encode_rows, load_template
from whet.learners.weights.testing import BenchKit, Tried, acted, imported, refined, sampled, verdict
from whet.memory import Memory
from whet.sandboxes import SandboxPool

WRONG, OTHER, RIGHT = "def solve(x): return x", "def solve(x): return x[1:]", "def solve(x): return x[::-1]"
SAID = "solve([2, 1]) returned [2, 1], expected [1, 2]."
NAMES = ("grpo", "critique-grpo", "ufo", "herl", "rise", "duration", "spa", "f-grpo", "dir", "rltf-fm", "rltf-sd")


def task(id: str = "t1") -> Task:
    specs = (VerifierSpec(kind="exact", params={"expected": RIGHT}),)
    return Task(id=id, messages=(Message(role="user", content=f"Write solve(x), case {id}."),), verifiers=specs)


def by_text(asked: Task, answer: str) -> tuple[Verdict, ...]:
    """The verifier of these tasks: only RIGHT passes."""
    return verdict(asked, Tried(answer, passed=answer == RIGHT))


async def build(name: str, *episodes: Episode, kit: Kit | None = None, **options: object) -> list[Row]:
    return await load_method(name, **options).build(Experience(episodes=episodes), kit or BenchKit(judge=by_text))


def single(*tried: Tried, id: str = "t1") -> list[Episode]:
    """A run for each answer to one task."""
    return [refined(task(id), one) for one in tried]


def counted(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """The texts that count, with their weights."""
    return [(row.messages[piece.message].content, piece.weight) for row in rows for piece in row.pieces]


TAUGHT = ("sdpo", "opd", "followup", "distil", "vpd")

right, wrong = Tried(RIGHT, passed=True), Tried(WRONG, SAID)


# --- conversations ----------------------------------------------------------------------------------------------------


def test_the_calls_of_a_run_are_one_dialogue_and_every_turn_knows_its_verdict() -> None:
    (one,) = conversations(refined(task(), wrong, Tried(OTHER, SAID), right))
    assert [turn.reward("pass") for turn in one.turns] == [0.0, 0.0, 1.0]
    assert one.opens
    assert one.final == 1.0
    assert [turn.attempt.text for turn in one.attempt.turns] == [WRONG]
    assert one.replies(0) == (Message(role="user", content=render_retry([SAID])),)
    assert one.replies(2) == ()


def test_calls_side_by_side_are_dialogues_of_their_own() -> None:
    found = conversations(sampled(task(), wrong, right, right))
    assert [len(one.turns) for one in found] == [1, 1, 1]
    assert [one.final for one in found] == [0.0, 1.0, 1.0]


def test_a_branch_begins_a_dialogue_in_which_only_its_own_turns_count() -> None:
    episode = refined(task(), wrong, right)
    again = msgspec.structs.replace(episode.attempts[1], completion=Completion(text=OTHER), verdicts=(), step_id="b")
    found = conversations(msgspec.structs.replace(episode, attempts=(*episode.attempts, again)))
    assert [[turn.attempt.text for turn in one.turns] for one in found] == [[WRONG, RIGHT], [OTHER]]
    assert not found[1].opens


def test_other_tools_make_another_prompt_and_so_another_dialogue() -> None:
    episode = acted(task(), Tried(RIGHT, passed=True, calls=(("ls", "a.py"),)))
    bare = msgspec.structs.replace(episode.attempts[1], tools=())
    found = conversations(msgspec.structs.replace(episode, attempts=(episode.attempts[0], bare)))
    assert [len(one.turns) for one in found] == [1, 1]
    assert len(conversations(episode)) == 1


def test_a_row_trains_every_turn_under_the_prompt_it_was_sampled_with() -> None:
    episode = refined(task(), wrong, right)
    (one,) = conversations(episode)
    row = one.row([0.5, None], group="g")
    assert row.messages == (*task().messages, Message(role="assistant", content=WRONG))
    row = one.row([None, -1.0])
    assert counted([row]) == [(RIGHT, -1.0)]
    assert [(item.message, item.completion) for item in row.sampled] == [(3, episode.attempts[1].completion)]
    assert row.messages[:3] == episode.attempts[1].messages
    assert set(row.sources) >= {episode.run.id, episode.attempts[0].verdicts[0].id, episode.attempts[0].critiques[0].id}


def test_an_answer_that_never_ends_earns_nothing_rather_than_nobody_knows() -> None:
    stuck = Verdict(run_id="", task_id="t1", verifier="tests", outcome="timeout")
    (one,) = conversations(_judged(single(wrong)[0], stuck))
    assert (one.turns[0].reward("pass"), one.turns[0].reward("score")) == (0.0, 0.0)
    (one,) = conversations(_judged(single(wrong)[0], msgspec.structs.replace(stuck, outcome="infra_error")))
    assert one.turns[0].reward("pass") is None


def test_people_judge_where_no_verifier_did_and_the_verdict_on_the_answer_outranks_what_the_run_heard() -> None:
    liked = Feedback(kind="rating", source="ada", value=0.75)
    (one,) = conversations(msgspec.structs.replace(single(Tried(WRONG, passed=None))[0], feedback=(liked,)))
    assert (one.turns[0].reward("pass"), one.turns[0].reward("score")) == (1.0, 0.75)
    episode = single(right)[0]
    heard = msgspec.structs.replace(episode, verdicts=verdict(task(), wrong))
    assert conversations(heard)[0].turns[0].passed is False


def _judged(episode: Episode, *verdicts: Verdict) -> Episode:
    attempts = tuple(msgspec.structs.replace(attempt, verdicts=verdicts) for attempt in episode.attempts)
    return msgspec.structs.replace(episode, attempts=attempts, verdicts=verdicts)


# --- grpo -------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_better_of_several_answers_count_for_and_the_others_against() -> None:
    rows = await build("grpo", *single(right, wrong, wrong, wrong))
    assert counted(rows) == [(RIGHT, 0.75), *[(WRONG, -0.25)] * 3]
    assert [row.reward for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert {(row.group, row.off_policy, row.task_id) for row in rows} == {("t1", False, "t1")}
    assert all(row.sampled[0].completion.token_ids for row in rows)


@pytest.mark.asyncio
async def test_groups_in_which_all_earned_the_same_are_left_out_and_others_do_not_feel_them() -> None:
    solved = single(right, right, id="t2")
    rows = await build("grpo", *single(right, wrong), *solved, *single(wrong, wrong, id="t3"))
    assert {row.task_id for row in rows} == {"t1"}
    assert await build("grpo", *solved) == []


@pytest.mark.asyncio
async def test_every_turn_of_a_run_with_tools_gets_the_run_s_advantage() -> None:
    good = acted(task(), Tried(RIGHT, passed=True, calls=(("ls", "a"), ("cat a", "b"))))
    bad = acted(task(), Tried(WRONG, calls=(("rm a", ""),)))
    rows = await build("grpo", good, bad)
    assert [[piece.weight for piece in row.pieces] for row in rows] == [[0.5] * 3, [-0.5] * 2]
    assert [len(row.sampled) for row in rows] == [3, 2]
    assert rows[0].tools == good.attempts[0].tools


@pytest.mark.asyncio
async def test_by_default_a_rejected_answer_is_not_praised_for_its_revision() -> None:
    """First answers are compared with first answers, revisions with revisions; by run, with each other's outcome."""
    runs = [refined(task(), wrong, right), refined(task(), wrong, Tried(OTHER, SAID)), *single(right)]
    assert counted(await build("grpo", *runs)) == [
        (WRONG, pytest.approx(-1 / 3)),
        (RIGHT, 0.5),
        (WRONG, pytest.approx(-1 / 3)),
        (OTHER, -0.5),
        (RIGHT, pytest.approx(2 / 3)),
    ]
    by_run = counted(await build("grpo", *runs, credit="run"))
    assert by_run[0] == (WRONG, pytest.approx(1 / 3)) == (WRONG, by_run[1][1])


@pytest.mark.asyncio
async def test_later_verdicts_count_for_earlier_turns_by_the_discount() -> None:
    runs = [refined(task(), wrong, right), refined(task(), wrong, Tried(OTHER, SAID))]
    assert counted(await build("grpo", *runs))[0] == (RIGHT, 0.5), "first answers earned the same"
    assert counted(await build("grpo", *runs, discount=0.5))[0] == (WRONG, 0.25)


@pytest.mark.asyncio
async def test_options_change_the_advantages() -> None:
    half = Tried(OTHER, score=0.5)
    assert [w for _, w in counted(await build("grpo", *single(wrong, half), reward="score"))] == [-0.25, 0.25]
    assert await build("grpo", *single(wrong, half)) == []
    assert [w for _, w in counted(await build("grpo", *single(wrong, right), std=True))] == [-1.0, 1.0]


@pytest.mark.asyncio
async def test_a_long_answer_loses_its_advantage() -> None:
    long = single(right)[0]
    completion = Completion(text=RIGHT, usage=Usage(output_tokens=100))
    long = msgspec.structs.replace(long, attempts=(msgspec.structs.replace(long.attempts[0], completion=completion),))
    rows = await build("grpo", *single(right), long, max_length=100, buffer=50)
    assert [weight for _, weight in counted(rows)] == [0.5, -0.5]
    with pytest.raises(UserError, match="buffer is 200"):
        load_method("grpo", max_length=100, buffer=200)


@pytest.mark.asyncio
async def test_what_only_a_model_judged_counts_where_the_score_is_asked_for() -> None:
    def scored(score: float) -> Episode:
        opinion = Verdict(run_id="", task_id="t1", verifier="judge", outcome="pass", score=score, kind="model")
        return _judged(single(Tried(WRONG))[0], opinion)

    with pytest.raises(UserError, match="reward=score"):
        await build("grpo", scored(0.2), scored(0.8))
    rows = await build("grpo", scored(0.2), scored(0.8), reward="score")
    assert [weight for _, weight in counted(rows)] == pytest.approx([-0.3, 0.3])


def test_options_of_the_loss_reach_the_loss() -> None:
    method = load_method("grpo", clip_high="null", aggregate="constant", length=99, kl=0.1, level="sequence")
    assert method.objectives() == {
        "": PolicyGradient(clip_high=None, aggregate="constant", length=99, kl=0.1, level="sequence", shape=0.0)
    }


# --- revisions in the group -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_recorded_revision_takes_a_rejected_answer_s_place_under_the_prompt_without_critique() -> None:
    rows = await build("critique-grpo", refined(task(), wrong, right), *single(wrong, wrong, wrong))
    assert counted(rows) == [*[(WRONG, -0.25)] * 3, (RIGHT, 0.75)]
    assert [row.off_policy for row in rows] == [False, False, False, True]
    assert all(row.messages[:-1] == task().messages for row in rows)
    assert rows[-1].sampled == ()


@pytest.mark.asyncio
async def test_revisions_are_asked_for_only_where_none_passed() -> None:
    async with ScriptedModel([WRONG, RIGHT]) as model:
        rows = await build("critique-grpo", *single(wrong, wrong), kit=BenchKit(model, by_text))
        assert model.asked[0].messages[1:] == (
            Message(role="assistant", content=WRONG),
            Message(role="user", content=render_retry([SAID])),
        )
    assert counted(rows) == [(WRONG, -0.5), (RIGHT, 0.5)]
    async with ScriptedModel([]) as model:
        await build("critique-grpo", refined(task(), wrong, right), kit=BenchKit(model, by_text))
        await build("critique-grpo", *single(wrong, wrong), kit=BenchKit(model, by_text), revisions=0)


@pytest.mark.asyncio
async def test_a_single_run_and_its_revision_are_a_group_of_two() -> None:
    rows = await build("critique-grpo", refined(task(), wrong, right), revisions=0)
    assert counted(rows) == [(WRONG, -0.5), (RIGHT, 0.5)]


@pytest.mark.asyncio
async def test_where_no_revision_passed_the_group_is_grpo_s() -> None:
    runs = [refined(task(), wrong, Tried(OTHER, SAID)), *single(right)]
    rows = await build("critique-grpo", *runs, revisions=0)
    assert counted(rows) == [(WRONG, -0.5), (RIGHT, 0.5)]
    assert not any(row.off_policy for row in rows)


def test_how_revisions_are_shaped_is_the_loss_s_affair() -> None:
    assert load_method("critique-grpo").objectives() == {"": PolicyGradient(clip_high=None, shape=0.0)}
    assert load_method("critique-grpo", shape=0.1).objectives() == {"": PolicyGradient(clip_high=None, shape=0.1)}


def _checked(tried: Tried, *passed: bool) -> Episode:
    calls = [Check(name=f"c{i}", passed=ok, call=f"f({i})", got="0", expected="1") for i, ok in enumerate(passed)]
    found = verdict(task(), scored(tried, sum(passed) / len(passed)))[0]
    return _judged(single(tried)[0], msgspec.structs.replace(found, checks=tuple(calls)))


def scored(tried: Tried, score: float) -> Tried:
    return Tried(tried.text, tried.said, score == 1, score)


@pytest.mark.asyncio
async def test_herl_rewrites_by_the_checks_that_were_missed_and_rewards_what_could_be_improved() -> None:
    runs = [_checked(Tried(WRONG), True, False), _checked(Tried(OTHER), False, False)]
    async with ScriptedModel([RIGHT, WRONG]) as model:
        rows = await build("herl", *runs, kit=BenchKit(model, by_text), rewrites=1, std=False, bonus=0.2)
        assert model.asked[0].messages[-1].content == render_retry(["f(1) returned 0, expected 1."])
        assert model.asked[1].messages[-1].content.count("returned 0") == 2
        assert model.asked[0].sampling.temperature == 0.3
    kept, rewrite = counted(rows)
    # A rewrite gained 0.5 on the first answer, of which 0.2 is its bonus; the rewrite replaces one of the two.
    rewards = {WRONG: 0.5 + 0.2 * 0.5, OTHER: 0.0}
    mean = (rewards[kept[0]] + 1.0) / 2
    assert kept[1] == pytest.approx(rewards[kept[0]] - mean)
    assert rewrite == (RIGHT, pytest.approx(1.0 - mean))


@pytest.mark.asyncio
async def test_herl_uses_no_rewrite_that_is_worse_than_the_best_answer_and_asks_no_more_than_allowed() -> None:
    runs = [_checked(Tried(WRONG), True, False), _checked(Tried(OTHER), False, False), *single(right)]
    async with ScriptedModel([WRONG, WRONG, WRONG]) as model:
        rows = await build("herl", *runs, kit=BenchKit(model, by_text), rewrites=2, most=3)
    assert not any(row.off_policy for row in rows)
    assert len(rows) == 3


@pytest.mark.asyncio
async def test_a_hint_tells_herl_s_model_what_is_already_right() -> None:
    async with ScriptedModel([RIGHT]) as model:
        run = _checked(Tried(WRONG), True, False)
        await build("herl", run, kit=BenchKit(model, by_text), rewrites=1, context="hint")
        (asked,) = model.asked[0].messages
    assert all(text in asked.content for text in (WRONG, "f(1) returned 0, expected 1.", "Already right: f(0)."))


# --- ufo --------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_ufo_goes_on_until_it_is_solved_told_no_more_than_that_it_was_rejected() -> None:
    async with ScriptedModel([OTHER, RIGHT, WRONG, OTHER]) as model:
        rows = await build("ufo", *single(wrong, wrong), kit=BenchKit(model, by_text), turns=3, gamma=0.5)
        assert model.asked[0].messages[-1].content == render_retry(())
        assert len(model.asked[1].messages) == 5
    assert [text for text, _ in counted(rows)] == [WRONG, OTHER, RIGHT, WRONG, WRONG, OTHER]
    assert {weight > 0 for _, weight in counted(rows[:1])} == {True}


@pytest.mark.asyncio
async def test_ufo_pays_for_early_solutions_and_charges_for_repetitions() -> None:
    runs = [refined(task(), wrong, right), refined(task(), wrong, wrong), *single(right)]
    rows = await build("ufo", *runs, turns=2, gamma=0.5, repetition=0.5)
    earned = [0.5, -0.25, 1.0]
    mean = sum(earned) / 3
    for row, reward in zip(rows, earned, strict=True):
        assert [piece.weight for piece in row.pieces] == [pytest.approx(reward - mean)] * len(row.pieces)


# --- rise -------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_rise_solves_and_verifies_as_many_right_as_wrong_answers() -> None:
    async with ScriptedModel(["Yes.", "no", "It is wrong: no", "I cannot say"]) as model:
        rows = await build("rise", *single(right, wrong, wrong), kit=BenchKit(model, by_text), samples=2)
        assert [asked.messages for asked in model.asked[::2]] == [
            verify_prompt(task().messages, RIGHT),
            verify_prompt(task().messages, WRONG),
        ]
    solving = [row for row in rows if row.group == "t1"]
    assert [weight for _, weight in counted(solving)] == pytest.approx([1.0, -0.5, -0.5])
    verifying = counted([row for row in rows if row.group == "t1/verify"])
    assert verifying == [("Yes.", 0.5), ("no", -0.5), ("It is wrong: no", 0.5), ("I cannot say", -0.5)]


@pytest.mark.asyncio
async def test_rise_tells_a_broken_answer_from_a_wrong_one_and_one_sided_tasks_teach_no_verifying() -> None:
    broken = Check(name="load", passed=False, got="raised SyntaxError: x")
    bad = verdict(task(), wrong)[0]
    runs = [*single(wrong), _judged(single(Tried("def"))[0], msgspec.structs.replace(bad, checks=(broken,)))]
    rows = await build("rise", *runs)
    assert counted(rows) == [(WRONG, 0.25), ("def", -0.25)]


# --- duration, spa, f-grpo --------------------------------------------------------------------------------------------


def _timed(episode: Episode, *seconds: float) -> Episode:
    pairs = zip(episode.attempts, seconds, strict=True)
    timed = tuple(msgspec.structs.replace(attempt, seconds=value) for attempt, value in pairs)
    return msgspec.structs.replace(episode, attempts=timed)


@pytest.mark.asyncio
async def test_a_slow_turn_counts_as_long_as_it_took() -> None:
    slow = _timed(acted(task(), Tried(RIGHT, passed=True, calls=(("make", "ok"),))), 9.0, 1.0)
    fast = _timed(single(wrong)[0], 2.0)
    rows = await build("duration", slow, fast)
    assert [[piece.weight for piece in row.pieces] for row in rows] == [[1.125, 0.125], [-0.25]]
    capped = await build("duration", slow, fast, most=2.0)
    assert capped[0].pieces[0].weight == 1.0


@pytest.mark.asyncio
async def test_without_durations_it_is_grpo() -> None:
    runs = single(right, wrong, wrong)
    assert counted(await build("duration", *runs)) == counted(await build("grpo", *runs))


def _acts(passed: bool, *commands: str) -> Episode:
    calls = tuple((command, "error: no such file" if command == "typo" else "ok") for command in commands)
    return acted(task(), Tried(RIGHT if passed else WRONG, passed=passed, calls=calls))


@pytest.mark.asyncio
async def test_the_step_that_decided_gets_the_credit() -> None:
    runs = [_acts(True, "look", "fix"), _acts(False, "look", "break")] * 3
    for row in await build("spa", *runs, grounded=0.0):
        look, decisive, _ = (piece.weight for piece in row.pieces)
        assert decisive > look if row.reward else decisive < look


@pytest.mark.asyncio
async def test_a_call_that_failed_is_not_grounded() -> None:
    runs = [_acts(True, "typo", "ok"), _acts(True, "ok", "ok")]
    rows = await build("spa", *runs, grounded=0.5)
    typo, ran, _ = (piece.weight for piece in rows[0].pieces)
    assert ran - typo == pytest.approx(0.5, abs=0.2)
    assert await build("spa", *runs, grounded=0.0) != rows


def final_step(group: Sequence[Conversation]) -> list[list[float]]:
    """An estimator for the test: all of it was the last step."""
    return [[*[0.0] * (len(one.turns) - 1), one.final or 0.0] for one in group]


@pytest.mark.asyncio
async def test_a_trained_estimator_takes_the_place_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import whet.learners.weights.methods.spa as spa

    monkeypatch.setattr(spa, "final_step", final_step, raising=False)
    path = "whet.learners.weights.methods.spa:final_step"
    rows = await build("spa", _acts(True, "a"), _acts(False, "a"), estimator=path, grounded=0.0)
    assert [[piece.weight for piece in row.pieces] for row in rows] == [[-0.25, 0.75], [-0.25, -0.25]]
    with pytest.raises(UserError, match=r"estimator 'whet\.nowhere:x'"):
        await build("spa", *single(right, wrong), estimator="whet.nowhere:x")


def _phased(text: str, slate: bool, rank: bool) -> Episode:
    checks = (Check(name="slate: recall", passed=slate), Check(name="rank: order", passed=rank))
    found = verdict(task(), Tried(text, passed=slate and rank, score=(slate + rank) / 2))[0]
    return _judged(single(Tried(text))[0], msgspec.structs.replace(found, checks=checks))


@pytest.mark.asyncio
async def test_each_phase_counts_by_its_own_reward_on_its_own_words() -> None:
    text = "Hm. <SLATE> a b <RANK> b a"
    rows = await build("f-grpo", _phased(text, True, False), _phased(text, False, True))
    spans = [[(text[p.start : p.end], p.weight) for p in row.pieces] for row in rows]
    assert spans[0] == [("<SLATE> a b ", 0.5), ("<RANK> b a", -0.5)]
    assert spans[1] == [("<SLATE> a b ", -0.5), ("<RANK> b a", 0.5)]


@pytest.mark.asyncio
async def test_with_one_phase_f_grpo_is_grpo_and_a_phase_that_says_nothing_is_context() -> None:
    runs = single(right, wrong)
    assert counted(await build("f-grpo", *runs, markers="def")) == counted(await build("grpo", *runs))
    text = "<SLATE> a <RANK> b"
    rows = await build("f-grpo", _phased(text, True, True), _phased(text, True, False))
    assert [[(p.start, p.end, p.weight) for p in row.pieces] for row in rows] == [[(10, None, 0.5)], [(10, None, -0.5)]]


def test_phases_last_until_the_next_marker() -> None:
    assert phases("<B> x <A> y", ["<A>", "<B>", "<C>"]) == {"b": (0, 6), "a": (6, None)}
    with pytest.raises(UserError, match="markers"):
        load_method("f-grpo", markers="<A> [a]")


# --- critics ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_critique_earns_what_it_improves() -> None:
    async with ScriptedModel(["Reverse it.", "Sort it.", RIGHT, WRONG]) as model:
        kit = BenchKit(model, by_text)
        rows = await build("dir", *single(wrong, right), kit=kit, rejected=1, critiques=2)
        assert model.asked[0].messages == critic_prompt(task().messages, WRONG)
        assert [asked.messages[-1].content for asked in model.asked[2:]] == [
            render_retry(["Reverse it."]),
            render_retry(["Sort it."]),
        ]
    assert counted(rows) == [("Reverse it.", 0.5), ("Sort it.", -0.5)]
    assert [row.reward for row in rows] == [1.0, 0.0]


@pytest.mark.asyncio
async def test_jointly_the_revised_answers_learn_too() -> None:
    async with ScriptedModel(["Reverse it.", "", RIGHT, WRONG]) as model:
        kit = BenchKit(model, by_text)
        rows = await build("dir", *single(wrong), kit=kit, rejected=1, critiques=2, joint=True, silent=0.5)
    assert counted(rows) == [("Reverse it.", 0.75), ("", -0.75), (RIGHT, 0.5), (WRONG, -0.5)]
    assert rows[2].messages[-2].content == render_retry(["Reverse it."])


@pytest.mark.asyncio
async def test_critiques_are_targets_beside_grpo() -> None:
    praise = Critique(run_id="", text="Well done.", source="critic", sign="positive")
    runs = single(right, Tried(WRONG, SAID))
    runs[0] = msgspec.structs.replace(runs[0], critiques=(praise,))
    rows = await build("rltf-fm", *runs)
    assert counted([row for row in rows if row.term == ""]) == [(RIGHT, 0.5), (WRONG, -0.5)]
    (told,) = [row for row in rows if row.term == "critique"]
    assert told.messages == (*critic_prompt(task().messages, WRONG), Message(role="assistant", content=SAID))
    objectives = load_method("rltf-fm", coefficient=0.1).objectives()
    assert objectives["critique"] == NLL(coefficient=0.1)
    with pytest.raises(UserError, match="critiques"):
        await build("rltf-fm", *single(right, Tried(WRONG)))


@pytest.mark.asyncio
async def test_revisions_are_taught_without_the_feedback_by_what_they_gained_over_first_answers() -> None:
    runs = [refined(task(), wrong, right), refined(task(), wrong, Tried(OTHER, SAID)), *single(right)]
    rows = await build("rltf-sd", *runs)
    taught = [row for row in rows if row.term == "revision"]
    assert counted(taught) == [(RIGHT, pytest.approx(2 / 3)), (OTHER, pytest.approx(-1 / 3))]
    assert all(row.messages[:-1] == task().messages and row.off_policy and not row.sampled for row in taught)
    objectives = load_method("rltf-sd").objectives()
    assert objectives["revision"] == NLL(coefficient=0.1, floor=-5.0)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", NAMES)
async def test_what_is_missing_is_said_with_the_way_out(name: str) -> None:
    for episodes in ((), (imported(task(), RIGHT),), (refined(task(), Tried(WRONG, passed=None)),)):
        with pytest.raises(UserError, match=rf"^{name} needs .* run each task several times .*--repeats"):
            await build(name, *episodes)


@pytest.mark.asyncio
async def test_one_run_of_each_task_is_no_group_and_answers_without_phases_no_phases() -> None:
    for name in ("grpo", "duration", "spa", "rltf-sd", "rltf-fm"):
        with pytest.raises(UserError, match="several judged runs of one task"):
            await build(name, *single(right), *single(wrong, id="t2"))
    with pytest.raises(UserError, match="answers with one of <SLATE> <RANK>"):
        await build("f-grpo", *single(right, wrong))


@pytest.mark.asyncio
async def test_without_a_model_to_ask_the_builder_says_so() -> None:
    for name in ("critique-grpo", "herl", "ufo", "rise", "dir"):
        with pytest.raises(UserError, match="no model to ask"):
            await build(name, *single(right, wrong))


@pytest.mark.asyncio
@pytest.mark.parametrize("name", NAMES)
async def test_what_strangers_had_a_hand_in_stays_marked(name: str) -> None:
    runs = [refined(task(), wrong, right), refined(task(), wrong, Tried(OTHER, SAID)), *single(right)]
    tainted = [_tainted(run) for run in runs]
    options = {"markers": "def"} if name == "f-grpo" else {}
    kit = BenchKit(load_model("tiny"), by_text)
    rows = await build(name, *tainted, kit=kit, **options)
    assert {row.trust for row in rows} <= {"tainted"}


def _tainted(episode: Episode) -> Episode:
    return msgspec.structs.replace(episode, run=msgspec.structs.replace(episode.run, trust="tainted"))


# --- real runs --------------------------------------------------------------------------------------------------------


async def record(memory: Memory, pool: SandboxPool, tasks: Sequence[Task], graph: str, settings: str) -> None:
    policy = Policy.of({"settings.toml": f"max_tokens = 60\ntemperature = 1.0\n{settings}"})
    async with Agent(graph, load_model("tiny"), memory=memory, sandbox=pool) as agent:
        await run_tasks(agent, tasks, seeds=range(3), policy=policy, progress=lambda result: None)


@pytest.mark.asyncio
async def test_rows_of_real_runs_encode_without_loss(memory: Memory, pool: SandboxPool, world: World) -> None:
    """The embedded model works on real tasks in real sandboxes; every method's rows become data, token by token."""
    found = [world_task(task, world) for task in world.tasks(3, lengths=(1,), examples=2)]
    tasks = [msgspec.structs.replace(task, split="train") for task in found]
    await record(memory, pool, tasks, "refine", "rounds = 2")
    await record(memory, pool, tasks, "react", "")
    await record(memory, pool, tasks, "best_of_n", "n = 3")
    experience = await collect(TrainMemory(memory))
    template = load_template(WEIGHTS, spelled="text")
    known = {episode.run.id for episode in experience.episodes}
    options = {
        "f-grpo": {"markers": "def solve"},
        "dir": {"critiques": 8, "rejected": 3},
        **{name: {"preflight": False} for name in ("sdpo", "distil", "vpd")},
    }
    for name in (*NAMES, *TAUGHT):
        kit = BenchKit(load_model("tiny"), judge_answer)
        rows = await load_method(name, **options.get(name, {})).build(experience, kit)
        encoded = encode_rows(rows, template)
        assert encoded.report.drops == (), (name, encoded.report.lines())
        assert len(encoded.data) == len(rows) > 0, name
        assert all(known & set(row.sources) for row in rows), name
        exact = [datum for datum in encoded.data if not datum.off_policy]
        assert all(datum.logprobs for datum in exact), f"{name}: what was sampled has its logprobs"
