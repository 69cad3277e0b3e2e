"""Collect all tests twice and compare their ids: workers of one run must see the same tests.

    python -m tests.stable_ids

An id that depends on the time of day, the process, a path or the hash seed differs between two collections that are
seconds, a process and a hash seed apart. Exits with 1 and the first such ids.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import time

APART_SECONDS = 2.0
"""More than the resolution of a time in whole seconds, which file formats keep."""

OPTIONS = "--collect-only -q -p no:cacheprovider -o addopts=--import-mode=importlib"
"""The project's own options ask for quiet once more, which hides the ids; the mode of import is needed all the same."""


def collected(hash_seed: int) -> list[str]:
    """Ids of all tests, in order, as a process of its own collects them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS.split()],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if "::" in line]


def main() -> None:
    """Compare two collections."""
    first = collected(1)
    time.sleep(APART_SECONDS)
    changed = [line for line in difflib.unified_diff(first, collected(2), n=0, lineterm="") if "::" in line]
    if changed:
        sys.exit("test ids that differ between two collections:\n" + "\n".join(changed[:20]))
    sys.stdout.write(f"{len(first)} test ids, the same in two collections\n")


if __name__ == "__main__":
    main()
