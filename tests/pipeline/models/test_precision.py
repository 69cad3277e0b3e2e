"""Which products are computed in which number format."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.precision import autocast


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_the_format_and_weights_stay(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(2, 2)
    with autocast(torch.device("cpu"), dtype):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == layer(torch.ones(1, 2)).dtype == torch.float32
