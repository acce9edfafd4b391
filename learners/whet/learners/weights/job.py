"""A training job is a folder: configuration, data and the reference to a base model go in, an adapter comes out.

    write_job(folder, Job(base="/models/llama", method="rft", config=config, objectives={"": NLL()}), data)
    report = run_job(folder)                    # or, in another environment or on another machine:
    python -m whet.learners.weights.job FOLDER  # one JSON line per step on stdout
    torchrun --nproc-per-node 4 -m whet.learners.weights.job FOLDER     # on several GPUs, or several CPUs

In: ``job.json``, ``data.jsonl``, and ``init/`` where an adapter is trained further. Out: ``adapter/`` (a peft
adapter), ``metrics.jsonl``, ``report.json``. A job that was cut off goes on from ``checkpoint.pt``; one that is done
does nothing.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from whet.core.errors import UserError, WhetError
from whet.core.records import Record
from whet.core.wire import decode, encode
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.datum import Datum
from whet.learners.weights.files import write_whole
from whet.learners.weights.objectives import Objective
from whet.learners.weights.reports import StepReport, TrainReport

if TYPE_CHECKING:
    from whet.learners.weights.distributed import World

__all__ = ["Job", "read_job", "run_job", "write_job"]


class Job(Record, frozen=True, kw_only=True):
    """What is trained: a folder of base weights, seen from where the job runs, by which method, how, with which losses.

    ``base_digest`` names the base weights that the data are for; other weights are refused.
    """

    base: str
    method: str
    config: TrainConfig
    objectives: dict[str, Objective]
    base_digest: str = ""


def write_job(folder: Path, job: Job, data: Sequence[Datum], *, init: Path | None = None) -> Path:
    """Returns the folder after writing the job into it.

    Raises:
        UserError: it holds another job.
        StoreError: it cannot be written.
    """
    path = folder / "job.json"
    if path.is_file() and path.read_bytes() != encode(job):
        raise UserError(f"{str(folder)!r} holds another job; name an empty folder")
    write_whole(folder / "data.jsonl", b"".join(encode(datum) + b"\n" for datum in data))
    if init is not None:
        shutil.copytree(init, folder / "init", dirs_exist_ok=True)
    write_whole(path, encode(job))
    return folder


def read_job(folder: Path) -> tuple[Job, list[Datum]]:
    """Returns a job and its data.

    Raises:
        UserError: the folder holds none, or a file is damaged (the line is named).
    """
    try:
        job = decode((folder / "job.json").read_bytes(), Job)
        lines = (folder / "data.jsonl").read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{str(folder)!r} holds no training job: {error.strerror} {error.filename!r}") from error
    data = []
    for number, line in enumerate(lines, 1):
        try:
            data.append(decode(line, Datum))
        except UserError as error:
            raise UserError(f"{str(folder / 'data.jsonl')!r}, line {number}: {error}") from error
    return job, data


def run_job(folder: Path, on_step: Callable[[StepReport], None] | None = None) -> TrainReport:
    """Returns the report of a job, after training what of it is left.

    Raises:
        UserError: there is no such job, or the base model is not the one that the data are for.
        ModelError: training broke down; the message names the data.
        StoreError: the disk is full; the last checkpoint is untouched.
    """
    from whet.learners.weights.distributed import joined

    done = folder / "report.json"
    if done.is_file():
        return decode(done.read_bytes(), TrainReport)
    job, data = read_job(folder)
    _check_base(job)
    with joined() as world:
        return _train(folder, job, data, world, on_step)


def _train(
    folder: Path, job: Job, data: Sequence[Datum], world: "World", on_step: Callable[[StepReport], None] | None
) -> TrainReport:
    """Trains what of a job is left; of several processes the first one writes."""
    from whet.learners.weights.trainer import Trainer

    init, beside = folder / "init", folder / ".adapter"
    trainer = Trainer(job.base, job.config, job.objectives, init=init if init.is_dir() else None, world=world)
    with _Metrics(folder / "metrics.jsonl", on_step) if world.leads else nullcontext() as told:
        report = trainer.fit(data, on_step=told, checkpoint=folder / "checkpoint.pt")
    if world.leads:
        shutil.rmtree(beside, ignore_errors=True)
    trainer.tuned.save(beside)
    if world.leads:
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        beside.rename(folder / "adapter")
        write_whole(folder / "report.json", encode(report))
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return report


class _Metrics:
    """Appends every step to a file and tells whoever listens."""

    def __init__(self, path: Path, on_step: Callable[[StepReport], None] | None) -> None:
        self._path, self._on_step = path, on_step

    def __enter__(self) -> Callable[[StepReport], None]:
        self._file = self._path.open("ab")
        return self._take

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def _take(self, report: StepReport) -> None:
        self._file.write(encode(report) + b"\n")
        self._file.flush()
        if self._on_step is not None:
            self._on_step(report)


def _check_base(job: Job) -> None:
    from whet.core.adapters import base_digest

    if job.base_digest and (found := base_digest(Path(job.base))) != job.base_digest:
        raise UserError(
            f"the base model in {job.base!r} is {found[:12]}, the data are for {job.base_digest[:12]}; "
            "put the right folder into job.json"
        )


def main(arguments: Sequence[str]) -> int:
    """Runs the job of a folder and returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m whet.learners.weights.job FOLDER", file=sys.stderr)
        return 2
    try:
        run_job(Path(arguments[0]), lambda report: print(msgspec.json.encode(report).decode(), flush=True))
    except WhetError as error:
        _say(str(error))
        return error.exit_code
    except RuntimeError as error:
        if "WORLD_SIZE" not in os.environ or not _is_lost(error):
            raise
        _say("another process is gone")
        return 1
    return 0


def _say(what: str) -> None:
    """Prints one line, which names the process where there are several."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    name = "" if size == "1" else f"process {rank} of {size}: "
    print(f"whet: {name}{' '.join(what.split())}", file=sys.stderr)


def _is_lost(error: RuntimeError) -> bool:
    from whet.learners.weights.distributed import is_lost

    return is_lost(error)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if "WORLD_SIZE" in os.environ:
        # The threads of a process group now and then abort the interpreter while it ends. Everything is written by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
