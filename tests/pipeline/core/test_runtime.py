"""Device and number format: settings are followed, and `auto` takes what the hardware is fast at."""

from __future__ import annotations

import pytest
import torch

from pipeline.core import runtime
from pipeline.core.params import RuntimeParams
from storage.work import Workspace

PARAMS = RuntimeParams(device="cpu", dtype="float32", threads=0, batch_tokens=4096, checkpoint_seconds=60.0)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_what_is_setting_for_is_taken(dtype: str, expected: torch.dtype) -> None:
    chosen = runtime.apply(PARAMS.model_copy(update={"dtype": dtype}), Workspace(code="x"))
    assert (chosen.device, chosen.dtype, chosen.batch_tokens) == (torch.device("cpu"), expected, 4096)
    assert (chosen.threads, chosen.checkpoint_seconds, chosen.workspace) == (0, 60.0, Workspace(code="x"))
    assert chosen.facts() == {"device": "cpu", "dtype": dtype}


@pytest.mark.parametrize(
    ("units", "bfloat16_seconds", "expected"),
    [
        ("amx_bf16", 2.0, torch.bfloat16),
        ("arm_bf16", 2.0, torch.bfloat16),
        ("avx512_bf16", 0.5, torch.bfloat16),
        ("avx512_bf16", 0.95, torch.float32),
        ("avx512_bf16", 2.0, torch.float32),
        ("avx512_f", 0.5, torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_gains_from_it(
    monkeypatch: pytest.MonkeyPatch, units: str, bfloat16_seconds: float, expected: torch.dtype
) -> None:
    """Matrix units are trusted; vector instructions are timed: Intel's without AMX take twice as long as float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {units: True, "avx2": True})
    monkeypatch.setattr(runtime, "product_seconds", {torch.float32: 1.0, torch.bfloat16: bfloat16_seconds}.__getitem__)
    runtime._cpu_gains_from_bfloat16.cache_clear()
    try:
        assert runtime.apply(PARAMS.model_copy(update={"dtype": "auto"})).dtype == expected
    finally:
        runtime._cpu_gains_from_bfloat16.cache_clear()


def test_the_least_of_several_timings_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 5.0, 7.0, 8.5, 10.0, 14.0])
    monkeypatch.setattr(runtime, "PRODUCT_RUNS", 3)
    monkeypatch.setattr(runtime, "perf_counter", lambda: next(ticks))
    assert runtime.product_seconds(torch.float32) == 1.5
    assert next(ticks, None) is None


def test_threads_are_set_when_setting_for() -> None:
    before = torch.get_num_threads()
    try:
        runtime.apply(PARAMS.model_copy(update={"threads": 1}))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("capability", "setting", "expected"),
    [
        ((7, 0), "auto", torch.float32),
        ((7, 5), "auto", torch.float32),
        ((7, 5), "bfloat16", torch.float32),
        ((7, 5), "float32", torch.float32),
        ((8, 0), "auto", torch.bfloat16),
        ((9, 0), "auto", torch.bfloat16),
        ((9, 0), "float32", torch.float32),
    ],
)
def test_a_gpu_never_emulates_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capability: tuple[int, int],
    setting: str,
    expected: torch.dtype,
) -> None:
    """A T4 answers True to is_bf16_supported, by emulation; a format taken instead of the setting is logged."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    chosen = runtime.apply(PARAMS.model_copy(update={"device": "cuda", "dtype": setting}))
    assert chosen.dtype == expected
    said = [record.message for record in caplog.records]
    if capability < (8, 0) and setting != "float32":
        (line,) = said
        assert line.startswith("Tesla T4 has no bfloat16 units: computing in float32")
        assert ("although runtime.dtype is bfloat16" in line) == (setting == "bfloat16")
    else:
        assert not said
