"""Dense rows of a store against the float64 references, in every form and at every temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.sparse.restore import Restored
from storage.reader import Store
from storage.records.logits import SparseLogits
from tests.helpers.distributions import TailOf, softmaxes, sparse_logits
from tests.helpers.reference import restore_teacher
from tests.helpers.stores import TinyStores
from tests.helpers.teacher_stores import TEMPERATURES, make_world

CPU = torch.device("cpu")
ROWS, VOCABULARY = 50, 60
FORMS = [{}, {"tail_rank": 5}, {"draws": 9}, {"draws": 9, "keep": 0}]


def rows_of(*, tail_rank: int = 0, draws: int = 0, keep: int = 7) -> Restored:
    """Rows with lists of 1 to `keep` ids, every sixth without an answer."""
    rng = np.random.default_rng(3)
    gold_P = rng.integers(0, VOCABULARY, ROWS)
    dense_PV = softmaxes(rng, gold_P, VOCABULARY)
    tail = TailOf.plain(dense_PV, keep=keep, temperatures=TEMPERATURES)
    if tail_rank:
        tail = TailOf.low_rank(dense_PV, rank=tail_rank, step=0.3, temperatures=TEMPERATURES)
    lengths = rng.integers(1, keep + 1, ROWS) if keep else 0
    covered_P = np.arange(ROWS) % 6 != 1
    return Restored(
        record=sparse_logits(dense_PV, gold_P, keep=lengths, tail=tail, covered_P=covered_P, draws=draws),
        temperatures=tuple(TEMPERATURES),
        bias_JV=torch.from_numpy(tail.bias_JV),
        basis_DV=torch.from_numpy(tail.basis_DV).float() if tail_rank else None,
    )


def reference(restored: Restored, column: int) -> np.ndarray:
    return restore_teacher(
        restored.record,
        bias_JV=restored.bias_JV.numpy(),
        basis_DV=None if restored.basis_DV is None else restored.basis_DV.numpy(),
        column=column,
        temperature=restored.temperatures[column],
    )


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_restored_as_they_are_defined(form: dict[str, int], column: int) -> None:
    restored = rows_of(**form)
    answered = np.flatnonzero(restored.record.covered_P())
    found = restored.chunk(answered, column)
    assert found.dtype == torch.float32
    expected = reference(restored, column)[answered]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_any_rows_can_be_asked_for_in_any_order(form: dict[str, int]) -> None:
    restored = rows_of(**form)
    expected = reference(restored, 1)
    for rows in (np.array([44, 3, 3, 20]), np.array([5]), slice(8, 12), np.zeros(0, np.int64)):
        np.testing.assert_allclose(restored.chunk(rows, 1).numpy(), expected[rows], rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_list_of_everything_is_restored_whole(column: int) -> None:
    """Nothing is left to spread a tail over, and id 0 keeps its own probability."""
    rng = np.random.default_rng(0)
    dense_PV = softmaxes(rng, rng.integers(0, 12, 9), 12)
    tail = TailOf.plain(dense_PV, keep=12, temperatures=TEMPERATURES)
    record = sparse_logits(dense_PV, np.zeros(9, int), keep=12, tail=tail, covered_P=np.ones(9, bool))
    restored = Restored(
        record=record, temperatures=tuple(TEMPERATURES), bias_JV=torch.from_numpy(tail.bias_JV), basis_DV=None
    )
    power = dense_PV ** (1 / TEMPERATURES[column])
    expected = power / power.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(restored.chunk(np.arange(9), column).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("form", [{}, {"tail_rank": 4}, {"draws": 6}])
def test_a_stores_rows_are_read_with_its_constants(
    form: dict[str, int], tiny_stores: TinyStores, tmp_path: Path
) -> None:
    world = make_world(tiny_stores, tmp_path / "data", fusions=(), **form)
    store = Store(world.data / "logits" / "alpha", SparseLogits)
    record = store.read("heldout")
    restored = Restored.of(store, record, device=CPU)
    assert restored.temperatures == tuple(TEMPERATURES)
    assert (restored.basis_DV is not None) == ("tail_rank" in form)
    for column, temperature in enumerate(TEMPERATURES):
        expected = restore_teacher(
            record,
            bias_JV=store.constant("tail_bias_JV"),
            basis_DV=store.constant("tail_basis_DV") if "tail_rank" in form else None,
            column=column,
            temperature=temperature,
        )
        np.testing.assert_allclose(
            restored.chunk(np.arange(len(record)), column).numpy(), expected, rtol=5e-5, atol=1e-9
        )
