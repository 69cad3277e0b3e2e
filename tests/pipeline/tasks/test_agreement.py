"""Metrics against scikit-learn and SciPy; the interval against SciPy's and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from pipeline.tasks.agreement import (
    accuracy,
    f1,
    matthews,
    mean_interval,
    pearson,
    spearman,
    spread,
)

binary_pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40).map(
    lambda rows: np.array(rows).T
)


@given(binary_pairs)
def test_class_metrics_are_those_of_scikit_learn(pair: np.ndarray) -> None:
    answer_N, label_N = pair
    assert accuracy(answer_N, label_N) == pytest.approx(reference.accuracy_score(label_N, answer_N))
    assert f1(answer_N, label_N) == pytest.approx(reference.f1_score(label_N, answer_N, zero_division=0))
    if len(np.unique(pair)) > 1:  # of a single class in all, scikit-learn warns and gives 0
        assert matthews(answer_N, label_N) == pytest.approx(reference.matthews_corrcoef(label_N, answer_N))


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 25)), min_size=3, max_size=40))
def test_correlations_are_those_of_scipy_ties_included(rows: list[tuple[int, int]]) -> None:
    answer_N, label_N = np.array(rows, np.float64).T / 5
    if np.ptp(answer_N) == 0 or np.ptp(label_N) == 0:
        assert (pearson(answer_N, label_N), spearman(answer_N, label_N)) == (0, 0)
    else:
        assert pearson(answer_N, label_N) == pytest.approx(stats.pearsonr(answer_N, label_N).statistic)
        assert spearman(answer_N, label_N) == pytest.approx(stats.spearmanr(answer_N, label_N).statistic)


@pytest.mark.parametrize("metric", [f1, matthews, pearson, spearman])
def test_one_answer_to_everything_agrees_with_nothing(metric: object) -> None:
    assert metric(np.zeros(6), np.array([0, 1, 0, 1, 1, 0])) == 0  # type: ignore[operator]


def test_float32_answers_lose_no_digits() -> None:
    answer_N = (np.arange(50) * 1e-4 + 1000).astype(np.float32)
    label_N = np.arange(50, dtype=np.float64)
    expected = np.corrcoef(answer_N.astype(np.float64), label_N)[0, 1]
    assert pearson(answer_N, label_N) == pytest.approx(expected, abs=1e-12)


def test_the_interval_is_that_of_the_t_distribution_and_needs_three_values() -> None:
    values = [61.0, 64.5, 63.0, 66.0, 60.0]
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval(values[:2]) is None
    assert mean_interval([5.0, 5.0, 5.0]) == (5.0, 5.0)


def test_the_interval_holds_the_true_mean_in_95_of_100_repetitions() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    held = [low <= 3.0 <= high for low, high in (mean_interval(row.tolist()) or (0, 0) for row in draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_the_spread_of_a_few_values_and_of_one() -> None:
    assert spread([1.0, 5.0, 3.0]) == {"median": 3.0, "mean": 3.0, "min": 1.0, "max": 5.0, "sd": 2.0}
    assert spread([4.0])["sd"] is None
