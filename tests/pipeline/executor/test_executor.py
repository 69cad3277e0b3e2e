"""A store's bytes do not depend on the executor: threads, or workers and drivers that are killed at bad moments.

Not checked here: a network between machines, and file systems that several of them share.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.core.config import decode
from pipeline.core.params import RuntimeParams
from pipeline.core.tracking import Curves
from pipeline.executor import cluster
from pipeline.executor import dask as dask_module
from pipeline.executor.base import Job, LocalExecutor, ResourceCache
from pipeline.executor.dask import DaskExecutor, Tally, dask_executor, open_executor
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.models import masked_lm as models
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.text.corpus_view import MaskedSequences
from storage import attempts
from storage.errors import ClusterError
from storage.format import arrays
from storage.records.base import Record
from storage.writer import Shard, StoreWriter
from tests.helpers.executors import WrappedJob, die
from tests.helpers.stores import TinyStores, cpu_runtime, folder_bytes
from tests.helpers.teacher_stores import World, make_world

FUSION = {
    "teachers": ["alpha", "beta"], "weighting": "learned", "tau": 1.0, "calibrated": True, "prior": "equal",
    "temperature": 1.0, "keep": 16, "debias": {"counts": 2.0},
}  # fmt: skip
"""With all that is fitted once and that every process then reads."""
TEACHER = {
    "keep": {"form": "topk+sampled", "k": 3, "draws": 4}, "tail": {"rank": 0, "step": 0.4}, "temperatures": [1.0],
    "seed": 0,
}  # fmt: skip


def settings(**changes: Any) -> RuntimeParams:
    plain = {"device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 300, "checkpoint_seconds": 60.0}
    return RuntimeParams.model_validate(plain | changes)


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskExecutor]:
    """Two worker processes; those that are killed come again, forked from one that has imported everything."""
    import dask
    from distributed.utils import get_mp_context

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "transformers.models.bert.modeling_bert", __name__])
        with dask_executor(settings(scheduler="processes", workers=2), gpu=True, command="teach") as made:
            yield made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_stores: TinyStores) -> World:
    return make_world(tiny_stores, tmp_path_factory.mktemp("made") / "data", keep=8, fusions=())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


Run = Callable[..., Path]


@pytest.fixture
def fused(world: World, workplace: Path) -> Run:
    def run(executor: Any, out: str = "mixed") -> Path:
        fuse(
            decode(FUSION, FusionParams, where="params.yaml: fusions.mixed"),
            MaskedSequences.open_pair(world.data / "sequences", world.data / "masks"),
            logits=world.data / "logits", out=Path(out), declared=("alpha", "beta"),
            documents=world.data / "documents", executor=executor,
        )  # fmt: skip
        return workplace / out

    return run


@pytest.fixture
def taught(tiny_stores: TinyStores, tiny_teacher: Path, workplace: Path) -> Run:
    def run(executor: Any, out: str = "fox", model: Path = tiny_teacher) -> Path:
        teach(
            TeacherParams.model_validate(TEACHER | {"model": str(model)}),
            tiny_stores.corpus(),
            out=Path(out),
            runtime=cpu_runtime(threads=1),
            executor=executor,
        )
        return workplace / out

    return run


@pytest.fixture(params=["teach", "fuse"])
def stage(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue({"teach": "taught", "fuse": "fused"}[request.param])
    return run


@pytest.fixture
def expected(stage: Run, workplace: Path) -> dict[str, bytes]:
    """The store's bytes when this process computes it alone."""
    made = folder_bytes(stage(None))
    (workplace / ".work").rename(workplace / "work-of-threads")
    return made


@dataclass(frozen=True, kw_only=True)
class Dying(WrappedJob):
    """A job whose process kills itself at a moment of some shards: once, or for good."""

    moments: dict[str, str]
    marks: Path
    always: bool = False

    def make(
        self, tools: Any, shard: Shard, *, advance: Callable[[int], None]
    ) -> tuple[Record, dict[str, NDArray[Any]]]:
        moment = self.moments.get(str(shard))
        if moment is not None and self._first_time(shard):
            if moment == "before":
                die()
            elif moment == "half written":
                die_at(arrays, "write_shard", call=3)
            else:
                die_at(attempts, "Attempt", call=1)
        made: tuple[Record, dict[str, NDArray[Any]]] = super().make(tools, shard, advance=advance)
        return made

    def _first_time(self, shard: Shard) -> bool:
        mark = self.marks / f"{shard.split}-{shard.index}"
        if mark.exists():
            return self.always
        mark.touch()
        return True


def die_at(module: Any, name: str, *, call: int) -> None:
    """Let this process die when `name` is called for the n-th time."""
    real, left = getattr(module, name), [call]

    def dying(*arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            die()
        return real(*arguments, **more)

    setattr(module, name, dying)


@dataclass
class Deadly:
    """An executor whose workers die; `at` is called with the number of shards that are in."""

    workers: DaskExecutor
    marks: Path
    moments: dict[str, str]
    always: bool = False

    @property
    def resources(self) -> ResourceCache:
        return self.workers.resources

    def once(self, job: Job, work: Any) -> Any:
        return self.workers.once(job, work)

    def shards(self, job: Job, writer: StoreWriter, *, label: str, curves: Curves | None = None) -> None:
        dying = Dying(job=job, moments=self.moments, marks=self.marks, always=self.always)
        self.workers.shards(dying, writer, label=label)


def test_workers_make_the_same_bytes_whenever_they_die(
    stage: Run,
    expected: dict[str, bytes],
    workers: DaskExecutor,
    workplace: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Killed by themselves before, while and after a shard is written, and all at once while the rest is handed out."""
    (workplace / "marks").mkdir()
    moments = {"train/1": "before", "train/3": "half written", "heldout/0": "written"}
    accepted = 0
    real = attempts.accept

    def accept(writer: StoreWriter, attempt: Any) -> None:
        nonlocal accepted
        real(writer, attempt)
        accepted += 1
        if accepted == 4:
            for pid in workers._client.run(os.getpid, on_error="ignore").values():
                os.kill(pid, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask_module, "accept", accept)
        out = stage(Deadly(workers, workplace / "marks", moments))
    assert folder_bytes(out) == expected
    assert {path.name for path in (workplace / "marks").iterdir()} == {"train-1", "train-3", "heldout-0"}
    for shard in moments:
        assert f"{shard}: its worker tcp://" in caplog.text
    assert not list(workplace.glob(".work/*/attempts")), "what the dead left is removed"
    (journal,) = workplace.glob(".work/*/journal.jsonl")
    assert len(journal.read_text().splitlines()) == accepted


def test_a_shard_that_kills_worker_after_worker_is_named(
    fused: Run, workers: DaskExecutor, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "marks").mkdir()
    monkeypatch.setattr(dask_module, "DEATHS_LIMIT", 2)
    deadly = Deadly(workers, workplace / "marks", {"train/2": "before"}, always=True)
    with pytest.raises(ClusterError, match=r"^train/2: 2 workers died with it, the last on tcp://.* is kept"):
        fused(deadly)
    assert not (workplace / "mixed").exists()
    (journal,) = workplace.glob(".work/*/journal.jsonl")
    finished = len(journal.read_text().splitlines())
    fused(workers)
    assert len(journal.read_text().splitlines()) > finished, "and it goes on from there when the shard is mended"


DRIVER = """
import sys
from pathlib import Path
from pipeline.executor import dask
from tests.pipeline.executor import test_executor as tests

accepted = 0
def accept(writer, attempt):
    global accepted
    if accepted == 3:
        tests.die()
    real(writer, attempt)
    accepted += 1

if __name__ == "__main__":
    real, dask.accept = dask.accept, accept
    with dask.dask_executor(tests.settings(scheduler="processes", workers=1), gpu=False, command="fuse") as workers:
        tests.fuse(
            tests.decode(tests.FUSION, tests.FusionParams, where="mixed"),
            tests.MaskedSequences.open_pair(Path(sys.argv[1]) / "sequences", Path(sys.argv[1]) / "masks"),
            logits=Path(sys.argv[1]) / "logits", out=Path("mixed"),
            declared=("alpha", "beta"), documents=Path(sys.argv[1]) / "documents", executor=workers,
        )
"""


def test_a_driver_that_was_killed_goes_on(
    fused: Run, world: World, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (workplace / "driver.py").write_text(DRIVER)
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "driver.py", str(world.data)], env=os.environ | {"PYTHONPATH": path}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(workplace.glob(".work/*/attempts/*/*")), "it had no time to clear up"
    with caplog.at_level(logging.INFO):
        out = fused(None)
    assert "continuing, 3 of" in caplog.text
    (workplace / ".work").rename(workplace / "first")
    assert folder_bytes(out) == folder_bytes(fused(None, out="again/mixed"))


@contextmanager
def local_cluster(**changes: Any) -> Iterator[str]:
    """The address of a scheduler whose workers are threads of this process."""
    from distributed import LocalCluster

    plain = {
        "n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp", "dashboard_address": None,
        "silence_logs": logging.CRITICAL, "host": "127.0.0.1",
    }  # fmt: skip
    with LocalCluster(**(plain | changes)) as made:
        yield made.scheduler_address


def test_a_worker_loads_each_teacher_once_and_the_driver_none(
    taught: Run, tiny_teacher: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second teacher comes to a worker that has the first: it is let go of, or SecondModelError would be raised."""
    folder_bytes(tiny_teacher)
    other = workplace / "other"
    other.mkdir()
    for name, data in folder_bytes(tiny_teacher).items():
        (other / name).write_bytes(data)
    (other / "config.json").write_text((tiny_teacher / "config.json").read_text() + "\n")
    loaded: list[tuple[Path, str]] = []
    real = models.load_checked

    def load(folder: Path) -> Any:
        loaded.append((folder, threading.current_thread().name))
        return real(folder)

    monkeypatch.setattr(models, "load_checked", load)
    with local_cluster(resources={"gpu": 1}) as address:
        with dask_executor(settings(scheduler=address), gpu=True, command="teach") as workers:
            taught(workers)
            taught(workers, "second", other)
        assert [folder for folder, _ in loaded] == [tiny_teacher, other]
        assert all(name != threading.main_thread().name for _, name in loaded)
        with models.one_model():
            pass  # the stage's end left no model on the worker
        with dask_executor(settings(scheduler=address), gpu=True, command="teach") as workers:
            (workplace / ".work").rename(workplace / "first")
            taught(workers, "third/fox")
    assert len(loaded) == 3
    assert folder_bytes(workplace / "fox") == folder_bytes(workplace / "third" / "fox")


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 within .*`dask scheduler`"):
        with dask_executor(settings(scheduler="tcp://127.0.0.1:9"), gpu=False, command="fuse"):
            pass


def test_workers_are_needed_and_for_teachers_ones_with_an_accelerator() -> None:
    start = r'dask worker tcp://127.0.0.1:\d+ --resources "gpu=1" --nthreads 1$'
    with local_cluster() as address:
        with pytest.raises(ClusterError, match=rf"has no worker with resource gpu\. .* {start}"):
            with dask_executor(settings(scheduler=address), gpu=True, command="teach"):
                pass
    with local_cluster(n_workers=0) as address:
        with pytest.raises(ClusterError, match=r"has no workers\. .*: dask worker tcp://127.0.0.1:\d+ --nthreads 1$"):
            with dask_executor(settings(scheduler=address), gpu=False, command="fuse"):
                pass


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"code": "0"}, r"has another version of this project's code, expected \w{12} as here"),
        ({"torch": "1.0"}, r"has torch 1.0, expected \d.* Give workers the same checkout"),
    ],
    ids=["code", "torch"],
)
def test_a_worker_that_would_make_another_store_is_named(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], message: str
) -> None:
    real = cluster.environment("fuse")

    def environment(command: str) -> dict[str, str]:
        assert command == "fuse"
        return real if threading.current_thread() is threading.main_thread() else real | changed

    monkeypatch.setattr(cluster, "environment", environment)
    with local_cluster() as address, pytest.raises(ClusterError, match=rf"^worker tcp://[\d.:]+: {message}"):
        with dask_executor(settings(scheduler=address), gpu=False, command="fuse"):
            pass


def test_a_worker_without_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pipeline.executor.cluster", None)
    with (
        local_cluster() as address,
        pytest.raises(ClusterError, match=r"^worker tcp://.*: cannot use this project's package"),
    ):
        with dask_executor(settings(scheduler=address), gpu=False, command="fuse"):
            pass


def test_workers_choose_one_number_format(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def choose(plain: dict[str, Any]) -> dict[str, str]:
        chosen.append(plain["dtype"])
        return {"device": "cpu", "dtype": f"float{16 * len(chosen)}"}

    monkeypatch.setattr(cluster, "chosen", choose)
    with local_cluster(n_workers=2, resources={"gpu": 1}) as address:
        with pytest.raises(ClusterError, match=r"chooses dtype float\d\d, others float\d\d: .* Set runtime.dtype"):
            with dask_executor(settings(scheduler=address, dtype="auto"), gpu=True, command="teach"):
                pass
    assert chosen == ["auto", "auto"]


def test_a_scheduler_that_goes_away_is_one_line(fused: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_module, "LOOK_SECONDS", 0.2)
    with (
        local_cluster() as address,
        dask_executor(settings(scheduler=address), gpu=False, command="fuse") as workers,
    ):
        monkeypatch.setattr(workers, "_client", Lost(workers._client))
        with pytest.raises(ClusterError, match=rf"^{address}: the Dask scheduler is gone\. What was finished is kept"):
            fused(workers)


class Lost:
    """A client whose tasks never end and whose scheduler is gone."""

    status = "closed"

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def submit(self, *_: Any, **__: Any) -> Any:
        from distributed import Future

        return Future("of nobody", client=self.client)


def test_refusals_of_a_job_reach_the_driver(taught: Run, tiny_mlm: Path) -> None:
    from storage.errors import TeacherRefused

    with (
        local_cluster(resources={"gpu": 1}) as address,
        dask_executor(settings(scheduler=address), gpu=True, command="teach") as workers,
    ):
        with pytest.raises(TeacherRefused, match=r"random: on \d+ calibration predictions"):
            taught(workers, model=tiny_mlm)


@pytest.mark.parametrize("address", ["tcp://10.0.0.7:8786", "tls://head-node:8786", "tcp://[::1]:8786", "ucx://a.b:1"])
def test_addresses_of_schedulers(address: str) -> None:
    assert settings(scheduler=address).scheduler == address


@pytest.mark.parametrize("value", ["thread", "10.0.0.7:8786", "tcp://host", "http://host:8786", "tcp://host:port", ""])
def test_what_is_no_scheduler_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match=r"must be threads, processes or the address of a Dask scheduler"):
        settings(scheduler=value)


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    processes = settings(scheduler="processes", workers=5, threads=0)
    assert cluster.split_threads(processes).threads == 2
    assert cluster.split_threads(processes.model_copy(update={"workers": 50})).threads == 1
    assert cluster.split_threads(processes.model_copy(update={"threads": 7})).threads == 7
    assert cluster.split_threads(settings(scheduler="tcp://a:1", threads=0)).threads == 0


def test_threads_need_no_distributed(workplace: Path) -> None:
    code = (
        "import sys; from pipeline.core.params import RuntimeParams; from pipeline.executor.dask import open_executor\n"
        f"settings = RuntimeParams.model_validate({settings().model_dump()!r})\n"
        "with open_executor(settings, threads=1, gpu=True, command='teach'):\n"
        "    assert not {'dask', 'distributed', 'torch'} & set(sys.modules)"
    )
    assert isinstance(open_executor(settings(), threads=3, gpu=False, command="fuse").__enter__()[0], LocalExecutor)
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path}, timeout=60)


@dataclass(frozen=True)
class Opening:
    """A job that only opens something, and says so."""

    key: str
    said: list[str]

    @contextmanager
    def opened(self) -> Iterator[str]:
        self.said.append(f"open {self.key}")
        try:
            yield self.key
        finally:
            self.said.append(f"close {self.key}")


def test_one_thing_is_kept_open() -> None:
    held, said = ResourceCache(), list[str]()
    jobs: list[Any] = [Opening(name, said) for name in ("one", "two")]
    for job in (jobs[0], jobs[0], jobs[1]):
        with held.opened(job) as tools:
            assert tools == job.key
    assert said == ["open one", "close one", "open two"]
    held.release("one")
    assert said[-1] == "open two"
    held.release("two")
    assert said[-1] == "close two"
    with held.opened(jobs[0]):
        other = threading.Thread(target=held.release, args=("one",))
        other.start()
        other.join()
        assert said[-1] == "open one", "somebody is at it"
    held.close(None, None, None)
    assert said[-1] == "close one"


def test_progress_names_every_worker_the_slowest_first() -> None:
    tally = Tally(9, label="teach fox")
    for worker in ("a", "b", "a", "a"):
        tally.add(worker)
    line = tally.line()
    assert line.startswith("teach fox: 4 of 9 shards; b 1 (") and ", a 3 (" in line
    rates = [float(part.split("(")[1].split()[0]) for part in line.split("; ")[1].split(", ")]
    assert np.isclose(rates[1] / rates[0], 3, rtol=0.1)
