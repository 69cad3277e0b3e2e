"""Statistics against float64 log-softmax of the whole row; the restored distributions against their definition.

Speed is not checked here: it depends on the machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.sparse import selection
from pipeline.sparse import summary as sparse
from pipeline.sparse.params import (
    Keep,
    Nucleus,
    Sampled,
    TailParams,
    TopK,
    TopKSampled,
)
from pipeline.sparse.restore import listed_probability
from pipeline.sparse.summary import Summary, record_of, summarise
from pipeline.sparse.tail import NO_COUNTERPART, TailShape
from pipeline.sparse.tail_fit import SUBSPACE_SPARE, fit_tail
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets
from tests.helpers.memory import peak_bytes
from tests.helpers.reference import restore_fused, restore_teacher

TEMPERATURES = (1.0, 0.8, 1.6, 3.0)  # 1.6 = 2 * 0.8 goes the short way
NUCLEUS = Nucleus(form="nucleus", mass=0.9, floor=0.01, least=2, most=20)


def shape(vocabulary: int, *, size: int, temperatures: tuple[float, ...] = TEMPERATURES) -> TailShape:
    """Random biases and a random basis: nothing here depends on their being good."""
    generator = torch.Generator().manual_seed(vocabulary + size)
    encode = torch.randn(vocabulary, size, generator=generator)
    return TailShape(
        bias_JV=torch.log_softmax(torch.randn(len(temperatures), vocabulary, generator=generator), dim=1),
        basis_DV=0.1 * torch.randn(size, vocabulary, generator=generator).half().float(),
        encode_VD=encode - encode.mean(dim=0),
        offset_D=torch.randn(size, generator=generator),
        order_V=torch.arange(vocabulary),
        temperatures=temperatures,
    )


def topk(k: int) -> TopK:
    return TopK(form="topk", k=k)


def record(summary: Summary, vocabulary: int) -> SparseLogits:
    made = record_of(summary, vocabulary=vocabulary)
    made.check()
    return made


def check_against_float64(logits: torch.Tensor, gold: torch.Tensor, summary: Summary, tail: TailShape) -> None:
    """All but which entries are listed: that follows from the summary's own lists."""
    wide = logits.double()
    close: dict[str, Any] = {"rtol": 5e-6, "atol": 5e-6}
    has_id = summary["ids_PK"] >= 0
    logp = torch.log_softmax(wide, dim=1)
    ids = summary["ids_PK"].clamp_min(0)
    values = wide.topk(ids.shape[1], dim=1).values
    assert torch.equal(wide.gather(1, ids)[has_id], values[has_id])
    assert all(len(set(row)) == len(row) for row in (row[row >= 0].tolist() for row in summary["ids_PK"]))
    torch.testing.assert_close(summary["logprob_PK"][has_id].double(), logp.gather(1, ids)[has_id], **close)
    assert summary["logprob_PK"][~has_id].isnan().all()
    listed = torch.zeros(wide.shape[0], wide.shape[1] + 1, dtype=torch.bool)
    listed.scatter_(1, ids.where(has_id, wide.shape[1]), True)
    listed = listed[:, :-1]
    for row, (true_id, place) in enumerate(zip(gold.tolist(), summary["gold_place_P"].tolist(), strict=True)):
        assert place == (summary["ids_PK"][row].tolist().index(true_id) if listed[row, true_id] else -1)
    exponent = summary["sketch_PD"].double() @ tail.basis_DV.double()
    for j, temperature in enumerate(tail.temperatures):
        tempered = torch.log_softmax(wide / temperature, dim=1)
        entropy = -(tempered.exp() * tempered).sum(dim=1)
        torch.testing.assert_close(summary["entropy_PJ"][:, j].double(), entropy, **close)
        gold_logprob = tempered.gather(1, gold[:, None])[:, 0]
        torch.testing.assert_close(summary["gold_logprob_PJ"][:, j].double(), gold_logprob, **close)
        outside = tempered.exp().masked_fill(listed, 0).sum(dim=1)
        torch.testing.assert_close(summary["tail_PJ"][:, j].double(), outside, rtol=1e-5, atol=1e-30)
        total = (tail.bias_JV[j].double() + exponent / temperature).masked_fill(listed, -torch.inf).logsumexp(dim=1)
        total = total.where(~listed.all(dim=1), 0.0)
        torch.testing.assert_close(summary["spread_PJ"][:, j].double(), total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize(("vocabulary", "keep"), [(5000, topk(32)), (4097, topk(1)), (130, topk(64)), (7, topk(7))])
def test_statistics_are_those_of_the_whole_row(vocabulary: int, keep: Keep, size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(50, vocabulary, generator=generator)).to(dtype)
    gold = torch.randint(vocabulary, (50,), generator=generator)
    tail = shape(vocabulary, size=size)
    summary = summarise(logits, gold, keep=keep, temperatures=TEMPERATURES, tail=tail)
    assert (summary["ids_PK"] >= 0).all()
    check_against_float64(logits, gold, summary, tail)
    assert summary["sketch_PD"].shape == (50, size) and summary["drawn_ids_PS"].shape == (50, 0)
    codes = logits.double() @ tail.encode_VD.double() - tail.offset_D.double()
    assert ((summary["sketch_PD"] - codes.clamp(-127, 127)).abs() <= 0.5 + 1e-3).all()


@pytest.mark.parametrize("keep", [NUCLEUS, NUCLEUS.model_copy(update={"mass": 1.0, "floor": 0.0, "most": 600})])
def test_a_nucleus_lists_what_its_rule_says(keep: Nucleus) -> None:
    generator = torch.Generator().manual_seed(8)
    logits = 5 * torch.randn(200, 500, generator=generator) * torch.rand(200, 1, generator=generator)
    gold = torch.randint(500, (200,), generator=generator)
    tail = shape(500, size=2)
    summary = summarise(logits, gold, keep=keep, temperatures=TEMPERATURES, tail=tail)
    check_against_float64(logits, gold, summary, tail)
    p = torch.softmax(logits.double(), dim=1).sort(dim=1, descending=True).values
    before = p.cumsum(dim=1) - p
    for row, count in enumerate((summary["ids_PK"] >= 0).sum(dim=1).tolist()):
        expected = int((((before[row] < keep.mass) | (keep.mass == 1)) & (p[row] >= keep.floor)).sum())
        assert count == min(max(expected, keep.least), keep.most, 500)


def test_a_tiny_tail_is_not_lost_in_one_minus_the_kept_mass() -> None:
    logits = torch.full((1, 1000), -30.0)
    logits[0, :3] = torch.tensor([5.0, 4.0, 3.0])
    gold = torch.tensor([999])
    tail = shape(1000, size=0)
    summary = summarise(logits, gold, keep=topk(3), temperatures=TEMPERATURES, tail=tail)
    check_against_float64(logits, gold, summary, tail)
    expected = 997 * np.exp(-35) / (1 + np.exp(-1) + np.exp(-2))
    assert summary["tail_PJ"][0, 0].item() == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.parametrize("size", [0, 2])
def test_everything_listed_leaves_no_tail(size: int) -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    tail = shape(9, size=size, temperatures=(1.0, 2.0))
    summary = summarise(logits, torch.arange(4), keep=topk(12), temperatures=(1.0, 2.0), tail=tail)
    assert summary["ids_PK"].shape == (4, 9)
    assert (summary["tail_PJ"] == 0).all() and (summary["spread_PJ"] == 0).all()
    dense = restore_teacher(record(summary, 9), bias_JV=tail.bias_JV.numpy(), column=1, temperature=2.0)
    np.testing.assert_allclose(dense, torch.softmax(logits.double() / 2, dim=1), rtol=1e-5)


@pytest.mark.parametrize("keep", [NUCLEUS, TopKSampled(form="topk+sampled", k=8, draws=5)])
def test_rows_are_independent_of_the_chunk(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, gold = torch.randn(23, 3000, generator=generator), torch.randint(3000, (23,), generator=generator)
    uniform = np.random.default_rng(0).random((23, 5)) if keep.draws else None
    settings: dict[str, Any] = {"keep": keep, "temperatures": TEMPERATURES, "tail": shape(3000, size=2)}
    whole = summarise(logits, gold, uniform_PS=uniform, **settings)
    monkeypatch.setattr(selection, "CPU_CHUNK_ELEMENTS", 5 * 3000)
    cut = summarise(logits, gold, uniform_PS=uniform, **settings)
    for name, column in whole.items():
        torch.testing.assert_close(cut[name], column, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [topk(32), NUCLEUS, TopKSampled(form="topk+sampled", k=8, draws=20)])
@pytest.mark.parametrize("vocabulary", [2_000, 250_002])
def test_memory_is_bounded_in_bytes_whatever_the_vocabulary(
    vocabulary: int, keep: Keep, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight float32 copies of what may be worked on at once, and the result. All logits are sixteen copies."""
    chunk = 2**18
    monkeypatch.setattr(selection, "CPU_CHUNK_ELEMENTS", chunk)
    rows = 16 * chunk // vocabulary
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(4)).to(dtype)
    uniform = np.random.default_rng(0).random((rows, keep.draws)) if keep.draws else None
    settings: dict[str, Any] = {"keep": keep, "temperatures": TEMPERATURES, "tail": shape(vocabulary, size=2)}
    made: Summary = {}
    peak = peak_bytes(
        lambda: made.update(summarise(logits, torch.zeros(rows, dtype=torch.int64), uniform_PS=uniform, **settings))
    )
    result = sum(column.nbytes for column in made.values())
    assert 3 * 4 * vocabulary < peak - result <= 8 * 4 * chunk < 4 * logits.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_budget_itself_is_some_megabytes(dtype: torch.dtype) -> None:
    """Without a patch, at the vocabulary of XLM-R: the logits have 40 or 80 MB."""
    logits = torch.zeros(80, 250_002, dtype=dtype)
    settings: dict[str, Any] = {"keep": topk(32), "temperatures": (1.0,), "tail": shape(250_002, size=0)}
    settings["tail"] = replace(settings["tail"], temperatures=(1.0,), bias_JV=settings["tail"].bias_JV[:1])
    assert peak_bytes(lambda: summarise(logits, torch.zeros(80, dtype=torch.int64), **settings)) < 2**25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [0, 2])
def test_the_fit_of_tails_takes_no_more_memory_for_more_rows(
    rank: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for each row's code and list: far less than a row of logits, which has 1 MB at this vocabulary."""
    monkeypatch.setattr(selection, "CPU_CHUNK_ELEMENTS", 2**18)
    generator = torch.Generator().manual_seed(5)
    batches = [torch.randn(12, 250_002, generator=generator).to(dtype) for _ in range(2)]
    settings: dict[str, Any] = {
        "keep": topk(8), "temperatures": (1.0, 2.0), "tail": TailParams(rank=rank, step=0.4),
    }  # fmt: skip
    few, many = (peak_bytes(lambda some=some: fit_tail(some, **settings)) for some in (batches[:1], batches))
    assert many - few < 250_002
    # A few vectors over the vocabulary for each coordinate, and those of the subspace iteration.
    assert many < 4 * 250_002 * (24 + 4 * (rank and rank + SUBSPACE_SPARE))


def test_the_logits_are_left_as_they_were() -> None:
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(2))
    before = logits.clone()
    tail = shape(100, size=1)
    summarise(logits, torch.zeros(3, dtype=torch.int64), keep=topk(4), temperatures=TEMPERATURES, tail=tail)
    assert torch.equal(logits, before)


def test_halves_follow_their_doubles() -> None:
    assert sparse._order([1.0, 0.8, 1.6, 3.0]) == [(3, False), (2, False), (1, True), (0, False)]
    assert sparse._order([1.0, 1.0, 2.0, 4.0]) == [(3, False), (2, True), (0, True), (1, False)]


def test_no_rows() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    tail = shape(50, size=2)
    summary = summarise(torch.zeros(0, 50), none, keep=topk(4), temperatures=TEMPERATURES, tail=tail)
    assert (
        summary["ids_PK"].shape == (0, 4)
        and summary["entropy_PJ"].shape == (0, 4)
        and summary["sketch_PD"].shape == (0, 2)
    )


@pytest.mark.parametrize(
    ("keep", "change", "message"),
    [
        (TopKSampled(form="topk+sampled", k=5, draws=2), {}, "none is left to draw"),
        (Sampled(form="sampled", draws=2), {}, "draws need uniforms"),
        (Sampled(form="sampled", draws=2), {"uniform_PS": np.zeros((1, 3))}, "draws need uniforms"),
        (topk(2), {"temperatures": (1.0, 2.0)}, "tail fitted at"),
    ],
)
def test_callers_that_err_are_told(keep: Keep, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"temperatures": TEMPERATURES, "tail": shape(5, size=0), **change}
    with pytest.raises(AssertionError, match=message):
        summarise(torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64), keep=keep, **arguments)


rows = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(21, 200)), elements=st.floats(-20, 20, width=32))
forms = st.one_of(
    st.integers(1, 20).map(topk),
    st.builds(
        Nucleus,
        form=st.just("nucleus"),
        mass=st.floats(0.1, 1),
        floor=st.floats(0, 0.5),
        least=st.integers(1, 3),
        most=st.integers(3, 30),
    ),
    st.builds(Sampled, form=st.just("sampled"), draws=st.integers(1, 9)),
    st.builds(TopKSampled, form=st.just("topk+sampled"), k=st.integers(1, 20), draws=st.integers(1, 9)),
)


@settings(max_examples=80, deadline=None)
@given(rows, forms, st.sampled_from([0, 3]), st.booleans())
def test_masses_add_up_and_lists_are_restored(values: np.ndarray, keep: Keep, size: int, half: bool) -> None:
    logits = torch.from_numpy(values)
    logits = logits.bfloat16() if half else logits
    gold = torch.zeros(len(logits), dtype=torch.int64)
    tail = shape(logits.shape[1], size=size)
    uniform = np.random.default_rng(0).random((len(logits), keep.draws)) if keep.draws else None
    summary = summarise(logits, gold, keep=keep, temperatures=TEMPERATURES, tail=tail, uniform_PS=uniform)
    check_against_float64(logits, gold, summary, tail)
    stored = record(summary, logits.shape[1])  # its check() holds listed mass and tail to MASS_TOLERANCE
    basis = tail.basis_DV.numpy() if size else None
    none = summary["ids_PK"].numpy() < 0
    ids = np.where(none, 0, summary["ids_PK"].numpy())
    for column, temperature in enumerate(TEMPERATURES):
        dense = restore_teacher(
            stored, bias_JV=tail.bias_JV.numpy(), basis_DV=basis, column=column, temperature=temperature
        )
        np.testing.assert_allclose(dense.sum(axis=1), 1, atol=1e-6)
        exact = torch.softmax(logits.double() / temperature, dim=1).gather(1, torch.from_numpy(ids)).numpy()
        listed = np.where(none, 0, exact)
        np.testing.assert_allclose(
            np.where(none, 0, np.take_along_axis(dense, ids, axis=1)), listed, rtol=1e-4, atol=1e-6
        )
        sparse_p = listed_probability(stored, column=column, temperature=temperature)
        assert sparse_p.dtype == np.float32 and (sparse_p[none] == 0).all()
        np.testing.assert_allclose(sparse_p, listed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "keep", [Sampled(form="sampled", draws=4), TopKSampled(form="topk+sampled", k=3, draws=4)], ids=lambda k: k.form
)
def test_drawn_forms_restore_to_the_softmax_on_average(keep: Sampled | TopKSampled) -> None:
    """Uniforms on a grid make the average exact: one draw of each of 4 x 2500 equal parts of the unit interval."""
    generator = torch.Generator().manual_seed(9)
    logits = 2 * torch.randn(80, generator=generator)
    rows, tail = 2500, shape(80, size=0, temperatures=(1.0, 1.3))
    grid = ((np.arange(4 * rows) + 0.5) / (4 * rows)).reshape(4, rows).T.copy()
    summary = summarise(
        logits.expand(rows, -1),
        torch.zeros(rows, dtype=torch.int64),
        keep=keep,
        temperatures=(1.0, 1.3),
        tail=tail,
        uniform_PS=grid,
    )
    dense = restore_teacher(record(summary, 80), bias_JV=tail.bias_JV.numpy(), column=1, temperature=1.3)
    exact = torch.softmax(logits.double() / 1.3, dim=0).numpy()
    np.testing.assert_allclose(dense.mean(axis=0), exact, atol=1.01 / (4 * rows))
    assert dense.std(axis=0).max() > 0.01  # single rows are far from it


def teacher_by_hand(**change: Any) -> SparseLogits:
    arrays: dict[str, Any] = {
        "ids_PK": np.array([[2, 0], [65535, 65535]], np.uint16),
        "logprob_PK": np.log(np.array([[0.5, 0.25], [np.nan, np.nan]])).astype(np.float32),
        "drawn_ids_PS": np.zeros((2, 0), np.uint16),
        "drawn_share_PS": np.zeros((2, 0), np.float32),
        "tail_PJ": np.array([[0.25, 0.4], [np.nan, np.nan]], np.float32),
        "gold_logprob_PJ": np.array([[-0.7, -0.9], [np.nan, np.nan]], np.float32),
        "gold_place_P": np.array([0, -1], np.int32),
        "entropy_PJ": np.array([[1.0, 1.2], [np.nan, np.nan]], np.float32),
        "sketch_PD": np.array([[2], [0]], np.int8),
        "spread_PJ": np.array([[0.0, 0.0], [np.nan, np.nan]], np.float32),
    }
    made = SparseLogits(**{**arrays, **change})
    made.check()
    return made


def test_restored_teacher_by_hand() -> None:
    bias = np.log(np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]]))
    plain = restore_teacher(teacher_by_hand(), bias_JV=bias, column=0, temperature=1.0)
    np.testing.assert_allclose(plain[0], [0.25, 0.25 * 0.75, 0.5, 0.25 * 0.25], rtol=1e-6)
    assert np.isnan(plain[1]).all()
    basis = np.array([[9, np.log(4), 9, 0]])  # code 2 at temperature 2: id 1 gains a factor of 4
    low_rank = restore_teacher(teacher_by_hand(), bias_JV=bias, basis_DV=basis, column=1, temperature=2.0)
    listed = 0.6 * np.sqrt([0.25, 0.5]) / np.sqrt([0.25, 0.5]).sum()
    np.testing.assert_allclose(low_rank[0], [listed[0], 0.4 * 4 / 11, listed[1], 0.4 * 7 / 11], rtol=1e-6)


def test_restored_draws_by_hand() -> None:
    logits = teacher_by_hand(
        drawn_ids_PS=np.array([[3, 1, 65535], [65535, 65535, 65535]], np.uint16),
        drawn_share_PS=np.array([[2 / 3, 1 / 3, 0], [0, 0, 0]], np.float32),
    )
    dense = restore_teacher(logits, bias_JV=np.zeros((2, 5)), column=0, temperature=1.0)
    np.testing.assert_allclose(dense[0], [0.25, 0.25 / 3, 0.5, 0.5 / 3, 0], rtol=1e-6)
    assert np.isnan(dense[1]).all()


def test_listed_probability_by_hand() -> None:
    p = listed_probability(teacher_by_hand(), column=1, temperature=2.0)
    np.testing.assert_allclose(p[0], 0.6 * np.sqrt([0.5, 0.25]) / np.sqrt([0.5, 0.25]).sum(), rtol=1e-6)
    assert (p[1] == 0).all()
    empty = teacher_by_hand(
        ids_PK=np.zeros((2, 0), np.uint16), logprob_PK=np.zeros((2, 0), np.float32), tail_PJ=np.ones((2, 2), np.float32)
    )
    assert listed_probability(empty, column=1, temperature=2.0).shape == (2, 0)


def test_restored_mixture_by_hand() -> None:
    targets = FusedTargets(
        ids_PM=np.array([[1, 65535], [65535, 65535]], np.uint16),
        logprob_PM=np.log(np.array([[0.5, np.nan], [np.nan, np.nan]])).astype(np.float32),
        weight_PT=np.array([[0.75, 0.25], [0, 0]], np.float32),
        tail_PT=np.array([[0.3, 0.2], [np.nan, np.nan]], np.float32),
        gold_logprob_P=np.array([np.log(0.5), np.nan], np.float32),
        sketch_PTD=np.array([[[1], [0]], [[0], [0]]], np.int8),
    )
    targets.check()
    bias_TV = np.log(np.array([[0.5, 0.2, 0.3, 1e-300], [0.1, 0.6, 0.3, 1e-300]]))
    bias_TV[:, 3] = NO_COUNTERPART
    plain = restore_fused(targets, bias_TV=bias_TV)
    expected = [0.3 * 0.5 / 0.8 + 0.2 * 0.1 / 0.4, 0.5, 0.3 * 0.3 / 0.8 + 0.2 * 0.3 / 0.4, 0]
    np.testing.assert_allclose(plain[0], expected, rtol=1e-6)
    assert np.isnan(plain[1]).all()
    basis_TDV = np.array([[[np.log(3), 9, 0, 0]], [[5, 5, 5, 5]]])
    low_rank = restore_fused(targets, bias_TV=bias_TV, basis_TDV=basis_TDV)
    expected = [0.3 * 1.5 / 1.8 + 0.2 * 0.1 / 0.4, 0.5, 0.3 * 0.3 / 1.8 + 0.2 * 0.3 / 0.4, 0]
    np.testing.assert_allclose(low_rank[0], expected, rtol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("keep", [topk(32), NUCLEUS, TopKSampled(form="topk+sampled", k=8, draws=20)])
def test_a_gpu_gives_the_same_statistics(keep: Keep) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(300, 30_527, generator=generator)
    gold = torch.randint(30_527, (300,), generator=generator)
    tail = shape(30_527, size=4)
    uniform = np.random.default_rng(0).random((300, keep.draws)) if keep.draws else None
    settings: dict[str, Any] = {"keep": keep, "temperatures": TEMPERATURES, "uniform_PS": uniform}
    here = summarise(logits, gold, tail=tail, **settings)
    there = summarise(
        logits.cuda(), gold.cuda(), tail=TailShape.from_arrays(tail.arrays(), device=torch.device("cuda")), **settings
    )
    for name in ("logprob_PK", "tail_PJ", "gold_logprob_PJ", "entropy_PJ"):
        torch.testing.assert_close(
            getattr(there, name).cpu(), getattr(here, name), rtol=1e-5, atol=1e-5, equal_nan=True
        )
