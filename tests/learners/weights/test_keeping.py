"""What keeps an adapter from unlearning: replay of what is close to the policy, and the penalty on moving away."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import torch

from whet.agents.tasksets.world import world_task
from whet.core.budget import Budget
from whet.core.errors import UserError
from whet.core.models import load_model
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.world import World
from whet.core.records import Run, Task, Verdict
from whet.learners.adoption import incumbent_arm
from whet.learners.learner import load_learner
from whet.learners.view import TrainMemory
from whet.learners.weights.card import render
from whet.learners.weights.keeping import TERM, Replay, kept_objectives
from whet.learners.weights.learner import WeightLearner
from whet.learners.weights.lora import Weights
from whet.learners.weights.method import METHODS, load_method
from whet.learners.weights.methods.rft import RFT
from whet.learners.weights.objectives import NLL, Distillation, Objective, PolicyGradient
from whet.learners.weights.rows import Row, answer_row
from whet.learners.weights.templates import encode_rows
from whet.learners.weights.trainer import Trainer
from whet.memory import Memory

if TYPE_CHECKING:
    from conftest import Bench


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tasks_of(world: World, n: int, lengths: tuple[int, ...] = (1, 2)) -> list[Task]:
    found = [world_task(task, world) for task in world.tasks(n, lengths=lengths)]
    return [msgspec.structs.replace(task, split="train") for task in found]


def rows_of(tasks: list[Task], **fields: object) -> list[Row]:
    return [answer_row(task.messages, task.reference or "", task_id=task.id, **fields) for task in tasks]


async def solved(memory: Memory, tasks: list[Task], *, passed: bool = True, before: str = "") -> None:
    """Puts a run with the right answer to each task into the memory, after some text, judged by execution."""
    for task in tasks:
        run = Run(task_id=task.id, agent="elsewhere", status="done", answer=before + (task.reference or ""))
        outcome = "pass" if passed else "fail"
        verdict = Verdict(run_id=run.id, task_id=task.id, verifier="python_tests", outcome=outcome, score=float(passed))  # type: ignore[arg-type]
        await memory.put(task, actor="test")
        await memory.put(run, actor="test")
        await memory.put(verdict, actor="test")


_KEPT: dict[str, Path] = {}


@pytest.fixture
def incumbent(bench: "Bench", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that knows the world of the bench; trained once for this module."""
    if not _KEPT:
        trainer = bench.trainer(RFT(), lr=1e-3)
        trainer.fit(encode_rows(rows_of(bench.train), bench.template).data)
        _KEPT["folder"] = tmp_path_factory.mktemp("incumbent") / "adapter"
        trainer.tuned.save(_KEPT["folder"])
    return _KEPT["folder"]


def going_on(incumbent: Path, objectives: dict[str, Objective], **settings: object) -> Trainer:
    """Returns a trainer that goes on from the incumbent."""
    config = msgspec.structs.replace(RFT().training(), threads=1, lr=1e-3, **settings)  # type: ignore[arg-type]
    return Trainer(WEIGHTS, config, objectives, init=incumbent)


# --- replay -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_old_world_is_kept_while_a_new_one_is_learned(bench: "Bench", memory: Memory, incumbent: Path) -> None:
    """Both worlds end up in one adapter with replay; without, the new one takes the place of the old one."""
    await solved(memory, bench.train)
    new, rates, learned = rows_of(tasks_of(World(16, verbs=8), 16)), {}, {}
    before = bench.rate(going_on(incumbent, {"": NLL()}))
    for share in (0.0, 1.0):
        trainer = going_on(incumbent, kept_objectives(RFT(), replay=share), steps=40, batch=8)
        kit, rows = bench.practice(trainer), list(new)
        if share:
            rows += await Replay(TrainMemory(memory), kit, bench.template, share).rows(rows)
        ignorant = await kit.logprobs(new)
        trainer.fit(encode_rows(rows, bench.template).data)
        rates[share] = bench.rate(trainer)
        learned[share] = sum(map(sum, await kit.logprobs(new))) / sum(map(sum, ignorant))
    assert before > 0.8
    assert rates[0.0] < before - 0.3
    assert rates[1.0] > rates[0.0] + 0.2, rates
    assert max(learned.values()) < 0.3, "the loss on the new world fell to less than a third either way"


@pytest.mark.asyncio
async def test_what_is_replayed_is_verified_from_elsewhere_first_and_held_least_firmly(
    bench: "Bench", memory: Memory
) -> None:
    mine, same = tasks_of(World(16, verbs=8), 24)[:16], tasks_of(World(16, verbs=8), 24)[16:]
    other = tasks_of(World(9, verbs=8), 12)
    await solved(memory, [*mine, *same, *other[:6]])
    await solved(memory, other[6:], passed=False)
    view, kit, rows = TrainMemory(memory), bench.practice(bench.trainer(RFT())), rows_of(mine)
    found = await Replay(view, kit, bench.template, 0.25).rows(rows)
    assert len(found) == 4
    assert {row.term for row in found} == {TERM}
    every = await Replay(view, kit, bench.template, 6 / 16).rows(rows)
    assert {row.task_id for row in every} == {task.id for task in other[:6]}
    closeness = [sum(logps) / len(logps) for logps in await kit.logprobs(every)]
    assert closeness == sorted(closeness)
    assert found == every[:4]
    more = await Replay(view, kit, bench.template, 0.5).rows(rows)
    assert [row.task_id in {task.id for task in other[:6]} for row in more] == [True] * 6 + [False] * 2
    assert {row.task_id for row in more[6:]} < {task.id for task in same}
    assert len(await Replay(view, kit, bench.template, 10).rows(rows)) == 6 + len(same)


@pytest.mark.asyncio
async def test_of_several_answers_to_a_task_the_closest_is_replayed(bench: "Bench", memory: Memory) -> None:
    mine, other = tasks_of(World(16, verbs=8), 4), tasks_of(World(9, verbs=8), 2)
    await solved(memory, mine)
    await solved(memory, other)
    await solved(memory, other, before="# " + "zq " * 9 + "\n")
    kit = bench.practice(bench.trainer(RFT()))
    found = await Replay(TrainMemory(memory), kit, bench.template, 0.5).rows(rows_of(mine))
    assert {row.messages[-1].content for row in found} == {task.reference for task in other}


@pytest.mark.asyncio
async def test_replay_is_counted_on_the_card_and_rests_on_its_records(memory: Memory) -> None:
    mine, other = tasks_of(World(16, verbs=8), 12), tasks_of(World(9, verbs=8), 6)
    await solved(memory, other)
    await solved(memory, mine)
    learner = load_learner("rft", model=load_model("tiny"), where="task_set=world-16", replay="0.5")
    assert isinstance(learner, WeightLearner)
    dataset = await learner.dataset(TrainMemory(memory), await incumbent_arm(memory), Budget())
    assert [(stage.name, stage.rows) for stage in dataset.card.stages][:2] == [("built", 12), ("with replay", 18)]
    assert sum(datum.term == TERM for datum in dataset.data) == 6
    assert "6 rows are earlier answers from 1 task sets" in render(dataset.card)
    runs = {run.id for run in await memory.find(Run) if run.task_id in {task.id for task in other}}
    assert runs <= set(dataset.sources)
    assert {dataset.card.kinds[id] for id in runs} == {"run"}
    plain = WeightLearner("rft", model=load_model("tiny"), where="task_set=world-16")
    assert len((await plain.dataset(TrainMemory(memory), await incumbent_arm(memory), Budget())).data) == 12


def test_every_method_that_trains_a_policy_can_replay_beside_its_own_losses() -> None:
    for name in METHODS:
        method = load_method(name)
        if method.info.family == "reward":
            with pytest.raises(UserError, match=f"{name} cannot replay"):
                kept_objectives(method, replay=0.5)
            continue
        own, kept = method.objectives(), kept_objectives(method, replay=0.5)
        assert kept == {**own, TERM: NLL(coefficient=0.5)}
    with pytest.raises(UserError, match=r"replay is -1"):
        WeightLearner("rft", replay=-1)
    with pytest.raises(UserError, match=r"replay='half' cannot be read"):
        load_learner("rft", replay="half")


# --- the penalty ------------------------------------------------------------------------------------------------------


def test_the_penalty_goes_to_the_losses_that_have_one() -> None:
    assert kept_objectives(RFT(), kl=0.2) == {"": NLL(kl=0.2)}
    mixed = kept_objectives(load_method("opd"), kl=0.2, replay=0.1)
    assert isinstance(mixed[""], PolicyGradient)
    assert isinstance(mixed["hint"], Distillation)
    assert (mixed[""].kl, mixed[TERM]) == (0.2, NLL(coefficient=0.1))
    for name in ("dpo", "kto", "sdpo", "rm"):
        with pytest.raises(UserError, match=f"{name} has no loss that takes kl"):
            WeightLearner(name, kl=0.1)
    with pytest.raises(UserError, match=r"kl is -0\.5"):
        WeightLearner("rft", kl=-0.5)
    learner = load_learner("grpo", kl="0.3")
    assert isinstance(learner, WeightLearner)
    assert learner.objectives[""] == kept_objectives(load_method("grpo", kl=0.3))[""]


def test_the_reference_is_the_adapter_that_training_goes_on_from(bench: "Bench", incumbent: Path) -> None:
    """With a heavy penalty the policy stays where the incumbent is, which is far from the base."""
    there = encode_rows(rows_of(bench.train), bench.template).data
    new = encode_rows(rows_of(tasks_of(World(16, verbs=8), 16)), bench.template).data

    def logprob(trainer: Trainer, weights: Weights = "live") -> float:
        return sum(float(logp_n.sum()) for logp_n in trainer.score(there, weights=weights))

    begun, moved = logprob(going_on(incumbent, {"": NLL()})), {}
    for kl in (0.0, 100.0):
        trainer = going_on(incumbent, kept_objectives(RFT(), kl=kl), steps=15, warmup=0.0)
        assert logprob(trainer, "initial") == pytest.approx(begun, abs=1e-3)
        trainer.fit(new)
        moved[kl] = abs(logprob(trainer) - begun)
    assert moved[100.0] < 0.5 * moved[0.0], moved
    assert moved[100.0] < 0.2 * abs(logprob(bench.trainer(RFT())) - begun)
