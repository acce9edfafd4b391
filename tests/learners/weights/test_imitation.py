"""Builders of the imitation methods: which rows they make of which experience, and what they refuse."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from whet.agents import Agent, run_tasks
from whet.core.errors import BudgetError, UserError
from whet.core.models import ScriptedModel, load_model
from whet.core.policy import Policy
from whet.core.prompting import render_retry, render_system
from whet.core.records import Completion, Feedback, Message, Task, Verdict, VerifierSpec
from whet.learners.view import TrainMemory
from whet.learners.weights.collect import collect
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Kit, load_method
from whet.learners.weights.methods.agent_r import THOUGHTS, common_prefix, first_bad_step
from whet.learners.weights.methods.b_star import balance, choose
from whet.learners.weights.methods.rft import hardness
from whet.learners.weights.methods.selection import balanced, distinct
from whet.learners.weights.methods.slots import serving_slot, with_slot
from whet.learners.weights.methods.solutions import solutions, solutions_of
from whet.learners.weights.rows import Row
from whet.learners.weights.templates import encode_rows, load_template
from whet.learners.weights.testing import BenchKit, Tried, acted, imported, refined, sampled, verdict
from whet.memory import Memory
from whet.sandboxes import SandboxPool

Tasks = Callable[..., list[Task]]

WRONG, RIGHT = "def solve(x): return x", "def solve(x): return x[::-1]"
SAID = "solve([2, 1]) returned [2, 1], expected [1, 2]."
NAMES = ("agent-r", "b-star", "coh", "faft", "ilf", "rft", "self-debug", "teach")


def task(id: str = "t1", *, verifiers: bool = True) -> Task:
    specs = (VerifierSpec(kind="exact", params={"expected": RIGHT}),) if verifiers else ()
    return Task(id=id, messages=(Message(role="user", content=f"Write solve(x), case {id}."),), verifiers=specs)


def by_text(asked: Task, answer: str) -> tuple[Verdict, ...]:
    """The verifier of these tasks: only RIGHT passes."""
    return verdict(asked, Tried(answer, passed=answer == RIGHT))


async def build(name: str, *episodes: Episode, kit: Kit | None = None, **options: object) -> list[Row]:
    return await load_method(name, **options).build(Experience(episodes=episodes), kit or BenchKit(judge=by_text))


def counted(row: Row) -> list[str]:
    """The texts that count."""
    return [row.messages[piece.message].content for piece in row.pieces]


def texts(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


# --- what stands on the record --------------------------------------------------------------------------------------


def test_a_revision_stands_under_the_prompt_of_the_run_and_a_first_answer_keeps_its_tokens() -> None:
    wrong, right = solutions_of(refined(task(), Tried(WRONG, SAID), Tried(RIGHT, passed=True), system="Write Python."))
    assert (
        texts(wrong.prompt)
        == texts(right.prompt)
        == [("system", "Write Python."), ("user", task().messages[0].content)]
    )
    assert (wrong.passed, wrong.said, wrong.off_policy) == (False, (SAID,), False)
    assert (right.passed, right.text, right.off_policy, right.sampled) == (True, RIGHT, True, ())
    assert wrong.row().sampled[0].completion.token_ids == (1, 2, 3)


def test_the_whole_dialogue_keeps_all_tokens_and_flags_what_was_rejected() -> None:
    (whole,) = solutions_of(refined(task(), Tried(WRONG, SAID), Tried(RIGHT, passed=True)), whole=True)
    assert [turn.role for turn in whole.turns] == ["assistant", "user", "assistant"]
    assert (whole.flagged, whole.unflagged, whole.off_policy) == ((0,), (2,), False)
    assert [item.message for item in whole.sampled] == [1, 3]


def test_a_run_with_tools_is_one_solution_with_all_its_steps() -> None:
    calls = (("ls", "a.py"), ("cat a.py", "x = 1"))
    (one,) = solutions_of(acted(task(), Tried("1", "not there", True, calls=calls, flagged=0)))
    assert (one.steps, one.flagged, one.off_policy, one.passed) == ((0, 2, 4), (0,), False, True)
    assert one.tools[0].name == "shell"
    assert len(one.row().sampled) == 3


def test_of_samples_only_the_answer_inherits_the_verdict_of_the_run() -> None:
    run = sampled(task(), Tried(WRONG, passed=None), Tried(RIGHT, passed=True))
    attempts = tuple(msgspec.structs.replace(attempt, verdicts=()) for attempt in run.attempts)
    found = solutions_of(msgspec.structs.replace(run, attempts=attempts))
    assert [(one.text, one.passed) for one in found] == [(WRONG, None), (RIGHT, True)]


def test_the_plan_that_led_to_a_right_answer_is_right() -> None:
    run = sampled(task(), Tried(RIGHT, passed=True))
    plan = msgspec.structs.replace(
        run.attempts[0],
        messages=(Message(role="user", content="Plan it."),),
        completion=Completion(text="Reverse x."),
        verdicts=(),
        step_id="plan",
    )
    found = solutions_of(msgspec.structs.replace(run, attempts=(plan, *run.attempts)))
    assert [(one.text, one.passed) for one in found] == [("Reverse x.", True), (RIGHT, True)]


def test_people_count_only_where_nothing_was_executed() -> None:
    liked = Feedback(kind="accept", source="ana", value=1.0)
    stranger = Feedback(kind="reject", source="eve", value=-1.0, text="bad", trust="tainted")
    judged, unjudged, corrected, tainted = solutions(
        Experience(
            episodes=(
                imported(task("a"), WRONG, liked, passed=False),
                imported(task("b"), WRONG, liked),
                imported(task("c"), WRONG, Feedback(kind="correction", source="ana", text=RIGHT)),
                imported(task("d"), RIGHT, stranger),
            )
        )
    )
    assert (judged.passed, judged.evidence) == (False, "verifier")
    assert (unjudged.passed, unjudged.evidence, unjudged.trust) == (True, "person", "trusted")
    assert (corrected.passed, corrected.evidence) == (False, "person")
    assert (tainted.passed, tainted.trust, tainted.said) == (False, "tainted", ("bad",))


def test_a_strangers_remark_does_not_taint_what_execution_found() -> None:
    (one,) = solutions_of(
        imported(task(), RIGHT, Feedback(kind="comment", source="eve", text="bad", trust="tainted"), passed=True)
    )
    assert (one.passed, one.trust, one.said) == (True, "trusted", ())


def test_equal_answers_are_one_and_tasks_are_balanced() -> None:
    runs = [sampled(task(id), Tried(f"answer {n % 3}", passed=True)) for id in ("t1", "t2") for n in range(9)]
    found = distinct(solutions(Experience(episodes=tuple(runs))))
    assert len(found) == 6
    assert [one.run_id for one in found] == [run.run.id for run in (*runs[6:9], *runs[15:18])], "the newest of equals"
    kept = balanced(found, 2, BenchKit().rng)
    assert [one.task.id for one in kept] == ["t1", "t1", "t2", "t2"]


# --- the methods ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_rft_takes_what_passed_once_and_at_most_so_many_of_a_task() -> None:
    runs = [sampled(task(), *(Tried(f"{RIGHT} # {n}", passed=True) for n in range(6)), Tried(WRONG))]
    runs.append(refined(task("t2"), Tried(WRONG, SAID), Tried(RIGHT, passed=True)))
    rows = await build("rft", *runs, per_task=3)
    assert [row.task_id for row in rows] == ["t1"] * 3 + ["t2"]
    assert all(RIGHT in counted(row)[0] and len(row.messages) == 2 for row in rows)
    assert [row.off_policy for row in rows] == [False, False, False, True]
    assert {row.scale for row in rows} == {1.0}


@pytest.mark.asyncio
async def test_rft_weighs_harder_tasks_more_and_leaves_people_out_when_told_to() -> None:
    easy = sampled(task("easy"), Tried(RIGHT, passed=True))
    hard = sampled(task("hard"), Tried(RIGHT, passed=True), Tried("1"), Tried("2"), Tried("3"))
    rows = await build("rft", easy, hard, harder=1.0)
    assert [(row.task_id, row.scale) for row in rows] == [("easy", 0.4), ("hard", 1.6)]
    liked = imported(task("liked"), RIGHT, Feedback(kind="rating", source="ana", value=0.9))
    assert len(await build("rft", liked)) == 1
    with pytest.raises(UserError, match="rft needs answers that passed"):
        await build("rft", liked, people=False)
    assert hardness(solutions(Experience(episodes=(easy,))), 0.0, solutions_of(easy)) == {"easy": 1.0}


@pytest.mark.asyncio
async def test_ilf_learns_the_refinement_without_the_feedback() -> None:
    (row,) = await build("ilf", refined(task(), Tried(WRONG, SAID), Tried(RIGHT, passed=True)))
    assert texts(row.messages) == [("user", task().messages[0].content), ("assistant", RIGHT)]
    assert row.off_policy
    assert len(row.sources) == len(set(row.sources)) == 4, "run, two verdicts, a critique"


@pytest.mark.asyncio
async def test_ilf_executes_corrections_before_it_believes_them() -> None:
    said = Feedback(kind="comment", source="ana", text="It should reverse.")
    wrong = Feedback(kind="correction", source="ana", text="def solve(x): return 1")
    right = Feedback(kind="correction", source="ana", text=RIGHT)
    (row,) = await build("ilf", imported(task(), WRONG, said, right), samples=0)
    assert counted(row) == [RIGHT]
    assert right.id in row.sources
    with pytest.raises(UserError, match=r"refinements that pass.*--graph refine"):
        await build("ilf", imported(task(), WRONG, said, wrong), samples=0)
    (believed,) = await build("ilf", imported(task(verifiers=False), WRONG, wrong), samples=0)
    assert counted(believed) == [wrong.text]


@pytest.mark.asyncio
async def test_ilf_asks_the_policy_where_nobody_refined_and_keeps_what_passes() -> None:
    async with ScriptedModel(["def solve(x): return 2", RIGHT, "def solve(x): return 3"]) as model:
        kit = BenchKit(model, by_text)
        (row,) = await build("ilf", refined(task(), Tried(WRONG, SAID)), kit=kit, samples=3)
    asked = model.asked[0].messages
    assert texts(asked)[1:] == [("assistant", WRONG), ("user", render_retry([SAID]))]
    assert (counted(row), len(row.messages)) == ([RIGHT], 2)
    with pytest.raises(UserError, match="no model to ask"):
        await build("ilf", refined(task(), Tried(WRONG, SAID)), samples=3)


@pytest.mark.asyncio
async def test_what_was_paid_for_is_kept_when_the_budget_ends() -> None:
    runs = [refined(task(id), Tried(WRONG, SAID)) for id in ("t1", "t2")]
    async with ScriptedModel([RIGHT, BudgetError("calls: used up")]) as model:
        rows = await build("ilf", *runs, kit=BenchKit(model, by_text), samples=1)
    assert [row.task_id for row in rows] == ["t1"]
    async with ScriptedModel([BudgetError("calls: used up")]) as model:
        with pytest.raises(BudgetError):
            await build("ilf", *runs, kit=BenchKit(model, by_text), samples=1)


@pytest.mark.asyncio
async def test_faft_puts_the_feedback_where_the_policy_will_put_success() -> None:
    run = sampled(
        task(), Tried(WRONG, SAID), Tried(RIGHT, passed=True), system=render_system("Write Python.", "Be brief.")
    )
    good, bad = await build("faft", run)
    assert counted(good) == [RIGHT]
    assert counted(bad) == [WRONG]
    assert bad.messages[0].content == f"Feedback on the answer: {SAID}\n\nWrite Python.\n\nBe brief."
    method, policy = (
        load_method("faft"),
        Policy.of({"prompts/system.md": "Write Python.\n", "principles.md": "Be brief."}),
    )
    served = policy.edit(method.serving(policy, Experience()))
    again = served.edit(method.serving(served, Experience()))
    assert again == served, "the line is put in once"
    assert good.messages[0].content == render_system(again.text("prompts/system.md"), again.text("principles.md"))
    with pytest.raises(UserError, match="rejected answers with feedback"):
        await build("faft", sampled(task(), Tried(RIGHT, passed=True)))


def test_a_slot_is_replaced_and_holds_no_empty_line() -> None:
    prompt = with_slot((Message(role="user", content="hi"),), "Mood", "good\n\nvery")
    assert texts(prompt) == [("system", "Mood: good\nvery"), ("user", "hi")]
    assert texts(with_slot(prompt, "Mood", "bad"))[0] == ("system", "Mood: bad")
    assert serving_slot(Policy(), "Mood", "good") == {"prompts/system.md": "Mood: good"}


@pytest.mark.asyncio
async def test_coh_chains_both_orders_and_counts_answers_only() -> None:
    run = sampled(task(), Tried(WRONG), Tried(RIGHT, passed=True))
    first, second = await build("coh", run, mask=0.0)
    assert [counted(first), counted(second)] == [[WRONG, RIGHT], [RIGHT, WRONG]]
    assert first.messages[0].content == "Quality of the answer: bad"
    assert texts(first.messages)[3] == ("user", "Quality of the answer: good")
    rows = await build("coh", run, mask=1.0)
    assert [counted(row) for row in rows] == [[WRONG], [RIGHT], [RIGHT], [WRONG]]
    assert [row.messages[2].content for row in rows] == [WRONG, RIGHT, "", ""], "what is masked does not count"
    assert load_method("coh").serving(Policy(), Experience()) == {"prompts/system.md": "Quality of the answer: good"}


def trajectory(*calls: tuple[str, str], answer: str = "done", passed: bool, flagged: int | None = None) -> Episode:
    return acted(task(), Tried(answer, "a wrong turn", passed, calls=calls, flagged=flagged))


@pytest.mark.asyncio
async def test_agent_r_splices_at_the_first_bad_step() -> None:
    bad = trajectory(("cd a", ""), ("rm b", "gone"), ("ls", ""), passed=False, answer="lost")
    good = trajectory(("cd a", ""), ("cat b", "42"), passed=True, answer="42")
    spliced, plain = await build("agent-r", bad, good)
    said = [call.arguments for message in spliced.messages for call in message.tool_calls]
    assert said == ['{"command": "cd a"}', '{"command": "rm b"}', '{"command": "cat b"}']
    first, second = counted(spliced)
    assert first in THOUGHTS
    assert second == "42"
    assert [piece.message for piece in spliced.pieces] == [5, 7], "neither the shared nor the bad step counts"
    assert len(plain.pieces) == 3
    assert not plain.off_policy


@pytest.mark.asyncio
async def test_agent_r_follows_the_critic_to_a_later_step() -> None:
    bad = trajectory(("cd a", ""), ("ls", "b"), ("rm b", "gone"), ("ls", ""), passed=False, answer="lost", flagged=2)
    good = trajectory(("cd a", ""), ("cat b", "42"), passed=True, answer="42")
    one, other = solutions_of(bad)[0], solutions_of(good)[0]
    shared = common_prefix(one.turns, other.turns)
    assert (shared, first_bad_step(one, shared)) == (2, 4)
    spliced, _ = await build("agent-r", bad, good)
    assert [call.arguments for message in spliced.messages for call in message.tool_calls] == [
        f'{{"command": "{command}"}}' for command in ("cd a", "ls", "rm b", "cat b")
    ]


@pytest.mark.asyncio
async def test_agent_r_rejects_a_wrong_answer_as_an_agent_that_revises_would() -> None:
    wrong, right = refined(task(), Tried(WRONG, SAID)), refined(task(), Tried(RIGHT, passed=True))
    spliced, plain = await build("agent-r", wrong, right)
    assert texts(spliced.messages)[1:] == [("assistant", WRONG), ("user", render_retry([SAID])), ("assistant", RIGHT)]
    assert counted(spliced) == counted(plain) == [RIGHT]
    only = await build("agent-r", wrong, right, good_share=0.0)
    assert len(only) == 1
    two = await build("agent-r", wrong, right, good_share=0.75)
    assert [row.scale for row in two] == [1.0, 3.0], "one good trajectory for a share of three quarters"
    with pytest.raises(UserError, match="good_share is 1"):
        await build("agent-r", wrong, right, good_share=1.0)
    with pytest.raises(UserError, match="good and bad runs of one task"):
        await build("agent-r", right)


@pytest.mark.asyncio
async def test_self_debug_explains_and_repairs() -> None:
    run = refined(task(), Tried(WRONG, "It does not reverse."), Tried(RIGHT, passed=True))
    (row,) = await build("self-debug", run)
    assert counted(row) == ["It does not reverse.", RIGHT]
    assert texts(row.messages)[-2] == ("user", "Write a corrected answer.")
    (steps,) = await build("self-debug", run, variant="steps")
    assert counted(steps) == [RIGHT]
    assert not steps.off_policy
    assert len(steps.sampled) == 1


@pytest.mark.asyncio
async def test_self_debug_asks_for_the_explanation_and_keeps_what_leads_to_a_pass() -> None:
    async with ScriptedModel(["It adds.", "It does not reverse.", WRONG, RIGHT]) as model:
        kit = BenchKit(model, by_text)
        (row,) = await build("self-debug", refined(task(), Tried(WRONG, SAID)), kit=kit, explain="ask", samples=2)
    assert counted(row) == ["It does not reverse.", RIGHT]
    assert SAID in model.asked[0].messages[-1].content


def at(temperature: float, id: str, *tried: Tried) -> Episode:
    return sampled(task(id), *tried, temperature=temperature)


def test_the_balance_score_is_that_of_the_paper() -> None:
    assert balance(6, 8, 8) == pytest.approx(0.75 * 0.75)
    assert balance(16, 16, 8) == 1.0
    assert balance(1, 8, 8) == pytest.approx(1 / 64)
    assert balance(0, 0, 8) == 0.0


@pytest.mark.asyncio
async def test_b_star_prefers_the_temperature_that_finds_different_right_answers() -> None:
    same = [at(0.2, id, *(Tried(RIGHT, passed=True) for _ in range(4))) for id in ("t1", "t2")]
    varied = [at(0.8, id, *(Tried(f"{RIGHT} # {n}", passed=n > 0) for n in range(4))) for id in ("t1", "t2")]
    wild = [at(1.5, id, *(Tried(f"{n}", passed=False) for n in range(4))) for id in ("t1", "t2")]
    experience = Experience(episodes=(*same, *varied, *wild))
    setting = choose(solutions(experience), (0.0, 1.0), 4)
    assert (setting.temperature, setting.threshold) == (0.8, 1.0)
    assert setting.balance == pytest.approx(0.75), "3 of 4 wanted, all of 3 selected"
    rows = await build("b-star", *same, *varied, *wild, target=4)
    assert len(rows) == 6
    assert all("#" in counted(row)[0] for row in rows)
    policy = Policy.of({"settings.toml": "rounds = 2\ntemperature = 0.2\n"})
    served = policy.edit(load_method("b-star", target=4).serving(policy, experience))
    assert served.settings() == {"rounds": 2, "temperature": 0.8}
    with pytest.raises(UserError, match=r"several known temperatures \(found: \['0.2'\]\)"):
        await build("b-star", *same)


@pytest.mark.asyncio
async def test_teach_trains_both_roles_or_one() -> None:
    run = refined(task(), Tried("def solve(x): return 0", "Not zero."), Tried(WRONG, SAID), Tried(RIGHT, passed=True))
    student, *teachers = await build("teach", run)
    assert counted(student) == [RIGHT]
    assert len(student.messages) == 6
    assert not student.off_policy
    assert sorted(counted(row)[0] for row in teachers) == sorted(["Not zero.", SAID, "Nothing is wrong."])
    assert {row.term for row in teachers} == {"teacher"}
    assert set(load_method("teach").objectives()) == {"", "teacher"}
    assert len(await build("teach", run, teacher=False)) == 1
    with pytest.raises(UserError, match="learns nothing"):
        await build("teach", run, teacher=False, student=False)


# --- what is missing is said ------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", NAMES)
async def test_without_experience_it_says_what_is_missing_and_how_to_get_it(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} needs .*; .*(run|set)") as caught:
        await build(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_says_of_itself_is_whole(name: str) -> None:
    method = load_method(name)
    assert (method.info.name, method.info.family) == (name, "imitation")
    assert method.info.paper.startswith("arXiv ")
    assert method.objectives()[""]
    assert method.training().epochs >= 1
    with pytest.raises(UserError, match="takes no colour"):
        load_method(name, colour="red")


# --- real runs --------------------------------------------------------------------------------------------------------


async def record(memory: Memory, pool: SandboxPool, tasks: Sequence[Task], graph: str, settings: str) -> None:
    policy = Policy.of({"settings.toml": f"max_tokens = 120\n{settings}"})
    async with Agent(graph, load_model("tiny"), memory=memory, sandbox=pool) as agent:
        await run_tasks(agent, tasks, policy=policy, progress=lambda result: None)


@pytest.mark.asyncio
async def test_rows_of_real_runs_encode_without_loss(memory: Memory, pool: SandboxPool, world_tasks: Tasks) -> None:
    """The embedded model refines and samples real tasks in real sandboxes; every method's rows become data."""
    tasks = world_tasks(8, lengths=(1,))
    await record(memory, pool, tasks, "refine", "temperature = 1.0\nrounds = 4")
    await record(memory, pool, tasks, "best_of_n", "temperature = 1.3\nn = 6")
    experience = await collect(TrainMemory(memory))
    template = load_template("core/whet/core/models/tiny/weights")
    for name in NAMES:
        rows = await load_method(name).build(experience, BenchKit())
        encoded = encode_rows(rows, template)
        assert encoded.report.drops == (), (name, encoded.report.lines())
        assert len(encoded.data) == len(rows) > 0
        known = {run.run.id for run in experience.episodes}
        assert all(known & set(row.sources) and row.task_id for row in rows), name


# --- learning ---------------------------------------------------------------------------------------------------------


LEARNING: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "rft": ({}, {"steps": 40}),
    "ilf": ({"samples": 0}, {"steps": 50}),
    "faft": ({"per_task": 2}, {"steps": 60, "lr_scale": 2.0}),
    "coh": ({"per_task": 1}, {"steps": 90, "lr_scale": 2.0}),
    "agent-r": ({"per_task": 2}, {"steps": 40}),
    "self-debug": ({"per_task": 2}, {"steps": 50}),
    "teach": ({"per_task": 2}, {"steps": 50}),
}
"""Of each method: its options, and the trainer's settings."""
REVISING = ("self-debug", "teach")
"""What these learn shows where both sides may revise once, and on the tasks that it was learned on."""


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("name", LEARNING)
async def test_it_learns_from_what_is_true_and_not_from_chance(
    name: str, bench: Any, refined: Experience, unfounded: Experience
) -> None:
    """The gate promotes what the embedded model learned from its own runs, and nothing that chance had judged.

    All but ``REVISING`` are judged on chains of verbs that they were not trained on.
    """
    options, settings = LEARNING[name]
    method, place = load_method(name, **options), taught(bench) if name in REVISING else bench
    for experience, promoted in ((refined, True), (unfounded, False)):
        trainer = await bench.fit(method, experience, **settings)
        system = Policy().edit(method.serving(Policy(), experience)).text("prompts/system.md")
        promotion = await place.decide(trainer, system=system, retries=int(name in REVISING))
        assert (promotion.decision == "promoted") is promoted, promotion


def taught(bench: Any) -> Any:
    """The bench with the training tasks in the place of the held-out ones."""
    other = copy.copy(bench)
    other.heldout = [msgspec.structs.replace(task, split="heldout") for task in bench.train]
    return other


@pytest.mark.slow
@pytest.mark.asyncio
async def test_b_star_learns_at_the_temperature_that_it_finds(bench: Any, chance: Any) -> None:
    method = load_method("b-star")
    for judge, promoted in ((None, True), (chance, False)):
        judged = {"judge": judge} if judge else {}
        runs = [
            bench.practice(bench.trainer(method), temperature=temperature, **judged).rollout(bench.train, 16).episodes
            for temperature in (0.1, 1.0)
        ]
        experience = Experience(episodes=tuple(episode for each in runs for episode in each))
        if promoted:
            assert method.serving(Policy(), experience) == {"settings.toml": "temperature = 1.0\n"}
        promotion = await bench.decide(await bench.fit(method, experience, steps=50))
        assert (promotion.decision == "promoted") is promoted, promotion
