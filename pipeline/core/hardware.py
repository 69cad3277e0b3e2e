"""The machine: its processor, a process's peak memory, and energy by counters or by a documented estimate."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.core.allocator import return_freed_memory

if TYPE_CHECKING:
    import torch


POWERCAP = Path("/sys/class/powercap")

WATTS_A_CORE = 12.0
"""Each core in use of an unknown processor: the entry "Any" of Green Algorithms' TDP_cpu.csv (Lannelongue et al. 2021,
doi 10.1002/advs.202100707; https://github.com/GreenAlgorithms/green-algorithms-tool, data/latest)."""

WATTS_AN_ACCELERATOR = 200.0
"""For an unknown accelerator in use: the entry "Any" of TDP_gpu.csv there."""

IDLE_SECONDS = 0.5
"""Time over which idle power is measured; RAPL is updated every millisecond, NVML's counter every 0.1 s."""


class Meter(Protocol):
    """Something that counts energy."""

    source: str
    """"rapl" or "nvml"."""

    def joules(self) -> float:
        """Energy since some fixed moment; never falls."""


@dataclass(slots=True)
class _Zone:
    """A RAPL domain whose counter begins anew after `range_uj` microjoules."""

    path: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def advance(self) -> int:
        now_uj = int(self.path.read_text(encoding="ascii"))
        self.total_uj += now_uj - self.last_uj if now_uj >= self.last_uj else now_uj + self.range_uj - self.last_uj
        self.last_uj = now_uj
        return self.total_uj


class Rapl:
    """The sum of the processor packages and their memory; must be read once a wrap, about every 10 minutes or more."""

    source = "rapl"

    def __init__(self, zones: list[_Zone]) -> None:
        self._zones = zones

    @staticmethod
    def open(root: Path = POWERCAP) -> Rapl | None:
        """The counters under `root`; None when there is none, or when one is not readable."""
        zones = []
        try:
            for folder in sorted(root.glob("intel-rapl*:*")):
                # "core" and "uncore" are parts of a package, "psys" is the whole machine: they would count twice.
                # The same counters appear again as intel-rapl-mmio.
                name = (folder / "name").read_text(encoding="ascii").strip()
                if re.fullmatch(r"intel-rapl(:\d+)+", folder.name) and re.fullmatch(r"package-\d+.*|dram", name):
                    path = folder / "energy_uj"
                    whole = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
                    zones.append(_Zone(path=path, range_uj=whole, last_uj=int(path.read_text(encoding="ascii"))))
        except (OSError, ValueError):
            return None
        return Rapl(zones) if zones else None

    def joules(self) -> float:
        """Energy since it was opened."""
        return sum(zone.advance() for zone in self._zones) / 1e6


class Nvml:
    """The energy counter of one accelerator (Volta and later)."""

    source = "nvml"

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @staticmethod
    def open(device: torch.device) -> Nvml | None:
        """The counter of `device`; None without the package nvidia-ml-py, or where the accelerator has no counter."""
        import torch

        try:
            library = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            library.nvmlInit()
            # By its own number: CUDA may hide and reorder devices, NVML does not.
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            meter = Nvml(library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode()))
            meter.joules()
        except library.NVMLError:
            return None
        return meter

    def joules(self) -> float:
        """Energy since the driver was loaded."""
        return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


def open_meter(device: torch.device, *, root: Path = POWERCAP) -> Meter | None:
    """The energy meter of `device`; None where there is none."""
    return Nvml.open(device) if device.type == "cuda" else Rapl.open(root)


def idle_watts(
    meter: Meter, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> float:
    """Mean power while this process does nothing for `IDLE_SECONDS`."""
    began, at = clock(), meter.joules()
    sleep(IDLE_SECONDS)
    return (meter.joules() - at) / (clock() - began)


def estimated_joules(device: torch.device, *, seconds: float, core_seconds: float) -> float:
    """Constant power times time: of the cores in use on a CPU (`core_seconds`, of all threads), else of the device.

    Useful only to compare models on one machine, which it ranks as measured time does.
    """
    return WATTS_AN_ACCELERATOR * seconds if device.type == "cuda" else WATTS_A_CORE * core_seconds


class PeakMemory:
    """Peak memory of a process after this moment, beyond what it has now, in bytes.

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
        return_freed_memory()
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
    """Processor, accelerator, number format and torch, as recorded beside every timing."""
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
