"""Energy counters as files and libraries written here; no machine's own counters are read."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.hardware import (
    Nvml,
    Rapl,
    estimated_joules,
    idle_watts,
    open_meter,
)

WHOLE = 262_143_328_850
"""A counter's range on real processors, microjoules."""


def write_zone(root: Path, folder: str, name: str, value: int) -> Path:
    zone = root / folder
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{name}\n", encoding="ascii")
    (zone / "max_energy_range_uj").write_text(f"{WHOLE}\n", encoding="ascii")
    (zone / "energy_uj").write_text(f"{value}\n", encoding="ascii")
    return zone / "energy_uj"


def test_packages_and_memory_count_and_nothing_counts_twice(tmp_path: Path) -> None:
    counted = [
        write_zone(tmp_path, "intel-rapl:0", "package-0", 5),
        write_zone(tmp_path, "intel-rapl:1", "package-1", 10**9),
        write_zone(tmp_path, "intel-rapl:0:1", "dram", 7),
    ]
    others = [
        write_zone(tmp_path, "intel-rapl:0:0", "core", 1),
        write_zone(tmp_path, "intel-rapl:2", "psys", 1),
        write_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1),
    ]
    meter = Rapl.open(tmp_path)
    assert meter is not None
    assert meter.joules() == 0
    for path, joules in zip(counted, (2, 30, 400), strict=True):
        path.write_text(str(int(path.read_text()) + joules * 10**6), encoding="ascii")
    for path in others:
        path.write_text(str(10**12), encoding="ascii")
    assert meter.joules() == 432
    assert meter.joules() == 432


@given(start=st.integers(0, WHOLE - 1), steps=st.lists(st.integers(0, WHOLE - 1), max_size=6))
def test_a_counter_that_begins_anew_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, start: int, steps: list[int]
) -> None:
    root = tmp_path_factory.mktemp("powercap")
    path = write_zone(root, "intel-rapl:0", "package-0", start)
    meter = Rapl.open(root)
    assert meter is not None
    for number in range(len(steps)):
        path.write_text(str((start + sum(steps[: number + 1])) % WHOLE), encoding="ascii")
        assert meter.joules() == pytest.approx(sum(steps[: number + 1]) / 1e6)


def test_counters_that_may_not_be_read_are_no_counters(tmp_path: Path) -> None:
    assert Rapl.open(tmp_path / "nowhere") is None
    readable = write_zone(tmp_path, "intel-rapl:0", "package-0", 5)
    assert Rapl.open(tmp_path) is not None
    readable.unlink()
    readable.mkdir()  # an OSError for root too, whose reads ignore permissions
    assert Rapl.open(tmp_path) is None
    assert open_meter(torch.device("cpu"), root=tmp_path) is None
    readable.rmdir()
    readable.write_text("<unknown>", encoding="ascii")
    assert Rapl.open(tmp_path) is None


class Clock:
    """A clock that advances in sleep only, and a meter whose power is `watts`."""

    source = "rapl"

    def __init__(self, watts: float) -> None:
        self.now, self.watts = 0.0, watts

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def joules(self) -> float:
        return 1000 + self.watts * self.now


def test_idle_power_is_energy_over_time() -> None:
    clock = Clock(watts=35.0)
    assert idle_watts(clock, clock=clock.time, sleep=clock.sleep) == pytest.approx(35.0)


def test_the_estimate_counts_cores_on_a_processor_and_time_on_an_accelerator() -> None:
    assert estimated_joules(torch.device("cpu"), seconds=2.0, core_seconds=3.5) == 42.0
    assert estimated_joules(torch.device("cuda"), seconds=2.0, core_seconds=3.5) == 400.0


def fake_nvml(monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
    library: Any = types.ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})

    def energy(handle: bytes) -> int:
        if fails:
            raise library.NVMLError("Not Supported")
        return {b"GPU-1234": 2500}[handle]

    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    library.nvmlDeviceGetTotalEnergyConsumption = energy
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="1234"))


def test_an_accelerator_is_found_by_its_own_number_and_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, fails=False)
    meter = open_meter(torch.device("cuda"))
    assert meter is not None
    assert (meter.source, meter.joules()) == ("nvml", 2.5)


def test_an_accelerator_without_a_counter_or_a_library_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, fails=True)
    assert Nvml.open(torch.device("cuda")) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # import raises ImportError
    assert Nvml.open(torch.device("cuda")) is None
