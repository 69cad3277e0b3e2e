"""Executors compute the shards of a store: threads of this process, worker processes here, or a Dask cluster.

A shard is one task. With threads everything happens in this process. Otherwise this process is the driver: it holds the
work folder's lock, submits shards (`pipeline.executor.dask`), and moves what workers wrote beside the store into it.
`storage.attempts` has the rule, and says why a worker may die, be late or compute a shard twice. A store's bytes do not
depend on the executor.

`distributed` is imported only where it is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from numpy.typing import NDArray

from pipeline.core.progress import Progress
from pipeline.core.tracking import Curves
from storage.parts import Parts, make_part
from storage.records.base import Record
from storage.writer import Shard, StoreWriter

Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")


class Openable(Protocol):
    """What there is to do, in any process; small, and can be pickled."""

    @property
    def key(self) -> str:
        """Identifies what `opened` opens: equal keys, equal resources."""

    def with_absolute_paths(self) -> Self:
        """The job for a process that is in another folder."""

    def opened(self) -> AbstractContextManager[Any]:
        """Open what the job needs in this process, such as its model; kept for many shards."""


class PartJob(Openable, Protocol):
    """What there is to do for the parts of a round (`storage.parts`)."""

    def make_part(self, tools: Any, name: str, folder: Path, *, advance: Callable[[int], None]) -> None:
        """Write the files of a part into `folder`; tells `advance` of every so many finished units."""


class Job(Openable, Protocol):
    """What there is to do for the shards of one store."""

    def make(self, tools: Any, shard: Shard, *, advance: Callable[[int], None]) -> tuple[Record, Arrays]:
        """The rows of a shard and its sidecars; calls `advance` with numbers of finished rows."""


class ResourceCache:
    """Keeps open what one job opened, the last one; one thread uses it at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stack = ExitStack()
        self._key = ""
        self._tools: Any = None

    @contextmanager
    def opened(self, job: Openable) -> Iterator[Any]:
        """What the job opens; opened now unless it is open, after what another job had open was closed."""
        with self._lock:
            if self._key != job.key:
                self.close(None, None, None)
                self._tools = self._stack.enter_context(job.opened())
                self._key = job.key
            yield self._tools

    def close(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close what is open, after an exception or without one."""
        with self._lock:
            stack, self._stack = self._stack, ExitStack()
            self._key, self._tools = "", None
            stack.__exit__(kind, error, trace)

    def release(self, key: str) -> None:
        """Close the resources of `key`, if they are open and no thread uses them."""
        if self._lock.acquire(blocking=False):
            try:
                if self._key == key:
                    self.close(None, None, None)
            finally:
                self._lock.release()


class Executor(Protocol):
    """Runs jobs."""

    resources: ResourceCache
    """What jobs keep open in this process."""

    def once(self, job: Job, work: Callable[[Any, Any], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """`work(job, tools)`, run once, in one process."""

    def shards(self, job: Job, writer: StoreWriter, *, label: str, curves: Curves | None = None) -> None:
        """Compute and write every missing shard of `writer`, which is open and has its constants."""

    def parts(self, job: PartJob, parts: Parts, sizes: Mapping[str, int], *, unit: str, label: str) -> None:
        """Make the missing ones of the parts that `sizes` names, each with its size in units, for progress."""


class LocalExecutor:
    """Runs jobs in this process; `threads` shards at a time are computed, written and in memory."""

    def __init__(self, *, threads: int = 1) -> None:
        self.resources = ResourceCache()
        self._threads = threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resources.close(kind, error, trace)

    def once(self, job: Job, work: Callable[[Any, Any], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """`work(job, tools)`."""
        with self.resources.opened(job) as tools:
            return work(job, tools)

    def shards(self, job: Job, writer: StoreWriter, *, label: str, curves: Curves | None = None) -> None:
        """Compute and write every missing shard; in plan order when there is one thread."""
        missing = list(writer.missing())

        def done(shard: Shard, advance: Callable[[int], None]) -> int:
            record, sidecar = job.make(tools, shard, advance=advance)
            writer.write(shard, record, sidecar=sidecar)
            return shard.stop - shard.start

        with shard_progress(writer, missing, label=label, curves=curves) as progress:
            if missing:
                with self.resources.opened(job) as tools:
                    self._each(missing, done, progress)

    def parts(self, job: PartJob, parts: Parts, sizes: Mapping[str, int], *, unit: str, label: str) -> None:
        """Make and take in every missing part; in the given order when there is one thread."""
        missing = [name for name in sizes if not parts.has(name)]
        accepting = threading.Lock()

        def done(name: str, advance: Callable[[int], None]) -> int:
            made = make_part(desk, name, lambda folder: job.make_part(tools, name, folder, advance=advance))
            with accepting:
                parts.accept(made)
            return sizes[name]

        with part_progress(sizes, missing, unit=unit, label=label) as progress:
            if missing:
                with parts.desk() as desk, self.resources.opened(job) as tools:
                    self._each(missing, done, progress)

    def _each(self, items: list[T], done: Callable[[T, Callable[[int], None]], int], progress: Progress) -> None:
        """Do each item, `threads` at a time; what `done` returns is its size, for progress."""
        if self._threads == 1:
            for item in items:
                done(item, progress.advance)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            futures = [pool.submit(done, item, lambda _: None) for item in items]
            try:
                for future in as_completed(futures):
                    progress.advance(future.result())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def shard_progress(writer: StoreWriter, missing: list[Shard], *, label: str, curves: Curves | None = None) -> Progress:
    """Progress over all rows of a store of which the shards `missing` are to be computed."""
    total = sum(plan.rows for plan in writer.splits.values())
    left = sum(shard.stop - shard.start for shard in missing)
    return Progress(total, unit="rows", label=label, done=total - left, curves=curves)


def part_progress(sizes: Mapping[str, int], missing: list[str], *, unit: str, label: str) -> Progress:
    """Progress over parts of the given sizes of which `missing` are to be made."""
    total = sum(sizes.values())
    return Progress(total, unit=unit, label=label, done=total - sum(sizes[name] for name in missing))
