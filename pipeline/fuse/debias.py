"""Remove each token's own bias from a teacher's predictions, before they are mixed.

p'(v | x) = p(v | x) r(v) / sum_u p(u | x) r(u) with r(v) = (n(v) + k) / (m(v) + k), where n counts the true tokens v at
the train positions that the teacher answered, m sums its p(v | x) there, and k are pseudo-counts: the correction for a
changed prior (Saerens, Latinne and Decaestecker 2002, doi:10.1162/089976602753284446), with the prior taken from labels
instead of estimated by EM. There is one ratio vector a teacher; its store stays as it is. log r is added to the tail's
bias, so fused stores restore the corrected tail like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.teacher import RestoredRows, Teacher, restate
from storage.records.logits import SparseLogits

DENSE_ROWS = 32
"""Rows whose tails are made dense at once: as many as stay in a core's cache."""

NO_TAIL = -1e4
"""Stands for the logarithm of 0, which no matrix product can hold."""


def count_ratio(label_V: NDArray[np.float64], summed_V: NDArray[np.float64], *, counts: float) -> NDArray[np.float64]:
    """The ratio [V] from label counts n and summed probabilities m, with `counts` pseudo-counts on both."""
    return np.asarray((label_V + counts) / (summed_V + counts))


def fit_ratio(
    parts: Iterable[tuple[SparseLogits, NDArray[np.int64]]], teacher: Teacher, *, counts: float
) -> NDArray[np.float64]:
    """The ratio [V] over the students' ids, from rows of a teacher's store and their true tokens."""
    label_V, summed_V = np.zeros(teacher.vocabulary), np.zeros(teacher.vocabulary + 1)
    matrix_XV = _tail_matrix(teacher)
    for record, label_P in parts:
        rows = restate(record, teacher)
        answered_B = np.asarray((rows.ids_BK < teacher.vocabulary).any(axis=1))
        label_V += np.bincount(label_P[answered_B], minlength=teacher.vocabulary)
        np.add.at(summed_V, rows.ids_BK[answered_B], rows.p_BK[answered_B])
        for first, tail_CV in _dense_tails(rows, matrix_XV):
            summed_V += answered_B[first : first + len(tail_CV)].astype(np.float32) @ tail_CV
    return count_ratio(label_V, summed_V[:-1], counts=counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Debias:
    """The correction of a teacher's rows by a ratio; made by `debiased`."""

    ratio_V: NDArray[np.float64]
    matrix_XV: NDArray[np.float32]
    """Of the tails before the correction (`_tail_matrix`)."""
    shift: float
    """A corrected tail at v is the old one times r(v), so its exponent differs by log r(v) and by this."""

    def rows(self, rows: RestoredRows) -> tuple[RestoredRows, NDArray[np.float64]]:
        """Rows times the ratio, each summing to 1 again, and the log [B] of the sum that each was divided by."""
        ratio_V1 = np.append(self.ratio_V, 0.0).astype(np.float32)
        p_BK = rows.p_BK * ratio_V1.take(rows.ids_BK)
        tail_B = np.zeros(len(p_BK))
        for first, tail_CV in _dense_tails(rows, self.matrix_XV):
            tail_B[first : first + len(tail_CV)] = tail_CV @ ratio_V1
        total_B = p_BK.sum(axis=1, dtype=np.float64) + tail_B
        log_total_B = np.log(total_B, out=np.zeros(len(total_B)), where=total_B > 0)
        corrected = RestoredRows(
            ids_BK=rows.ids_BK,
            p_BK=(p_BK * np.exp(-log_total_B)[:, None]).astype(np.float32),
            tail_B=(tail_B * np.exp(-log_total_B)).astype(np.float32),
            log_rate_B=np.where(tail_B > 0, rows.log_rate_B - log_total_B - self.shift, -np.inf).astype(np.float32),
            coordinates_BD=rows.coordinates_BD,
        )
        return corrected, log_total_B


def debiased(teacher: Teacher, ratio_V: NDArray[np.float64]) -> Teacher:
    """The teacher with the ratio as its correction, and its logarithm in the bias of its tail."""
    known_V = teacher.prior_V1[:-1] > 0
    log_V = teacher.bias_V1[:-1][known_V] + np.log(ratio_V[known_V])
    largest = log_V.max()
    log_sum = largest + np.log(np.exp(log_V - largest).sum())
    bias_V1 = teacher.bias_V1.astype(np.float64)
    bias_V1[:-1][known_V] = log_V - log_sum
    stored_V1 = bias_V1.astype(np.float32)
    return replace(
        teacher,
        bias_V1=stored_V1,
        prior_V1=np.exp(stored_V1),
        correction=Debias(ratio_V=ratio_V, matrix_XV=_tail_matrix(teacher), shift=-float(log_sum)),
    )


def _tail_matrix(teacher: Teacher) -> NDArray[np.float32]:
    """[D + 2, V + 1]: coordinates, 1 and log rate of a row times this are the logs of its tail at every id."""
    ones_V1 = np.ones_like(teacher.bias_V1)
    return np.ascontiguousarray(np.concatenate([teacher.basis_V1D.T, [teacher.bias_V1, ones_V1]]))


def _dense_tails(rows: RestoredRows, matrix_XV: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The tails of some rows from a first one on, [C, V + 1] over all ids, 0 at those that a row lists and at "no id".

    float32 throughout, 2e-6 of each sum; the array is used again for the next rows.
    """
    size = len(rows.tail_B)
    row_BX = np.column_stack(
        [rows.coordinates_BD, np.ones(size, np.float32), np.maximum(rows.log_rate_B, np.float32(NO_TAIL))]
    )
    buffer_CV = np.zeros((DENSE_ROWS, matrix_XV.shape[1]), np.float32)
    for first in range(0, size, DENSE_ROWS):
        chunk = row_BX[first : first + DENSE_ROWS]
        tail_CV = np.matmul(chunk, matrix_XV, out=buffer_CV[: len(chunk)])
        np.exp(tail_CV, out=tail_CV)
        np.put_along_axis(tail_CV, rows.ids_BK[first : first + DENSE_ROWS].astype(np.intp), 0, axis=1)
        tail_CV[:, -1] = 0
        yield first, tail_CV
