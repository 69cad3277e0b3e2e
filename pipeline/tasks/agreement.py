"""Metrics of predictions against labels, as GLUE and paraphrase detection use them, and their spread over seeds.

Where a formula divides by 0, the metric is 0, as in scikit-learn. This happens when all predictions are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

INTERVAL_SEEDS = 3
"""Fewest seeds that an interval is given for. With two seeds it would reach 6.4 times their distance to each side."""


def accuracy(answer_N: NDArray[Any], label_N: NDArray[Any]) -> float:
    """Share of equal entries."""
    return float((answer_N == label_N).mean())


def f1(answer_N: NDArray[Any], label_N: NDArray[Any]) -> float:
    """Harmonic mean of precision and recall of class 1: 2 TP / (2 TP + FP + FN)."""
    true_positives = float(((answer_N == 1) & (label_N == 1)).sum())
    return _ratio(2 * true_positives, float((answer_N == 1).sum() + (label_N == 1).sum()))


def matthews(answer_N: NDArray[Any], label_N: NDArray[Any]) -> float:
    """Matthews correlation of two classes: the phi coefficient of their 2 x 2 table (Matthews 1975)."""
    return pearson((answer_N == 1).astype(np.float64), (label_N == 1).astype(np.float64))


def pearson(answer_N: NDArray[Any], label_N: NDArray[Any]) -> float:
    """Linear correlation; 0 when one side is constant."""
    if np.ptp(answer_N) == 0 or np.ptp(label_N) == 0:  # a centred constant is not exactly 0 in floating point
        return 0.0
    first_N = answer_N.astype(np.float64) - answer_N.mean(dtype=np.float64)
    second_N = label_N.astype(np.float64) - label_N.mean(dtype=np.float64)
    return _ratio(float(first_N @ second_N), float(np.sqrt((first_N @ first_N) * (second_N @ second_N))))


def spearman(answer_N: NDArray[Any], label_N: NDArray[Any]) -> float:
    """Linear correlation of ranks; ties have the mean of their ranks."""
    return pearson(_ranks(answer_N), _ranks(label_N))


def mean_interval(value_S: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of S independent values: mean -+ t(0.975, S - 1) sd / sqrt(S) (Student 1908).

    None for fewer than INTERVAL_SEEDS values.
    """
    from scipy.stats import t

    if len(value_S) < INTERVAL_SEEDS:
        return None
    mean, sd = float(np.mean(value_S)), float(np.std(value_S, ddof=1))
    half = float(t.ppf(0.975, len(value_S) - 1)) * sd / float(np.sqrt(len(value_S)))
    return mean - half, mean + half


def spread(value_S: Sequence[float]) -> dict[str, float | None]:
    """median, mean, min, max and sd (of the sample; None for one value)."""
    return {
        "median": float(np.median(value_S)),
        "mean": float(np.mean(value_S)),
        "min": min(value_S),
        "max": max(value_S),
        "sd": float(np.std(value_S, ddof=1)) if len(value_S) > 1 else None,
    }


def _ranks(value_N: NDArray[Any]) -> NDArray[np.float64]:
    _, place_N, count_U = np.unique(value_N, return_inverse=True, return_counts=True)
    last_U = np.cumsum(count_U)
    rank_U: NDArray[np.float64] = last_U - (count_U - 1) / 2
    return rank_U[place_N]


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0
