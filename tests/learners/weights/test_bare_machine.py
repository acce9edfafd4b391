"""The trainer on a machine that has torch, transformers, peft, safetensors, msgspec, and what these need."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from whet.agents.tasksets.world import world_task
from whet.core.adapters import check_fit
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.world import World
from whet.core.wire import decode
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.job import Job, write_job
from whet.learners.weights.objectives import NLL
from whet.learners.weights.reports import StepReport, TrainReport
from whet.learners.weights.rows import answer_row
from whet.learners.weights.templates import encode_rows, load_template

PRESENT = ("torch", "transformers", "peft", "safetensors", "msgspec", "numpy")
ROOMS = ("agents", "apps", "feedback", "memory", "sandboxes", "skills")

HIDES = """
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN or any(name == each or name.startswith(each + ".") for each in MODULES):
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


def needed(packages: Sequence[str]) -> set[str]:
    """Returns the installed packages that these need, in all depth, without extras."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in packages]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        wanted = [Requirement(line) for line in lines]
        waiting += [
            canonicalize_name(each.name) for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds no other package, and of whet the core and the room of weights only."""
    kept = needed(PRESENT)
    hidden = {
        name
        for name, owners in packages_distributions().items()
        if name != "whet" and not {canonicalize_name(owner) for owner in owners} & kept
    }
    assert {"litellm", "langgraph", "sqlalchemy", "openai", "pydantic_settings"} <= hidden
    learners = Path(__file__).parents[3] / "learners" / "whet" / "learners"
    beside = [f"whet.learners.{path.stem}" for path in learners.glob("*.py") if path.stem != "__init__"]
    modules = [*(f"whet.{room}" for room in ROOMS), *beside]
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(f"HIDDEN = {hidden!r}\nMODULES = {modules!r}\n{HIDES}")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def test_the_machine_is_bare(bare: dict[str, str]) -> None:
    probe = "import importlib, sys\nfor name in sys.argv[1:]:\n  try: importlib.import_module(name); print(name)\n"
    probe += "  except ModuleNotFoundError: pass"
    wanted = ("litellm", "langgraph", "sqlalchemy", "openai", "whet.memory", "whet.agents", "whet.learners.view")
    assert python(bare, "-c", probe, *wanted).stdout == ""
    assert python(bare, "-c", probe, "msgspec", "whet.core", "whet.learners.weights.rows").stdout.count("\n") == 3


def test_a_job_is_done_there_and_the_adapter_is_used_here(bare: dict[str, str], tmp_path: Path) -> None:
    world = World(7, verbs=4)
    tasks = [world_task(task, world) for task in world.tasks(4, lengths=(1,))]
    rows = [answer_row(task.messages, task.reference or "", task_id=task.id) for task in tasks]
    config = TrainConfig(steps=3, threads=1)
    job = Job(base=str(WEIGHTS), method="rft", config=config, objectives={"": NLL()})
    write_job(tmp_path, job, encode_rows(rows, load_template(WEIGHTS, spelled="text")).data)
    done = python(bare, "-m", "whet.learners.weights.job", str(tmp_path))
    assert done.returncode == 0, done.stderr
    steps = [decode(line.encode(), StepReport) for line in done.stdout.splitlines()]
    assert [step.step for step in steps] == [1, 2, 3]
    report = decode((tmp_path / "report.json").read_bytes(), TrainReport)
    assert report.losses == tuple(step.loss for step in steps)
    check_fit(tmp_path / "adapter", WEIGHTS)


def test_what_is_wrong_there_is_one_line(bare: dict[str, str], tmp_path: Path) -> None:
    job = Job(base="/no/such/model", method="rft", config=TrainConfig(steps=1), objectives={"": NLL()})
    write_job(tmp_path, job, [])
    elsewhere = python(bare, "-m", "whet.learners.weights.job", str(tmp_path))
    assert elsewhere.returncode == 2
    assert elsewhere.stderr.count("\n") == 1
    assert "/no/such/model" in elsewhere.stderr
    assert not (tmp_path / "adapter").exists()
