"""Schedules of training: the learning rate, and how long the teachers lead."""

from __future__ import annotations

import pytest

from pipeline.training import LossParams, TrainingParams, learning_rate

PARAMS = TrainingParams(
    steps=100,
    step_tokens=40,
    learning_rate=1e-3,
    warmup=0.1,
    weight_decay=0.01,
    gradient_clip=1.0,
    evaluations=4,
    seed=7,
)


def test_the_learning_rate_warms_up_then_falls_to_nothing() -> None:
    rates = [learning_rate(step, PARAMS) for step in range(PARAMS.steps)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == pytest.approx(1e-3)
    assert rates[54] == pytest.approx(1e-3 * 46 / 90)
    assert rates[-1] == pytest.approx(1e-3 / 90)
    assert max(rates) <= PARAMS.learning_rate


def test_the_teachers_lead_at_first_and_the_true_tokens_decide_in_the_end() -> None:
    def weights(anneal: float) -> list[float]:
        loss = LossParams(targets=2.0, labels=1.0, tail="bucket", anneal=anneal)
        return [loss.targets_weight(step, 8) for step in range(8)]

    assert weights(0.0) == [2.0] * 8
    assert weights(1.0) == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25])
    assert weights(0.5) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0, 0, 0, 0])
