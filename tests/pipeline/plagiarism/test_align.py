"""Seeds grow to rectangles of neighbouring cells; of passages for one suspicious unit the more similar one stays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.plagiarism.align import Block, Cells, Thresholds, align, without_overlaps


def blocks(grid: str, thresholds: Thresholds) -> list[tuple[int, int, int, int]]:
    """Of a grid of tenths: rows are units of the suspicious document."""
    similarity = np.array([[int(digit) / 10 for digit in row] for row in grid.split()], np.float32)
    found = align(Cells.of(similarity, least=thresholds.extend), thresholds)
    return [(one.first, one.last, one.source_first, one.source_last) for one in found]


DIAGONAL = """
0000000
0900000
0050000
0000000
0000600
0000000
0000009
"""


def test_a_seed_takes_in_weaker_cells_within_reach() -> None:
    assert blocks(DIAGONAL, Thresholds(0.85, 0.45, 1, 1)) == [(1, 2, 1, 2), (6, 6, 6, 6)]
    assert blocks(DIAGONAL, Thresholds(0.85, 0.45, 2, 1)) == [(1, 6, 1, 6)]
    assert blocks(DIAGONAL, Thresholds(0.85, 0.85, 2, 1)) == [(1, 1, 1, 1), (6, 6, 6, 6)]
    assert blocks(DIAGONAL, Thresholds(0.85, 0.45, 1, 2)) == [(1, 2, 1, 2)]
    assert blocks(DIAGONAL, Thresholds(0.95, 0.45, 1, 1)) == []


def test_a_group_without_a_seed_is_no_passage() -> None:
    assert blocks("500 000 009", Thresholds(0.8, 0.4, 1, 1)) == [(2, 2, 2, 2)]


@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=7),
                  elements=st.sampled_from([0, 0.25, 0.5, 1])),
    st.sampled_from([(1.0, 0.5), (0.5, 0.25), (1.0, 1.0)]),
    st.integers(1, 3),
)  # fmt: skip
def test_groups_are_those_of_flood_fill(similarity: np.ndarray, levels: tuple[float, float], reach: int) -> None:
    seed, extend = levels
    todo = {(int(u), int(v)) for u, v in np.argwhere(similarity >= extend)}
    expected = []
    while todo:
        group = waiting = {min(todo)}
        todo -= group
        while waiting:
            near = {cell for cell in todo for u, v in waiting if max(abs(cell[0] - u), abs(cell[1] - v)) <= reach}
            todo -= near
            group, waiting = group | near, near
        values = [float(similarity[cell]) for cell in sorted(group)]
        if max(values) >= seed:
            rows, columns = zip(*group, strict=True)
            expected.append((min(rows), max(rows), min(columns), max(columns), round(sum(values) / len(values), 4)))
    found = align(Cells.of(similarity, least=0.25), Thresholds(seed, extend, reach, 1))
    assert sorted((b.first, b.last, b.source_first, b.source_last, round(b.similarity, 4)) for b in found) == sorted(
        expected
    )


def test_of_two_sources_for_one_unit_the_more_similar_stays() -> None:
    low, high, after = Block(0, 3, 0, 3, 0.5), Block(3, 5, 7, 9, 0.8), Block(6, 6, 0, 0, 0.1)
    assert without_overlaps([("s", low), ("t", high), ("s", after)]) == [("t", high), ("s", after)]
