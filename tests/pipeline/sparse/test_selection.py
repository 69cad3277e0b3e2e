"""Listed ids follow the forms' rules; drawn ids have the exact distribution on a grid of uniforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.sparse import selection
from pipeline.sparse.params import (
    Nucleus,
    Sampled,
    TopK,
    TopKSampled,
)
from pipeline.sparse.selection import (
    choose,
    draw,
    erase,
    largest,
)

eighths = hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.integers(0, 9))


@settings(max_examples=200, deadline=None)
@given(eighths, st.integers(1, 64), st.integers(0, 63), st.integers(1, 5))
def test_a_nucleus_is_what_its_rule_says(eighth: np.ndarray, mass: int, floor: int, least: int) -> None:
    p = np.sort(eighth, axis=1)[:, ::-1] / 128.0  # sums and comparisons of these are exact
    keep = Nucleus(form="nucleus", mass=mass / 64, floor=floor / 128, least=least, most=max(least, 12))
    listed = choose(torch.tensor(p.copy(), dtype=torch.float32), keep)
    for row, got in zip(p, listed.tolist(), strict=True):
        expected = [
            k < least or ((row[:k].sum() < mass / 64 or mass == 64) and row[k] >= floor / 128) for k in range(len(row))
        ]
        assert got == expected
        assert got == sorted(got, reverse=True)


def test_fixed_forms_list_all_or_nothing() -> None:
    p = torch.tensor([[0.9, 0.0]])
    assert choose(p, TopK(form="topk", k=2)).all()
    assert choose(p, TopKSampled(form="topk+sampled", k=2, draws=1)).all()
    assert not choose(p, Sampled(form="sampled", draws=1)).any()


def test_only_what_is_listed_is_erased() -> None:
    x = torch.arange(1.0, 9).view(2, 4)
    erase(x, torch.tensor([[3, 0], [1, 2]]), torch.tensor([[True, False], [True, True]]))
    assert x.tolist() == [[1, 2, 3, 0], [5, 0, 0, 8]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31), st.integers(2, 40))
def test_the_largest_are_found_in_order(keep: int, seed: int, distinct: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(distinct * 50, (3, 1500), generator=generator).float()  # many are equal
    ids = largest(x, keep)
    assert torch.equal(x.gather(1, ids), x.topk(keep, dim=1).values)
    assert all(len(set(row)) == keep for row in ids.tolist())


@pytest.mark.parametrize("listed", [True, False])
def test_draws_on_a_grid_have_the_distribution_they_come_from(listed: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    p = torch.softmax(3 * torch.randn(60, generator=generator), dim=0)
    ids = p.topk(4).indices
    outside = p.double()
    if listed:
        outside[ids] = 0
    rows, draws = 500, 8
    grid = (torch.arange(rows * draws, dtype=torch.float64) + 0.5) / (rows * draws)
    p_CV = (p * 0.37).repeat(rows, 1)  # a factor a row changes nothing
    p_CQ = p_CV[:, ids].clone()
    p_CV[:, ids] = 0
    before = p_CV.clone()
    drawn, share = draw(
        p_CV, ids.expand(rows, -1), p_CQ, uniform_CS=grid.view(draws, rows).T.contiguous(), listed=listed
    )
    assert torch.equal(p_CV, before)
    mean = torch.zeros(61, dtype=torch.float64).index_add_(0, drawn.flatten() % 61, share.flatten().double() / rows)
    assert mean[60] == 0  # places without an id
    np.testing.assert_allclose(mean[:60], outside / outside.sum(), atol=1.01 / (rows * draws))


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 30)), elements=st.floats(0, 1 - 2**-53)))
def test_equal_draws_are_merged_most_drawn_first_ties_by_id(uniform: np.ndarray) -> None:
    rows, draws = uniform.shape
    p = torch.tensor([0.0, 0.25, 0.0, 0.125, 0.125, 0.5, 0.0]).repeat(rows, 1)
    none = torch.zeros(rows, 1, dtype=torch.int64)
    drawn, share = draw(p, none, torch.zeros(rows, 1), uniform_CS=torch.from_numpy(uniform), listed=True)
    upto = np.array([0.0, 0.25, 0.25, 0.375, 0.5, 1.0, 1.0])
    for row, ids, shares in zip(uniform, drawn.tolist(), share.tolist(), strict=True):
        single = [int((upto <= u).sum()) for u in row]
        counts = sorted((-single.count(i), i) for i in set(single))
        assert ids == [i for _, i in counts] + [-1] * (draws - len(counts))
        assert shares == pytest.approx([-n / draws for n, _ in counts] + [0.0] * (draws - len(counts)))
        assert not set(single) & {0, 2, 6}


def test_a_row_without_mass_outside_its_list_draws_evenly_from_what_is_not_listed() -> None:
    uniform = ((torch.arange(600, dtype=torch.float64) + 0.5) / 600)[None]
    drawn, share = draw(
        torch.zeros(1, 5), torch.tensor([[3, 1]]), torch.tensor([[0.9, 0.1]]), uniform_CS=uniform, listed=True
    )
    assert drawn[0, :4].tolist() == [0, 2, 4, -1]
    assert share[0, :3].tolist() == pytest.approx([1 / 3] * 3)


def test_chunks_bound_the_elements_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "CPU_CHUNK_ELEMENTS", 1000)
    assert selection.chunk_rows(torch.zeros(1, 300)) == 3
    assert selection.chunk_rows(torch.zeros(1, 3000)) == 1
