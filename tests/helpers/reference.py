"""Dense distributions restored from sparse records in float64: the reference that tests compare the product with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse.tail import NO_COUNTERPART
from storage.format.arrays import sentinel
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets


def restore_teacher(
    logits: SparseLogits,
    *,
    bias_JV: NDArray[np.floating],
    basis_DV: NDArray[np.floating] | None = None,
    column: int,
    temperature: float,
) -> NDArray[np.float64]:
    """Dense [P, V] distributions of a teacher in its own vocabulary, at statistics column `column` of `temperature`.

    As `SparseLogits` defines them; the basis is absent for plain priors. NaN where the teacher did not answer.
    """
    vocabulary = bias_JV.shape[1]
    dense_PV = np.full((len(logits), vocabulary), np.nan)
    none_PK = logits.ids_PK == sentinel(logits.ids_PK.dtype)
    none_PS = logits.drawn_ids_PS == sentinel(logits.drawn_ids_PS.dtype)
    for row in np.flatnonzero(logits.covered_P()):
        ids = logits.ids_PK[row][~none_PK[row]].astype(np.int64)
        tail = float(logits.tail_PJ[row, column])
        if logits.drawn_ids_PS.shape[1]:
            dense_PV[row] = 0
            drawn = logits.drawn_ids_PS[row][~none_PS[row]].astype(np.int64)
            dense_PV[row, drawn] = tail * logits.drawn_share_PS[row][~none_PS[row]].astype(np.float64)
        else:
            exponent_V = bias_JV[column].astype(np.float64)
            if basis_DV is not None:
                exponent_V = exponent_V + _low_rank(logits.sketch_PD[row], basis_DV) / temperature
            dense_PV[row] = tail * _spread_outside(exponent_V, ids)
        p_K = np.exp(logits.logprob_PK[row][~none_PK[row]].astype(np.float64) / temperature)
        dense_PV[row, ids] = (1 - tail) * p_K / max(p_K.sum(), np.finfo(np.float64).tiny)
    return dense_PV


def restore_fused(
    targets: FusedTargets, *, bias_TV: NDArray[np.floating], basis_TDV: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Dense [P, V] fused distributions in the students' vocabulary, as `FusedTargets` defines them; NaN where empty."""
    dense_PV = np.full((len(targets), bias_TV.shape[1]), np.nan)
    none_PM = targets.ids_PM == sentinel(targets.ids_PM.dtype)
    for row in np.flatnonzero(targets.covered_P()):
        ids = targets.ids_PM[row][~none_PM[row]].astype(np.int64)
        dense_PV[row] = 0
        for t, bias_V in enumerate(bias_TV):
            exponent_V = bias_V.astype(np.float64)
            if basis_TDV is not None:
                exponent_V = exponent_V + _low_rank(targets.sketch_PTD[row, t], basis_TDV[t])
            dense_PV[row] += float(targets.tail_PT[row, t]) * _spread_outside(exponent_V, ids)
        dense_PV[row, ids] = np.exp(targets.logprob_PM[row][~none_PM[row]].astype(np.float64))
    return dense_PV


def _low_rank(code_D: NDArray[np.int8], basis_DV: NDArray[np.floating]) -> NDArray[np.float64]:
    product_V: NDArray[np.float64] = code_D.astype(np.float64) @ basis_DV.astype(np.float64)
    return product_V


def _spread_outside(exponent_V: NDArray[np.float64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Softmax over what is not among `ids`, 0 at them; all zeros where nothing is left."""
    masked_V = exponent_V.copy()
    masked_V[ids] = -np.inf
    largest_exponent = masked_V.max(initial=-np.inf)
    if largest_exponent < NO_COUNTERPART / 2:
        return np.zeros_like(masked_V)
    spread_V: NDArray[np.float64] = np.exp(masked_V - largest_exponent)
    spread_V /= spread_V.sum()
    return spread_V
