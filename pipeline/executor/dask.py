"""The driver's side of Dask workers: submits shards as tasks, accepts results, resubmits the shards of dead workers.

Each worker has a few tasks at a time, so neither its memory nor the scheduler's grows with the store. A worker keeps
what a job opens, such as the one model it may hold, from task to task, and closes it when the next job comes or the
stage ends. When a worker dies, its shards are resubmitted, until DEATHS_LIMIT workers have died with the same shard.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.core.params import RuntimeParams
from pipeline.core.progress import LINE_SECONDS
from pipeline.core.tracking import Curves
from pipeline.executor.base import (
    Executor,
    Job,
    LocalExecutor,
    Openable,
    PartJob,
    ResourceCache,
    part_progress,
    shard_progress,
)
from pipeline.executor.cluster import (
    GPU,
    connected,
    dashboard,
    environment,
    require_same,
    require_uniform_workers,
    require_workers,
    split_threads,
    workers_of,
)
from storage.attempts import (
    Attempt,
    AttemptWriter,
    accept,
    open_attempts,
)
from storage.errors import ClusterError
from storage.parts import PartAttempt, Parts, make_part
from storage.writer import Shard, StoreWriter

if TYPE_CHECKING:
    from distributed import Client, Future, Worker


log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Shards submitted for each worker: one that it computes, and one so that it does not wait."""

DEATHS_LIMIT = 5
"""Workers that die with the same shard before the run is refused."""

LOOK_SECONDS = 5.0
"""Between checks that scheduler and workers still exist, while no shard finishes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One task of a worker."""

    name: str
    """For messages: the shard, or the function."""
    arguments: tuple[Any, ...]
    deaths: int = 0
    """Workers that died with it."""


class DaskExecutor:
    """The workers of a Dask scheduler; those with resource `gpu` when `gpu` is set.

    settings are the workers' runtime settings, with device and number format chosen; command is the module of
    `stages` that runs.
    """

    def __init__(self, client: Client, settings: RuntimeParams, *, gpu: bool, command: str) -> None:
        self.resources = ResourceCache()
        self.settings = settings
        self._client = client
        self._gpu = gpu
        self._environment = environment(command)
        self._jobs: set[str] = set()

    def close(self) -> None:
        """Close what workers keep open; a worker that still computes keeps it until the next job."""
        self.resources.close(None, None, None)
        for key in self._jobs:
            self._client.run(_release, key, on_error="ignore")

    def once(self, job: Job, work: Callable[[Any, Any], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """`work(job, tools)` on one worker."""
        task = _Task(
            name=work.__name__.strip("_"),
            arguments=(_once_on_worker, job.with_absolute_paths(), work, self._environment),
        )
        ((_, made),) = self._finished(job, deque([task]), label=task.name)
        result: dict[str, NDArray[Any]] = made
        return result

    def shards(self, job: Job, writer: StoreWriter, *, label: str, curves: Curves | None = None) -> None:
        """Have every missing shard computed by a worker, and accept it into the store."""
        missing = list(writer.missing())
        if not missing:
            return
        tally = Tally(len(missing), label=label)
        with (
            shard_progress(writer, missing, label=label, curves=curves) as progress,
            open_attempts(writer) as attempts,
        ):
            sent = job.with_absolute_paths()
            tasks = deque(
                _Task(name=str(shard), arguments=(_shard_on_worker, sent, attempts, shard, self._environment))
                for shard in missing
            )
            for _, (worker, attempt) in self._finished(job, tasks, label=label):
                accept(writer, attempt)
                progress.advance(attempt.shard.stop - attempt.shard.start)
                tally.add(worker)
        log.info("%s", tally.line())

    def parts(self, job: PartJob, parts: Parts, sizes: Mapping[str, int], *, unit: str, label: str) -> None:
        """Have every missing part made by a worker, and take it in."""
        missing = [name for name in sizes if not parts.has(name)]
        if not missing:
            return
        with part_progress(sizes, missing, unit=unit, label=label) as progress, parts.desk() as desk:
            there = job.with_absolute_paths()
            tasks = deque(
                _Task(name=name, arguments=(_part_on_worker, there, desk, name, self._environment)) for name in missing
            )
            for task, attempt in self._finished(job, tasks, label=label):
                parts.accept(attempt)
                progress.advance(sizes[task.name])

    def _finished(self, job: Openable, tasks: deque[_Task], *, label: str) -> Iterator[tuple[_Task, Any]]:
        """What workers made of each task, as they finish; a few for each worker are handed out at a time."""
        from distributed import KilledWorker

        self._jobs.add(job.key)
        pending: dict[Future[Any], _Task] = {}
        try:
            while tasks or pending:
                room = IN_FLIGHT * max(1, len(self._workers())) - len(pending)
                for _ in range(min(room, len(tasks))):
                    task = tasks.popleft()
                    pending[self._submit(task, label=label)] = task
                for future in self._some_done(pending):
                    task = pending.pop(future)
                    try:
                        yield task, future.result()
                    except KilledWorker as error:
                        tasks.append(_after_death(task, error))
        finally:
            self._client.cancel(list(pending), force=True)  # type: ignore[no-untyped-call]

    def _submit(self, task: _Task, *, label: str) -> Future[Any]:
        work, *arguments = task.arguments
        # A new key: for an old one the scheduler would return its old result, such as the last failure.
        key = f"{label.replace(' ', '-')}-{task.name.replace('/', '-')}-{os.urandom(8).hex()}"
        return self._client.submit(work, *arguments, key=key, pure=False, resources={GPU: 1} if self._gpu else None)

    def _some_done(self, pending: Mapping[Future[Any], _Task]) -> list[Future[Any]]:
        """Futures that are finished, at least one; raises ClusterError when the scheduler is gone."""
        from concurrent.futures import CancelledError

        from distributed import wait

        warned = time.monotonic()
        while True:
            try:
                with self._client.as_current():
                    wait(list(pending), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
            except TimeoutError:
                self._require_scheduler()
                if time.monotonic() - warned >= LINE_SECONDS and not self._workers():
                    warned = time.monotonic()
                    log.warning("%d shards wait: no worker is left. They go on when one comes", len(pending))
                continue
            except CancelledError:
                self._require_scheduler()
                raise ClusterError("the scheduler dropped this run's tasks. Run the same command to continue") from None
            return [future for future in pending if future.done()]  # type: ignore[no-untyped-call]

    def _require_scheduler(self) -> None:
        if self._client.status != "running":
            raise ClusterError(
                f"{self.settings.scheduler}: the Dask scheduler is gone. What was finished is kept: start one and its "
                "workers, and run the same command to continue"
            )

    def _workers(self) -> list[str]:
        """Addresses of the workers that may be given tasks."""
        return workers_of(self._client, gpu=self._gpu)


def _after_death(task: _Task, error: Any) -> _Task:
    """The task, to be submitted again; raises ClusterError when too many workers died with it."""
    deaths = task.deaths + error.allowed_failures + 1
    if deaths >= DEATHS_LIMIT:
        raise ClusterError(
            f"{task.name}: {deaths} workers died with it, the last on {error.last_worker.address}. What was finished "
            "is kept. See that worker's log: most often its memory was used up, so lower runtime.batch_tokens or "
            "mask.shard_rows"
        ) from error
    log.warning("%s: its worker %s died; it goes to another one", task.name, error.last_worker.address)
    return replace(task, deaths=deaths)


class Tally:
    """Counts the shards that each worker finished, and logs them every LINE_SECONDS."""

    def __init__(self, total: int, *, label: str) -> None:
        self._total = total
        self._label = label
        self._done: Counter[str] = Counter()
        self._began = self._logged = time.monotonic()

    def add(self, worker: str) -> None:
        """Count one shard of `worker`."""
        self._done[worker] += 1
        if time.monotonic() - self._logged >= LINE_SECONDS:
            self._logged = time.monotonic()
            log.info("%s", self.line())

    def line(self) -> str:
        """Shards done, and for each worker its number and its number a minute, the slowest first."""
        minutes = max(time.monotonic() - self._began, 1e-9) / 60
        each = ", ".join(
            f"{worker} {count} ({count / minutes:.1f} a minute)"
            for worker, count in sorted(self._done.items(), key=lambda item: (item[1], item[0]))
        )
        return f"{self._label}: {self._done.total()} of {self._total} shards; {each}"


def _resources_of(worker: Worker) -> ResourceCache:
    """What a worker process keeps open, kept as an attribute of the worker."""
    resources: ResourceCache = worker.__dict__.setdefault("distillation_resources", ResourceCache())
    return resources


def _name_of(worker: Worker) -> str:
    name, address = str(worker.name), str(worker.address)
    return address if name == address else f"{name} at {address}"


def _shard_on_worker(job: Job, attempts: AttemptWriter, shard: Shard, driver: dict[str, str]) -> tuple[str, Attempt]:
    """On a worker: compute one shard and write it as an attempt; returns the worker's name and the attempt."""
    from distributed import get_worker

    worker = get_worker()
    require_same(_name_of(worker), environment(driver["command"]), driver)
    with _resources_of(worker).opened(job) as tools:
        record, sidecar = job.make(tools, shard, advance=lambda _: None)
        return _name_of(worker), attempts.write(shard, record, sidecar=sidecar)


def _part_on_worker(job: PartJob, desk: Path, name: str, driver: dict[str, str]) -> PartAttempt:
    """On a worker: make one part in a folder of its own."""
    from distributed import get_worker

    worker = get_worker()
    require_same(_name_of(worker), environment(driver["command"]), driver)
    with _resources_of(worker).opened(job) as tools:
        return make_part(desk, name, lambda folder: job.make_part(tools, name, folder, advance=lambda _: None))


def _once_on_worker(job: Job, work: Callable[[Any, Any], Any], driver: dict[str, str]) -> Any:
    """On a worker: `work(job, tools)`."""
    from distributed import get_worker

    worker = get_worker()
    require_same(_name_of(worker), environment(driver["command"]), driver)
    with _resources_of(worker).opened(job) as tools:
        return work(job, tools)


def _release(key: str, dask_worker: Worker) -> None:
    """On a worker; Dask passes it to a parameter of this name."""
    _resources_of(dask_worker).release(key)


@contextmanager
def dask_executor(settings: RuntimeParams, *, gpu: bool, command: str) -> Iterator[DaskExecutor]:
    """The workers that `settings.scheduler` names, checked; workers started here are stopped at the end.

    Raises ClusterError when there is no scheduler, or no workers that can do the work.
    """
    settings = split_threads(settings)
    with connected(settings) as client:
        addresses = require_workers(client, settings, gpu=gpu)
        settings = require_uniform_workers(client, addresses, settings, gpu=gpu, command=command)
        executor = DaskExecutor(client, settings, gpu=gpu, command=command)
        log.info("%d workers of %s; %s", len(addresses), settings.scheduler, dashboard(client, settings))
        try:
            yield executor
        finally:
            executor.close()


@contextmanager
def open_executor(
    settings: RuntimeParams, *, threads: int, gpu: bool, command: str
) -> Iterator[tuple[Executor, RuntimeParams]]:
    """The executor that `settings.scheduler` names, and the settings to run it with.

    Worker processes started here are stopped at the end. threads is the number of shards that a local executor computes
    at a time; command is the module of `stages` that runs. gpu says that a job takes a worker's accelerator: the
    settings then have the device and the number format that all workers chose. Raises ClusterError when there is no
    scheduler, or no workers that can do the work.
    """
    if settings.scheduler == "threads":
        with LocalExecutor(threads=threads) as local:
            yield local, settings
        return

    with dask_executor(settings, gpu=gpu, command=command) as executor:
        yield executor, executor.settings
