"""Training from asynchronous code: it runs in a thread, or in another environment, and can be called off.

report = await train(folder, on_step=print)
report = await train(folder, python="/opt/trainer/bin/python")
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from whet.core.errors import ModelError, UserError
from whet.core.wire import decode
from whet.learners.weights.reports import StepReport, TrainReport

__all__ = ["stoppable", "train"]

T = TypeVar("T")
OnStep = Callable[[StepReport], None]


async def train(folder: Path, *, on_step: OnStep | None = None, python: str = "") -> TrainReport:
    """Returns the report of the job in a folder. ``python``: the interpreter of an environment that has torch.

    What ``on_step`` raises ends the training; so does cancelling the caller. The job can go on from its checkpoint.

    Raises:
        UserError: there is no such job or interpreter.
        ModelError: training broke down.
        StoreError: the folder cannot be written.
    """
    if python:
        return await _elsewhere(folder, on_step, python)

    def work(told: OnStep) -> TrainReport:
        from whet.learners.weights.job import run_job

        return run_job(folder, told)

    return await stoppable(work, on_step)


async def stoppable(work: Callable[[OnStep], T], on_step: OnStep | None = None) -> T:
    """Returns what work does in a thread. It is given what it has to tell of every step.

    Whatever ``on_step`` raises ends the work at that step. So does cancelling the caller, who waits for it to end.
    """
    stop = threading.Event()

    def told(report: StepReport) -> None:
        if stop.is_set():
            raise asyncio.CancelledError
        if on_step is not None:
            on_step(report)

    running = asyncio.get_running_loop().run_in_executor(None, work, told)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # It was called off; nobody else asks how it ended.
        raise


async def _elsewhere(folder: Path, on_step: OnStep | None, python: str) -> TrainReport:
    arguments = (python, "-m", "whet.learners.weights.job", str(folder))
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise UserError(f"the trainer's interpreter {python!r} cannot be started: {error.strerror}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        async for line in process.stdout:
            if on_step is not None:
                on_step(decode(line, StepReport))
        code = await process.wait()
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    finally:
        said = (await errors).decode(errors="replace").strip()
    if code:
        last = said.splitlines()[-1] if said else f"exit code {code}"
        raise ModelError(f"training in {str(folder)!r} failed: {last.removeprefix('whet: ')}")
    return decode((folder / "report.json").read_bytes(), TrainReport)
