"""Steps and rounds in real trackers, on this machine, where they are installed; and what is said where they are not."""

import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from whet.agents.tasksets.world import world_task
from whet.core.budget import Budget
from whet.core.errors import BudgetError, UserError
from whet.core.models import load_model
from whet.core.models.tiny.world import World
from whet.core.records import Run, Verdict
from whet.learners.adoption import incumbent_arm
from whet.learners.learner import load_learner
from whet.learners.view import TrainMemory
from whet.learners.weights.datum import Datum
from whet.learners.weights.experience import Experience
from whet.learners.weights.learner import WeightLearner
from whet.learners.weights.method import Rollouts
from whet.learners.weights.methods.rft import RFT
from whet.learners.weights.reports import StepReport
from whet.learners.weights.rounds import Rate, RoundReport, learn_in_rounds
from whet.learners.weights.rows import answer_row
from whet.learners.weights.templates import encode_rows
from whet.learners.weights.trackers import track
from whet.memory import Memory

if TYPE_CHECKING:
    from conftest import Bench

STEP = StepReport(
    step=3, total=9, loss=0.5, grad_norm=1.5, lr=1e-3, tokens=100, counted=40, seconds=2.0, measures={"entropy": 0.7}
)
ROUND = RoundReport(
    round=1, episodes=4, passed=0.25, score=0.5, distinct=0.75, data=3, probe=Rate(mean=0.125, n=8), mismatch=None
)
LOGGED = {
    "train/loss": 0.5,
    "train/grad_norm": 1.5,
    "train/lr": 1e-3,
    "train/tokens_per_second": 50.0,
    "train/entropy": 0.7,
    "round/round": 1.0,
    "round/passed": 0.25,
    "round/score": 0.5,
    "round/distinct": 0.75,
    "round/data": 3.0,
    "round/seconds": 0.0,
    "round/probe": 0.125,
}
CONFIG = {"train.lr": 1e-3, "options.per_task": 4, "keeping.kl": None}


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow with its store in a folder."""
    found = pytest.importorskip("mlflow")
    found.set_tracking_uri(None)  # What another test set goes before the environment.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return found


def runs_of(mlflow: Any) -> list[Any]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("whet")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.mark.filterwarnings("ignore:.*filesystem tracking backend:FutureWarning")
def test_mlflow_has_steps_rounds_and_settings(mlflow: Any) -> None:
    with track("mlflow", "rft", CONFIG) as tracker:
        tracker.step(STEP)
        tracker.round(ROUND)
    (run,) = runs_of(mlflow)
    assert run.data.metrics == LOGGED
    assert run.data.params == {"train.lr": "0.001", "options.per_task": "4", "keeping.kl": "None"}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "rft")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "round/passed")
    assert [metric.step for metric in history] == [3]


@pytest.mark.filterwarnings("ignore:.*filesystem tracking backend:FutureWarning")
def test_mlflow_is_told_of_a_failure_and_may_fail_itself(mlflow: Any, caplog: pytest.LogCaptureFixture) -> None:

    def interrupted() -> None:
        with track("mlflow", "rft", {}) as tracker:
            tracker.step(STEP)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (run,) = runs_of(mlflow)
    assert run.info.status == "FAILED"
    with track("mlflow", "rft", {}) as tracker:
        for run in runs_of(mlflow):
            mlflow.MlflowClient().delete_run(run.info.run_id)
        tracker.step(STEP)
        tracker.step(STEP)
    assert [record.message.startswith("the tracker failed, and is left:") for record in caplog.records] == [True]
    mlflow.set_tracking_uri("nowhere://x")
    with pytest.raises(UserError, match=r"'mlflow' cannot begin a run: .*nowhere"), track("mlflow", "rft", {}):
        pass


@pytest.mark.filterwarnings("ignore:.*filesystem tracking backend:FutureWarning")
@pytest.mark.asyncio
async def test_a_learner_tells_of_its_steps_and_of_its_end(mlflow: Any, memory: Memory) -> None:
    world = World(7, verbs=4)
    for task in world.tasks(4, lengths=(1,)):
        record = msgspec.structs.replace(world_task(task, world), split="train")
        run = Run(task_id=record.id, agent="elsewhere", status="done", answer=record.reference)
        verdict = Verdict(run_id=run.id, task_id=record.id, verifier="python_tests", outcome="pass", score=1.0)
        for each in (record, run, verdict):
            await memory.put(each, actor="test")

    def stop(report: StepReport) -> None:
        if report.step == 2:
            raise BudgetError("no seconds are left")

    small = {"steps": 3, "threads": 1}
    for heard in (None, stop):
        learner = WeightLearner("rft", model=load_model("tiny"), training=small, tracker="mlflow", on_step=heard)
        with pytest.raises(BudgetError) if heard else nullcontext():
            assert [p async for p in learner.propose(TrainMemory(memory), await incumbent_arm(memory), Budget())]
    found = {run.info.status: run for run in runs_of(mlflow)}
    assert set(found) == {"FINISHED", "FAILED"}
    steps = {
        status: len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss"))
        for status, run in found.items()
    }
    assert steps == {"FINISHED": 3, "FAILED": 2}
    assert found["FINISHED"].data.params["train.steps"] == "3"


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Weights & Biases on this machine only."""
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    found = pytest.importorskip("wandb")
    yield found
    found.teardown()


def records(file: bytes) -> Iterator[bytes]:
    """Yields the records of a file in the form of LevelDB's log, after its 7 bytes of header; it is one block long."""
    place = 7
    while place < len(file):
        _, size, kind = struct.unpack_from("<IHB", file, place)
        assert kind == 1, "a whole record"
        yield file[place + 7 : place + 7 + size]
        place += 7 + size


def logged_offline(folder: Path) -> tuple[dict[str, float], int]:
    """Returns what the file of an offline run holds: its last measurements, and its exit code."""
    from wandb.proto import wandb_internal_pb2

    values, code = dict[str, float](), -1
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        values |= {item.key or item.nested_key[0]: float(item.value_json) for item in record.history.item}
        code = record.exit.exit_code if record.HasField("exit") else code
    return values, code


@pytest.mark.parametrize("failing", [False, True])
def test_wandb_has_steps_and_rounds_and_how_it_ended(wandb: Any, tmp_path: Path, failing: bool) -> None:
    def work() -> None:
        with track("wandb", "rft", CONFIG) as tracker:
            tracker.step(STEP)
            tracker.round(ROUND)
            if failing:
                raise ValueError("on purpose")

    if failing:
        with pytest.raises(ValueError, match="on purpose"):
            work()
    else:
        work()
    wandb.teardown()  # Its service has now written everything.
    values, code = logged_offline(tmp_path)
    assert {key: value for key, value in values.items() if not key.startswith("_")} == LOGGED
    assert code == int(failing)


# --- rounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_steps_are_told_of_in_rounds_as_well(bench: "Bench") -> None:
    trainer = bench.trainer(RFT(), steps=None, schedule="constant", warmup=0.0)
    data = encode_rows(
        [answer_row(task.messages, task.reference or "") for task in bench.train[:2]], bench.template
    ).data
    steps: list[StepReport] = []

    async def rollout(number: int) -> Experience:
        return Experience()

    async def prepare(number: int, experience: Experience) -> Sequence[Datum]:
        return data

    await learn_in_rounds(trainer, rollout, prepare, Rollouts(rounds=2), on_step=steps.append)
    assert [(report.step, report.total) for report in steps] == [(1, 2), (2, 2)]


# --- asked for or not -------------------------------------------------------------------------------------------------


def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    code = "import sys, whet.learners.weights.trackers; sys.exit(bool({'mlflow', 'wandb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unknown_trackers_and_missing_ones_are_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="tracker is 'tensorboard'; it is one of mlflow, wandb"):
        load_learner("rft", tracker="tensorboard")
    for name, package in (("mlflow", "mlflow-skinny"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=f"'{name}' is not installed; run: pip install {package}"):
            load_learner("rft", tracker=name)
