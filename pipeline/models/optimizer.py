"""Shared by every training: AdamW, the learning rate by step, one update, and the choice of attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


EAGER_TOKENS = 128
"""Longest sequences for which a CPU trains faster in bfloat16 with eager attention than with the fused kernel.

The fused kernel's backward is slow there; on longer sequences, and in float32, the fused kernel is faster."""


def adamw(
    parameters: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); matrices decay, biases and norms do not.

    Fused, as that reads the parameters once and is many times faster on a CPU.
    """
    import torch

    learned = list(parameters)
    return torch.optim.AdamW(
        [
            {"params": [parameter for parameter in learned if parameter.dim() > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in learned if parameter.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=betas,
        eps=1e-6,
        fused=True,
    )


def linear_schedule(step: int, steps: int, *, warmup: float, peak: float) -> float:
    """Learning rate of a step, counted from 0: it rises linearly to `peak`, then falls linearly to 0 after the last.

    warmup is the share of the steps over which it rises, rounded, at least one step.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (steps - step) / max(1, steps - rising)


def update(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    gradient_clip: float,
) -> None:
    """One optimiser step at this rate, with the norm of all gradients clipped; frees the gradients."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    torch.nn.utils.clip_grad_norm_(parameters, gradient_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def choose_attention(model: Any, *, device: torch.device, dtype: torch.dtype, tokens: int) -> None:
    """Set a Hugging Face model to the attention that trains faster on sequences of up to `tokens`."""
    import torch

    if device.type == "cpu" and dtype == torch.bfloat16 and tokens <= EAGER_TOKENS:
        model.set_attn_implementation("eager")
