"""Corrected teachers through whole fusions, against dense float64 rows multiplied by the ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.fuse import debias as debias_module
from pipeline.fuse.debias import count_ratio
from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.text.corpus_view import MaskedSequences
from storage.errors import ParamsError
from storage.format.manifest import Manifest
from storage.reader import Store
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
