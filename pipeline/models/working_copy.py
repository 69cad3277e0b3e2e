"""Train a float32 model through a copy of its weights in bfloat16: the copy computes, the model is what is learned.

Autocast converts weights, activations and gradients anew around every product: hundreds of small conversions a step.
Here weights go one way once a step and gradients the other way once a forward. Sums of gradients, moments and updates
stay float32 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.1).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WorkingCopy:
    """A model's bfloat16 copy, on the model's device, and the float32 buffers that its gradients are summed in."""

    def __init__(self, master: nn.Module) -> None:
        self.model: Any = copy.deepcopy(master).to(torch.bfloat16)
        learned = [
            (own, computing)
            for own, computing in zip(master.parameters(), self.model.parameters(), strict=True)
            if own.requires_grad
        ]
        # Kept between steps: a fresh buffer costs more in page faults than the conversion that fills it.
        self._pairs: list[tuple[nn.Parameter, nn.Parameter, Tensor]] = [
            (own, computing, torch.empty_like(own)) for own, computing in learned
        ]

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the model's weights into the copy; called before the first forward after an update."""
        for own, computing, _ in self._pairs:
            computing.copy_(own)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the copy's gradients to the model's, in float32, and drop them; called after each backward."""
        for own, computing, buffer in self._pairs:
            if computing.grad is None:
                continue
            if own.grad is None:
                own.grad = buffer.copy_(computing.grad)
            else:
                own.grad.add_(computing.grad)
            computing.grad = None
