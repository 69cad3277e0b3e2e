"""Device and number format: what is asked for is taken, `auto` takes what the hardware is good at."""

from __future__ import annotations

import pytest
import torch

from pipeline.core import runtime
from pipeline.core.params import RuntimeParams
from storage.work import Workspace

PARAMS = RuntimeParams(device="cpu", dtype="float32", threads=0, batch_tokens=4096, checkpoint_seconds=60.0)


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_what_is_asked_for_is_taken(dtype: str, expected: torch.dtype) -> None:
    chosen = runtime.apply(PARAMS.model_copy(update={"dtype": dtype}), Workspace(code="x"))
    assert (chosen.device, chosen.dtype, chosen.batch_tokens) == (torch.device("cpu"), expected, 4096)
    assert (chosen.threads, chosen.checkpoint_seconds, chosen.workspace) == (0, 60.0, Workspace(code="x"))
    assert chosen.facts() == {"device": "cpu", "dtype": dtype}


@pytest.mark.parametrize(("units", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_where_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, units: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units, "avx512_f": True})
    assert runtime.apply(PARAMS.model_copy(update={"dtype": "auto"})).dtype == expected


def test_threads_are_set_when_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        runtime.apply(PARAMS.model_copy(update={"threads": 1}))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
