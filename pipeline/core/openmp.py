"""Threads that wait at a barrier sleep soon, so that another busy process costs a share of the machine, not most of it.

GNU OpenMP, which torch's Linux wheels carry, spins for about a millisecond by default. With more runnable threads than
cores a spinning thread takes the time that the thread it waits for needs. The setting is read when the library is
loaded, so it is made before torch is imported.
"""

from __future__ import annotations

from collections.abc import MutableMapping

SPIN_COUNT = "2000"
"""Turns of the waiting loop: an idle machine is as fast as with the library's 300,000, within 3 %, and a step beside a
busy process takes 2.2 times as long instead of 3.4 (docs/results/speed.md)."""

CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Settings of the environment that decide instead, where there is one."""


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Have threads of this process, and of those it starts, wait without spinning for long."""
    if not any(name in environment for name in CHOSEN):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT
