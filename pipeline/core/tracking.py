"""Curves of a run while it runs, in the trackers that `runtime.trackers` names; no result depends on them.

A run that was killed and continues takes some steps again, with the same values as before. A tracker gets each point
once: it is asked which steps it has, and only later ones are logged. What they do not say themselves lies in the work
folder, so it goes when the run is finished and its successor begins a new curve.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from storage.atomic import write_bytes

log = logging.getLogger(__name__)

POINTS = 200
"""Points of a curve, about: as many as a plot can show. Each takes the losses from the device, which waits for them."""

STATE_FILE = "tracked.json"
"""In the work folder: the run's id, and the last step of each tracker that it was logged to."""

PROJECT = "cohesive"
"""Experiment of MLflow and project of Weights & Biases; their environment variables choose others."""

REASON_CHARACTERS = 300


def interval(total: int) -> int:
    """Units of work between two points. It depends on nothing else, so that a continued run has the same points."""
    return max(1, total // POINTS)


class Tracker(Protocol):
    """One program that keeps curves, opened for one run."""

    last: dict[str, int]
    """By name of a curve: the last step that it has, of this run."""
    floor: int
    """The last step of a curve that `last` does not name."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each of some curves."""

    def close(self, *, finished: bool) -> None:
        """The process stops, with the run finished or not."""


class Curves:
    """The curves of a run in all its trackers. A tracker that fails is left out from then on; the run goes on."""

    def __init__(self, trackers: Mapping[str, Tracker] | None = None, state: Path | None = None, run: str = "") -> None:
        """`state` keeps the last steps and the id `run`; without trackers nothing is kept."""
        self._trackers = dict(trackers or {})
        self._state = state
        self._run = run
        self._logged = dict.fromkeys(self._trackers, -1)
        for name, tracker in self._trackers.items():
            self._logged[name] = max(tracker.last.values(), default=tracker.floor)

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each of the named curves, where it is later than what they have."""
        for name, tracker in list(self._trackers.items()):
            new = {curve: value for curve, value in values.items() if tracker.last.get(curve, tracker.floor) < step}
            if not new:
                continue
            try:
                tracker.log(step, new)
            except Exception as error:  # of any of its libraries: a curve is not worth a run
                log.warning("%s: no more curves from here: %s", name, _reason(error))
                del self._trackers[name]
                continue
            tracker.last |= dict.fromkeys(new, step)
            self._logged[name] = step
            self.keep()

    def keep(self) -> None:
        """Write down what was logged."""
        if self._state is not None and self._logged:
            write_bytes(self._state, json.dumps({"run": self._run, "logged": self._logged}).encode())

    def close(self, *, finished: bool) -> None:
        """Close all trackers."""
        for name, tracker in self._trackers.items():
            try:
                tracker.close(finished=finished)
            except Exception as error:
                log.warning("%s: its curves may lack their end: %s", name, _reason(error))


@contextmanager
def open_curves(trackers: Sequence[str], name: str, work: Path) -> Iterator[Curves]:
    """The curves of the run `name`, such as train-fused, whose work folder is `work`; closed with the block.

    A tracker that does not open is left out with a warning.
    """
    if not trackers:
        yield Curves()
        return
    state = work / STATE_FILE
    kept: dict[str, Any] = {"run": uuid.uuid4().hex, "logged": {}}
    if state.exists():
        kept = json.loads(state.read_text(encoding="utf-8"))
    opened: dict[str, Tracker] = {}
    for tracker in trackers:
        try:
            opened[tracker] = TRACKERS[tracker](name, kept["run"], kept["logged"].get(tracker))
        except Exception as error:  # DVCLive needs a commit of git, others a server
            log.warning("%s: no curves of this run: %s", tracker, _reason(error))
    curves = Curves(opened, state, kept["run"])
    curves.keep()
    try:
        yield curves
    except BaseException:
        curves.close(finished=False)
        raise
    curves.close(finished=True)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:REASON_CHARACTERS]}"


class DvcLive:
    """Files that `dvc exp show`, `dvc plots show` and editors read; dvc.yaml names their folders.

    DVC expands a folder of metrics to all files in it, so they lie apart from the plots.
    """

    METRICS, PLOTS = Path("dvclive/metrics"), Path("dvclive/plots")

    def __init__(self, name: str, run: str, logged: int | None) -> None:
        from dvclive import Live

        metrics, plots = str(self.METRICS / f"{name}.json"), str(self.PLOTS / name)

        class Placed(Live):  # type: ignore[misc]
            metrics_file = property(lambda self: metrics)
            plots_dir = property(lambda self: plots)

        self._live = Placed(dir=str(self.METRICS.parent), resume=logged is not None, save_dvc_exp=False, dvcyaml=False)
        self.floor = -1
        self.last = {path.stem: _last_step(path) for path in Path(plots).rglob("*.tsv")}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line to the files of these curves, and put the values into the metrics file."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.next_step()

    def close(self, *, finished: bool) -> None:
        """Write the metrics file."""
        self._live.end()


def _last_step(path: Path) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return int(lines[-1].split("\t")[0]) if lines else -1


class TensorBoard:
    """Event files in tensorboard/<name>/<run>, so that the runs of a name are shown beside each other."""

    FOLDER = Path("tensorboard")

    def __init__(self, name: str, run: str, logged: int | None) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        folder = str(self.FOLDER / name / run[:8])
        self.last, self.floor = {}, -1
        if logged is not None:
            found = EventAccumulator(folder).Reload()
            self.last = {tag: found.Scalars(tag)[-1].step for tag in found.Tags()["scalars"]}
        self._writer = SummaryWriter(folder)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars and flush them."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()


class Mlflow:
    """A run at the server, or in the store, that MLFLOW_TRACKING_URI names; MLFLOW_EXPERIMENT_NAME is respected."""

    TAG = "cohesive_run"

    def __init__(self, name: str, run: str, logged: int | None) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else self._client.create_experiment(experiment)
        found = self._client.search_runs([place], f"tags.{self.TAG} = '{run}'")
        entry = found[0] if found else self._client.create_run(place, run_name=name, tags={self.TAG: run})
        self.floor = -1
        self._run: str = entry.info.run_id
        self.last = {
            key: max(point.step for point in self._client.get_metric_history(self._run, key))
            for key in entry.data.metrics
        }
        self._client.update_run(self._run, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add metrics in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in values.items()])

    def close(self, *, finished: bool) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._run, status="FINISHED" if finished else "KILLED")


class WeightsAndBiases:
    """A run of Weights & Biases; its variables (WANDB_PROJECT, WANDB_MODE, ...) are respected."""

    def __init__(self, name: str, run: str, logged: int | None) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=run,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.last: dict[str, int] = {}
        self.floor = -1 if logged is None else logged  # an offline run cannot be asked

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row of the history."""
        self._run.log(dict(values), step=step)

    def close(self, *, finished: bool) -> None:
        """End the run as finished or as failed, after what was logged is written."""
        self._run.finish(exit_code=0 if finished else 1)


TRACKERS: dict[str, Callable[[str, str, int | None], Tracker]] = {
    "dvclive": DvcLive,
    "tensorboard": TensorBoard,
    "mlflow": Mlflow,
    "wandb": WeightsAndBiases,
}
"""By the name under `runtime.trackers`: opens a tracker for a run's name, its id, and the last step logged there by an
interrupted process, if there was one."""
