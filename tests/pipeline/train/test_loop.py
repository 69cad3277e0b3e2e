"""The loop on a trainer of one number: what is begun, skipped, saved and continued."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models.optimizer import adamw
from pipeline.train.loop import run_steps


class Counter:
    """Notes what it is given; stops at a step."""

    def __init__(self, *, steps: int, stop: int | None = None) -> None:
        self.model = torch.nn.Linear(1, 1)
        self.optimizer = adamw(self.model.parameters(), learning_rate=0.1, weight_decay=0.0)
        self.steps, self.stop = steps, stop
        self.state: dict[str, Any] = {"seen": []}
        self.tensors: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        self.state["seen"].append("begin")

    def step(self, number: int, planned: str) -> None:
        if number == self.stop:
            raise KeyboardInterrupt
        self.state["seen"].append([number, planned])

    def plain(self) -> dict[str, Any]:
        return self.state


def plan(done: int) -> Iterator[str]:
    """a, aa, aaa and so on without end, from the `done`-th on."""
    return itertools.islice(itertools.accumulate(itertools.repeat("a")), done, None)


SEEN = ["begin", [0, "a"], [1, "aa"], [2, "aaa"]]


def test_every_step_is_taken_once_in_order_and_nothing_is_saved_before_its_time(tmp_path: Path) -> None:
    trainer = Counter(steps=3)
    run_steps(trainer, plan, tmp_path, checkpoint_seconds=1e9, label="count")
    assert trainer.state["seen"] == SEEN
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [1, 2])
def test_a_killed_run_continues_with_the_step_after_its_checkpoint(tmp_path: Path, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_steps(Counter(steps=3, stop=stop), plan, tmp_path, checkpoint_seconds=0, label="count")
    assert [path.name for path in tmp_path.iterdir()] == [f"step-{stop}"]
    again = Counter(steps=3)
    run_steps(again, plan, tmp_path, checkpoint_seconds=1e9, label="count")
    assert again.state["seen"] == SEEN


def test_a_finished_run_takes_no_step(tmp_path: Path) -> None:
    run_steps(Counter(steps=3), plan, tmp_path, checkpoint_seconds=0, label="count")
    again = Counter(steps=3, stop=0)
    run_steps(again, plan, tmp_path, checkpoint_seconds=0, label="count")
    assert again.state["seen"] == SEEN
