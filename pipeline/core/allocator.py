"""Memory that was freed stays with the process: a training step frees and takes the same large buffers again.

By default the C library gives buffers of 32 MB and more back to the system at once, and every page of the next one is a
fault: a fifth of a training step of the default run, and half where a virtual machine gets its memory late.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3), from glibc's malloc.h."""

TOP_PAD_BYTES = 2**26
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Ask glibc to keep what is freed for the next allocation; elsewhere nothing is done."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
        library.mallopt(M_TOP_PAD, TOP_PAD_BYTES)


def return_freed_memory() -> None:
    """Give all free pages back to the system, once: before memory is measured."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
