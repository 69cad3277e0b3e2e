"""What a computation allocates, as PyTorch's profiler counts it: within its operations too, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(compute: Callable[[], Any]) -> int:
    """Most bytes of tensors that `compute` had at once, beside those that there were before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        compute()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events, "nothing was allocated"
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
