"""Metrics against scikit-learn and SciPy, on the whole set and on resamples written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from pipeline.evaluate.bootstrap import resample
from pipeline.tasks.agreement import METRICS, Metric, accuracy, f1, matthews, pearson, spearman, spread, whole

binary_pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40).map(
    lambda rows: np.array(rows).T
)


@given(binary_pairs)
def test_class_metrics_are_those_of_scikit_learn(pair: np.ndarray) -> None:
    answer_N, label_N = pair
    assert whole(accuracy, answer_N, label_N) == pytest.approx(reference.accuracy_score(label_N, answer_N))
    assert whole(f1, answer_N, label_N) == pytest.approx(reference.f1_score(label_N, answer_N, zero_division=0))
    if len(np.unique(pair)) > 1:  # of a single class in all, scikit-learn warns and gives 0
        expected = reference.matthews_corrcoef(label_N, answer_N)
        assert whole(matthews, answer_N, label_N) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 25)), min_size=3, max_size=40))
def test_correlations_are_those_of_scipy_ties_included(rows: list[tuple[int, int]]) -> None:
    answer_N, label_N = np.array(rows, np.float64).T / 5
    found = whole(pearson, answer_N, label_N), whole(spearman, answer_N, label_N)
    if np.ptp(answer_N) == 0 or np.ptp(label_N) == 0:
        assert found == (0, 0)
    else:
        assert found[0] == pytest.approx(stats.pearsonr(answer_N, label_N).statistic, abs=1e-12)
        assert found[1] == pytest.approx(stats.spearmanr(answer_N, label_N).statistic, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@given(rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12))
def test_a_metric_of_a_resample_is_that_of_its_examples(metric: Metric, rows: list[tuple[int, int]]) -> None:
    """Each resample written out example by example, ties and constant resamples included."""
    answer_N, label_N = np.array(rows, np.float64).T
    (times_RN,) = resample(len(rows), resamples=6, seed=0)
    expected = [
        whole(metric, np.repeat(answer_N, times), np.repeat(label_N, times)) for times in times_RN.astype(np.int64)
    ]
    assert metric(answer_N, label_N, times_RN) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [f1, matthews, pearson, spearman])
@pytest.mark.parametrize("value", [0.0, 1e6 + 0.1])
def test_one_answer_to_everything_agrees_with_nothing(metric: Metric, value: float) -> None:
    assert whole(metric, np.full(6, value), np.array([0, 1, 0, 1, 1, 0])) == 0


def test_float32_answers_lose_no_digits() -> None:
    answer_N = (np.arange(50) * 1e-4 + 1000).astype(np.float32)
    label_N = np.arange(50, dtype=np.float64)
    expected = np.corrcoef(answer_N.astype(np.float64), label_N)[0, 1]
    assert whole(pearson, answer_N, label_N) == pytest.approx(expected, abs=1e-12)


def test_the_spread_of_a_few_values_and_of_one() -> None:
    assert spread([1.0, 5.0, 3.0]) == {"median": 3.0, "mean": 3.0, "min": 1.0, "max": 5.0, "sd": 2.0}
    assert spread([4.0])["sd"] is None
