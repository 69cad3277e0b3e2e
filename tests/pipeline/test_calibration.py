from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration import fit_temperature
from storage.errors import TeacherRefused


def nll_of(logits_PV: np.ndarray, gold_P: np.ndarray) -> Callable[[Sequence[float]], list[float]]:
    def nll_at(temperatures: Sequence[float]) -> list[float]:
        losses = []
        for temperature in temperatures:
            scaled = logits_PV / temperature
            largest = scaled.max(axis=1)
            lse = np.log(np.exp(scaled - largest[:, None]).sum(axis=1)) + largest
            losses.append(float((lse - scaled[np.arange(len(gold_P)), gold_P]).mean()))
        return losses

    return nll_at


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.3, 3.0), seed=st.integers(0, 99))
def test_the_fitted_temperature_is_the_minimum(scale: float, seed: int):
    """Logits whose own distribution draws the gold, times `scale`: the best temperature is near `scale`.

    The reference narrows an interval of 1 / T, in which the loss is convex, by thirds.
    """
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((300, 40))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gold = (p.cumsum(axis=1) > generator.random((300, 1))).argmax(axis=1)
    nll_at = nll_of(scale * logits, gold)
    low, high = 0.5, 2.0
    for _ in range(40):
        third = (high - low) / 3
        left, right = nll_at([1 / (low + third), 1 / (high - third)])
        low, high = (low, high - third) if left < right else (low + third, high)
    assert fit_temperature(nll_at) == pytest.approx(2 / (low + high), rel=1e-3)


@pytest.mark.parametrize(("best", "expected"), [(0.1, 0.5), (5.0, 2.0), (0.5, 0.5), (2.0, 2.0)])
def test_the_range_is_not_left(best: float, expected: float):
    found = fit_temperature(lambda temperatures: [(1 / t - 1 / best) ** 2 for t in temperatures])
    assert found == pytest.approx(expected, rel=1e-3)


def test_few_evaluations():
    asked: list[int] = []

    def nll_at(temperatures: Sequence[float]) -> list[float]:
        asked.append(len(temperatures))
        return [math.log(t / 1.3) ** 2 for t in temperatures]

    assert fit_temperature(nll_at) == pytest.approx(1.3, rel=1e-9)
    assert asked == [7, 3, 3]


def test_a_flat_loss_gives_some_temperature_in_range():
    assert 0.5 <= fit_temperature(lambda temperatures: [1.0] * len(temperatures)) <= 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(value: float):
    with pytest.raises(TeacherRefused, match=r"expected finite losses at temperatures 0\.500.*got (nan|inf), 1\.000"):
        fit_temperature(lambda temperatures: [value, *([1.0] * (len(temperatures) - 1))])
