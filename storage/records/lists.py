"""Lists of (id, log-probability) entries a row, which logits and targets share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.format import codec
from storage.format.arrays import ArraySpec, sentinel
from storage.records.base import id_dtype, require

MASS_TOLERANCE = 1e-4
"""Listed probabilities, what was drawn and the tail are float32 and add up to 1 within this."""


def list_specs(count: str, step: str, code: str, most: int, vocabulary: int) -> dict[str, ArraySpec]:
    """Arrays of one list a row, at most `most` ids below `vocabulary`: counts, steps between ids, codes of values."""
    return {
        count: ArraySpec(dtype="uint16"),
        step: ArraySpec(dtype=id_dtype(vocabulary), counted_by=count, most=most),
        code: ArraySpec(dtype="uint8", counted_by=count, most=most),
    }


def check_list(kind: str, ids_PK: NDArray[Any], logprob_PK: NDArray[np.float32]) -> None:
    """Refuse an id without a value or a value without an id, gaps, and values that are positive or not descending."""
    kept_PK = ids_PK != sentinel(ids_PK.dtype)
    require(bool((kept_PK == np.isfinite(logprob_PK)).all()), f"{kind}: an id without a value, or the reverse")
    require(bool((kept_PK[:, :-1] >= kept_PK[:, 1:]).all()), f"{kind}: a list has a gap")
    # NaN, where there is no entry, compares as false.
    require(not bool((logprob_PK > 0).any()), f"{kind}: a listed log-probability is positive")
    require(
        not bool((logprob_PK[:, 1:] > logprob_PK[:, :-1]).any()), f"{kind}: listed entries are not most likely first"
    )


def listed_mass(logprob_PK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the listed probabilities of each row, shape [P]; absent entries are NaN and count nothing."""
    total_P = np.zeros(len(logprob_PK), np.float32)
    for block in codec.blocks(*logprob_PK.shape):
        mass_BK = np.exp(logprob_PK[block])
        mass_BK[np.isnan(mass_BK)] = 0
        total_P[block] = mass_BK.sum(axis=1)
    return total_P
