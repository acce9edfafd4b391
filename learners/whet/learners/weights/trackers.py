"""Trackers: steps and rounds of training go to MLflow or Weights & Biases, where they are installed and asked for.

    with track("mlflow", "rft", {"lr": 1e-4}) as tracker:       # to wherever MLFLOW_TRACKING_URI points
        tracker.step(report)
        tracker.round(round_report)

Which server, project and mode is theirs to know: their own environment variables are obeyed. Nothing of either is
imported unless it is named. A tracker that breaks down on the way is told of and left; training goes on.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from whet.core.errors import UserError
from whet.core.records import Json
from whet.learners.weights.reports import StepReport

if TYPE_CHECKING:
    from whet.learners.weights.rounds import RoundReport

__all__ = ["Sink", "Tracker", "check_tracker", "track"]

PROJECT = "whet"
_warnings = logging.getLogger(__name__)


class Sink(Protocol):
    """Where measurements go."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Takes measurements after so many optimiser steps."""
        ...

    def close(self, *, failed: bool) -> None:
        """Ends the run."""
        ...


class Tracker:
    """Names what is measured: ``train/…`` for a step, ``round/…`` for a round; without a sink it drops all of it."""

    def __init__(self, sink: Sink | None = None, failures: tuple[type[Exception], ...] = ()) -> None:
        self._sink, self._failures, self._steps = sink, failures, 0

    def step(self, report: StepReport) -> None:
        """Logs an optimiser step."""
        self._steps = report.step
        rate = report.tokens / max(report.seconds, 1e-9)
        values = {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr, "tokens_per_second": rate}
        self._log("train", values | report.measures)

    def round(self, report: "RoundReport") -> None:
        """Logs a round of practice, after the steps it took."""
        names = ("round", "passed", "score", "distinct", "data", "entropy", "mismatch", "seconds")
        values = {name: getattr(report, name) for name in names}
        self._log("round", values | {"probe": None if report.probe is None else report.probe.mean})

    def close(self, *, failed: bool) -> None:
        """Ends the run."""
        self._safely(lambda sink: sink.close(failed=failed))

    def _log(self, group: str, values: Mapping[str, float | None]) -> None:
        known = {f"{group}/{name}": float(value) for name, value in values.items() if value is not None}
        self._safely(lambda sink: sink.log(known, self._steps))

    def _safely(self, do: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            do(self._sink)
        except self._failures as error:
            self._sink = None
            _warnings.warning("the tracker failed, and is left: %s", " ".join(str(error).split()))


def check_tracker(name: str) -> None:
    """Refuses a tracker that does not exist or is not installed.

    Raises:
        UserError: either of them; the message says what to install.
    """
    if name and name not in _SINKS:
        raise UserError(f"tracker is {name!r}; it is one of {', '.join(_SINKS)}, or nothing")
    if name and find_spec(name) is None:
        raise UserError(f"tracker {name!r} is not installed; run: pip install {_PACKAGES[name]}")


@contextmanager
def track(name: str, run: str, config: Mapping[str, Json]) -> Iterator[Tracker]:
    """Opens a run of a tracker (none for an empty name) and ends it, as failed where the block raises.

    Raises:
        UserError: there is no such tracker, or it cannot be reached.
    """
    check_tracker(name)
    if not name:
        yield Tracker()
        return
    failures = _failures(name)
    try:
        tracker = Tracker(_SINKS[name](run, config), failures)
    except failures as error:
        raise UserError(f"tracker {name!r} cannot begin a run: {' '.join(str(error).split())}") from error
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close(failed=False)


def _failures(name: str) -> tuple[type[Exception], ...]:
    if name == "mlflow":
        from mlflow.exceptions import MlflowException

        return (MlflowException,)
    import wandb

    return (wandb.Error,)


class _MLflow:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME names. The client is used rather than MLflow's active run,
    which belongs to the thread and to whoever began it."""

    def __init__(self, run: str, config: Mapping[str, Json]) -> None:
        import mlflow
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        self._client = mlflow.MlflowClient()
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._run: str = self._client.create_run(experiment, run_name=run).info.run_id
        self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in config.items()])

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


class _WandB:
    """A run of the project that WANDB_PROJECT names; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, run: str, config: Mapping[str, Json]) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(project=project, name=run, config=dict(config), reinit="create_new", settings=settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


_SINKS: dict[str, Callable[[str, Mapping[str, Json]], Sink]] = {"mlflow": _MLflow, "wandb": _WandB}
_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
