"""Settings that change speed and not results: device, number format, threads, batch size; and the work folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING

from pipeline.core.allocator import keep_freed_memory
from pipeline.core.params import RuntimeParams
from storage.work import Workspace

if TYPE_CHECKING:
    import torch


log = logging.getLogger(__name__)

BFLOAT16_CAPABILITY = 8
"""Compute capability, major, of the first NVIDIA GPUs with bfloat16 units (Ampere)."""

GAIN = 1.1
"""How many times as fast as in float32 a CPU's product in bfloat16 must be; measured ratios are 0.5 and 2."""
PRODUCT, PRODUCT_RUNS = (256, 768, 768), 20
"""Rows, depth and columns of the product that is timed, and how often. It takes two milliseconds of one core, so that
on a busy machine some of the runs are not interrupted: the stages of a run must choose alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """The section `runtime`, its choices made for this process."""

    device: torch.device
    dtype: torch.dtype
    """Of matrix products; losses and scores are computed in float32 in any case."""
    batch_tokens: int
    """Tokens, padding included, of one forward."""
    threads: int = 0
    """CPU threads of the process; 0 leaves them as they are."""
    checkpoint_seconds: float = 300.0
    trackers: tuple[str, ...] = ()
    """Names of `pipeline.core.tracking.TRACKERS`."""
    workspace: Workspace = Workspace()

    def facts(self) -> dict[str, str]:
        """Device and number format, as run records name them."""
        return {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}


def apply(params: RuntimeParams, workspace: Workspace = Workspace()) -> Runtime:
    """Set the thread count and choose device and dtype; `auto` takes bfloat16 where it is faster than float32."""
    import torch

    device = params.device if params.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    settle(torch.device(device), threads=params.threads)
    return Runtime(
        device=torch.device(device),
        dtype=_number_format(params.dtype, device),
        batch_tokens=params.batch_tokens,
        threads=params.threads,
        checkpoint_seconds=params.checkpoint_seconds,
        trackers=tuple(params.trackers),
        workspace=workspace,
    )


def _number_format(setting: str, device: str) -> torch.dtype:
    """The dtype to use: `auto` is bfloat16 where the device has units for it. A GPU without them computes in float32.

    Such a GPU (before compute capability 8.0: T4, V100) reports bfloat16 as supported, but emulates it, slowly.
    float16 is not chosen: hidden states of some encoders go beyond its 65,504.
    """
    import torch

    if device == "cuda":
        units = torch.cuda.get_device_capability()[0] >= BFLOAT16_CAPABILITY
        if not units and setting != "float32":
            log.warning(
                "%s has no bfloat16 units: computing in float32%s",
                torch.cuda.get_device_name(),
                "" if setting == "auto" else f" although runtime.dtype is {setting}",
            )
            return torch.float32
    else:
        units = _cpu_gains_from_bfloat16()
    if setting == "auto":
        return torch.bfloat16 if units else torch.float32
    dtype: torch.dtype = getattr(torch, setting)
    return dtype


def settle(device: torch.device, *, threads: int) -> None:
    """Set the thread count, where it is not 0, the allocator and the device's own settings, for this process."""
    import torch

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        # cuDNN re-plans for each shape, and batches here differ in length.
        torch.backends.cuda.enable_cudnn_sdp(enabled=False)


@cache
def _cpu_gains_from_bfloat16() -> bool:
    """True on CPUs on which a bfloat16 product is clearly faster than one in float32.

    Matrix units are. Vector instructions alone need a measurement: on AMD's processors they double the rate, on Intel's
    of the generations with AMX, where a virtual machine hides AMX, they halve it.
    """
    import torch

    capability = torch.cpu.get_capabilities()
    if any(capability.get(name) for name in ("amx_bf16", "arm_bf16")):
        return True
    return bool(capability.get("avx512_bf16")) and product_seconds(torch.float32) > GAIN * product_seconds(
        torch.bfloat16
    )


def product_seconds(dtype: torch.dtype) -> float:
    """Seconds of a product as an encoder has them, on the CPU; the least of several: other work matters less."""
    import torch

    left, right = torch.ones(PRODUCT[0], PRODUCT[1], dtype=dtype), torch.ones(PRODUCT[2], PRODUCT[1], dtype=dtype)
    taken = []
    with torch.inference_mode():
        for _ in range(PRODUCT_RUNS):
            begun = perf_counter()
            torch.nn.functional.linear(left, right)
            taken.append(perf_counter() - begun)
    return min(taken)
