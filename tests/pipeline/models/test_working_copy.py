"""What a bfloat16 copy computes, and what the float32 model learns from it."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.models.masked_lm import load_checked
from pipeline.models.working_copy import WorkingCopy


def test_gradients_of_several_backwards_are_summed_in_float32() -> None:
    """In bfloat16 1 + 1/512 is 1: with 8 bits the small gradient would be lost beside the large one."""
    master = torch.nn.Linear(1, 1)
    working = WorkingCopy(master)
    for size in (1.0, 1 / 512):
        working.model(torch.full((1, 1), size, dtype=torch.bfloat16)).backward()
        working.collect()
    assert master.weight.grad is not None
    assert master.weight.grad.dtype == torch.float32
    assert master.weight.grad.item() == 1 + 1 / 512
    assert working.model.weight.grad is None


def test_the_copy_follows_the_model_when_refreshed_and_the_model_is_never_rounded() -> None:
    master = torch.nn.Linear(1, 1)
    working = WorkingCopy(master)
    with torch.no_grad():
        master.weight.fill_(1 + 1 / 512)
    working.refresh()
    assert working.model.weight.item() == 1
    assert master.weight.item() == 1 + 1 / 512


def test_frozen_weights_get_no_gradient_and_the_next_step_starts_from_none() -> None:
    master = torch.nn.Linear(2, 1)
    master.bias.requires_grad_(False)
    working = WorkingCopy(master)
    for value in (3.0, 5.0):
        master.zero_grad(set_to_none=True)
        working.model(torch.full((1, 2), value, dtype=torch.bfloat16)).backward()
        working.collect()
        assert master.weight.grad is not None
        assert master.weight.grad.tolist() == [[value, value]]
        assert master.bias.grad is None


def test_tied_weights_stay_tied(tiny_mlm: Path) -> None:
    copied = WorkingCopy(load_checked(tiny_mlm)).model
    assert copied.get_input_embeddings().weight is copied.get_output_embeddings().weight
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.bfloat16}
