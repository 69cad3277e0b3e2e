"""Every loss against the dense cross-entropy with an explicitly built float64 distribution, value and gradient.

Restored tails are made in float32, so what they enter is compared to six digits, the rest to nine and more.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.sparse import loss as losses
from pipeline.sparse.loss import (
    LossTerm,
    Tails,
    TargetBatch,
    label_term,
    target_term,
    weighted_loss,
)

TAILS = ["prior", "bucket"]
EXACT = {"prior": 1e-7, "bucket": 1e-12}


def make(
    rows: int, vocabulary: int, *, keep: int, teachers: int, tail_rank: int = 0, seed: int = 0
) -> tuple[TargetBatch, Tails]:
    """Random targets in float64 whose rows have 1 to `keep` ids, one of them none when there are several rows."""
    generator = np.random.default_rng(seed)
    ids = np.full((rows, keep), -1, np.int64)
    prob = np.zeros((rows, keep))
    tail = np.zeros((rows, teachers))
    code = generator.integers(-9, 10, (rows, teachers, tail_rank)).astype(np.float32)
    for row in range(rows):
        count = keep if row == 0 else int(generator.integers(1, keep + 1))
        if rows > 1 and row == rows - 1:
            continue
        parts = generator.dirichlet(np.full(count + teachers, 0.5))
        ids[row, :count] = generator.permutation(vocabulary)[:count]
        prob[row, :count] = np.sort(parts[:count])[::-1]
        tail[row] = parts[count:]
        if count == vocabulary:
            prob[row, :count] /= prob[row, :count].sum()
            tail[row] = 0
    bias = generator.normal(0, 2, (teachers, vocabulary)).astype(np.float32)
    basis = generator.normal(0, 0.1, (teachers, tail_rank, vocabulary)).astype(np.float16)
    batch = TargetBatch(*map(torch.from_numpy, (ids, prob, tail, code)))
    return batch, Tails(torch.from_numpy(bias), torch.from_numpy(basis) if tail_rank else None)


def restored(targets: TargetBatch, tails: Tails) -> torch.Tensor:
    """The dense target by its definition, row by row."""
    vocabulary = tails.bias_TV.shape[1]
    dense = torch.zeros(len(targets.ids_BM), vocabulary, dtype=torch.float64)
    for row, ids_M in enumerate(targets.ids_BM):
        ids = ids_M[ids_M >= 0]
        for t, bias_V in enumerate(tails.bias_TV.double()):
            exponent = bias_V.clone()
            if tails.basis_TDV is not None:
                exponent += targets.code_BTD[row, t].double() @ tails.basis_TDV[t].double()
            exponent[ids] = -torch.inf
            if len(ids) < vocabulary:
                dense[row] += targets.tail_BT[row, t].double() * torch.softmax(exponent, dim=0)
        dense[row, ids] = targets.prob_BM[row, : len(ids)].double()
    return dense


def target_loss(
    logits: torch.Tensor, targets: TargetBatch, tails: Tails, *, temperature: float, tail: losses.Tail
) -> LossTerm:
    """The target term alone, with its gradient."""
    total, (term,) = weighted_loss(
        logits, [target_term(targets, tails, temperature=temperature, tail=tail, weight=1.0)]
    )
    assert total.item() == pytest.approx(term.total.item(), nan_ok=True) and not term.total.requires_grad
    return LossTerm(total, term.count)


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> LossTerm:
    """The label term alone, with its gradient."""
    total, (term,) = weighted_loss(logits, [label_term(labels, weight=1.0)])
    return LossTerm(total, term.count)


def some_rows(targets: TargetBatch, rows: slice) -> TargetBatch:
    return TargetBatch(targets.ids_BM[rows], targets.prob_BM[rows], targets.tail_BT[rows], targets.code_BTD[rows])


def dense_loss(logits: torch.Tensor, dense: torch.Tensor, temperature: float) -> torch.Tensor:
    return temperature**2 * functional.cross_entropy(logits / temperature, dense, reduction="sum")


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, logits)
    return found


def leaf(rows: int, vocabulary: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator)).requires_grad_()


def in_float32(targets: TargetBatch) -> TargetBatch:
    return TargetBatch(targets.ids_BM, targets.prob_BM.float(), targets.tail_BT.float(), targets.code_BTD)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    vocabulary=st.integers(3, 40),
    keep=st.integers(1, 40),
    teachers=st.integers(1, 3),
    tail_rank=st.sampled_from([0, 1, 4]),
    temperature=st.sampled_from([1.0, 2.0, 0.7]),
    seed=st.integers(0, 999),
)
def test_prior_is_dense_cross_entropy_with_restored_rows(
    rows, vocabulary, keep, teachers, tail_rank, temperature, seed
):
    targets, tails = make(
        rows, vocabulary, keep=min(keep, vocabulary), teachers=teachers, tail_rank=tail_rank, seed=seed
    )
    logits = leaf(rows, vocabulary, seed)
    reference = dense_loss(logits, restored(targets, tails), temperature)
    found = target_loss(logits, targets, tails, temperature=temperature, tail="prior")
    torch.testing.assert_close(found.total, reference, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(gradient(found.total, logits), gradient(reference, logits), rtol=1e-5, atol=1e-6)
    assert found.count == int((targets.ids_BM[:, 0] >= 0).sum())


@pytest.mark.parametrize("tail_rank", [0, 3])
def test_tails_are_restored_a_few_rows_at_a_time(tail_rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, tails = make(9, 40, keep=6, teachers=2, tail_rank=tail_rank)
    logits = leaf(9, 40)
    whole = target_loss(logits, targets, tails, temperature=2.0, tail="prior").total
    slope = gradient(whole, logits)
    monkeypatch.setattr(losses, "TAIL_CHUNK_ELEMENTS", 80)
    assert [rows for rows, _ in tails.chunks(targets)] == [
        slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8), slice(8, 9)
    ]  # fmt: skip
    cut = target_loss(logits, targets, tails, temperature=2.0, tail="prior").total
    torch.testing.assert_close(cut, whole, rtol=1e-7, atol=0)
    torch.testing.assert_close(gradient(cut, logits), slope, rtol=1e-6, atol=1e-9)


def test_only_the_prior_restores_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket needs no restored tail."""
    targets, tails = make(4, 15, keep=5, teachers=2, tail_rank=3)

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("a tail was restored")

    monkeypatch.setattr(losses, "tail_chunk", never)
    target_loss(leaf(4, 15), targets, tails, temperature=1.0, tail="bucket")
    with pytest.raises(AssertionError, match="a tail was restored"):
        target_loss(leaf(4, 15), targets, tails, temperature=1.0, tail="prior")


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_everything_listed_each_form_is_torchs_cross_entropy(tail, temperature):
    targets, tails = make(1, 12, keep=12, teachers=2)
    dense = torch.zeros(1, 12, dtype=torch.float64).scatter_(1, targets.ids_BM, targets.prob_BM)
    logits = leaf(1, 12)
    reference = dense_loss(logits, dense, temperature)
    found = target_loss(logits, targets, tails, temperature=temperature, tail=tail).total
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient(found, logits), gradient(reference, logits), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_bucket_is_cross_entropy_over_listed_ids_and_one_more_outcome(temperature):
    targets, tails = make(5, 20, keep=6, teachers=2)
    logits = leaf(5, 20)
    q = torch.softmax(logits / temperature, dim=1)
    reference = torch.zeros((), dtype=torch.float64)
    for row, ids_M in enumerate(targets.ids_BM):
        ids = ids_M[ids_M >= 0]
        if not len(ids):
            continue
        outside = torch.ones(20, dtype=torch.bool)
        outside[ids] = False
        p = torch.cat([targets.prob_BM[row, : len(ids)], targets.tail_BT[row].sum()[None]])
        coarse = torch.cat([q[row, ids], q[row, outside].sum()[None]])
        reference = reference - temperature**2 * (p * coarse.log()).sum()
    found = target_loss(logits, targets, tails, temperature=temperature, tail="bucket").total
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient(found, logits), gradient(reference, logits), rtol=1e-8, atol=1e-11)


def test_bucket_survives_a_student_with_nothing_outside_the_list():
    half = torch.tensor([[0.5]])
    targets = TargetBatch(torch.tensor([[0]]), half, half, torch.zeros(1, 1, 0))
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    found = target_loss(logits, targets, Tails(torch.zeros(1, 3), None), temperature=1.0, tail="bucket").total
    assert found.item() == pytest.approx(-0.5 * np.log(1e-6), rel=1e-5)
    assert torch.isfinite(gradient(found, logits)).all()


@pytest.mark.parametrize("tail", TAILS)
def test_rows_without_a_target_count_and_pull_nothing(tail):
    targets, tails = make(4, 15, keep=5, teachers=2)
    logits = leaf(4, 15)
    found = target_loss(logits, targets, tails, temperature=2.0, tail=tail)
    assert found.count == 3
    assert (gradient(found.total, logits)[3] == 0).all()
    part = some_rows(targets, slice(3))
    without = target_loss(logits[:3], part, tails, temperature=2.0, tail=tail)
    torch.testing.assert_close(found.total, without.total, rtol=EXACT[tail], atol=0)


@pytest.mark.parametrize("tail", TAILS)
def test_one_batch_of_eight_is_four_batches_of_two(tail):
    targets, tails = make(8, 30, keep=7, teachers=3)
    logits = leaf(8, 30)
    whole = target_loss(logits, targets, tails, temperature=2.0, tail=tail)
    labels = torch.arange(8)
    whole_gradient = gradient(whole.total + label_loss(logits, labels).total, logits)
    totals, counts, parts = torch.zeros(()), 0, torch.zeros(8, 30, dtype=torch.float64)
    for start in range(0, 8, 2):
        rows = slice(start, start + 2)
        batch = some_rows(targets, rows)
        part = target_loss(logits[rows], batch, tails, temperature=2.0, tail=tail)
        label = label_loss(logits[rows], labels[rows])
        assert label.count == 2
        parts += gradient(part.total + label.total, logits)
        totals, counts = totals + part.total, counts + part.count
    torch.testing.assert_close(totals, whole.total, rtol=EXACT[tail], atol=0)
    assert counts == whole.count
    torch.testing.assert_close(parts, whole_gradient, rtol=EXACT[tail], atol=EXACT[tail])


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_and_bfloat16_logits(tail, dtype):
    targets, tails = make(6, 500, keep=32, teachers=2)
    wide = leaf(6, 500).detach().to(dtype).double().requires_grad_()
    narrow = wide.detach().to(dtype).requires_grad_()
    reference = target_loss(wide, targets, tails, temperature=2.0, tail=tail)
    found = target_loss(narrow, in_float32(targets), tails, temperature=2.0, tail=tail)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total.double(), reference.total, rtol=1e-5, atol=0)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-5}
    slope = gradient(found.total, narrow)
    torch.testing.assert_close(slope.double(), gradient(reference.total, wide), **tolerance)


def test_autocast_does_not_reach_the_loss():
    targets, tails = make(6, 500, keep=32, teachers=2)
    logits = leaf(6, 500).detach().float().requires_grad_()
    plain = target_loss(logits, in_float32(targets), tails, temperature=1.0, tail="prior").total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = target_loss(logits, in_float32(targets), tails, temperature=1.0, tail="prior").total
    assert torch.equal(plain, cast)


def test_a_second_backward_is_refused():
    targets, tails = make(2, 9, keep=3, teachers=1)
    logits = leaf(2, 9)
    total = target_loss(logits, targets, tails, temperature=1.0, tail="prior").total
    total.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="one backward"):
        total.backward()


def test_no_gradient_is_made_when_none_is_asked_for():
    targets, tails = make(2, 9, keep=3, teachers=1)
    with torch.no_grad():
        found = target_loss(leaf(2, 9), targets, tails, temperature=1.0, tail="prior").total
    assert not found.requires_grad


def test_label_loss_is_torchs_cross_entropy():
    logits = leaf(5, 11)
    labels = torch.tensor([0, 3, 10, 3, 7])
    found = label_loss(logits, labels)
    reference = functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(found.total, reference, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(found.total, logits), gradient(reference, logits), rtol=1e-9, atol=1e-12)
    assert found.count == 5


def test_terms_of_different_weight_share_one_backward_pass():
    targets, tails = make(5, 20, keep=6, teachers=2)
    logits, labels = leaf(5, 20), torch.arange(5)
    target = target_loss(logits, targets, tails, temperature=2.0, tail="prior").total
    loss = 0.25 * target / 4 + 3 * label_loss(logits, labels).total / 5
    dense = 0.25 * dense_loss(logits, restored(targets, tails), 2.0) / 4 + 3 * functional.cross_entropy(logits, labels)
    torch.testing.assert_close(gradient(loss, logits), gradient(dense, logits), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_terms_together_are_the_sum_of_terms_alone(tail: losses.Tail, temperature: float) -> None:
    """At temperature 1 they share a softmax, which becomes the gradient; at 2 they do not."""
    targets, tails = make(5, 20, keep=6, teachers=2, tail_rank=3)
    logits, labels = leaf(5, 20), torch.arange(5)
    target = target_loss(logits, targets, tails, temperature=temperature, tail=tail)
    label = label_loss(logits, labels)
    together, (first, second) = weighted_loss(
        logits,
        [
            target_term(targets, tails, temperature=temperature, tail=tail, weight=0.25),
            label_term(labels, weight=3.0),
        ],
    )
    alone = 0.25 * target.total + 3 * label.total
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    torch.testing.assert_close(first.total, target.total.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(second.total, label.total.detach(), rtol=1e-9, atol=0)
    assert (first.count, second.count) == (4, 5)
    torch.testing.assert_close(gradient(together, logits), gradient(alone, logits), rtol=1e-6, atol=1e-9)
