"""What a process runs on, and how much memory it takes there."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class PeakMemory:
    """Bytes that a process takes at most from here on, beyond what it has now.

    Of the accelerator where one is used, else resident memory: from the kernel's high-water mark where there is one,
    since ru_maxrss of a child begins at what its parent held.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            self._before = int(torch.cuda.memory_allocated(device))
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark falls to what is resident now
        self._before = _status_bytes("VmRSS") or _largest_resident()

    def added(self) -> int:
        """The peak since then minus what there was."""
        if self._device.type == "cuda":
            import torch

            return int(torch.cuda.max_memory_allocated(self._device)) - self._before
        return (_status_bytes("VmHWM") or _largest_resident()) - self._before


def _status_bytes(field: str) -> int | None:
    """A number of /proc/self/status; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def _largest_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def described(device: torch.device, dtype: torch.dtype, *, threads: int) -> dict[str, Any]:
    """Processor, accelerator, number format and torch, as they stand beside anything that was timed."""
    import torch

    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device.type,
        "accelerator": accelerator,
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
