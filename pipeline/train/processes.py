"""Training on several processes, one accelerator each: data parallelism in which every process takes the same steps.

A step's examples are divided among the processes; each computes the gradients of its own, of a loss that is divided by
the masked positions of the whole step. The sum over processes is so the gradient that one process would compute, up to
the order of additions, and every process makes the same update. Nothing is averaged, so the number of processes may
change between two runs. PyTorch's DistributedDataParallel has the same arithmetic, but needs equally many forwards
everywhere, and a process here may have no example of a step.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.train.data import Share
from storage.errors import ProcessLost

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(hours=12)
"""How long a process waits for others: the first one evaluates and writes checkpoints alone. A dead process ends the
run at once, as its launcher ends the others."""

BUCKET_BYTES = 64 * 2**20
"""Gradients that are summed by one message."""


class Processes:
    """All processes that train one student; this class is of a process alone."""

    share = Share()

    @property
    def first(self) -> bool:
        """True in the process that holds the work folder, evaluates and writes."""
        return self.share.number == 0

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums over processes, in each of them."""
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the sum over processes in the place of each gradient; one without a gradient counts as zeros."""

    def from_first(self, value: Any) -> Any:
        """What the first process gives, JSON data, in each of them."""
        return value


ALONE = Processes()


class Group(Processes):
    """Several processes, joined by `torch.distributed`."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        self._device = device
        self.share = Share(number=dist.get_rank(), of=dist.get_world_size())

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums over processes, in each of them."""
        import torch
        import torch.distributed as dist

        tensor = torch.from_numpy(np.array(values)).to(self._device)
        with _together():
            dist.all_reduce(tensor)
        return np.asarray(tensor.cpu().numpy())

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the sum over processes in the place of each gradient; one without a gradient counts as zeros."""
        import torch
        import torch.distributed as dist

        learned = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(learned):
            flat = torch.cat([parameter.grad.flatten() for parameter in bucket if parameter.grad is not None])
            with _together():
                dist.all_reduce(flat)
            for parameter, summed in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(summed.view_as(parameter))

    def from_first(self, value: Any) -> Any:
        """What the first process gives, JSON data, in each of them."""
        import json

        import torch
        import torch.distributed as dist

        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self._device)
        size = torch.tensor([len(data)], device=self._device)
        with _together():
            dist.broadcast(size, src=0)
            if not self.first:
                data = torch.zeros(int(size), dtype=torch.uint8, device=self._device)
            dist.broadcast(data, src=0)
        return json.loads(bytes(data.cpu().numpy()))


@contextmanager
def _together() -> Iterator[None]:
    """A message that takes all processes: it fails where one has ended, and its launcher says which."""
    try:
        yield
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise ProcessLost(f"another process of this run ended, or cannot be reached: {said}") from error


def _buckets(parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    bucket: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def launch(count: int, module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module arguments` in `count` processes of this machine, which `joined` joins, to the end.

    Raises ProcessLost when one of them ends before; the others are ended then.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        raise ProcessLost(
            f"process {number} of {count} ended with {how}, and so did the others. Run the same command to continue "
            "from the last checkpoint, on as many processes as there are"
        ) from None
    except SignalException as error:
        raise KeyboardInterrupt from error


def launched() -> int:
    """How many processes a launcher such as `torchrun` started for this run; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_of_launched() -> bool:
    """True in the process that writes the record of the run."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that a launcher started, and the device of this one: each takes the accelerator of its number.

    NCCL joins them on accelerators, gloo on processors.
    """
    if launched() == 1:
        yield ALONE, device
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Group(device), device
    finally:
        dist.destroy_process_group()
