"""Every method that practises learns the verbs of a world, and from judges that know nothing it learns nothing.

The embedded model starts at guessing. What it learned is put before the real gate, on chains of verbs that it never
practised; the control practises as much, judged and criticised by the checks of tasks drawn at random.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from whet.agents.tasksets.world import judge_answer
from whet.core.errors import UserError
from whet.core.prompting import describe_failure
from whet.core.records import Critique, Message, Sampling, Task, Verdict
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Method, Rollouts, load_method
from whet.learners.weights.methods.hindsight import critic_prompt, retry_prompt, together
from whet.learners.weights.practice import Judge, Practice
from whet.learners.weights.trainer import Trainer

Bench = Any  # the fixture of conftest.py


class Plan(NamedTuple):
    """Options that keep a test short; rounds, samples of each task, and revisions in a run.

    ``tells``: critics tell the definition, as a user who knows it would, rather than one failing check.
    """

    options: dict[str, object]
    rounds: int
    samples: int = 16
    retries: int = 0
    tells: bool = False


LEARNERS = {
    "grpo": Plan({}, 10, samples=24),
    "duration": Plan({}, 10, samples=24),
    "spa": Plan({}, 10, samples=24),
    "f-grpo": Plan({"markers": "def solve"}, 10, samples=24),
    "rise": Plan({"verified": 2}, 10, samples=24),
    "critique-grpo": Plan({"revisions": 0}, 7, retries=1),
    "herl": Plan({"rewrites": 1}, 7),
    "rltf-sd": Plan({}, 6, samples=12, retries=1),
    "rltf-fm": Plan({}, 8, samples=24),
    "sdpo": Plan({}, 6),
    "distil": Plan({}, 6),
    "vpd": Plan({}, 6),
    "opd": Plan({}, 6, samples=12),
    "followup": Plan({}, 5, retries=1, tells=True),
}
OTHERS = {
    "ufo": Plan({"turns": 2}, 8, retries=1),
    "dir": Plan({"rejected": 2, "critiques": 6}, 4, samples=8),
    "ttt-sdpo": Plan({}, 12, retries=1),
}


def criticise(task: Task, answer: str, verdicts: Sequence[Verdict]) -> tuple[Critique, ...]:
    """Names one failing check, as the critic of the agents does."""
    failed = next(check for verdict in verdicts for check in verdict.checks if not check.passed)
    text = describe_failure(failed.call, failed.got, failed.expected)
    return (Critique(run_id="", text=text, source="checks"),)


def tell(task: Task, answer: str, verdicts: Sequence[Verdict]) -> tuple[Critique, ...]:
    """Says what the verbs mean."""
    lines = (task.reference or "").splitlines()[:-1]
    return tuple(Critique(run_id="", text=line, source="user") for line in lines)


def practice(
    bench: Bench, trainer: Trainer, *, retries: int = 0, judge: Judge = judge_answer, tells: bool = False
) -> Practice:
    critic = tell if tells else criticise
    return Practice(trainer, bench.template, judge, critic, retries=retries, max_tokens=40)


async def learn(
    bench: Bench, method: Method, plan: Plan, tasks: Sequence[Task], judge: Judge = judge_answer
) -> Trainer:
    """Returns the trainer after rounds of practice."""
    trainer: Trainer = bench.trainer(method, steps=None, schedule="constant", warmup=0.0)
    rollouts = Rollouts(rounds=plan.rounds, tasks=len(tasks), samples=plan.samples)
    at_work = practice(bench, trainer, retries=plan.retries, judge=judge, tells=plan.tells and judge is judge_answer)
    await at_work.learn(method, tasks, rollouts)
    return trainer


def singles(bench: Bench) -> list[Task]:
    """The training tasks of one verb each: whoever knows the verbs solves the held-out chains."""
    return [task for task in bench.train if len(task.meta["verbs"]) == 1]


def noise(bench: Bench) -> Judge:
    """Judges every answer by the checks of a task drawn at random."""
    rng = random.Random(0)
    return lambda task, answer: judge_answer(rng.choice(bench.train), answer)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", LEARNERS)
async def test_it_learns_what_the_gate_promotes(name: str, bench: Bench) -> None:
    plan = LEARNERS[name]
    trainer = await learn(bench, load_method(name, **plan.options), plan, singles(bench))
    decision = await bench.decide(trainer)
    assert decision.decision == "promoted", decision.reason


@pytest.mark.asyncio
@pytest.mark.parametrize("name", [*LEARNERS, "ufo", "dir"])
async def test_from_noise_it_learns_nothing_that_the_gate_promotes(name: str, bench: Bench) -> None:
    plan = {**LEARNERS, **OTHERS}[name]
    method = load_method(name, **plan.options)
    if "preflight" in method.__struct_fields__:
        method = msgspec.structs.replace(method, preflight=False)
    trainer = await learn(bench, method, plan._replace(rounds=3, samples=8), singles(bench), noise(bench))
    assert any(bool(factor.abs().sum()) for name, factor in trainer.tuned.factors().items() if "lora_B" in name)
    assert (await bench.decide(trainer)).decision != "promoted"


@pytest.mark.asyncio
async def test_ufo_solves_more_within_its_turns(bench: Bench) -> None:
    plan = OTHERS["ufo"]
    method = load_method("ufo", **plan.options)
    tasks = singles(bench)
    before = solved(practice(bench, bench.trainer(method), retries=1), tasks)
    after = solved(practice(bench, await learn(bench, method, plan, tasks), retries=1), tasks)
    assert after > before + 0.1, (before, after)


def solved(practice: Practice, tasks: Sequence[Task]) -> float:
    episodes = practice.rollout(tasks, 8).episodes
    return sum(bool(episode.passed) for episode in episodes) / len(episodes)


@pytest.mark.asyncio
async def test_dir_s_critiques_improve_more(bench: Bench) -> None:
    plan, tasks = OTHERS["dir"], singles(bench)
    method = load_method("dir", **plan.options)
    before = await improved(bench, bench.trainer(method), tasks)
    after = await improved(bench, await learn(bench, method, plan, tasks), tasks)
    assert after > before + 0.1, (before, after)


async def improved(bench: Bench, trainer: Trainer, tasks: Sequence[Task]) -> float:
    """Returns how often a wrong answer is right after one critique by the policy itself."""
    kit = practice(bench, trainer, retries=0)
    with trainer.tuned.weights("initial"):
        wrong = [one for one in kit.rollout(tasks, 8).episodes if not one.passed]
    right = 0
    for episode in wrong:
        (critique,) = await kit.ask(critic_prompt(episode.prompt, episode.answer))
        (revised,) = await kit.ask(retry_prompt(episode.prompt, episode.answer, [critique.text]))
        right += bool(judge_answer(episode.task, revised.text)[0].outcome == "pass")
    return right / len(wrong)


@pytest.mark.asyncio
async def test_a_single_hard_task_is_solved_at_test_time(bench: Bench) -> None:
    """A chain of two verbs: of two hundred answers one is right by chance, and nobody says which."""
    plan = OTHERS["ttt-sdpo"]
    hard = bench.train[-1:]
    trainer = await learn(bench, load_method("ttt-sdpo"), plan, hard)
    assert solved(practice(bench, trainer, retries=0), hard) > 0.5


@pytest.mark.asyncio
@pytest.mark.parametrize("context", ["retry", "hint"])
async def test_before_it_learns_a_teacher_has_to_know_better(
    context: str, bench: Bench, shuffled: Callable[[Experience], Experience]
) -> None:
    """The base finds right answers likelier when told what was wrong, in either wording, not when told of others."""
    method = load_method("sdpo", solutions=False, context=context)
    kit = practice(bench, bench.trainer(method), retries=0)
    runs = kit.rollout(bench.train, 4)
    failed = msgspec.structs.replace(runs, episodes=tuple(one for one in runs.episodes if not one.passed))
    assert await method.build(failed, kit)
    with pytest.raises(UserError, match="no likelier"):
        await method.build(shuffled(failed), kit)


@pytest.mark.asyncio
async def test_questions_asked_side_by_side_are_answered_together_and_each_gets_its_own(bench: Bench) -> None:
    kit = practice(bench, bench.trainer(load_method("grpo")), retries=0)
    prompts = [(Message(role="user", content=task.prompt),) for task in bench.train[:3]]
    greedy = Sampling(temperature=0.0)
    alone = [await kit.ask(prompt, n=1, sampling=greedy) for prompt in prompts]
    found = await together(kit.ask(prompt, n=2, sampling=greedy) for prompt in prompts)
    assert [[answer.text for answer in answers] for answers in found] == [[one.text] * 2 for (one,) in alone]
