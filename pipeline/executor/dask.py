"""The driver's side of workers: hands out shards as tasks, takes in what was made, and hands out again who died.

A few tasks are out for each worker at a time, so neither its memory nor the scheduler's grows with the store. A worker
keeps what a job opens, such as the one model it may hold, from task to task, and lets go of it when the next job comes
or the stage ends. A worker that dies costs the shards it was at: each goes to another one, until DEATHS_LIMIT workers
died of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from pipeline.core.params import RuntimeParams
from pipeline.core.progress import LINE_SECONDS
from pipeline.executor.base import Executor, Job, LocalExecutor, ResourceCache, shard_progress
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
    Desk,
    accept,
    open_desk,
)
from storage.errors import ClusterError
from storage.writer import Shard, StoreWriter

if TYPE_CHECKING:
    from distributed import Client, Future, Worker


log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Shards handed to each worker: one it is at, and one so that it need not wait."""

DEATHS_LIMIT = 5
"""Workers that may die with a shard before the shard is blamed."""

LOOK_SECONDS = 5.0
"""Between looks at whether there still are a scheduler and workers, while no shard is finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """One thing to be done by a worker."""

    name: str
    """For people: the shard, or what else it is."""
    arguments: tuple[Any, ...]
    deaths: int = 0
    """Workers that died with it."""


class DaskExecutor:
    """The workers of a Dask scheduler; those with resource `gpu` when `gpu` is set.

    settings are the runtime settings that workers run with, device and number format decided; command is the module of
    `stages` that gives them work.
    """

    def __init__(self, client: Client, settings: RuntimeParams, *, gpu: bool, command: str) -> None:
        self.held = ResourceCache()
        self.settings = settings
        self._client = client
        self._gpu = gpu
        self._environment = environment(command)
        self._jobs: set[str] = set()

    def close(self) -> None:
        """Close what workers keep open; those that are still at something keep it until the next job."""
        self.held.close(None, None, None)
        for key in self._jobs:
            self._client.run(_release, key, on_error="ignore")

    def once(self, job: Job, work: Callable[[Any, Any], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """`work(job, tools)` on one worker."""
        task = _Task(
            name=work.__name__.strip("_"), arguments=(_once_there, job.with_absolute_paths(), work, self._environment)
        )
        ((_, made),) = self._finished(job, deque([task]), label=task.name)
        result: dict[str, NDArray[Any]] = made
        return result

    def shards(self, job: Job, writer: StoreWriter, *, label: str) -> None:
        """Have every missing shard made by a worker, and take it into the store."""
        missing = list(writer.missing())
        if not missing:
            return
        tally = Tally(len(missing), label=label)
        with shard_progress(writer, missing, label=label) as progress, open_desk(writer) as desk:
            there = job.with_absolute_paths()
            tasks = deque(
                _Task(name=str(shard), arguments=(_shard_there, there, desk, shard, self._environment))
                for shard in missing
            )
            for _, (worker, attempt) in self._finished(job, tasks, label=label):
                accept(writer, attempt)
                progress.advance(attempt.shard.stop - attempt.shard.start)
                tally.add(worker)
        log.info("%s", tally.line())

    def _finished(self, job: Job, tasks: deque[_Task], *, label: str) -> Iterator[tuple[_Task, Any]]:
        """What workers made of each task, as they finish; a few for each worker are handed out at a time."""
        from distributed import KilledWorker

        self._jobs.add(job.key)
        flying: dict[Future[Any], _Task] = {}
        try:
            while tasks or flying:
                room = IN_FLIGHT * max(1, len(self._workers())) - len(flying)
                for _ in range(min(room, len(tasks))):
                    task = tasks.popleft()
                    flying[self._submit(task, label=label)] = task
                for future in self._some_done(flying):
                    task = flying.pop(future)
                    try:
                        yield task, future.result()
                    except KilledWorker as error:
                        tasks.append(_after_death(task, error))
        finally:
            self._client.cancel(list(flying), force=True)  # type: ignore[no-untyped-call]

    def _submit(self, task: _Task, *, label: str) -> Future[Any]:
        work, *arguments = task.arguments
        # A key of its own: the scheduler would give what it holds under the old one, such as the last failure.
        key = f"{label.replace(' ', '-')}-{task.name.replace('/', '-')}-{os.urandom(8).hex()}"
        return self._client.submit(work, *arguments, key=key, pure=False, resources={GPU: 1} if self._gpu else None)

    def _some_done(self, flying: Mapping[Future[Any], _Task]) -> list[Future[Any]]:
        """Futures that are finished, at least one; raises ClusterError when the scheduler is gone."""
        from concurrent.futures import CancelledError

        from distributed import wait

        warned = time.monotonic()
        while True:
            try:
                with self._client.as_current():
                    wait(list(flying), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
            except TimeoutError:
                self._require_scheduler()
                if time.monotonic() - warned >= LINE_SECONDS and not self._workers():
                    warned = time.monotonic()
                    log.warning("%d shards wait: no worker is left. They go on when one comes", len(flying))
                continue
            except CancelledError:
                self._require_scheduler()
                raise ClusterError("the scheduler dropped this run's tasks. Run the same command to continue") from None
            return [future for future in flying if future.done()]  # type: ignore[no-untyped-call]

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
    """The task once more; raises ClusterError when too many workers died with it."""
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
    """Counts the shards that each worker finished, and says so every LINE_SECONDS."""

    def __init__(self, total: int, *, label: str) -> None:
        self._total = total
        self._label = label
        self._done: Counter[str] = Counter()
        self._began = self._spoke = time.monotonic()

    def add(self, worker: str) -> None:
        """Count one shard of `worker`."""
        self._done[worker] += 1
        if time.monotonic() - self._spoke >= LINE_SECONDS:
            self._spoke = time.monotonic()
            log.info("%s", self.line())

    def line(self) -> str:
        """Shards done, and of each worker how many and how many a minute, the slowest first."""
        minutes = max(time.monotonic() - self._began, 1e-9) / 60
        each = ", ".join(
            f"{worker} {count} ({count / minutes:.1f} a minute)"
            for worker, count in sorted(self._done.items(), key=lambda item: (item[1], item[0]))
        )
        return f"{self._label}: {self._done.total()} of {self._total} shards; {each}"


def _held_by(worker: Worker) -> ResourceCache:
    """What a worker process keeps open; it lives and dies with the worker."""
    held: ResourceCache = worker.__dict__.setdefault("distillation_held", ResourceCache())
    return held


def _name_of(worker: Worker) -> str:
    name, address = str(worker.name), str(worker.address)
    return address if name == address else f"{name} at {address}"


def _shard_there(job: Job, desk: Desk, shard: Shard, driver: dict[str, str]) -> tuple[str, Attempt]:
    """On a worker: make one shard and write it as an attempt; the worker's name and the attempt."""
    from distributed import get_worker

    worker = get_worker()
    require_same(_name_of(worker), environment(driver["command"]), driver)
    with _held_by(worker).opened(job) as tools:
        record, sidecar = job.make(tools, shard, advance=lambda _: None)
        return _name_of(worker), desk.write(shard, record, sidecar=sidecar)


def _once_there(job: Job, work: Callable[[Any, Any], Any], driver: dict[str, str]) -> Any:
    """On a worker: `work(job, tools)`."""
    from distributed import get_worker

    worker = get_worker()
    require_same(_name_of(worker), environment(driver["command"]), driver)
    with _held_by(worker).opened(job) as tools:
        return work(job, tools)


def _release(key: str, dask_worker: Worker) -> None:
    """On a worker, which Dask gives to a parameter of this name."""
    _held_by(dask_worker).release(key)


@contextmanager
def dask_executor(settings: RuntimeParams, *, gpu: bool, command: str) -> Iterator[DaskExecutor]:
    """The workers that `settings.scheduler` names, checked; those that are started here are stopped at the end.

    Raises ClusterError when there is no scheduler, or no workers that can do the work.
    """
    settings = split_threads(settings)
    with connected(settings) as client:
        addresses = require_workers(client, settings, gpu=gpu)
        settings = require_uniform_workers(client, addresses, settings, gpu=gpu, command=command)
        several = DaskExecutor(client, settings, gpu=gpu, command=command)
        log.info("%d workers of %s; %s", len(addresses), settings.scheduler, dashboard(client, settings))
        try:
            yield several
        finally:
            several.close()


@contextmanager
def open_executor(
    settings: RuntimeParams, *, threads: int, gpu: bool, command: str
) -> Iterator[tuple[Executor, RuntimeParams]]:
    """Who does the work of a stage by `settings.scheduler`, and the settings to do it with.

    Worker processes started here are stopped at the end. threads is how many shards this process does at a time when it
    is to do them; command is the module of `stages` that runs. gpu says that a job takes a worker's accelerator: the
    settings then have the device and the number format that all workers chose. Raises ClusterError when there is no
    scheduler, or no workers that can do the work.
    """
    if settings.scheduler == "threads":
        with LocalExecutor(threads=threads) as alone:
            yield alone, settings
        return

    with dask_executor(settings, gpu=gpu, command=command) as several:
        yield several, several.settings
