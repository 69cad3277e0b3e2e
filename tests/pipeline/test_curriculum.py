"""The order of training: a function of masks and seed alone, whole over an epoch, the same from any step."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from pipeline.batches import View, reference_view
from pipeline.curriculum import Lesson, Step, Window, plan_steps
from storage.manifest import SplitPlan
from tests.pipeline.test_batches import SPECIAL, world

STEP_TOKENS = 40


def lesson(*, sequences: int = 40, copies: int = 2, shard_rows: int = 16) -> Lesson:
    records, masks = world(0, sequences=sequences, copies=copies)
    view = reference_view(records, masks, special=SPECIAL)
    return Lesson(view=view, masks=masks, plan=SplitPlan(rows=len(masks), shard_rows=shard_rows), targets=None)


def epoch_of(school: Lesson, *, window_shards: int) -> list[Step]:
    """Steps until every prediction has been seen once, then one more epoch's first step is not taken."""
    seen = np.zeros(len(school.masks), int)
    steps = []
    for step in plan_steps(school, step_tokens=STEP_TOKENS, seed=7, window_shards=window_shards):
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
    assert np.mean(tokens) == pytest.approx(STEP_TOKENS, rel=0.05)
    assert max(tokens) < STEP_TOKENS + 12


def test_the_plan_depends_on_the_seed_and_not_on_what_was_drawn_before() -> None:
    school = lesson()
    first = list(islice(plan_steps(school, step_tokens=STEP_TOKENS, seed=7, window_shards=4), 30))
    again = list(islice(plan_steps(school, step_tokens=STEP_TOKENS, seed=7, window_shards=4), 30))
    other = list(islice(plan_steps(school, step_tokens=STEP_TOKENS, seed=8, window_shards=4), 30))
    assert all((a.passes == b.passes).all() and a.window == b.window for a, b in zip(first, again, strict=True))
    assert any(a.passes.tolist() != b.passes.tolist() for a, b in zip(first, other, strict=True))
