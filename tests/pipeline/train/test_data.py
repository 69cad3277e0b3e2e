"""The order of training: a function of masks and seed alone, whole over an epoch, the same from any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.seeds import generator
from pipeline.text.corpus_view import Examples
from pipeline.text.inputs import group_examples
from pipeline.train.data import SAMPLED_SHARDS, HeldText, ShardWindow, Share, Step, TrainingData, plan_steps
from storage.format.manifest import SplitPlan
from storage.records.sequences import Masks, Sequences
from tests.helpers.distributions import fused_targets, softmaxes
from tests.helpers.teacher_stores import write_targets
from tests.pipeline.text.test_inputs import SPECIAL, world

STEP_TOKENS = 40


class Cut(HeldText):
    """Sequences and masked positions that are in memory, in shards, of which only what is asked for is given."""

    def __init__(self, sequences: Sequences, masks: Masks, *, shard_rows: int) -> None:
        super().__init__(sequences, masks, special=SPECIAL)
        self.plan, self.asked = SplitPlan(rows=len(masks), shard_rows=shard_rows), []

    def examples(self, bounds: Sequence[tuple[int, int]]) -> Examples:
        self.asked.append(bounds)
        start_G1 = group_examples(self._masks)[1]
        inside_P = np.zeros(len(self._masks), bool)
        for start, stop in bounds:
            inside_P[start:stop] = True
        wanted_G = np.logical_or.reduceat(inside_P, start_G1[:-1])
        number_P = np.flatnonzero(np.repeat(wanted_G, np.diff(start_G1)))
        some = {name: values[number_P] for name, values in self._masks.arrays().items()}
        row_N, some["sequence_P"] = np.unique(some["sequence_P"], return_inverse=True)
        return Examples(prediction_P=number_P, masks=Masks(**some), sequence_N=row_N.astype(np.int64))


def data(*, sequences: int = 40, copies: int = 2, shard_rows: int = 16) -> TrainingData:
    return TrainingData(text=Cut(*world(0, sequences=sequences, copies=copies), shard_rows=shard_rows), targets=None)


def plan_of(school: TrainingData, *, seed: int = 7, window_shards: int = 4, **more: Any) -> Iterator[Step]:
    return plan_steps(school, step_tokens=STEP_TOKENS, seed=seed, window_shards=window_shards, **more)


def predictions_of(step: Step) -> np.ndarray:
    """Rows of the mask store that a step trains on."""
    window = step.window
    local = np.concatenate([np.zeros(0, int), *(np.arange(*window.view.start_G1[g : g + 2]) for g in step.example_B)])
    return window.prediction_P[local[window.contains(local)]]


def planned_in_memory(masks: Masks, length_N: np.ndarray, *, shard_rows: int, window_shards: int) -> list[np.ndarray]:
    """The definition of the order over an epoch, with the whole split at hand: rows of the mask store of each step."""
    sequence_G, start_G1 = group_examples(masks)
    shard_P = np.arange(len(masks)) // shard_rows
    shards = generator(7, "shards", 0).permutation(int(shard_P[-1]) + 1)
    steps = []
    for number, start in enumerate(range(0, len(shards), window_shards)):
        kept_P = np.isin(shard_P, shards[start : start + window_shards])
        inside = np.flatnonzero(np.logical_or.reduceat(kept_P, start_G1[:-1]))
        tokens, step = 0, -1
        for g in generator(7, "passes", 0, number).permutation(inside):
            tokens += int(length_N[sequence_G[g]])
            if tokens // STEP_TOKENS != step:
                steps.append([])
                step = tokens // STEP_TOKENS
            steps[-1] += [p for p in range(start_G1[g], start_G1[g + 1]) if kept_P[p]]
    return [np.array(rows) for rows in steps]


@pytest.mark.parametrize("window_shards", [1, 3, 100])
@pytest.mark.parametrize("shard_rows", [2, 16])
def test_the_order_is_that_of_a_split_in_memory(window_shards: int, shard_rows: int) -> None:
    sequences, masks = world(0, sequences=40, copies=2)
    expected = planned_in_memory(masks, sequences.length_N, shard_rows=shard_rows, window_shards=window_shards)
    steps = list(islice(plan_of(data(shard_rows=shard_rows), window_shards=window_shards), len(expected)))
    for step, rows in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(predictions_of(step), rows)
        assert step.labels == len(rows)
        assert len(step.window.shards) <= window_shards
    assert sorted(np.concatenate(expected)) == list(range(len(masks))), "an epoch uses every prediction once"


def test_only_the_next_window_is_read_ahead() -> None:
    school = data()
    steps = plan_of(school, window_shards=1)
    shards = {next(steps).window.shards for _ in range(6)}
    assert 2 <= len(shards) <= len(school.text.asked) <= len(shards) + 1


@pytest.mark.parametrize("done", [1, 5, 23, 60])
def test_a_plan_continues_anywhere_and_reads_no_window_that_is_done(done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(islice(plan_of(data()), 70))
    opened: list[tuple[int, ...]] = []
    read = ShardWindow.__init__
    monkeypatch.setattr(ShardWindow, "__init__", lambda self, *a, **k: (opened.append(a[1]), read(self, *a, **k))[1])
    for step, expected in zip(plan_of(data(), done=done), whole[done:], strict=False):
        np.testing.assert_array_equal(predictions_of(step), predictions_of(expected))
    windows = [step.window.shards for step in whole[done:]]
    assert opened[0] == windows[0]
    assert len(opened) <= 1 + len(list(groupby(windows)))


def test_steps_hold_about_the_tokens_asked_for() -> None:
    school = data(sequences=200)
    count = int(school.epoch_tokens()) // STEP_TOKENS
    tokens = [step.tokens for step in islice(plan_of(school, window_shards=1000), count)]
    assert np.mean(tokens) == pytest.approx(STEP_TOKENS, rel=0.05)
    assert max(tokens) < STEP_TOKENS + 12


def test_tokens_of_an_epoch_are_counted_or_estimated() -> None:
    sequences, masks = world(0, sequences=400, copies=2)
    exact = 2 * int(sequences.length_N.sum())
    assert data(sequences=400, shard_rows=10**4).epoch_tokens() == exact
    assert data(sequences=400, shard_rows=20).epoch_tokens() == pytest.approx(exact, rel=0.1)
    assert len(masks) > 20 * SAMPLED_SHARDS


def test_the_plan_depends_on_the_seed_and_not_on_what_was_drawn_before() -> None:
    school = data()
    first, again, other = (list(islice(plan_of(school, seed=seed), 30)) for seed in (7, 7, 8))
    assert all(a.example_B.tolist() == b.example_B.tolist() for a, b in zip(first, again, strict=True))
    assert any(a.example_B.tolist() != b.example_B.tolist() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_share_every_step_and_each_reads_a_part_of_each_shard(processes: int) -> None:
    whole = list(islice(plan_of(data()), 40))
    parts = [list(islice(plan_of(data(), share=Share(number=n, of=processes)), 40)) for n in range(processes)]
    for step, *shared in zip(whole, *parts, strict=True):
        assert sorted(np.concatenate([predictions_of(part) for part in shared])) == sorted(predictions_of(step))
        assert {(part.labels, part.tokens) for part in shared} == {(step.labels, step.tokens)}
    held = [sum(len(step.example_B) for step in part) for part in parts]
    assert min(held) > 0.5 * sum(held) / processes


class OnCpu:
    """What `ShardWindow.targets` asks of a model."""

    @staticmethod
    def tensors(*arrays: np.ndarray[Any, Any]) -> list[torch.Tensor]:
        return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("share", [Share(), Share(number=1, of=2), Share(number=0, of=3)])
@pytest.mark.parametrize("tail_rank", [0, 3])
def test_a_window_gives_the_stored_targets_of_its_predictions(tail_rank: int, share: Share, tmp_path: Path) -> None:
    """In any order, from any of its shards; a row nobody answered has no ids, no mass and no NaN."""
    school = data()
    size, rng = school.text.plan.rows, np.random.default_rng(0)
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
        splits={"train": school.text.plan},
    )
    taught = TrainingData(text=school.text, targets=store)
    stored = store.read("train")
    window = ShardWindow(taught, (1, 3), share=share)
    mine = np.repeat(window.mine_G, np.diff(window.view.start_G1))
    local = rng.permutation(np.flatnonzero(window.contains(np.arange(len(window.prediction_P))) & mine))
    assert len(local) > 32 / share.of / 2 and set(window.prediction_P[local] // 16) == {1, 3}
    found, wanted = window.targets(local, OnCpu()), window.prediction_P[local]  # type: ignore[arg-type]
    none = stored.ids_PM[wanted] == 65535
    assert (found.ids_BM.numpy() == np.where(none, -1, stored.ids_PM[wanted].astype(int))).all()
    np.testing.assert_allclose(found.prob_BM, np.where(none, 0, np.exp(stored.logprob_PM[wanted])), rtol=1e-6)
    assert (found.tail_BT.numpy() == np.nan_to_num(stored.tail_PT[wanted])).all()
    assert (found.code_BTD.numpy() == stored.sketch_PTD[wanted]).all() and found.code_BTD.shape[2] == tail_rank
    silent = wanted % 5 == 0
    assert silent.any() and none[silent].all() and (found.tail_BT[torch.from_numpy(silent)] == 0).all()
