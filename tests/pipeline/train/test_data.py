"""The order of training: a function of masks and seed alone, whole over an epoch, the same from any step."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.text.inputs import View, reference_view
from pipeline.train.data import (
    ShardWindow,
    Step,
    TrainingData,
    plan_steps,
)
from storage.format.manifest import SplitPlan
from tests.helpers.distributions import fused_targets, softmaxes
from tests.helpers.teacher_stores import write_targets
from tests.pipeline.text.test_inputs import SPECIAL, world

STEP_TOKENS = 40


def data(*, sequences: int = 40, copies: int = 2, shard_rows: int = 16) -> TrainingData:
    records, masks = world(0, sequences=sequences, copies=copies)
    view = reference_view(records, masks, special=SPECIAL)
    return TrainingData(view=view, masks=masks, plan=SplitPlan(rows=len(masks), shard_rows=shard_rows), targets=None)


def epoch_of(school: TrainingData, *, window_shards: int) -> list[Step]:
    """Steps until every prediction has been seen once, then one more epoch's first step is not taken."""
    seen = np.zeros(len(school.masks), int)
    steps = []
    for step in plan_steps(school, step_tokens=STEP_TOKENS, seed=7, window_shards=window_shards):
        predictions = predictions_of(school.view, step)
        kept = predictions[ShardWindow(school, step.window).contains(predictions)]
        seen[kept] += 1
        steps.append(step)
        if seen.min() >= 1:
            break
    assert seen.max() == 1, "a prediction was used twice before another was used once"
    return steps


def predictions_of(view: View, step: Step) -> np.ndarray:
    return np.concatenate([np.arange(view.start_G1[g], view.start_G1[g + 1]) for g in step.example_B])


@pytest.mark.parametrize("window_shards", [1, 3, 100])
def test_an_epoch_uses_every_prediction_once(window_shards: int) -> None:
    school = data()
    steps = epoch_of(school, window_shards=window_shards)
    assert all(len(step.window) <= window_shards for step in steps)


def test_steps_hold_about_the_tokens_asked_for() -> None:
    school = data(sequences=200)
    steps = epoch_of(school, window_shards=1000)
    tokens = [int(school.view.lengths_G()[step.example_B].sum()) for step in steps[:-1]]
    assert np.mean(tokens) == pytest.approx(STEP_TOKENS, rel=0.05)
    assert max(tokens) < STEP_TOKENS + 12


def test_the_plan_depends_on_the_seed_and_not_on_what_was_drawn_before() -> None:
    school = data()
    first = list(islice(plan_steps(school, step_tokens=STEP_TOKENS, seed=7, window_shards=4), 30))
    again = list(islice(plan_steps(school, step_tokens=STEP_TOKENS, seed=7, window_shards=4), 30))
    other = list(islice(plan_steps(school, step_tokens=STEP_TOKENS, seed=8, window_shards=4), 30))
    assert all((a.example_B == b.example_B).all() and a.window == b.window for a, b in zip(first, again, strict=True))
    assert any(a.example_B.tolist() != b.example_B.tolist() for a, b in zip(first, other, strict=True))


class OnCpu:
    """What `ShardWindow.targets` asks of a model."""

    @staticmethod
    def tensors(*arrays: np.ndarray[Any, Any]) -> list[torch.Tensor]:
        return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("tail_rank", [0, 3])
def test_a_window_gives_the_stored_targets_of_its_predictions(tail_rank: int, tmp_path: Path) -> None:
    """In any order, from any of its shards; a row nobody answered has no ids, no mass and no NaN."""
    school = data()
    size, rng = len(school.masks), np.random.default_rng(0)
    label_P = rng.integers(0, 50, size)
    dense = np.stack([softmaxes(rng, label_P, 50) for _ in range(2)])
    rows = fused_targets(
        dense,
        rng.dirichlet([1, 1], size),
        label_P,
        keep=6,
        covered_P=np.arange(size) % 5 != 0,
        sketch_PTD=rng.integers(-127, 128, (size, 2, tail_rank)).astype(np.int8),
    )
    store = write_targets(
        tmp_path / "targets" / "any",
        {"train": rows},
        bias_TV=rng.normal(size=(2, 50)),
        basis_TDV=rng.normal(size=(2, tail_rank, 50)) if tail_rank else None,
        splits={"train": school.plan},
    )
    taught = TrainingData(view=school.view, masks=school.masks, plan=school.plan, targets=store)
    stored = store.read("train")
    window = ShardWindow(taught, (1, 3))
    wanted = rng.permutation(np.flatnonzero(window.contains(np.arange(size))))
    found = window.targets(wanted, OnCpu())  # type: ignore[arg-type]
    none = stored.ids_PM[wanted] == 65535
    assert (found.ids_BM.numpy() == np.where(none, -1, stored.ids_PM[wanted].astype(int))).all()
    np.testing.assert_allclose(found.prob_BM, np.where(none, 0, np.exp(stored.logprob_PM[wanted])), rtol=1e-6)
    assert (found.tail_BT.numpy() == np.nan_to_num(stored.tail_PT[wanted])).all()
    assert (found.code_BTD.numpy() == stored.sketch_PTD[wanted]).all() and found.code_BTD.shape[2] == tail_rank
    silent = wanted % 5 == 0
    assert silent.any() and none[silent].all() and (found.tail_BT[torch.from_numpy(silent)] == 0).all()
