"""Statistics against float64 log-softmax of the whole row; the restored distributions against their definition.

Speed is not checked here: it depends on the machine.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import sparse
from pipeline.sparse import Summary, restore_fused, restore_teacher, summarise
from storage.records import FusedTargets, SparseLogits, id_dtype

TEMPERATURES = [1.0, 0.8, 1.6, 3.0]  # 1.6 = 2 * 0.8 goes the short way


def record(summary: Summary, gold_P: torch.Tensor) -> SparseLogits:
    vocabulary = summary.tail_sum_JV.shape[1]
    made = SparseLogits(
        ids_PK=summary.ids_PK.numpy().astype(id_dtype(vocabulary)),
        logprob_PK=summary.logprob_PK.numpy().astype(np.float16),
        tail_P=summary.tail_P.numpy(),
        gold_id_P=gold_P.numpy().astype(id_dtype(vocabulary)),
        gold_logprob_P=summary.gold_logprob_P.numpy(),
        entropy_PJ=summary.entropy_PJ.numpy(),
        lse_PJ=summary.lse_PJ.numpy(),
    )
    made.check()
    return made


def check_against_float64(logits: torch.Tensor, gold: torch.Tensor, summary: Summary, keep: int) -> None:
    wide = logits.double()
    logp = torch.log_softmax(wide, dim=1)
    values, _ = wide.topk(keep, dim=1)
    assert torch.equal(wide.gather(1, summary.ids_PK), values)
    assert all(len(set(row)) == keep for row in summary.ids_PK.tolist())
    kept = torch.zeros_like(wide, dtype=torch.bool).scatter_(1, summary.ids_PK, True)
    close = {"rtol": 2e-6, "atol": 2e-6}
    torch.testing.assert_close(summary.logprob_PK.double(), logp.gather(1, summary.ids_PK), **close)
    torch.testing.assert_close(summary.gold_logprob_P.double(), logp.gather(1, gold[:, None])[:, 0], **close)
    tail = logp.masked_fill(kept, -torch.inf).logsumexp(dim=1)
    torch.testing.assert_close(summary.tail_P.double(), tail, **close)
    for j, temperature in enumerate(TEMPERATURES[: summary.lse_PJ.shape[1]]):
        tempered = torch.log_softmax(wide / temperature, dim=1)
        entropy = -(tempered.exp() * tempered).sum(dim=1)
        torch.testing.assert_close(summary.entropy_PJ[:, j].double(), entropy, rtol=5e-6, atol=5e-6)
        torch.testing.assert_close(
            summary.lse_PJ[:, j].double(), (logp / temperature).logsumexp(dim=1), rtol=5e-6, atol=5e-6
        )
        outside = tempered.exp().masked_fill(kept, 0).sum(dim=0)
        torch.testing.assert_close(summary.tail_sum_JV[j], outside, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("vocabulary", "keep"), [(5000, 32), (4097, 1), (130, 64), (7, 7)])
def test_statistics_are_those_of_the_whole_row(vocabulary: int, keep: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(50, vocabulary, generator=generator)).to(dtype)
    gold = torch.randint(vocabulary, (50,), generator=generator)
    summary = summarise(logits, gold, keep=keep, temperatures=TEMPERATURES)
    check_against_float64(logits, gold, summary, keep)
    assert (summary.lse_PJ[:, 0] == 0).all()


def test_a_tiny_tail_is_not_lost_in_one_minus_the_kept_mass():
    logits = torch.full((1, 1000), -30.0)
    logits[0, :3] = torch.tensor([5.0, 4.0, 3.0])
    gold = torch.tensor([999])
    summary = summarise(logits, gold, keep=3, temperatures=TEMPERATURES)
    check_against_float64(logits, gold, summary, 3)
    assert summary.tail_P.item() == pytest.approx(np.log(997) - 35 - np.log1p(np.exp(-1) + np.exp(-2)), abs=1e-5)


def test_everything_kept_leaves_no_tail():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    summary = summarise(logits, torch.arange(4), keep=9, temperatures=[1.0, 2.0])
    assert (summary.tail_P == -torch.inf).all()
    assert (summary.tail_sum_JV == 0).all()
    record(summary, torch.arange(4))


def test_rows_are_independent_of_the_chunk(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(1)
    logits, gold = torch.randn(23, 3000, generator=generator), torch.randint(3000, (23,), generator=generator)
    whole = summarise(logits, gold, keep=8, temperatures=TEMPERATURES)
    monkeypatch.setattr(sparse, "CPU_CHUNK_ELEMENTS", 5 * 3000)
    cut = summarise(logits, gold, keep=8, temperatures=TEMPERATURES)
    for name in ("ids_PK", "logprob_PK", "tail_P", "gold_logprob_P", "entropy_PJ", "lse_PJ"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cut.tail_sum_JV, whole.tail_sum_JV, rtol=1e-5, atol=0)


def test_the_logits_are_left_as_they_were():
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(2))
    before = logits.clone()
    summarise(logits, torch.zeros(3, dtype=torch.int64), keep=4, temperatures=TEMPERATURES)
    assert torch.equal(logits, before)


def test_halves_follow_their_doubles():
    assert sparse._order([1.0, 0.8, 1.6, 3.0]) == [(3, False), (2, False), (1, True), (0, False)]
    assert sparse._order([1.0, 1.0, 2.0, 4.0]) == [(3, False), (2, True), (0, True), (1, False)]


def test_no_rows():
    summary = summarise(torch.zeros(0, 50), torch.zeros(0, dtype=torch.int64), keep=4, temperatures=[1.0, 2.0])
    assert summary.ids_PK.shape == (0, 4) and summary.entropy_PJ.shape == (0, 2)
    assert (summary.tail_sum_JV == 0).all()


def test_more_than_the_vocabulary_cannot_be_kept():
    with pytest.raises(AssertionError, match="keep 6 of 5 ids"):
        summarise(torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64), keep=6, temperatures=[1.0])


rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(20, 200)), elements=st.floats(-20, 20, width=32))


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 20), st.booleans())
def test_kept_mass_and_tail_are_one_before_and_after_storing(values: np.ndarray, keep: int, half: bool):
    logits = torch.from_numpy(values)
    logits = logits.bfloat16() if half else logits
    gold = torch.zeros(len(logits), dtype=torch.int64)
    summary = summarise(logits, gold, keep=keep, temperatures=TEMPERATURES)
    check_against_float64(logits, gold, summary, keep)
    mass = summary.logprob_PK.double().exp().sum(dim=1) + summary.tail_P.double().exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-5)
    stored = record(summary, gold)  # its check() holds kept mass and tail to MASS_TOLERANCE
    for j, temperature in enumerate(TEMPERATURES):
        prior = np.full(logits.shape[1], 1 / logits.shape[1])
        dense = restore_teacher(stored, prior, column=j, temperature=temperature)
        np.testing.assert_allclose(dense.sum(axis=1), 1, atol=5e-3)  # float16 logs, doubled below temperature 1
        exact = torch.softmax(logits.double() / temperature, dim=1).gather(1, summary.ids_PK).numpy()
        restored = np.take_along_axis(dense, summary.ids_PK.numpy(), axis=1)
        np.testing.assert_allclose(restored, exact, rtol=2e-2, atol=1e-7)


def test_restored_teacher_by_hand():
    logits = SparseLogits(
        ids_PK=np.array([[2, 0], [65535, 65535]], np.uint16),
        logprob_PK=np.log(np.array([[0.5, 0.25], [np.nan, np.nan]])).astype(np.float16),
        tail_P=np.array([np.log(0.25), np.nan], np.float32),
        gold_id_P=np.array([2, 65535], np.uint16),
        gold_logprob_P=np.array([np.log(0.5), np.nan], np.float32),
        entropy_PJ=np.array([[1.0], [np.nan]], np.float32),
        lse_PJ=np.array([[0.0], [np.nan]], np.float32),
    )
    logits.check()
    dense = restore_teacher(logits, np.array([0.4, 0.3, 0.2, 0.1]), column=0, temperature=1.0)
    np.testing.assert_allclose(dense[0], [0.25, 0.25 * 0.75, 0.5, 0.25 * 0.25], rtol=1e-3)
    assert np.isnan(dense[1]).all()


def test_restored_mixture_by_hand():
    targets = FusedTargets(
        ids_PM=np.array([[1, 65535], [65535, 65535]], np.uint16),
        logprob_PM=np.log(np.array([[0.5, np.nan], [np.nan, np.nan]])).astype(np.float16),
        weight_PT=np.array([[0.75, 0.25], [0, 0]], np.float32),
        tail_PT=np.array([[0.3, 0.2], [np.nan, np.nan]], np.float32),
        gold_logprob_P=np.array([np.log(0.5), np.nan], np.float32),
    )
    targets.check()
    prior_TV = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])
    dense = restore_fused(targets, prior_TV)
    expected = [0.3 * 0.5 / 0.8 + 0.2 * 0.1 / 0.4, 0.5, 0.3 * 0.3 / 0.8 + 0.2 * 0.3 / 0.4]
    np.testing.assert_allclose(dense[0], expected, rtol=1e-3)
    assert np.isnan(dense[1]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_statistics():
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(300, 30_527, generator=generator)
    gold = torch.randint(30_527, (300,), generator=generator)
    here = summarise(logits, gold, keep=32, temperatures=TEMPERATURES)
    there = summarise(logits.cuda(), gold.cuda(), keep=32, temperatures=TEMPERATURES)
    for name in ("logprob_PK", "tail_P", "gold_logprob_P", "entropy_PJ", "lse_PJ"):
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(there.tail_sum_JV.cpu(), here.tail_sum_JV, rtol=1e-4, atol=1e-12)
