"""A restored model and optimiser continue with the same bits."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.models import checkpoints
from pipeline.models.optimizer import adamw


def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3))
    return model, adamw(model.parameters(), learning_rate=0.01, weight_decay=0.01)


def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for number in range(first, last):
        data = torch.linspace(-1, 1, 20).reshape(5, 4) * (number + 1)
        model(data).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_training_through_a_checkpoint_is_bit_identical(tmp_path: Path) -> None:
    straight, optimizer = build()
    steps(straight, optimizer, 0, 10)
    first, optimizer = build()
    steps(first, optimizer, 0, 6)
    checkpoints.save(tmp_path, step=6, model=first, optimizer=optimizer, state={"curve": [[0, 1.5]]})
    second, optimizer = build()
    assert checkpoints.restore(tmp_path, model=second, optimizer=optimizer) == (6, {"curve": [[0, 1.5]]})
    steps(second, optimizer, 6, 10)
    for expected, got in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(expected, got)


def test_other_tensors_of_the_training_are_put_back_in_place(tmp_path: Path) -> None:
    model, optimizer = build()
    kept, other = torch.arange(6.0).view(2, 3), torch.ones(2)
    checkpoints.save(tmp_path, step=1, model=model, optimizer=optimizer, state=None, tensors={"a": kept, "b": other})
    again = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}
    place = again["a"].data_ptr()
    checkpoints.restore(tmp_path, model=model, optimizer=optimizer, tensors=again)
    assert torch.equal(again["a"], kept) and torch.equal(again["b"], other) and again["a"].data_ptr() == place


def test_all_that_the_optimiser_keeps_lies_beside_its_parameter(tmp_path: Path) -> None:
    """On a GPU a fused optimiser refuses a count of steps that lies in the memory of the CPU."""
    model, optimizer = build()
    steps(model, optimizer, 0, 1)
    checkpoints.save(tmp_path, step=1, model=model, optimizer=optimizer, state=None)
    elsewhere, optimizer = build()
    elsewhere.to("meta")
    optimizer = adamw(elsewhere.parameters(), learning_rate=0.01, weight_decay=0.01)
    checkpoints.restore(tmp_path, model=elsewhere, optimizer=optimizer)
    for parameter in elsewhere.parameters():
        assert {key: value.device.type for key, value in optimizer.state[parameter].items()} == {
            "step": "meta", "exp_avg": "meta", "exp_avg_sq": "meta",
        }  # fmt: skip


def test_the_newest_checkpoint_replaces_older_ones(tmp_path: Path) -> None:
    model, optimizer = build()
    for step in (2, 10):
        steps(model, optimizer, 0, 1)
        checkpoints.save(tmp_path, step=step, model=model, optimizer=optimizer, state=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-10"]


def test_a_half_written_checkpoint_is_not_used(tmp_path: Path) -> None:
    model, optimizer = build()
    steps(model, optimizer, 0, 1)
    checkpoints.save(tmp_path, step=1, model=model, optimizer=optimizer, state=None)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").write_bytes(b"half")
    restored = checkpoints.restore(tmp_path, model=model, optimizer=optimizer)
    assert restored == (1, None)
    checkpoints.save(tmp_path, step=2, model=model, optimizer=optimizer, state=None)
    assert checkpoints.restore(tmp_path, model=model, optimizer=optimizer) == (2, None)


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path: Path) -> None:
    model, optimizer = build()
    assert checkpoints.restore(tmp_path, model=model, optimizer=optimizer) is None
