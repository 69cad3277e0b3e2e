"""The arrays of a store, and their form on disk.

Every array is Zarr v3, sharded along its first axis, with a checksum on every chunk (that of the shard index alone is
not enough: a flipped bit in chunk bytes would read back as data). Fill values are sentinels, never zero: a shard that
is missing reads as fill, silently, and a zero log-probability would mean certainty.

Rows of a ragged array lie end to end: shard i begins at entry i * shard_rows * most, and how many entries follow is the
sum of the counts of its rows. The rest of the shard is fill, and of chunks that hold only that nothing is on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from storage.atomic import write_bytes

CHUNK_BYTES = 512 * 1024
"""Smallest uncompressed inner chunk, bytes: below this, the cost of calls exceeds that of the disk."""

COMPRESSION_LEVEL = 5
"""Of zstd within Blosc: higher levels gain little and are much slower. Blosc first puts the n-th bytes of all rows
together (shuffle), which makes ids and statistics compress better."""

CODE_LEVEL = 1
"""The same for ragged arrays of bytes, the values of lists. They have no repetitions, and at this
level zstd does not search for any, but codes each byte by its frequency: smaller than at level 5, and much faster."""

BLOSC_TYPE_BYTES = 255
"""Widest row that Blosc takes apart byte by byte."""


def sentinel(dtype: np.dtype[Any] | str) -> Any:
    """The fill value of `dtype`: NaN for floats, the largest value for unsigned, the smallest for signed integers."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return float("nan")
    info = np.iinfo(kind)
    return int(info.max) if kind.kind == "u" else int(info.min)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraySpec:
    """One array of a store: its dtype and the shape of one row, or for a ragged one how many entries a row may have."""

    dtype: str
    """NumPy name, for example "uint16"."""
    row_shape: tuple[int, ...] = ()
    """Shape without the first axis; () for one value per row."""
    counted_by: str = ""
    """Of a ragged array: name of the array with the number of entries of each row."""
    most: int = 0
    """Of a ragged array: most entries a row may have."""

    @property
    def row_entries(self) -> int:
        """Entries along the first axis for one row."""
        return self.most if self.counted_by else 1

    def shape(self, rows: int, shard_rows: int) -> tuple[int, ...]:
        """Zarr shape of an array of `rows` rows; a ragged one has whole shards."""
        if self.counted_by:
            return (-(-rows // shard_rows) * shard_rows * self.most,)
        return (rows, *self.row_shape)

    def shard_entries(self, shard_rows: int) -> int:
        """Entries of a shard along the first axis."""
        return shard_rows * self.row_entries

    def chunk_entries(self, shard_rows: int) -> int:
        """Entries of an inner chunk: at least `CHUNK_BYTES`, and a divisor of the shard as Zarr demands."""
        entry_bytes = np.dtype(self.dtype).itemsize * int(np.prod(self.row_shape, dtype=np.int64))
        shard = self.shard_entries(shard_rows)
        entries = max(1, min(shard, -(-CHUNK_BYTES // entry_bytes)))
        while shard % entries:
            entries += 1
        return entries


def compressors(
    dtype: np.dtype[Any] | str, row_shape: tuple[int, ...] = (), *, level: int = COMPRESSION_LEVEL
) -> tuple[BloscCodec, Crc32cCodec]:
    """The two codecs every chunk goes through: Blosc with byte shuffle and zstd, then a checksum."""
    item = np.dtype(dtype).itemsize
    row = item * int(np.prod(row_shape, dtype=np.int64))
    width = row if row <= BLOSC_TYPE_BYTES else item
    return BloscCodec(typesize=width, cname="zstd", clevel=level, shuffle="shuffle"), Crc32cCodec()


def create_array(path: Path, spec: ArraySpec, *, rows: int, shard_rows: int) -> None:
    """Write the metadata of an array of `rows` rows; only `zarr.json` is created, existing shards stay.

    The file is replaced, never trusted: it may be linked to one that was edited.
    """
    held: dict[str, Buffer] = {}
    level = CODE_LEVEL if spec.counted_by and np.dtype(spec.dtype).itemsize == 1 else COMPRESSION_LEVEL
    zarr.create_array(
        store=MemoryStore(held),
        shape=spec.shape(rows, shard_rows),
        chunks=(spec.chunk_entries(shard_rows), *spec.row_shape),
        shards=(spec.shard_entries(shard_rows), *spec.row_shape),
        dtype=spec.dtype,
        compressors=compressors(spec.dtype, spec.row_shape, level=level),
        fill_value=sentinel(spec.dtype),
    )
    write_bytes(path / "zarr.json", held["zarr.json"].to_bytes())


def shard_file(path: Path, spec: ArraySpec, index: int) -> Path:
    """Where Zarr keeps shard `index` of the array at `path`."""
    return path.joinpath("c", str(index), *(["0"] * len(spec.row_shape)))


def write_shard(path: Path, spec: ArraySpec, *, index: int, shard_rows: int, values: NDArray[Any]) -> None:
    """Write one whole shard; a partial write would read, change and rewrite it, and lose data when two do so.

    values of a ragged array are its entries, fewer than the shard could take.
    """
    # Zarr would read the present shard to merge, and fail on a damaged one that is being replaced.
    shard_file(path, spec, index).unlink(missing_ok=True)
    # Without write_empty_chunks a shard of fill values alone would leave no file, and look missing.
    array = zarr.open_array(store=str(path), mode="r+").with_config({"write_empty_chunks": True})
    start = index * spec.shard_entries(shard_rows)
    if not len(values):
        values = np.full((1, *spec.row_shape), sentinel(spec.dtype), spec.dtype)
    array[start : start + len(values)] = values


def open_entries(path: Path) -> Any:
    """The Zarr array at `path`, for reading. Callers keep it open: opening takes as long as reading a small shard."""
    return zarr.open_array(store=str(path), mode="r")


def read_entries(array: Any, *, start: int, stop: int) -> NDArray[Any]:
    """Entries [start, stop) along the first axis of an opened array; whole shards are the fast unit."""
    return np.asarray(array[start:stop])


def read_whole(path: Path) -> NDArray[Any]:
    """The whole array at `path`."""
    return np.asarray(zarr.open_array(store=str(path), mode="r")[...])
