"""Corrected teachers through whole fusions, against dense float64 rows multiplied by the ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.fuse import debias as debias_module
from pipeline.fuse.debias import count_ratio, debiased
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.fuse.teacher import Teacher, restore_block, tail_at
from pipeline.text.corpus_view import MaskedSequences
from storage.errors import ParamsError
from storage.format.manifest import Manifest
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks
from storage.records.targets import FusedTargets
from tests.helpers.reference import restore_fused
from tests.helpers.stores import TinyStores
from tests.helpers.teacher_stores import World, make_world

BASIC: dict[str, Any] = {
    "teachers": ["alpha", "beta"], "weighting": "entropy", "tau": 1.0, "calibrated": True, "prior": "equal",
    "temperature": 1.0, "keep": 64,
}  # fmt: skip
COUNTS = 2.0


def fused(world: World, out: Path, **settings: Any) -> Manifest:
    return fuse(
        FusionParams.model_validate(BASIC | settings),
        MaskedSequences.open_pair(world.data / "sequences", world.data / "masks"),
        logits=world.data / "logits",
        out=out,
        declared=["alpha", "beta"],
    )


def dense(out: Path, split: str) -> tuple[FusedTargets, np.ndarray]:
    store = Store(out, FusedTargets)
    rows = store.read(split)
    basis = store.constant("tail_basis_TDV") if "sketch_PTD" in store.manifest.arrays else None
    return rows, restore_fused(rows, bias_TV=store.constant("tail_bias_TV"), basis_TDV=basis)


def test_the_ratio_has_pseudo_counts_on_both_sides() -> None:
    assert count_ratio(np.array([0.0, 6.0]), np.array([2.0, 2.0]), counts=2.0).tolist() == [0.5, 2.0]


@pytest.mark.parametrize("form", [{}, {"tail_rank": 4}])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_corrected_teacher_is_its_restored_row_times_the_ratio(
    tiny_stores: TinyStores, workplace: Path, form: dict[str, int], name: str
) -> None:
    """beta numbers its ids the other way and does not answer every fifth position."""
    world = make_world(tiny_stores, workplace / "data", fusions=(), **form)
    fused(world, workplace / "plain", teachers=[name])
    fused(world, workplace / "debiased", teachers=[name], debias={"counts": COUNTS})
    masks = Store(world.data / "masks", Masks)

    train_rows, train_PV = dense(workplace / "plain", "train")
    covered_P = train_rows.covered_P()
    label_P = masks.read("train").label_P.astype(np.int64)
    label_V = np.bincount(label_P[covered_P], minlength=train_PV.shape[1])
    ratio_V = (label_V + COUNTS) / (train_PV[covered_P].sum(axis=0) + COUNTS)
    assert ratio_V.max() > 1.3 and ratio_V.min() < 0.8

    plain_rows, plain_PV = dense(workplace / "plain", "heldout")
    found_rows, found_PV = dense(workplace / "debiased", "heldout")
    expected_PV = plain_PV * ratio_V
    total_P = expected_PV.sum(axis=1)
    expected_PV /= total_P[:, None]
    answered = np.flatnonzero(plain_rows.covered_P())
    assert np.array_equal(found_rows.covered_P(), plain_rows.covered_P())
    # Stores keep roots of probabilities in steps: a few per cent of small ones.
    assert np.abs(found_PV - expected_PV)[answered].sum(axis=1).max() < 0.04
    assert np.abs(found_PV - plain_PV)[answered].sum(axis=1).mean() > 0.05
    held_P = masks.read("heldout").label_P.astype(np.int64)
    gold_P = plain_rows.gold_logprob_P + np.log(ratio_V[held_P]) - np.log(total_P)
    assert found_rows.gold_logprob_P[answered] == pytest.approx(gold_P[answered], abs=0.03)


@pytest.mark.parametrize("rank", [0, 4])
def test_lists_of_frequent_ids_are_corrected_exactly(rank: int) -> None:
    """What a list leaves of a plain prior is that of the teacher before the correction."""
    rng, vocabulary, rows, keep = np.random.default_rng(0), 200, 40, 10
    bias_V = np.log(rng.dirichlet(np.full(vocabulary, 0.3)) + 1e-9)
    bias_V -= np.log(np.exp(bias_V).sum())
    basis_DV = rng.normal(0, 0.3, (rank, vocabulary))
    ids_PK = np.stack([rng.choice(np.argsort(-bias_V)[:15], keep, replace=False) for _ in range(rows)])
    p_PK = -np.sort(-rng.dirichlet(np.ones(keep), rows) * 0.5, axis=1)
    sketch_PD = rng.integers(-3, 4, (rows, rank)).astype(np.int8)
    plain_PV = np.exp(bias_V + sketch_PD @ basis_DV)
    np.put_along_axis(plain_PV, ids_PK, 0, axis=1)
    spread_P = np.log(plain_PV.sum(axis=1))
    plain_PV *= 0.5 / plain_PV.sum(axis=1, keepdims=True)
    np.put_along_axis(plain_PV, ids_PK, p_PK, axis=1)
    record = SparseLogits(
        ids_PK=ids_PK.astype(np.uint16), logprob_PK=np.log(p_PK).astype(np.float32),
        drawn_ids_PS=np.zeros((rows, 0), np.uint16), drawn_share_PS=np.zeros((rows, 0), np.float32),
        tail_PJ=np.full((rows, 1), 0.5, np.float32), gold_logprob_PJ=np.zeros((rows, 1), np.float32),
        gold_place_P=np.zeros(rows, np.int32), entropy_PJ=np.ones((rows, 1), np.float32),
        sketch_PD=sketch_PD, spread_PJ=spread_P[:, None].astype(np.float32),
    )  # fmt: skip
    teacher = Teacher.of(
        np.arange(vocabulary), bias_V, basis_DV, vocabulary=vocabulary, column=0, temperature=1.0, weight_column=0
    )
    ratio_V = np.exp(rng.normal(size=vocabulary))
    reader = debiased(teacher, ratio_V)
    block = restore_block([record], [reader])
    (found,) = block.rows
    every_row, every_id = np.divmod(np.arange(rows * vocabulary), vocabulary)
    found_PV = tail_at(found, reader, every_row, every_id).reshape(rows, vocabulary)
    np.put_along_axis(found_PV, ids_PK, found.p_BK, axis=1)
    expected_PV = plain_PV * ratio_V
    total_P1 = expected_PV.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found_PV, expected_PV / total_P1, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(block.log_total_BT, np.log(total_P1), atol=1e-3)


def test_predictions_add_up_closer_to_the_labels_and_weights_stay(tiny_stores: TinyStores, workplace: Path) -> None:
    world = make_world(tiny_stores, workplace / "data", fusions=())
    plain, debiased = fused(world, workplace / "plain"), fused(world, workplace / "debiased", debias={"counts": 1.0})
    label_P = Store(world.data / "masks", Masks).read("train").label_P.astype(np.int64)
    away = {}
    for out in ("plain", "debiased"):
        rows, dense_PV = dense(workplace / out, "train")
        covered_P = rows.covered_P()
        label_V = np.bincount(label_P[covered_P], minlength=dense_PV.shape[1])
        away[out] = np.abs(dense_PV[covered_P].sum(axis=0) - label_V).sum()
    assert away["debiased"] < 0.5 * away["plain"]
    assert debiased.facts["mean_weight"] == plain.facts["mean_weight"]
    assert debiased.identity != plain.identity
    assert "debias" not in plain.inputs and debiased.inputs["debias"] == {"counts": 1.0}


@pytest.mark.parametrize("form", [{}, {"tail_rank": 4}])
def test_few_active_ids_and_few_rows_of_tails_give_nearly_the_same(
    tiny_stores: TinyStores, workplace: Path, form: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ids that are not active a mean ratio is taken, and a ratio's tails are those of every third row."""
    world = make_world(tiny_stores, workplace / "data", fusions=(), **form)
    fused(world, workplace / "plain", teachers=["alpha"])
    fused(world, workplace / "exact", teachers=["alpha"], debias={"counts": COUNTS})
    plain_PV, exact_PV = dense(workplace / "plain", "heldout")[1], dense(workplace / "exact", "heldout")[1]
    rows = Store(world.data / "masks", Masks).plan("train").rows
    monkeypatch.setattr(debias_module, "ACTIVE", plain_PV.shape[1] // 4)
    monkeypatch.setattr(debias_module, "TAIL_ROWS", rows // 3)
    fused(world, workplace / "fast", teachers=["alpha"], debias={"counts": COUNTS + 1e-9})
    fast_PV = dense(workplace / "fast", "heldout")[1]
    away_P = np.abs(fast_PV - exact_PV).sum(axis=1)
    assert 0 < away_P.mean() < 0.02 and away_P.max() < 0.06
    assert away_P.mean() < 0.15 * np.abs(plain_PV - exact_PV).sum(axis=1).mean()


def test_no_counts_are_refused(tmp_path: Path) -> None:
    from pipeline.core.config import decode

    with pytest.raises(ParamsError, match=r"fusions\.x.*debias.*counts"):
        decode(BASIC | {"debias": {"counts": 0}}, FusionParams, where="fusions.x")
