"""The optimiser against AdamW written out, the learning rate by step, and the choice of attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models.masked_lm import load_checked
from pipeline.models.optimizer import EAGER_TOKENS, adamw, choose_attention, linear_schedule, update

CPU = torch.device("cpu")


def test_steps_are_those_of_adamw_and_only_matrices_decay() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in float64; three steps."""
    rate, decay, betas, eps = 0.01, 0.1, (0.9, 0.98), 1e-6
    rng = np.random.default_rng(0)
    start = {"matrix": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    parameters = {name: torch.nn.Parameter(torch.tensor(value, dtype=torch.float32)) for name, value in start.items()}
    optimizer = adamw(parameters.values(), learning_rate=rate, weight_decay=decay)
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in start.items()}
    for step in range(1, 4):
        for name, parameter in parameters.items():
            gradient = rng.normal(size=parameter.shape)
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
            first = betas[0] * moments[name][0] + (1 - betas[0]) * gradient
            second = betas[1] * moments[name][1] + (1 - betas[1]) * gradient**2
            moments[name] = first, second
            bent = first / (1 - betas[0] ** step) / (np.sqrt(second / (1 - betas[1] ** step)) + eps)
            shrunk = start[name] * (1 - rate * decay) if name == "matrix" else start[name]
            start[name] = shrunk - rate * bent
        optimizer.step()
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.detach().numpy(), start[name], rtol=1e-5, atol=1e-6)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_0_after_the_last_step() -> None:
    rates = [linear_schedule(step, 100, warmup=0.1, peak=1e-3) for step in range(101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) * 1e-4)
    assert rates[10] == pytest.approx(1e-3)
    assert np.diff(rates[10:]) == pytest.approx([-1e-3 / 90] * 90)
    assert rates[100] == 0.0 < rates[99]


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (4, 0.1), (20, 0.0)])
def test_a_warm_up_shorter_than_a_step_begins_at_the_peak(steps: int, warmup: float) -> None:
    assert linear_schedule(0, steps, warmup=warmup, peak=0.5) == 0.5


def test_an_update_clips_the_norm_of_all_gradients_together_and_frees_them() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(parameters, lr=9.0)
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    update(optimizer, parameters, learning_rate=0.5, gradient_clip=1.0)
    np.testing.assert_allclose(torch.cat([p.detach() for p in parameters]).numpy(), [-0.3, 0.0, -0.4], rtol=1e-5)
    assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "chosen"),
    [
        ("cpu", torch.bfloat16, EAGER_TOKENS, "eager"),
        ("cpu", torch.bfloat16, EAGER_TOKENS + 1, "sdpa"),
        ("cpu", torch.float32, 16, "sdpa"),
        ("cuda", torch.bfloat16, 16, "sdpa"),
    ],
)
def test_attention_is_chosen_and_no_answer_changes_by_it(
    device: str, dtype: torch.dtype, tokens: int, chosen: str, tiny_mlm: Path, tmp_path: Path
) -> None:
    model = load_checked(tiny_mlm).eval()
    ids = torch.arange(5, 17).reshape(2, 6)
    attention = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=attention).logits
        choose_attention(model, device=torch.device(device), dtype=dtype, tokens=tokens)
        after = model(input_ids=ids, attention_mask=attention).logits
    assert model.config._attn_implementation == chosen
    shown = attention.bool()
    torch.testing.assert_close(after[shown], before[shown], rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    assert "eager" not in (tmp_path / "saved" / "config.json").read_text()
