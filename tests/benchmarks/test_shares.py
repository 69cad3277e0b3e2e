"""Useful FLOPs, and what a share is of them.

Not checked here: the rows as a whole, which read the stores of the default run.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import share
from benchmarks.speed.harness import RUNS, Machine

CPU = Machine(kind="cpu", name="a processor")
CONFIG: Any = SimpleNamespace(model_type="bert", hidden_size=4, num_hidden_layers=3, intermediate_size=6, vocab_size=10)


def test_flops_are_those_of_each_sequence_and_of_the_head() -> None:
    """By hand: 8 L H² + 4 L H I + 4 L² H a layer and sequence, 2 (H² + H V) a position of the head."""
    layers = sum(3 * (8 * length * 16 + 4 * length * 24 + 4 * length**2 * 4) for length in (5, 2, 5))
    assert share.forward_flops(CONFIG, [5, 2, 5], head_positions=7) == layers + 7 * 2 * (16 + 40)
    assert share.forward_flops(CONFIG, []) == 0


def test_a_share_is_of_the_flops_of_its_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls do 1, 2, 3, … FLOPs in two seconds each; products run at 0.5 a second. The first call warms up."""
    counts = iter(range(1, 100))

    def seconds(work: Any, *, machine: Machine) -> float:
        work()
        return 2.0

    monkeypatch.setattr(share, "seconds", seconds)
    monkeypatch.setattr(share, "product_rate", lambda *_: 0.5)
    monkeypatch.setattr(share, "where_time_goes", lambda work: {"rest": work()})
    found = share.share(CPU, lambda: next(counts), config=CONFIG, dtype=torch.float32, what="steps")
    assert list(found.values) == [2.0, 3.0, 4.0, 5.0, 6.0] and len(found.values) == RUNS
    assert found.details == {"time": {"rest": 7}}
    assert found.note.startswith("steps; float32, ")
