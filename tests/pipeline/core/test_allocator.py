"""Freed memory is kept: the next buffer of the size costs no page faults; measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
import numpy as np
from pipeline.core.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):
    np.zeros(1)
    np.full(2**23, 1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.full(2**23, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_buffers_of_64_mb_are_faulted_in_once() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 2**26 // 4096
    assert faults("kept") < pages / 100
    assert faults("default") > 4  # huge pages, where the system gives them unasked, are 512 times fewer
