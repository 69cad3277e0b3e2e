"""Curves in the real trackers, read back with what belongs to each; W&B in its offline mode."""

from __future__ import annotations

import csv
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from pipeline.core import tracking
from pipeline.core.config import section
from pipeline.core.params import RuntimeParams
from pipeline.core.progress import Progress
from pipeline.core.tracking import TRACKERS, Curves, interval, open_curves
from storage.errors import ParamsError

ROOT = Path(__file__).parents[3]
Points = list[tuple[int, float]]


def of_dvclive(name: str) -> Points:
    """The lines of DVCLive's table."""
    with (Path("dvclive/plots/train-fox/metrics") / f"{name}.tsv").open(encoding="utf-8") as lines:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(lines, delimiter="\t")]


def of_tensorboard(name: str) -> Points:
    """Every event of every file of the newest run, so that a repeated one is seen."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    (folder,) = Path("tensorboard/train-fox").iterdir()
    events = [event for path in sorted(folder.iterdir()) for event in EventFileLoader(str(path)).Load()]
    return [
        (event.step, float(make_ndarray(value.tensor)))
        for event in events
        for value in event.summary.value
        if value.tag == name
    ]


def of_mlflow(name: str) -> Points:
    """The history of the only run."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("cohesive")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "train-fox"
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def of_wandb(name: str) -> Points:
    """The rows of all offline files of one run, in order; `wandb sync` would send them."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its own process may still be writing when a run has finished
    files = sorted(Path.cwd().glob("*/offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1
    found = []
    for path in files:
        for body in leveldb_records(path.read_bytes()[7:]):
            record = wandb_internal_pb2.Record.FromString(body)
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            if name in row:
                found.append((row["_step"], row[name]))
    return found


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB that is shorter than a block of 32 KiB: checksum, length, type, body."""
    place = 0
    while place + 7 <= len(data):
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        assert kind == 1, "a record in several blocks"
        yield data[place + 7 : place + 7 + length]
        place += 7 + length


READERS: dict[str, Callable[[str], Points]] = {
    "dvclive": of_dvclive,
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
    "wandb": of_wandb,
}


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no tracker reaches anything outside it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (workplace / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("DVC_STUDIO_TOKEN", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    (workplace / "work").mkdir()
    return workplace


def loss(step: int) -> float:
    return 1 / (1 + step)


def steps(tracker: str, begin: int, end: int, *, work: Path, stop: bool = False) -> None:
    """Take the steps after `begin` to `end`; with `stop` the process is interrupted then."""
    if Path("wandb").exists():  # W&B names its folders by the second, in which a test may be done
        Path("wandb").rename("before")
    with open_curves([tracker], "train-fox", work) as curves:
        for step in range(begin + 1, end + 1):
            curves.log(step, {"loss": loss(step)} | ({"nll": 2 * loss(step)} if step % 4 == 0 else {}))
        if stop:
            raise KeyboardInterrupt


def test_every_tracker_has_a_reader_here() -> None:
    assert TRACKERS.keys() == READERS.keys()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_an_interrupted_run_continues_its_curves_without_double_points(here: Path, tracker: str) -> None:
    """Interrupted after step 7, continued from the checkpoint of step 3: steps 4 to 7 are taken twice."""
    with pytest.raises(KeyboardInterrupt):
        steps(tracker, 0, 7, work=here / "work", stop=True)
    steps(tracker, 3, 10, work=here / "work")
    points = READERS[tracker]("loss")
    assert [step for step, _ in points] == list(range(1, 11))
    assert [value for _, value in points] == pytest.approx([loss(step) for step in range(1, 11)], rel=1e-6)
    assert dict(READERS[tracker]("nll")) == pytest.approx({4: 2 / 5, 8: 2 / 9})


@pytest.mark.parametrize("tracker", ["dvclive", "tensorboard", "mlflow"])
def test_a_kill_between_a_tracker_and_our_note_of_it_doubles_nothing(here: Path, tracker: str) -> None:
    work = here / "work"
    with pytest.raises(KeyboardInterrupt):
        steps(tracker, 0, 7, work=work, stop=True)
    state = work / tracking.STATE_FILE
    kept = json.loads(state.read_text())
    assert kept["logged"] == {tracker: 7}
    state.write_text(json.dumps(kept | {"logged": {tracker: 6}}))
    steps(tracker, 6, 10, work=work)
    assert [step for step, _ in READERS[tracker]("loss")] == list(range(1, 11))


def test_another_run_of_the_same_name_begins_a_new_curve_of_dvclive(here: Path) -> None:
    """The first run ended at step 10. Of the second, DVCLive was chosen when it continued from step 3."""
    steps("dvclive", 0, 10, work=here / "work")
    (here / "other").mkdir()
    with pytest.raises(KeyboardInterrupt):
        steps("tensorboard", 0, 5, work=here / "other", stop=True)
    steps("dvclive", 3, 6, work=here / "other")
    assert [step for step, _ in of_dvclive("loss")] == [4, 5, 6]
    assert [step for step, _ in of_tensorboard("loss")] == [1, 2, 3, 4, 5]


def test_dvc_shows_the_curves_of_a_running_stage(here: Path) -> None:
    """With the metrics and plots of our own dvc.yaml, before the stage has ended and before there was any."""
    for name in ("metrics", "plots"):
        (here / "dvclive" / name).mkdir(parents=True)
        kept = (ROOT / "dvclive" / name / ".gitignore").read_text(encoding="utf-8")
        (here / "dvclive" / name / ".gitignore").write_text(kept, encoding="utf-8")
    whole = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    live = [plot for plot in whole["plots"] if "dvclive/plots" in plot]
    (here / "dvc.yaml").write_text(yaml.safe_dump({"metrics": whole["metrics"], "plots": live}), encoding="utf-8")
    (here / ".dvcignore").write_text((ROOT / ".dvcignore").read_text(encoding="utf-8"), encoding="utf-8")
    dvc("init", "--no-scm", "--quiet")
    assert json.loads(dvc("metrics", "show", "--json")) == {"": {"data": {}}}
    assert json.loads(dvc("plots", "show", "--json")) == {}
    with open_curves(["dvclive"], "train-fox", here / "work") as curves:
        curves.log(2, {"loss": 0.5})
        curves.log(4, {"loss": 0.25})
        shown = json.loads(dvc("metrics", "show", "--json"))
        plotted = json.loads(dvc("plots", "show", "--json"))
    assert shown[""]["data"] == {"dvclive/metrics/train-fox.json": {"data": {"loss": 0.25, "step": 4}}}
    assert plotted.keys() == {"data"}
    ((name, (plot,)),) = plotted["data"].items()
    assert name == "dvclive/plots/train-fox/metrics/loss.tsv"
    values = plot["content"]["data"]["values"]
    assert [(row["step"], row["loss"]) for row in values] == [("2", "0.5"), ("4", "0.25")]


def dvc(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], check=True, capture_output=True, text=True)
    assert "failed to load" not in done.stderr
    return done.stdout


class Failing:
    """A tracker that fails at its second point."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.floor = -1
        self.points: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.points:
            raise ConnectionError("no\nserver")
        self.points.append((step, dict(values)))

    def close(self, *, finished: bool) -> None:
        self.points.append((-1, {"finished": finished}))


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing()
    curves = Curves({"wandb": failing})
    for step in range(4):
        curves.log(step, {"loss": 1.0})
    assert failing.points == [(0, {"loss": 1.0})]
    assert caplog.messages == ["wandb: no more curves from here: ConnectionError: no server"]


def test_a_tracker_that_does_not_open_is_left_out(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on; MLflow refuses a store in files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    with open_curves(["mlflow", "dvclive"], "train-fox", here / "work") as curves:
        curves.log(1, {"loss": 0.5})
    assert of_dvclive("loss") == [(1, 0.5)]
    (said,) = [message for message in caplog.messages if message.startswith("mlflow: ")]
    assert said.startswith("mlflow: no curves of this run: MlflowException: The filesystem tracking backend")


def test_a_repository_without_a_commit_stops_no_stage(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """DVCLive asks git for the last commit, and a new project has none."""
    subprocess.run(["git", "init", "--quiet"], check=True)
    dvc("init", "--quiet")
    with open_curves(["dvclive"], "train-fox", here / "work") as curves:
        curves.log(1, {"loss": 0.5})
    assert any(message.startswith("dvclive: no curves of this run: SCMError") for message in caplog.messages)


def test_without_trackers_nothing_is_written(here: Path) -> None:
    with open_curves([], "train-fox", here / "work") as curves:
        assert not curves
        curves.log(1, {"loss": 1.0})
    assert [path.name for path in here.rglob("*")] == ["work"]


RUNTIME = (
    "runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 512, checkpoint_seconds: 1.0, trackers: %s}\n"
)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_with_the_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """W&B's own folder of runs lies in the project and looks like a package to `import`."""
    (here / name).mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "path", [str(here)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    (here / "params.yaml").write_text(RUNTIME % f"[{name}]", encoding="utf-8")
    with pytest.raises(ParamsError) as refused:
        section(here / "params.yaml", "runtime", RuntimeParams)
    said = f"runtime.trackers: {name} is not installed. Run: pip install -c constraints.txt -e '.[{name}]'"
    assert said in str(refused.value)


def test_mlflow_without_a_server_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (here / "params.yaml").write_text(RUNTIME % "[mlflow]", encoding="utf-8")
    with pytest.raises(ParamsError, match="export MLFLOW_TRACKING_URI="):
        section(here / "params.yaml", "runtime", RuntimeParams)


def test_rates_of_a_long_step_are_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row every 0.5 seconds, the first 400 of 1000 done before: a point each 5 rows."""
    times = iter([0.5 * step for step in range(100)])
    monkeypatch.setattr("pipeline.core.progress.time.monotonic", lambda: next(times))
    monkeypatch.setattr("pipeline.core.progress.sys.stderr.isatty", lambda: False, raising=False)
    failing = Failing()
    assert interval(1000) == 5
    with Progress(1000, unit="rows", label="teach", done=403, curves=Curves({"any": failing})) as progress:
        for _ in range(4):
            progress.advance(1)
    assert failing.points == [(405, {"rows_per_second": pytest.approx(2.0)})]
