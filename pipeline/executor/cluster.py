"""Reach a Dask scheduler or start workers of this machine, and refuse workers that would write other bytes.

A store must not depend on which worker computes which shard. So all workers must have the driver's code and package
versions, and choose one device and one number format.

Until that is checked, only functions that a worker without this package can load may be sent.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipeline.core.import_closure import command_digest, module_digests
from pipeline.core.params import RuntimeParams
from storage.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client


CONNECT_SECONDS = 15.0
"""A scheduler that does not answer within this time is refused."""

GPU = "gpu"
"""Resource of a worker, taken by one teacher at a time."""

VERSIONED = ("numpy", "zarr", "numcodecs", "torch", "transformers", "tokenizers", "pyarrow", "rensa")
"""Packages whose version may change a store's bytes."""

MODULES = module_digests()
"""Computed on import: a worker that was started before an edit runs the code before the edit."""


@contextmanager
def connected(settings: RuntimeParams) -> Iterator[Client]:
    """A client of the scheduler in `settings`, or of a local one whose workers of this machine stop at the end."""
    import dask
    from distributed import Client, LocalCluster

    # Dask's own message about a dead worker is silenced; `pipeline.executor.dask` logs it.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if settings.scheduler != "processes":
        try:
            client = Client(  # type: ignore[no-untyped-call]
                settings.scheduler, timeout=CONNECT_SECONDS, set_as_default=False
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ClusterError(
                f"runtime.scheduler: no Dask scheduler answers at {settings.scheduler} within {CONNECT_SECONDS:.0f} s "
                f"({type(error).__name__}). Start one with `dask scheduler`, or set runtime.scheduler: threads"
            ) from error
        with client:
            yield client
        return
    # Dask's own environment makes processes return memory to the system at once, which slows a model on the CPU, as
    # every tensor is then mapped anew. It also gives each process one thread.
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), settings.threads)
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=settings.workers,
            threads_per_worker=1,
            resources={GPU: 1},
            # Dask reports each death of a worker; `pipeline.executor.dask` counts them.
            scheduler_kwargs={"allowed_failures": 0},
            # Memory holds a model and a shard, not Dask's data, so Dask has nothing to move to disk.
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


def split_threads(settings: RuntimeParams) -> RuntimeParams:
    """Threads of each process: workers of this machine share its cores, others use their environment's setting."""
    if settings.threads or settings.scheduler != "processes":
        return settings
    return settings.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // settings.workers)})


def dashboard(client: Client, settings: RuntimeParams) -> str:
    """Where Dask's dashboard is, in words."""
    if settings.scheduler == "processes" and importlib.util.find_spec("bokeh") is None:
        return "no dashboard: bokeh is not installed"
    return f"dashboard: {client.dashboard_link}"


def workers_of(client: Client, *, gpu: bool) -> list[str]:
    """Addresses of all workers, or of those with the resource `gpu`."""
    known: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return [address for address, worker in known.items() if not gpu or worker["resources"].get(GPU)]


def require_workers(client: Client, settings: RuntimeParams, *, gpu: bool) -> list[str]:
    """Addresses of the workers that can be given tasks; raises ClusterError when there are none."""
    found = workers_of(client, gpu=gpu)
    if not found:
        missing = f"has no worker with resource {GPU}" if gpu and workers_of(client, gpu=False) else "has no workers"
        resources = f' --resources "{GPU}=1"' if gpu else ""
        raise ClusterError(
            f"{settings.scheduler}: the scheduler {missing}. Start one for each accelerator, where this package is "
            f"installed and the project's folder is seen: dask worker {settings.scheduler}{resources} --nthreads 1"
        )
    return found


@cache
def environment(command: str) -> dict[str, str]:
    """What must be equal in the driver and all workers of a command: versions, and the modules it imports."""
    versions = {
        "command": command,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "code": command_digest(command, digests=MODULES)[:12],
    }
    for package in VERSIONED:
        try:
            versions[package] = version(package).partition("+")[0]  # the rest names the accelerator it was built for
        except PackageNotFoundError:
            versions[package] = "none"
    return versions


def chosen(settings: Mapping[str, Any]) -> dict[str, str]:
    """Device and number format that this process chooses by the runtime settings given as plain data."""
    from pipeline.core.runtime import apply

    return apply(RuntimeParams.model_validate(settings)).facts()


def require_uniform_workers(
    client: Client, addresses: list[str], settings: RuntimeParams, *, gpu: bool, command: str
) -> RuntimeParams:
    """Settings with the device and the number format that all workers choose, when `gpu` is set.

    Raises ClusterError naming the first worker that is not like the driver, or not like the others.
    """
    plain = settings.model_dump() if gpu else None

    def answer() -> dict[str, str]:
        # A nested function is sent as code, so it also runs where the package is not installed, and reports that.
        try:
            workers = importlib.import_module("pipeline.executor.cluster")
        except ImportError as error:
            return {"error": str(error)}
        found: dict[str, str] = workers.environment(command) | ({} if plain is None else workers.chosen(plain))
        return found

    answer_of: dict[str, Any] = client.run(answer, workers=addresses, on_error="return")
    answers: dict[str, dict[str, str]] = {}
    for address, reported in sorted(answer_of.items()):
        if isinstance(reported, OSError):
            continue  # it died in the meantime
        if isinstance(reported, Exception) or "error" in reported:
            raise ClusterError(
                f"worker {address}: cannot use this project's package there "
                f"({reported if isinstance(reported, Exception) else reported['error']}). Install the same "
                "checkout, and start the worker from that environment"
            )
        require_same(address, reported, environment(command))
        answers[address] = reported
    return settings if plain is None else settings.model_copy(update=_one_choice(answers))


def _one_choice(answers: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The device and number format that all workers choose; raises ClusterError naming one that differs."""
    choices = {name: next(iter(answers.values()), {}).get(name) for name in ("device", "dtype")}
    for address, reported in answers.items():
        for name, first in choices.items():
            if reported[name] != first:
                raise ClusterError(
                    f"worker {address}: chooses {name} {reported[name]}, others {first}: a store would depend on which "
                    f"worker computes which shard. Set runtime.{name} to one that all workers have"
                )
    return {name: value for name, value in choices.items() if value is not None}


def require_same(worker: str, found: Mapping[str, str], driver: Mapping[str, str]) -> None:
    """Raise ClusterError, naming the worker, unless `environment` is the same there and at the driver."""
    for name, expected in driver.items():
        if found.get(name) != expected:
            what = "another version of this project's code" if name == "code" else f"{name} {found.get(name)}"
            raise ClusterError(
                f"worker {worker}: has {what}, expected {expected} as here: a store would depend on "
                "which worker computes which shard. Give workers the same checkout and environment"
            )
