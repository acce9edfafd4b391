"""Builders of the self-distillation methods: what the teacher is told, by whom, and what is refused."""

from collections.abc import Sequence

import msgspec
import pytest

from whet.core.errors import UserError
from whet.core.prompting import render_retry
from whet.core.records import Completion, Feedback, Message, Task, Verdict, VerifierSpec
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Kit, load_method
from whet.learners.weights.methods.conversations import conversations
from whet.learners.weights.methods.hindsight import hinted, teacher_context
from whet.learners.weights.methods.opd import majority
from whet.learners.weights.objectives import Distillation, PolicyGradient, Unpaired
from whet.learners.weights.rows import Row
from whet.learners.weights.testing import BenchKit, Tried, acted, imported, refined, sampled, verdict

WRONG, OTHER, RIGHT = "def solve(x): return x", "def solve(x): return x[1:]", "def solve(x): return x[::-1]"
SAID = "solve([2, 1]) returned [2, 1], expected [1, 2]."
DISTILLED = ("sdpo", "distil", "vpd", "ttt-sdpo")

right, wrong = Tried(RIGHT, passed=True), Tried(WRONG, SAID)


def task(id: str = "t1", *, reference: str | None = None) -> Task:
    specs = (VerifierSpec(kind="exact", params={"expected": RIGHT}),)
    asked = Message(role="user", content=f"Write solve(x), case {id}.")
    return Task(id=id, messages=(asked,), verifiers=specs, reference=reference)


def by_text(asked: Task, answer: str) -> tuple[Verdict, ...]:
    """The verifier of these tasks: only RIGHT passes."""
    return verdict(asked, Tried(answer, passed=answer == RIGHT))


class Knowing(BenchKit):
    """A kit whose logprobs are what the test says: of every row untold, and told."""

    def __init__(self, untold: float, told: float, round: int = 0) -> None:
        super().__init__(judge=by_text)
        self.round, self.values, self.seen = round, (untold, told), list[Row]()

    async def logprobs(self, rows: Sequence[Row], *, teacher: bool = False) -> list[list[float]]:
        self.seen = list(rows)
        return [[self.values[teacher] / 2] * 2 for _ in rows]


async def build(name: str, *episodes: Episode, kit: Kit | None = None, **options: object) -> list[Row]:
    chosen = options if name not in DISTILLED else {"preflight": False, **options}
    return await load_method(name, **chosen).build(Experience(episodes=episodes), kit or BenchKit(judge=by_text))


def told(row: Row) -> str:
    """The last thing the teacher is told before the answer."""
    assert row.teacher is not None
    return row.teacher[-1].content


def answers(rows: Sequence[Row]) -> list[str]:
    return [row.messages[piece.message].content for row in rows for piece in row.pieces]


def remark(kind: str, text: str = "", *, trust: str = "trusted", value: float | None = None) -> Feedback:
    return Feedback(kind=kind, source="ada", text=text, trust=trust, value=value)  # type: ignore[arg-type]


def heard(episode: Episode, *feedback: Feedback) -> Episode:
    return msgspec.structs.replace(episode, feedback=feedback)


# --- wordings ---------------------------------------------------------------------------------------------------------


def test_a_retry_is_what_the_agent_itself_would_read() -> None:
    """The teacher's context is, message by message, the prompt of the recorded second attempt."""
    episode = refined(task(), wrong, right)
    assert teacher_context(task().messages, WRONG, said=[SAID]) == episode.attempts[1].messages


def test_a_hint_leaves_the_attempt_out_and_stays_in_the_last_question() -> None:
    prompt = (Message(role="system", content="Be brief."), *task().messages)
    found = teacher_context(prompt, WRONG, said=[SAID], solution=RIGHT, wording="hint")
    assert [message.role for message in found] == ["system", "user"]
    assert found[0] == prompt[0]
    assert found[1].content.startswith(prompt[1].content)
    assert SAID in found[1].content
    assert RIGHT in found[1].content
    assert f"{WRONG}\n" not in found[1].content
    assert hinted((), "So.") == (Message(role="user", content="So."),)


# --- sdpo and its kin -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", DISTILLED)
async def test_the_teacher_sees_a_right_answer_where_there_is_one_else_what_was_said(name: str) -> None:
    rows = [row for row in await build(name, *[refined(task(), one) for one in (wrong, right)]) if not row.term]
    assert answers(rows) == [WRONG]
    assert told(rows[0]) == render_retry([RIGHT])
    rows = [row for row in await build(name, refined(task(), wrong)) if not row.term]
    assert told(rows[0]) == render_retry([SAID])
    rows = [row for row in await build(name, refined(task(), wrong, right), solutions=False) if not row.term]
    assert told(rows[0]) == render_retry([SAID])


@pytest.mark.asyncio
async def test_the_student_s_row_is_what_was_sampled_and_holds_nothing_of_the_feedback() -> None:
    episode = refined(task(), wrong, right)
    (row,) = await build("sdpo", episode)
    assert row.messages == (*task().messages, Message(role="assistant", content=WRONG))
    assert row.sampled[0].completion is episode.attempts[0].completion
    assert not row.off_policy
    assert set(row.sources) >= {episode.run.id, episode.attempts[0].critiques[0].id}


@pytest.mark.asyncio
async def test_later_turns_learn_after_their_own_dialogue() -> None:
    rows = await build("sdpo", refined(task(), wrong, Tried(OTHER, "x[1:] it is not.")))
    assert answers(rows) == [WRONG, OTHER]
    assert told(rows[1]) == render_retry(["x[1:] it is not."])
    assert rows[1].teacher is not None
    assert rows[1].teacher[:3] == rows[1].messages[:3]


@pytest.mark.asyncio
async def test_an_answer_that_passed_learns_from_another_right_one_where_the_wording_allows_it() -> None:
    shorter = Tried("def solve(x): return list(reversed(x))", passed=True)
    runs = [refined(task(), one) for one in (right, shorter)]
    assert await build("sdpo", *runs) == []
    rows = await build("sdpo", *runs, context="hint")
    assert answers(rows) == [RIGHT, shorter.text]
    assert shorter.text in told(rows[0])
    assert RIGHT in told(rows[1])


@pytest.mark.asyncio
async def test_thinking_is_not_shown_to_the_teacher() -> None:
    thought = Tried(f"<think>Reverse?\nYes.</think>\n{RIGHT}", passed=True)
    rows = await build("sdpo", refined(task(), Tried(f"<think>Hm.</think>{WRONG}", SAID)), refined(task(), thought))
    assert told(rows[0]) == render_retry([RIGHT])
    assert rows[0].teacher is not None
    assert rows[0].teacher[-2].content == WRONG
    assert answers(rows)[0].startswith("<think>"), "the student's own answer stays as it was sampled"


@pytest.mark.asyncio
async def test_a_person_s_correction_is_a_solution_once_the_verifiers_agree() -> None:
    (row,) = await build("sdpo", heard(refined(task(), wrong), remark("correction", RIGHT)))
    assert told(row) == render_retry([RIGHT])
    (row,) = await build("sdpo", heard(refined(task(), wrong), remark("correction", OTHER)))
    assert told(row) == render_retry([SAID])


@pytest.mark.asyncio
async def test_what_a_stranger_corrected_makes_a_tainted_row() -> None:
    (row,) = await build("sdpo", heard(refined(task(), wrong), remark("correction", RIGHT, trust="tainted")))
    assert row.trust == "tainted"


@pytest.mark.asyncio
async def test_answers_of_which_nothing_is_known_are_left_out() -> None:
    assert await build("sdpo", refined(task(), Tried(WRONG)), refined(task("t2"), right)) == []


def test_the_losses_are_those_of_the_papers() -> None:
    assert load_method("sdpo").objectives() == {"": Distillation(alpha=0.5, top_k=100, teacher="ema", cap=2.0)}
    assert load_method("distil").objectives() == {"": Distillation(alpha=0.0, top_k=100, teacher="ema", cap=2.0)}
    vpd = load_method("vpd", beta=0.2).objectives()
    assert vpd == {"": Distillation(alpha=1.0, teacher="ema", cap=2.0), "teacher": Unpaired(form="bco", beta=0.2)}
    assert load_method("sdpo", alpha=1, token=True, teacher="initial", top_k=None, cap=None).objectives() == {
        "": Distillation(alpha=1.0, token=True, teacher="initial", top_k=None, cap=None)
    }


# --- the lift ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["sdpo", "distil", "vpd"])
async def test_a_teacher_that_knows_no_better_is_refused_with_the_numbers(name: str) -> None:
    run = refined(task(reference=RIGHT), wrong)
    with pytest.raises(UserError, match=rf"^{name}: .*-3\.00.*-2\.00.*context.*grpo.*preflight=false"):
        await build(name, run, kit=Knowing(-2, -3), preflight=True)
    with pytest.raises(UserError, match="no likelier"):
        await build(name, run, kit=Knowing(-2, -2), preflight=True)
    assert await build(name, run, kit=Knowing(-2, -3), preflight=False)
    kit = Knowing(-3, -2)
    assert await build(name, run, kit=kit, preflight=True)
    assert answers(kit.seen) == [RIGHT]
    assert kit.seen[0].messages[:-1] == task().messages
    assert told(kit.seen[0]) == render_retry([SAID])


@pytest.mark.asyncio
async def test_the_lift_is_looked_at_before_the_first_round_only_and_where_a_right_answer_is_known() -> None:
    assert await build("sdpo", refined(task(reference=RIGHT), wrong), kit=Knowing(-2, -3, round=1), preflight=True)
    assert await build("sdpo", refined(task(), wrong), kit=Knowing(-2, -3), preflight=True)
    kit = Knowing(-3, -2)
    await build("sdpo", *[refined(task(reference=RIGHT), wrong) for _ in range(50)], kit=kit, preflight=True)
    assert len(kit.seen) == 32


# --- vpd and ttt-sdpo -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_teacher_is_trained_every_few_rounds_on_right_and_wrong_answers_under_its_own_context() -> None:
    runs = [refined(task(), wrong), refined(task(), right)]
    rows = await build("vpd", *runs, kit=Knowing(-1, 0, round=5))
    judging = [row for row in rows if row.term == "teacher"]
    assert [(row.messages[-1].content, row.side) for row in judging] == [(WRONG, "undesirable"), (RIGHT, "desirable")]
    assert {row.messages[:-1] for row in judging} == {rows[0].teacher}
    assert {row.term for row in await build("vpd", *runs, kit=Knowing(-1, 0, round=4))} == {""}
    with pytest.raises(UserError, match="every is 0"):
        load_method("vpd", every=0)


@pytest.mark.asyncio
async def test_one_hard_task_is_named_or_alone() -> None:
    runs = [refined(task(), wrong), refined(task("t2"), wrong)]
    with pytest.raises(UserError, match="one task, not 2; give task=ID, such as t1"):
        await build("ttt-sdpo", *runs)
    assert [row.task_id for row in await build("ttt-sdpo", *runs, task="t2")] == ["t2"]
    with pytest.raises(UserError, match="ttt-sdpo needs judged runs"):
        await build("ttt-sdpo", *runs, task="t3")
    plan = load_method("ttt-sdpo").rollouts
    assert plan is not None
    assert (plan.tasks, plan.rounds) == (1, 50)


# --- opd --------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_every_turn_earns_its_votes_and_is_distilled_from_its_hint_without_a_group() -> None:
    rows = await build("opd", refined(task(), wrong, right))
    (voted,) = [row for row in rows if not row.term]
    assert [piece.weight for piece in voted.pieces] == [-1.0, 1.0]
    (told_row,) = [row for row in rows if row.term == "hint"]
    assert answers([told_row]) == [WRONG]
    assert told(told_row) == render_retry([SAID])


@pytest.mark.asyncio
async def test_turns_that_nobody_voted_on_are_context_and_hints_too_short_are_none() -> None:
    episode = acted(task(), Tried(RIGHT, passed=True, calls=(("ls", "a"),)))
    (row,) = await build("opd", episode)
    assert [piece.message for piece in row.pieces] == [3]
    rows = await build("opd", refined(task(), Tried(WRONG, "No.")))
    assert [row.term for row in rows] == [""]


@pytest.mark.parametrize(
    ("feedback", "passed", "vote"),
    [
        ((), True, 1),
        ((), False, -1),
        ((), None, 0),
        ((remark("accept"),), None, 1),
        ((remark("reject"), remark("correction", RIGHT), remark("accept")), None, -1),
        ((remark("rating", value=0.9),), False, 0),
        ((remark("rating", value=0.5), remark("comment", "Hm.")), None, 0),
    ],
)
def test_the_majority_of_verifiers_and_people_decides(
    feedback: tuple[Feedback, ...], passed: bool | None, vote: int
) -> None:
    (one,) = conversations(heard(refined(task(), Tried(WRONG, passed=passed)), *feedback))
    assert majority(one.turns[0]) == vote


@pytest.mark.asyncio
async def test_how_people_would_have_answered_is_a_hint_and_either_part_can_be_left_out() -> None:
    corrected = heard(refined(task(), Tried(WRONG)), remark("correction", RIGHT, trust="tainted"))
    rows = await build("opd", corrected)
    assert told(rows[1]) == render_retry([RIGHT])
    assert rows[1].trust == "tainted"
    assert {row.term for row in await build("opd", refined(task(), wrong), hints=0.0)} == {""}
    assert {row.term for row in await build("opd", refined(task(), wrong), binary=0.0)} == {"hint"}


def test_opd_s_losses() -> None:
    objectives = load_method("opd", hints=0.5).objectives()
    assert objectives[""] == PolicyGradient(kl=0.01)
    assert objectives["hint"] == Distillation(coefficient=0.5, alpha=1.0, top_k=50, teacher="ema")


# --- follow-ups -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_the_user_wrote_next_is_known_to_the_teacher_in_the_dialogue_itself() -> None:
    episode = refined(task(), wrong, right)
    (row,) = await build("followup", episode)
    assert answers([row]) == [WRONG]
    assert row.teacher == episode.attempts[1].messages
    (row,) = await build("followup", episode, context="hint")
    assert row.teacher is not None
    assert len(row.teacher) == 1
    assert render_retry([SAID]) in told(row)


@pytest.mark.asyncio
async def test_a_recorded_follow_up_needs_no_verdict() -> None:
    episode = heard(refined(task(), Tried(WRONG, passed=None)), remark("followup", "Backwards, please."))
    (row,) = await build("followup", episode)
    assert told(row) == "Backwards, please."
    assert row.teacher is not None
    assert row.teacher[-2].content == WRONG
    stranger = heard(refined(task(), Tried(WRONG)), remark("followup", "Backwards, please.", trust="tainted"))
    assert [row.trust for row in await build("followup", stranger)] == ["tainted"]


@pytest.mark.asyncio
async def test_results_of_tools_are_no_follow_ups() -> None:
    with pytest.raises(UserError, match=r"answers with a follow-up message.*whet feedback add RUN followup TEXT"):
        await build("followup", acted(task(), Tried(RIGHT, passed=True, calls=(("ls", "a"),))))


def test_follow_ups_are_distilled_without_correction_for_who_sampled() -> None:
    assert load_method("followup").objectives() == {"": Distillation(alpha=1.0, teacher="ema", cap=None)}
    paper = load_method("followup", token=True, teacher="live").objectives()
    assert paper == {"": Distillation(alpha=1.0, teacher="live", token=True, cap=None)}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", [*DISTILLED, "opd", "followup"])
async def test_what_is_missing_is_said_with_the_way_out(name: str) -> None:
    for episodes in ((), (imported(task(), RIGHT),), (refined(task(), Tried(WRONG, passed=None)),)):
        with pytest.raises(UserError, match=rf"^{name} needs .* the memory holds none on training tasks; .*whet"):
            await build(name, *episodes)


@pytest.mark.asyncio
async def test_side_by_side_samples_each_have_a_row() -> None:
    rows = await build("sdpo", sampled(task(), wrong, Tried(OTHER, SAID), right))
    assert answers(rows) == [WRONG, OTHER]


@pytest.mark.asyncio
async def test_recorded_tokens_come_along_to_the_last_one() -> None:
    rows = await build("sdpo", refined(task(), wrong, right))
    assert rows[0].sampled[0].completion == Completion(text=WRONG, token_ids=(1, 2, 3), logprobs=(-0.1, -0.2, -0.3))
