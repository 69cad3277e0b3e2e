"""Metrics of predictions against labels, as GLUE and paraphrase detection use them, whole and on resamples.

Every metric is computed for R resamples at once, each given by how often it holds every example, times_RN. The whole
set is the resample that holds each example once. Where a formula divides by 0, the metric is 0, as in scikit-learn:
such are predictions that are all equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Metric = Callable[[NDArray[Any], NDArray[Any], Floats], Floats]
"""Answers [N], labels [N] and times [R, N] to values [R]."""

ROUNDING = 1e-12
"""Variance over mean square below which values are equal but for rounding."""


def whole(metric: Metric, answer_N: NDArray[Any], label_N: NDArray[Any]) -> float:
    """A metric of all examples, each once."""
    return float(metric(answer_N, label_N, np.ones((1, len(label_N))))[0])


def accuracy(answer_N: NDArray[Any], label_N: NDArray[Any], times_RN: Floats) -> Floats:
    """Share of equal entries."""
    return _ratio(times_RN @ (answer_N == label_N), times_RN.sum(axis=1))


def f1(answer_N: NDArray[Any], label_N: NDArray[Any], times_RN: Floats) -> Floats:
    """Harmonic mean of precision and recall of class 1: 2 TP / (2 TP + FP + FN)."""
    positive_N, true_N = (answer_N == 1).astype(np.float64), (label_N == 1).astype(np.float64)
    return _ratio(2 * (times_RN @ (positive_N * true_N)), times_RN @ (positive_N + true_N))


def matthews(answer_N: NDArray[Any], label_N: NDArray[Any], times_RN: Floats) -> Floats:
    """Matthews correlation of two classes: the phi coefficient of their 2 x 2 table (Matthews 1975)."""
    return pearson(answer_N == 1, label_N == 1, times_RN)


def pearson(answer_N: NDArray[Any], label_N: NDArray[Any], times_RN: Floats) -> Floats:
    """Linear correlation; 0 when one side is constant."""
    return _correlation(answer_N[None], label_N[None], times_RN)


def spearman(answer_N: NDArray[Any], label_N: NDArray[Any], times_RN: Floats) -> Floats:
    """Linear correlation of ranks within each resample; ties have the mean of their ranks."""
    return _correlation(_ranks(answer_N, times_RN), _ranks(label_N, times_RN), times_RN)


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def spread(value_S: Sequence[float]) -> dict[str, float | None]:
    """median, mean, min, max and sd (of the sample; None for one value)."""
    return {
        "median": float(np.median(value_S)),
        "mean": float(np.mean(value_S)),
        "min": min(value_S),
        "max": max(value_S),
        "sd": float(np.std(value_S, ddof=1)) if len(value_S) > 1 else None,
    }


def _correlation(first_RN: NDArray[Any], second_RN: NDArray[Any], times_RN: Floats) -> Floats:
    """Linear correlation under weights; the values may have one row for all resamples."""
    total_R = times_RN.sum(axis=1)

    def centred(value_RN: NDArray[Any]) -> Floats:
        value_RN = value_RN.astype(np.float64)
        # In two steps: the mean of a resample taken off at once would leave rounding behind where values are large.
        value_RN = value_RN - value_RN.mean()
        mean_R = _ratio((times_RN * value_RN).sum(axis=1), total_R)
        found: Floats = value_RN - mean_R[:, None]
        square_R = (times_RN * value_RN**2).sum(axis=1)
        constant_R = (times_RN * found**2).sum(axis=1) <= ROUNDING * square_R
        found[constant_R] = 0.0
        return found

    first_RN, second_RN = centred(first_RN), centred(second_RN)
    products = ((times_RN * one * other).sum(axis=1) for one, other in (
        (first_RN, second_RN), (first_RN, first_RN), (second_RN, second_RN)
    ))  # fmt: skip
    both_R, one_R, other_R = products
    return _ratio(both_R, np.sqrt(one_R * other_R))


def _ranks(value_N: NDArray[Any], times_RN: Floats) -> Floats:
    """Rank of each value within each resample [R, N], from 1."""
    _, place_N = np.unique(value_N, return_inverse=True)
    order_N = np.argsort(place_N, kind="stable")
    first_U = np.flatnonzero(np.diff(place_N[order_N], prepend=-1))
    count_RU = np.add.reduceat(times_RN[:, order_N], first_U, axis=1)
    rank_RU: Floats = np.cumsum(count_RU, axis=1) - (count_RU - 1) / 2
    return rank_RU[:, place_N]


def _ratio(above_R: Floats, below_R: Floats) -> Floats:
    quotient_R = np.zeros(len(below_R))
    np.divide(above_R, below_R, out=quotient_R, where=below_R != 0)
    return quotient_R
