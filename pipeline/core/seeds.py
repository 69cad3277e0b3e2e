"""All random numbers come from generators that are named by their use.

So a result depends on the seed and the item, not on order, batch or number of processes. No global generator is
seeded.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator (Philox) named by `names` under `seed`.

    For example (0, "mask", "dog.n.01", 3).
    """
    key = hashlib.sha256("\x1f".join([str(seed), *map(str, names)]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))


def unit_hash(*names: str | int) -> float:
    """A number in [0, 1), uniform over names, without a seed: so a document is always in the same split."""
    key = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return int.from_bytes(key[:8], "little") / 2.0**64
