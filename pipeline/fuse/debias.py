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

TAIL_ROWS = 8192
"""Rows whose tails a ratio is fitted to, evenly spread; lists are summed over all rows."""

ACTIVE = 4096
"""Ids at which a tail's correction is summed exactly; the others, whose ratios matter least, have their mean ratio."""

NO_TAIL = -1e4
"""Stands for the logarithm of 0, which no matrix product can hold."""


def count_ratio(label_V: NDArray[np.float64], summed_V: NDArray[np.float64], *, counts: float) -> NDArray[np.float64]:
    """The ratio [V] from label counts n and summed probabilities m, with `counts` pseudo-counts on both."""
    return np.asarray((label_V + counts) / (summed_V + counts))


def fit_ratio(
    parts: Iterable[tuple[SparseLogits, NDArray[np.int64]]], teacher: Teacher, *, counts: float, rows: int
) -> NDArray[np.float64]:
    """The ratio [V] over the students' ids, from a teacher's rows and their true tokens; about `rows` in all parts."""
    label_V, summed_V = np.zeros(teacher.vocabulary), np.zeros(teacher.vocabulary + 1)
    matrix_XV, every_id_V1 = _tail_matrix(teacher), np.arange(teacher.vocabulary + 1)
    stride = max(1, rows // TAIL_ROWS)
    for record, label_P in parts:
        restored = restate(record, teacher)
        answered_B = np.asarray((restored.ids_BK < teacher.vocabulary).any(axis=1))
        label_V += np.bincount(label_P[answered_B], minlength=teacher.vocabulary)
        np.add.at(summed_V, restored.ids_BK[answered_B], restored.p_BK[answered_B])
        sample = np.flatnonzero(answered_B)[::stride]
        tail_V = np.zeros(teacher.vocabulary + 1)
        for _, tail_CV in _dense_tails(restored, matrix_XV, every_id_V1, sample):
            tail_V += tail_CV.sum(axis=0)
        seen = restored.tail_B[sample].sum(dtype=np.float64)
        summed_V += tail_V * (restored.tail_B[answered_B].sum(dtype=np.float64) / seen if seen > 0 else 0)
    return count_ratio(label_V, summed_V[:-1], counts=counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Debias:
    """The correction of a teacher's rows by a ratio; made by `debiased`."""

    ratio_V: NDArray[np.float64]
    matrix_XA: NDArray[np.float32]
    """Of the tails before the correction (`_tail_matrix`), at the active ids."""
    place_V1: NDArray[np.intp]
    """Number of an id among the A active ones, A where it is none."""
    excess_A: NDArray[np.float32]
    """Ratio of an active id minus `rest`."""
    rest: float
    """Mean ratio of the others, weighted by the tail's bias."""
    shift: float
    """A corrected tail at v is the old one times r(v), so its exponent differs by log r(v) and by this."""

    def rows(self, rows: RestoredRows) -> tuple[RestoredRows, NDArray[np.float64]]:
        """Rows times the ratio, each summing to 1 again, and the log [B] of the sum that each was divided by."""
        ratio_V1 = np.append(self.ratio_V, 0.0).astype(np.float32)
        p_BK = rows.p_BK * ratio_V1.take(rows.ids_BK)
        tail_B = rows.tail_B * self.rest
        every_row = np.arange(len(p_BK))
        for chunk_C, tail_CA in _dense_tails(rows, self.matrix_XA, self.place_V1, every_row):
            tail_B[chunk_C] += tail_CA[:, :-1] @ self.excess_A
        tail_B = np.maximum(tail_B, 0)
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
    prior_V = teacher.prior_V1[:-1].astype(np.float64)
    active_A = np.sort(np.argsort(-prior_V * np.abs(ratio_V - 1), kind="stable")[:ACTIVE])
    others_V = prior_V.copy()
    others_V[active_A] = 0
    rest = float(others_V @ ratio_V / others_V.sum()) if others_V.any() else 1.0
    place_V1 = np.full(len(bias_V1), len(active_A))
    place_V1[active_A] = np.arange(len(active_A))
    return replace(
        teacher,
        bias_V1=bias_V1.astype(np.float32),
        correction=Debias(
            ratio_V=ratio_V,
            matrix_XA=_tail_matrix(teacher)[:, np.append(active_A, -1)],
            place_V1=place_V1,
            excess_A=(ratio_V[active_A] - rest).astype(np.float32),
            rest=rest,
            shift=-float(log_sum),
        ),
    )


def _tail_matrix(teacher: Teacher) -> NDArray[np.float32]:
    """[D + 2, V + 1]: coordinates, 1 and log rate of a row times this are the logs of its tail at every id."""
    ones_V1 = np.ones_like(teacher.bias_V1)
    return np.ascontiguousarray(np.concatenate([teacher.basis_V1D.T, [teacher.bias_V1, ones_V1]]))


def _dense_tails(
    rows: RestoredRows, matrix_XA: NDArray[np.float32], place_V1: NDArray[np.intp], chosen_N: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Some of the chosen rows, and their tails [C, A + 1] at the matrix' ids; 0 at what a row lists and at the last.

    place_V1 has the column of each id, the last for those that the matrix does not have and for "no id". float32
    throughout, 2e-6 of each sum; the array is used again for the next rows.
    """
    row_BX = np.column_stack(
        [rows.coordinates_BD, np.ones_like(rows.tail_B), np.maximum(rows.log_rate_B, np.float32(NO_TAIL))]
    )
    buffer_CA = np.zeros((DENSE_ROWS, matrix_XA.shape[1]), np.float32)
    for first in range(0, len(chosen_N), DENSE_ROWS):
        chunk_C = chosen_N[first : first + DENSE_ROWS]
        tail_CA = np.matmul(row_BX[chunk_C], matrix_XA, out=buffer_CA[: len(chunk_C)])
        np.exp(tail_CA, out=tail_CA)
        np.put_along_axis(tail_CA, place_V1.take(rows.ids_BK[chunk_C]), 0, axis=1)
        tail_CA[:, -1] = 0
        yield chunk_C, tail_CA
