"""Remove each token's own bias from a teacher's predictions, before they are mixed.

p'(v | x) = p(v | x) r(v) / sum_u p(u | x) r(u) with r(v) = (n(v) + k) / (m(v) + k), where n counts the true tokens v at
the train positions that the teacher answered, m sums its p(v | x) there, and k are pseudo-counts: the correction for a
changed prior (Saerens, Latinne and Decaestecker 2002, doi:10.1162/089976602753284446), with the prior taken from labels
instead of estimated by EM. There is one ratio vector a teacher; its store stays as it is. log r is added to the tail's
bias, so fused stores restore the corrected tail like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.mixture import RestoredRows, Teacher, restate
from storage.records.logits import SparseLogits

MOST_SHARDS = 64
"""Train shards that the ratio is fitted to, evenly spread."""

DENSE_ROWS = 64
"""Rows whose tails are made dense at once."""


def count_ratio(label_V: NDArray[np.float64], summed_V: NDArray[np.float64], *, counts: float) -> NDArray[np.float64]:
    """The ratio [V] from label counts n and summed probabilities m, with `counts` pseudo-counts on both."""
    return np.asarray((label_V + counts) / (summed_V + counts))


def fit_ratio(
    parts: Iterable[tuple[SparseLogits, NDArray[np.int64]]], teacher: Teacher, *, counts: float
) -> NDArray[np.float64]:
    """The ratio [V] over the students' ids, from rows of a teacher's store and their true tokens."""
    label_V, summed_V = np.zeros(teacher.vocabulary), np.zeros(teacher.vocabulary + 1)
    for record, label_P in parts:
        rows = restate(record, teacher)
        answered_B = np.asarray((rows.ids_BK < teacher.vocabulary).any(axis=1))
        label_V += np.bincount(label_P[answered_B], minlength=teacher.vocabulary)
        np.add.at(summed_V, rows.ids_BK[answered_B], rows.p_BK[answered_B])
        for first in range(0, len(record), DENSE_ROWS):
            chunk = slice(first, first + DENSE_ROWS)
            power_CV = _outside(rows, teacher, chunk)
            rate_C = np.where(answered_B[chunk], np.exp(rows.log_rate_B[chunk].astype(np.float64)), 0)
            summed_V += rate_C @ power_CV
    return count_ratio(label_V, summed_V[:-1], counts=counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Debias:
    """The correction of a teacher's rows by a ratio; made by `debiased`."""

    ratio_V: NDArray[np.float64]
    plain: Teacher
    """The teacher before the correction."""
    bias_V1: NDArray[np.float32]
    """Of the corrected tails."""

    def rows(self, rows: RestoredRows) -> tuple[RestoredRows, NDArray[np.float64]]:
        """Rows times the ratio, each summing to 1 again, and the log [B] of the sum that each was divided by."""
        ratio_V1 = np.append(self.ratio_V, 0.0)
        p_BK = rows.p_BK * ratio_V1.take(rows.ids_BK)
        size = len(rows.tail_B)
        tail_B, spread_B = np.zeros(size), np.zeros(size)
        # The corrected tail at v is the old one times r(v), so its exponent differs by log r and one constant.
        shift = float((self.bias_V1[:-1] - self.plain.bias_V1[:-1] - np.log(self.ratio_V))[self._known_V].mean())
        for first in range(0, size, DENSE_ROWS):
            chunk = slice(first, first + DENSE_ROWS)
            power_C = _outside(rows, self.plain, chunk) @ ratio_V1
            tail_B[chunk] = np.exp(rows.log_rate_B[chunk].astype(np.float64)) * power_C
            spread_B[chunk] = np.log(power_C, out=np.zeros(len(power_C)), where=power_C > 0) + shift
        total_B = p_BK.sum(axis=1, dtype=np.float64) + tail_B
        log_total_B = np.log(total_B, out=np.zeros(size), where=total_B > 0)
        tail_B *= np.exp(-log_total_B)
        log_tail_B = np.log(tail_B, out=np.full(size, -np.inf), where=tail_B > 0)
        corrected = RestoredRows(
            ids_BK=rows.ids_BK,
            p_BK=(p_BK * np.exp(-log_total_B)[:, None]).astype(np.float32),
            tail_B=tail_B.astype(np.float32),
            log_rate_B=(log_tail_B - spread_B).astype(np.float32),
            coordinates_BD=rows.coordinates_BD,
        )
        return corrected, log_total_B

    @property
    def _known_V(self) -> NDArray[np.bool_]:
        return self.plain.prior_V1[:-1] > 0


def debiased(teacher: Teacher, ratio_V: NDArray[np.float64]) -> Teacher:
    """The teacher with the ratio as its correction, and its logarithm in the bias of its tail."""
    known_V = teacher.prior_V1[:-1] > 0
    log_V = teacher.bias_V1[:-1][known_V] + np.log(ratio_V[known_V])
    largest = log_V.max()
    bias_V1 = teacher.bias_V1.astype(np.float64)
    bias_V1[:-1][known_V] = log_V - largest - np.log(np.exp(log_V - largest).sum())
    stored_V1 = bias_V1.astype(np.float32)
    return replace(
        teacher,
        bias_V1=stored_V1,
        prior_V1=np.exp(stored_V1),
        correction=Debias(ratio_V=ratio_V, plain=teacher, bias_V1=stored_V1),
    )


def _outside(rows: RestoredRows, teacher: Teacher, chunk: slice) -> NDArray[np.float64]:
    """[C, V + 1]: exp(bias + coordinates @ basis) at ids a row does not list, 0 at those it lists and at "no id"."""
    exponent_CV = rows.coordinates_BD[chunk] @ teacher.basis_V1D.T + teacher.bias_V1
    power_CV = np.exp(exponent_CV.astype(np.float64))
    np.put_along_axis(power_CV, rows.ids_BK[chunk].astype(np.intp), 0.0, axis=1)
    power_CV[:, -1] = 0
    return power_CV
