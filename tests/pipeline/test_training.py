"""The order of training: a function of masks and seed alone, whole over an epoch, the same from any step."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from pipeline.batches import View, reference_view
from pipeline.training import Lesson, LossParams, Step, TrainingParams, Window, learning_rate, plan_steps
from storage.manifest import SplitPlan
from tests.pipeline.test_batches import SPECIAL, world

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


def lesson(*, sequences: int = 40, copies: int = 2, shard_rows: int = 16) -> Lesson:
    records, masks = world(0, sequences=sequences, copies=copies)
    view = reference_view(records, masks, special=SPECIAL)
    return Lesson(view=view, masks=masks, plan=SplitPlan(rows=len(masks), shard_rows=shard_rows), targets=None)


def epoch_of(school: Lesson, *, window_shards: int, params: TrainingParams = PARAMS) -> list[Step]:
    """Steps until every prediction has been seen once, then one more epoch's first step is not taken."""
    seen = np.zeros(len(school.masks), int)
    steps = []
    for step in plan_steps(school, params, window_shards=window_shards):
        predictions = predictions_of(school.view, step)
        kept = predictions[Window(school, step.window).contains(predictions)]
        seen[kept] += 1
        steps.append(step)
        if seen.min() >= 1:
            break
    assert seen.max() == 1, "a prediction was used twice before another was used once"
    return steps


def predictions_of(view: View, step: Step) -> np.ndarray:
    return np.concatenate([np.arange(view.start_G1[g], view.start_G1[g + 1]) for g in step.passes])


@pytest.mark.parametrize("window_shards", [1, 3, 100])
def test_an_epoch_uses_every_prediction_once(window_shards: int) -> None:
    school = lesson()
    steps = epoch_of(school, window_shards=window_shards)
    assert all(len(step.window) <= window_shards for step in steps)


def test_steps_hold_about_the_tokens_asked_for() -> None:
    school = lesson(sequences=200)
    steps = epoch_of(school, window_shards=1000)
    tokens = [int(school.view.lengths_G()[step.passes].sum()) for step in steps[:-1]]
    assert np.mean(tokens) == pytest.approx(PARAMS.step_tokens, rel=0.05)
    assert max(tokens) < PARAMS.step_tokens + 12


def test_the_plan_depends_on_the_seed_and_not_on_what_was_drawn_before() -> None:
    school = lesson()
    first = list(islice(plan_steps(school, PARAMS, window_shards=4), 30))
    again = list(islice(plan_steps(school, PARAMS, window_shards=4), 30))
    other = list(islice(plan_steps(school, PARAMS.model_copy(update={"seed": 8}), window_shards=4), 30))
    assert all((a.passes == b.passes).all() and a.window == b.window for a, b in zip(first, again, strict=True))
    assert any(a.passes.tolist() != b.passes.tolist() for a, b in zip(first, other, strict=True))


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
