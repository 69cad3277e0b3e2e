"""Arrays on disk, read with plain zarr: fills, chunks, checksums, whole shards."""

from __future__ import annotations

import json
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.format.arrays import (
    CHUNK_BYTES,
    ArraySpec,
    create_array,
    open_entries,
    read_entries,
    read_whole,
    sentinel,
    shard_file,
    write_shard,
)
from storage.testing import samples

DTYPES = ["uint16", "uint32", "int16", "int32", "float16", "float32"]


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("uint16", 65535), ("uint32", 4294967295), ("int16", -32768), ("int32", -2147483648), ("uint8", 255)],
)
def test_sentinel_of_integers(dtype: str, fill: int) -> None:
    assert sentinel(dtype) == fill


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sentinel_of_floats_is_nan(dtype: str) -> None:
    assert np.isnan(sentinel(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_never_written_reads_as_the_sentinel(tmp_path: Path, dtype: str) -> None:
    create_array(tmp_path / "a", ArraySpec(dtype=dtype, row_shape=(2,)), rows=5, shard_rows=2)
    raw = zarr.open_array(tmp_path / "a", mode="r")[...]
    np.testing.assert_array_equal(raw, np.full((5, 2), sentinel(dtype), dtype))


@settings(deadline=None)
@given(dtype=st.sampled_from(DTYPES), row=st.lists(st.integers(1, 300), max_size=2), shard_rows=st.integers(1, 300_000))
def test_chunks_divide_the_shard_and_are_not_small(dtype: str, row: list[int], shard_rows: int) -> None:
    spec = ArraySpec(dtype=dtype, row_shape=tuple(row))
    rows = spec.chunk_entries(shard_rows)
    assert 1 <= rows <= shard_rows
    assert shard_rows % rows == 0
    row_bytes = np.dtype(dtype).itemsize * int(np.prod(row))
    assert rows == shard_rows or rows * row_bytes >= CHUNK_BYTES


@settings(deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "uint32"]),
    most=st.integers(1, 2000),
    rows=st.integers(0, 5000),
    shard_rows=st.integers(1, 2000),
)
def test_ragged_arrays_have_room_for_the_longest_rows(dtype: str, most: int, rows: int, shard_rows: int) -> None:
    spec = ArraySpec(dtype=dtype, counted_by="count_P", most=most)
    shards = -(-rows // shard_rows)
    assert spec.shape(rows, shard_rows) == (shards * shard_rows * most,)
    assert spec.shard_entries(shard_rows) == shard_rows * most
    entries = spec.chunk_entries(shard_rows)
    assert spec.shard_entries(shard_rows) % entries == 0
    assert entries == shard_rows * most or entries * np.dtype(dtype).itemsize >= CHUNK_BYTES


def test_layout_is_sharded_blosc_with_checksum(tmp_path: Path) -> None:
    spec = ArraySpec(dtype="float32", row_shape=(4, 2))
    create_array(tmp_path / "a", spec, rows=100_000, shard_rows=65_536)
    raw = zarr.open_array(tmp_path / "a", mode="r")
    assert (raw.shape, raw.shards, raw.chunks) == ((100_000, 4, 2), (65_536, 4, 2), (16_384, 4, 2))
    (codec,) = raw.metadata.to_dict()["codecs"]
    inner = codec["configuration"]["codecs"]
    blosc = {"typesize": 32, "cname": "zstd", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    assert list(inner) == [plain, {"name": "blosc", "configuration": blosc}, {"name": "crc32c"}]
    assert json.loads((tmp_path / "a/zarr.json").read_text())["zarr_format"] == 3
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["zarr.json"]


@pytest.mark.parametrize(("dtype", "ragged", "level"), [("uint8", True, 1), ("uint16", True, 5), ("uint8", False, 5)])
def test_values_of_lists_are_coded_by_frequency_alone(tmp_path: Path, dtype: str, ragged: bool, level: int) -> None:
    spec = ArraySpec(dtype=dtype, counted_by="count_P", most=4) if ragged else ArraySpec(dtype=dtype)
    create_array(tmp_path / "a", spec, rows=10, shard_rows=10)
    metadata = json.loads((tmp_path / "a/zarr.json").read_text(encoding="utf-8"))
    assert metadata["codecs"][0]["configuration"]["codecs"][1]["configuration"]["clevel"] == level


@pytest.mark.parametrize(("row", "width"), [((), 2), ((127,), 254), ((128,), 2), ((4, 31), 248)])
def test_rows_are_shuffled_whole_where_blosc_can(tmp_path: Path, row: tuple[int, ...], width: int) -> None:
    """The width that the frame itself states, fourth byte of a Blosc 1 header."""
    spec = ArraySpec(dtype="uint16", row_shape=row)
    create_array(tmp_path / "a", spec, rows=300, shard_rows=300)
    write_shard(tmp_path / "a", spec, index=0, shard_rows=300, values=np.ones((300, *row), np.uint16))
    assert shard_file(tmp_path / "a", spec, 0).read_bytes()[3] == width


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    width=st.integers(0, 3),
    rows=st.integers(1, 40),
    shard_rows=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_shards_in_any_order_read_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, width: int, rows: int, shard_rows: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a"
    spec = ArraySpec(dtype=dtype, row_shape=(width,) if width else ())
    made = samples.plain(rows, seed=seed, narrow=dtype, wide=dtype, width=max(1, width))
    values = made.wide_PK if width else made.narrow_P
    create_array(path, spec, rows=rows, shard_rows=shard_rows)
    shards = -(-rows // shard_rows)
    for index in np.random.default_rng(seed).permutation(shards):
        part = values[index * shard_rows : (index + 1) * shard_rows]
        write_shard(path, spec, index=int(index), shard_rows=shard_rows, values=part)
    raw = zarr.open_array(path, mode="r")[...]
    assert raw.tobytes() == read_whole(path).tobytes() == values.tobytes()
    start, stop = rows // 3, rows - rows // 4
    assert read_entries(open_entries(path), start=start, stop=stop).tobytes() == values[start:stop].tobytes()
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]
    assert sorted(files) == sorted(shard_file(path, spec, index) for index in range(shards))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shard_of_nothing_but_sentinels_has_a_file(tmp_path: Path, dtype: str) -> None:
    """Zarr leaves out what equals the fill: the shard would look lost."""
    spec = ArraySpec(dtype=dtype, row_shape=(2,))
    create_array(tmp_path / "a", spec, rows=7, shard_rows=4)
    for index, rows in enumerate((4, 3)):
        values = np.full((rows, 2), sentinel(dtype), dtype)
        write_shard(tmp_path / "a", spec, index=index, shard_rows=4, values=values)
        assert shard_file(tmp_path / "a", spec, index).is_file()


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "uint32"]),
    most=st.integers(1, 9),
    used=st.lists(st.integers(0, 60), max_size=4),
    seed=st.integers(0, 99),
)
def test_entries_of_ragged_shards_begin_where_the_shard_does(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, most: int, used: list[int], seed: int
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a"
    spec, shard_rows = ArraySpec(dtype=dtype, counted_by="count_P", most=most), 7
    create_array(path, spec, rows=shard_rows * len(used), shard_rows=shard_rows)
    expected = np.full(shard_rows * len(used) * most, sentinel(dtype), dtype)
    for index, wanted in enumerate(used):
        size = min(wanted, shard_rows * most)
        values = samples.plain(size, seed=seed, narrow=dtype, wide=dtype, width=1).narrow_P
        expected[index * shard_rows * most :][:size] = values
        write_shard(path, spec, index=index, shard_rows=shard_rows, values=values)
        start = index * spec.shard_entries(shard_rows)
        assert read_entries(open_entries(path), start=start, stop=start + size).tobytes() == values.tobytes()
        assert shard_file(path, spec, index).is_file(), "also when no entry is used"
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[...], expected)


def test_chunks_without_entries_take_no_place_on_disk(tmp_path: Path) -> None:
    """Sixteen entries in a shard with room for eight chunks: one is there, the index says so of the others."""
    spec, shard_rows = ArraySpec(dtype="uint8", counted_by="count_P", most=64), CHUNK_BYTES // 8
    create_array(tmp_path / "a", spec, rows=shard_rows, shard_rows=shard_rows)
    write_shard(tmp_path / "a", spec, index=0, shard_rows=shard_rows, values=np.arange(16, dtype=np.uint8))
    data = shard_file(tmp_path / "a", spec, 0).read_bytes()
    index = np.frombuffer(data[-8 * 16 - 4 : -4], "<u8").reshape(8, 2)
    assert index[0].tolist() == [0, len(data) - 8 * 16 - 4]
    assert (index[1:] == np.iinfo(np.uint64).max).all()
    assert len(data) < 1000


def test_bytes_do_not_depend_on_threads(tmp_path: Path) -> None:
    """Blosc with threads of its own stores blocks in the order in which they are done; Zarr keeps it to one."""
    spec = ArraySpec(dtype="uint16", row_shape=(8,))
    values = np.random.default_rng(0).zipf(1.5, (150_000, 8)).clip(0, 9999).astype(np.uint16)
    before = numcodecs.blosc.get_nthreads()
    try:
        for threads in (1, 4):
            numcodecs.blosc.set_nthreads(threads)
            create_array(tmp_path / f"{threads}", spec, rows=len(values), shard_rows=len(values))
            with zarr.config.set({"threading.max_workers": threads, "async.concurrency": threads}):
                write_shard(tmp_path / f"{threads}", spec, index=0, shard_rows=len(values), values=values)
    finally:
        numcodecs.blosc.set_nthreads(before)
    assert not numcodecs.blosc.use_threads
    assert samples.file_hashes(tmp_path / "1") == samples.file_hashes(tmp_path / "4")


@pytest.mark.parametrize("index", [0, 2])
def test_a_broken_shard_is_replaced_whole(tmp_path: Path, index: int) -> None:
    """Zarr alone would read the broken one first, and refuse; the last shard is short."""
    spec = ArraySpec(dtype="int32")
    values = np.arange(10, dtype=np.int32)
    create_array(tmp_path / "a", spec, rows=10, shard_rows=4)
    for i in range(3):
        write_shard(tmp_path / "a", spec, index=i, shard_rows=4, values=values[4 * i : 4 * i + 4])
    expected = samples.file_hashes(tmp_path / "a")
    file = shard_file(tmp_path / "a", spec, index)
    file.write_bytes(file.read_bytes()[:11])
    write_shard(tmp_path / "a", spec, index=index, shard_rows=4, values=values[4 * index : 4 * index + 4])
    assert samples.file_hashes(tmp_path / "a") == expected
    np.testing.assert_array_equal(read_whole(tmp_path / "a"), values)


def test_a_flipped_bit_does_not_read_back_as_data(tmp_path: Path) -> None:
    """The checksum inside the chunk; the reader's file hashes come on top."""
    spec = ArraySpec(dtype="uint16")
    values = np.random.default_rng(0).integers(0, 60_000, 4096).astype(np.uint16)
    create_array(tmp_path / "a", spec, rows=4096, shard_rows=4096)
    write_shard(tmp_path / "a", spec, index=0, shard_rows=4096, values=values)
    samples.flip(shard_file(tmp_path / "a", spec, 0))
    with pytest.raises(Exception, match=r"(?i)blosc|checksum"):
        read_whole(tmp_path / "a")


def test_creating_again_keeps_shards_and_mends_metadata(tmp_path: Path) -> None:
    spec = ArraySpec(dtype="uint16")
    create_array(tmp_path / "a", spec, rows=4, shard_rows=4)
    write_shard(tmp_path / "a", spec, index=0, shard_rows=4, values=np.arange(4, dtype=np.uint16))
    expected = samples.file_hashes(tmp_path / "a")
    samples.flip(tmp_path / "a" / "zarr.json")
    create_array(tmp_path / "a", spec, rows=4, shard_rows=4)
    assert samples.file_hashes(tmp_path / "a") == expected
