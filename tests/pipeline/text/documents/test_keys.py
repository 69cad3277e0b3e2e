"""Equal keys meet in one bucket, whatever pieces and buckets there are."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.text.documents import keys


@settings(max_examples=25, deadline=None)
@given(pieces=st.lists(st.lists(st.integers(0, 30), max_size=20), min_size=1, max_size=4), buckets=st.integers(1, 5))
def test_buckets_find_the_groups_that_a_dictionary_finds(pieces: list[list[int]], buckets: int) -> None:
    expected = defaultdict(list)
    for piece, texts in enumerate(pieces):
        for row, text in enumerate(texts):
            expected[text].append((piece, row))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{piece}.npy" for piece in range(len(pieces))]
        for path, texts in zip(paths, pieces, strict=True):
            keys.write_keys(path, keys.KEYS, {**keys.text_keys(map(str, texts)), "row": np.arange(len(texts))})
        for bucket in range(buckets):
            rows, piece_N = keys.read_bucket(paths, bucket, buckets)
            group_N = keys.groups(rows)
            places = list(zip(piece_N.tolist(), rows["row"].tolist(), strict=True))
            found += [[places[row] for row in np.flatnonzero(group_N == group)] for group in np.unique(group_N)]
    assert sorted(found) == sorted(expected.values())


def test_rows_of_a_piece_come_from_all_files_once(tmp_path: Path) -> None:
    keys.write_places(tmp_path / "0.npy", np.array([2, 0, 2]), np.array([5, 1, 5]))
    keys.write_places(tmp_path / "1.npy", np.array([2, 2]), np.array([5, 3]))
    files = [tmp_path / "0.npy", tmp_path / "1.npy"]
    assert [keys.rows_in(files, piece).tolist() for piece in range(4)] == [[1], [], [3, 5], []]


@pytest.mark.parametrize(("rows", "buckets"), [(0, 1), (2**19, 1), (2**19 + 1, 2), (10 * 2**19, 10)])
def test_a_bucket_does_not_grow_with_the_rows(rows: int, buckets: int) -> None:
    assert keys.bucket_count(rows) == buckets
