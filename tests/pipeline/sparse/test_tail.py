"""The low-rank tail, its fit to logits and the dense tails that losses read, against float64 references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sparse import selection, tail_fit
from pipeline.sparse.params import (
    Keep,
    Nucleus,
    Sampled,
    TailParams,
    TopK,
)
from pipeline.sparse.summary import record_of, summarise
from pipeline.sparse.tail import NO_COUNTERPART, TailShape, tail_chunk
from pipeline.sparse.tail_fit import fit_tail
from storage.records.targets import FusedTargets
from tests.helpers.reference import restore_fused, restore_teacher

TEMPERATURES = (1.0, 1.4)
NUCLEUS = Nucleus(form="nucleus", mass=1.0, floor=0.02, least=1, most=20)


def fit(logits: torch.Tensor, *, tail_rank: int, step: float = 0.02, keep: Keep = NUCLEUS) -> TailShape:
    return fit_tail([logits], keep=keep, temperatures=TEMPERATURES, tail=TailParams(rank=tail_rank, step=step))


def restored(logits: torch.Tensor, shape: TailShape, *, column: int, keep: Keep = NUCLEUS) -> np.ndarray:
    """Through what is stored: the record and the constants."""
    gold = torch.zeros(len(logits), dtype=torch.int64)
    summary = summarise(logits, gold, keep=keep, temperatures=TEMPERATURES, tail=shape)
    constants = shape.constants()
    return restore_teacher(
        record_of(summary, vocabulary=logits.shape[1]),
        bias_JV=constants["tail_bias_JV"],
        basis_DV=constants.get("tail_basis_DV"),
        column=column,
        temperature=TEMPERATURES[column],
    )


def divergence(logits: torch.Tensor, shape: TailShape, *, column: int = 0, keep: Keep = NUCLEUS) -> float:
    """Mean KL(softmax, restored), nats."""
    p = torch.softmax(logits.double() / TEMPERATURES[column], dim=1).numpy()
    return float((p * np.log(p / restored(logits, shape, column=column, keep=keep))).sum(axis=1).mean())


def low_rank(rows: int, vocabulary: int, *, rank: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Logits as models make them: a small number of directions, some ids more frequent than others."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(rank, vocabulary, generator=generator) * scale
    frequency = 1.5 * torch.randn(vocabulary, generator=generator)
    return torch.randn(rows, rank, generator=generator) @ outputs + frequency


@pytest.mark.parametrize("column", [0, 1])
def test_a_tail_of_full_rank_gives_the_softmax_back(column: int) -> None:
    logits = low_rank(60, 40, rank=39, scale=0.1)
    shape = fit(logits, tail_rank=39, step=0.005)
    assert divergence(logits, shape, column=column) < 1e-3 * divergence(logits, fit(logits, tail_rank=0), column=column)


def test_a_tail_of_the_logits_rank_gives_the_softmax_of_new_rows() -> None:
    logits = low_rank(600, 300, rank=3)
    shape = fit(logits[:400], tail_rank=3)
    assert divergence(logits[400:], shape) < 1e-3
    assert divergence(logits[400:], shape, column=1) < 1e-3
    plain, coarse = fit(logits[:400], tail_rank=0), fit(logits[:400], tail_rank=3, step=0.4)
    assert 0.005 < divergence(logits[400:], coarse) < 0.1 * divergence(logits[400:], plain)


def test_more_numbers_are_no_worse() -> None:
    logits = low_rank(600, 300, rank=12, scale=0.4)
    losses = [divergence(logits[400:], fit(logits[:400], tail_rank=size)) for size in (0, 2, 6, 12)]
    assert losses == sorted(losses, reverse=True) and losses[3] < 0.05 * losses[0]


@pytest.mark.parametrize("tail_rank", [0, 2])
@pytest.mark.parametrize("column", [0, 1])
def test_the_mean_restored_tail_is_the_mean_true_one(
    tail_rank: int, column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = low_rank(300, 200, rank=8)

    def error(shape: TailShape) -> float:
        exact = torch.softmax(logits.double() / TEMPERATURES[column], dim=1).numpy().mean(axis=0)
        return 0.5 * float(np.abs(restored(logits, shape, column=column).mean(axis=0) - exact).sum())

    assert error(fit(logits, tail_rank=tail_rank)) < 0.02
    monkeypatch.setattr(tail_fit, "PSEUDO_ROWS", 1e-6)
    monkeypatch.setattr(tail_fit, "BIAS_ROUNDS", 60)
    assert error(fit(logits, tail_rank=tail_rank)) < (2e-5 if tail_rank else 0.02)
    monkeypatch.setattr(tail_fit, "BIAS_ROUNDS", 0)
    assert tail_rank == 0 or error(fit(logits, tail_rank=tail_rank)) > 0.03


def test_one_prior_is_the_mean_tail_and_leaves_no_id_out() -> None:
    logits = low_rank(200, 100, rank=4)
    logits[:, 7] = -1e4
    shape = fit(logits, tail_rank=0, keep=TopK(form="topk", k=5))
    assert shape.size == 0
    for column, temperature in enumerate(TEMPERATURES):
        p = torch.softmax(logits.double() / temperature, dim=1)
        total = p.scatter(1, logits.topk(5, dim=1).indices, 0).sum(dim=0) + tail_fit.PSEUDO_ROWS / 100
        torch.testing.assert_close(shape.bias_JV[column].double(), (total / total.sum()).log(), rtol=1e-5, atol=1e-5)
    assert shape.bias_JV.isfinite().all()


def test_biases_are_finite_normalised_and_floored() -> None:
    logits = low_rank(100, 60, rank=4)
    logits[:, 7] = -1e4
    for tail_rank in (0, 4):
        bias = fit(logits, tail_rank=tail_rank).bias_JV
        assert bias.isfinite().all() and (bias >= tail_fit.BIAS_FLOOR - 0.01).all()
        torch.testing.assert_close(bias.exp().sum(dim=1), torch.ones(2))


def test_order_is_by_falling_mean_probability() -> None:
    logits = low_rank(100, 60, rank=4)
    constants = fit(logits, tail_rank=2).constants()
    mean = torch.softmax(logits.double(), dim=1).mean(dim=0).numpy()
    assert constants["order_V"].dtype == np.uint32
    assert sorted(constants["order_V"].tolist()) == list(range(60))
    assert (np.diff(mean[constants["order_V"]]) <= 1e-7).all()


def test_constants_and_arrays() -> None:
    logits = low_rank(100, 60, rank=4)
    shape = fit(logits, tail_rank=2)
    constants = shape.constants()
    assert {name: (array.dtype.name, array.shape) for name, array in constants.items()} == {
        "tail_bias_JV": ("float32", (2, 60)),
        "order_V": ("uint32", (60,)),
        "tail_basis_DV": ("float16", (2, 60)),
        "tail_encode_VD": ("float16", (60, 2)),
        "tail_offset_D": ("float32", (2,)),
    }
    assert (constants["tail_basis_DV"].astype(np.float32) == shape.basis_DV.numpy()).all()  # nothing is lost on disk
    assert set(fit(logits, tail_rank=0).constants()) == {"tail_bias_JV", "order_V"}
    again = TailShape.from_arrays(shape.arrays(), device=torch.device("cpu"))
    assert again.temperatures == TEMPERATURES
    assert all((array == again.arrays()[name]).all() for name, array in shape.arrays().items())


def test_the_fit_repeats_and_does_not_depend_on_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = low_rank(150, 80, rank=4)
    once, twice = fit(logits, tail_rank=4), fit(logits, tail_rank=4)
    assert all((array == twice.arrays()[name]).all() for name, array in once.arrays().items())
    monkeypatch.setattr(selection, "CPU_CHUNK_ELEMENTS", 9 * 80)
    cut = fit_tail(
        [logits[start : start + 31] for start in range(0, 150, 31)],
        keep=NUCLEUS,
        temperatures=TEMPERATURES,
        tail=TailParams(rank=4, step=0.02),
    )
    torch.testing.assert_close(cut.bias_JV, once.bias_JV, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(cut.basis_DV, once.basis_DV, rtol=1e-2, atol=1e-3)


def test_bfloat16_logits_will_do() -> None:
    logits = low_rank(600, 300, rank=3).bfloat16()
    assert divergence(logits[400:], fit(logits[:400], tail_rank=3)) < 2e-3


@pytest.mark.parametrize("vocabulary", [5, 40])
def test_fewer_directions_than_numbers(vocabulary: int) -> None:
    logits = low_rank(12, vocabulary, rank=2)
    shape = fit(logits, tail_rank=32)
    assert shape.basis_DV.shape == (32, vocabulary) and shape.encode_VD.shape == (vocabulary, 32)
    assert all(np.isfinite(array).all() for array in shape.arrays().values())
    assert divergence(logits, shape) < 2e-3


@pytest.mark.parametrize("tail_rank", [0, 3])
def test_nothing_outside_the_lists(tail_rank: int) -> None:
    logits = low_rank(20, 6, rank=2)
    shape = fit(logits, tail_rank=tail_rank, keep=TopK(form="topk", k=6))
    assert all(np.isfinite(array).all() for array in shape.arrays().values())
    assert divergence(logits, shape, keep=TopK(form="topk", k=6)) < 1e-6


def test_forms_that_draw_have_rank_0() -> None:
    shape = fit(low_rank(50, 30, rank=2), tail_rank=8, keep=Sampled(form="sampled", draws=5))
    assert shape.size == 0
    assert set(shape.constants()) == {"tail_bias_JV", "order_V"}


def test_codes_ignore_a_constant_and_stay_within_bounds() -> None:
    logits = low_rank(100, 60, rank=4)
    shape = fit(logits, tail_rank=4)
    codes = shape.codes(logits)
    assert codes.dtype == torch.int8 and len(set(codes.flatten().tolist())) > 20
    assert ((shape.codes(logits + 50).int() - codes.int()).abs() <= 1).all()
    far = shape.codes(logits[:1] + 1e4 * (logits[1:2] - logits[:1]))
    assert far.min() >= -127 and far.abs().max() == 127


@pytest.mark.parametrize("scale", [1.0, 40.0, 400.0])
def test_spreads_of_extreme_exponents(scale: float) -> None:
    """At 400 the softmax of most rows underflows at the list, or outside it, and is done again."""
    generator = torch.Generator().manual_seed(5)
    basis = scale * torch.randn(2, 50, generator=generator)
    shape = TailShape(
        bias_JV=torch.log_softmax(torch.randn(2, 50, generator=generator), dim=1),
        basis_DV=basis,
        encode_VD=torch.zeros(50, 2),
        offset_D=torch.zeros(2),
        order_V=torch.arange(50),
        temperatures=TEMPERATURES,
    )
    codes = torch.randint(-2, 3, (30, 2), generator=generator, dtype=torch.int8)
    ids = torch.stack([torch.randperm(50, generator=generator)[:4] for _ in range(30)])
    ids[:15, 0] = (codes[:15].float() @ basis).argmax(dim=1)
    listed = torch.tensor([True, True, False, False]).repeat(30, 1)
    buffers = torch.zeros(30, 50), torch.zeros(30, 50), torch.zeros(30, 50)
    spread = shape.spread(codes, ids, listed_CQ=listed, buffers=buffers)
    for j, temperature in enumerate(TEMPERATURES):
        exponent = shape.bias_JV[j].double() + codes.double() @ basis.double() / temperature
        expected = exponent.scatter(1, ids[:, :2], -torch.inf).logsumexp(dim=1)
        torch.testing.assert_close(spread[:, j].double(), expected, rtol=1e-5, atol=1e-5)


def test_a_plain_spread_with_next_to_nothing_outside() -> None:
    prior = torch.tensor([0.6, 0.4 - 3e-12, 1e-12, 2e-12], dtype=torch.float64)
    shape = TailShape(
        bias_JV=prior.log().float()[None],
        basis_DV=torch.zeros(0, 4),
        encode_VD=torch.zeros(4, 0),
        offset_D=torch.zeros(0),
        order_V=torch.arange(4),
        temperatures=(1.0,),
    )
    buffers = torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 4)
    listed = torch.ones(1, 2, dtype=torch.bool)
    spread = shape.spread(
        torch.zeros(1, 0, dtype=torch.int8), torch.tensor([[0, 1]]), listed_CQ=listed, buffers=buffers
    )
    assert spread.item() == pytest.approx(np.log(3e-12), rel=1e-6)


def fused(rng: np.random.Generator, *, rows: int, vocabulary: int, teachers: int, keep: int, size: int) -> FusedTargets:
    """Random targets with lists of every length up to `keep`."""
    ids = np.stack([rng.permutation(vocabulary)[:keep] for _ in range(rows)]).astype(np.uint16)
    logprob = np.log(np.sort(rng.dirichlet(np.ones(keep + teachers), size=rows), axis=1)[:, ::-1])
    gone = np.arange(keep) >= rng.integers(0, keep + 1, size=rows)[:, None]
    ids[gone] = 65535
    tail = rng.dirichlet(np.ones(teachers), size=rows) * (1 - np.exp(logprob[:, :keep]) @ np.ones(keep))[:, None]
    return FusedTargets(
        ids_PM=ids,
        logprob_PM=np.where(gone, np.nan, logprob[:, :keep]).astype(np.float32),
        weight_PT=np.full((rows, teachers), 1 / teachers, np.float32),
        tail_PT=tail.astype(np.float32),
        gold_logprob_P=np.zeros(rows, np.float32),
        sketch_PTD=rng.integers(-127, 128, size=(rows, teachers, size)).astype(np.int8),
    )


def chunk(targets: FusedTargets, bias_TV: np.ndarray, basis_TDV: np.ndarray | None) -> np.ndarray:
    ids = np.where(targets.ids_PM == 65535, -1, targets.ids_PM.astype(np.int64))
    dense = tail_chunk(
        torch.from_numpy(ids),
        torch.from_numpy(targets.tail_PT),
        torch.from_numpy(targets.sketch_PTD),
        torch.from_numpy(bias_TV),
        None if basis_TDV is None else torch.from_numpy(basis_TDV),
    )
    assert dense.dtype == torch.float32
    made: np.ndarray = dense.numpy()
    return made


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 3), st.integers(1, 12), st.booleans())
def test_dense_tails_are_those_of_the_reference(seed: int, teachers: int, size: int, keep: int, bridged: bool) -> None:
    rng = np.random.default_rng(seed)
    targets = fused(rng, rows=7, vocabulary=12, teachers=teachers, keep=keep, size=size)
    bias_TV = rng.normal(size=(teachers, 12)).astype(np.float32) * 3
    if bridged:
        bias_TV[rng.random(bias_TV.shape) < 0.4] = NO_COUNTERPART
        bias_TV[:, 0] = 0
    basis_TDV = (0.03 * rng.normal(size=(teachers, size, 12))).astype(np.float16) if size else None
    expected = restore_fused(targets, bias_TV=bias_TV, basis_TDV=basis_TDV)
    for row, ids in enumerate(targets.ids_PM):
        expected[row, ids[ids != 65535]] = 0
    dense = chunk(targets, bias_TV, basis_TDV)
    np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1])
def test_a_teacher_with_nothing_left_gives_nothing(size: int) -> None:
    targets = fused(np.random.default_rng(0), rows=1, vocabulary=4, teachers=2, keep=2, size=size)
    arrays: dict[str, Any] = targets.arrays() | {"ids_PM": np.array([[1, 0]], np.uint16)}
    bias_TV = np.array([[0, 0, NO_COUNTERPART, NO_COUNTERPART], [0, 0, 0, NO_COUNTERPART]], np.float32)
    basis_TDV = np.zeros((2, size, 4), np.float32) if size else None
    dense = chunk(FusedTargets(**arrays), bias_TV, basis_TDV)
    np.testing.assert_allclose(dense, [[0, 0, targets.tail_PT[0, 1], 0]], rtol=1e-6)


def test_a_plain_tail_with_next_to_nothing_outside_still_adds_up() -> None:
    targets = fused(np.random.default_rng(0), rows=1, vocabulary=4, teachers=1, keep=2, size=0)
    arrays: dict[str, Any] = targets.arrays() | {"ids_PM": np.array([[1, 0]], np.uint16)}
    bias_TV = np.log(np.array([[0.6, 0.4, 1e-12, 3e-12]])).astype(np.float32)
    dense = chunk(FusedTargets(**arrays), bias_TV, None)
    np.testing.assert_allclose(dense[0] / targets.tail_PT[0, 0], [0, 0, 0.25, 0.75], rtol=1e-4)
